"""How well images go with their prompts, by CLIP."""

import torch
from torchmetrics.multimodal.clip_score import CLIPScore
from transformers import AutoProcessor, CLIPModel


def clip_score(path: str, device: torch.device) -> CLIPScore:
    """torchmetrics' mean of 100 times the cosine of an image and its prompt, 0 where that is
    negative (Hessel et al. 2021, eq. 1, with its own weight); only safetensors are read.

    Raises:
        ValueError: there is no such CLIP.
    """
    try:
        model = CLIPModel.from_pretrained(path, use_safetensors=True)
        processor = AutoProcessor.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--clip {path}: no CLIP there; name a folder or a repository that has safetensors "
            f"({error})"
        ) from error
    return CLIPScore(lambda: (model, processor)).to(device)
