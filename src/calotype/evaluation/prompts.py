"""How well images go with their prompts, by CLIP."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional

from calotype.evaluation.protocol import digest_of
from calotype.lazy import transformers
from calotype.training.images import in_colour
from calotype.training.network import place, reason


class ClipScore:
    """100 times the cosine of an image and its prompt, 0 where that is negative (Hessel et al.
    2021, eq. 1, with the weight of torchmetrics, whose own does not run with transformers 5).

    Raises:
        ValueError: there is no such CLIP; only safetensors are read.
    """

    def __init__(self, path: str, device: torch.device) -> None:
        try:
            where = place(path).whole()
            revision: dict[str, Any] = {"revision": where.revision}
            loaded: Any = transformers.CLIPModel.from_pretrained(
                where.root, use_safetensors=True, dtype=torch.float32, output_loading_info=True,
                **revision,
            )  # fmt: skip
            self.processor = transformers.AutoProcessor.from_pretrained(where.root, **revision)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"--clip {path}: no CLIP there; name a folder or a repository that has safetensors"
                f"{reason(path, error)}"
            ) from error
        model, report = loaded
        if report["missing_keys"]:  # which transformers leaves at random
            raise ValueError(f"--clip {path}: the weights lack {min(report['missing_keys'])}")
        self.model = model.to(device).eval()
        self.name = f"{path} {digest_of(self.model.state_dict())}"

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "b c H W"], prompts: Sequence[str]) -> list[float]:
        """Of each image, grey or on white, under its own prompt, which is cut where CLIP reads no
        further.
        """
        inputs = self.processor(
            text=list(prompts), images=list(in_colour(images).cpu()), return_tensors="pt",
            padding=True, truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
        )  # fmt: skip
        found = self.model(**inputs.to(self.model.device))
        cosine = functional.cosine_similarity(found.image_embeds, found.text_embeds)
        return (100 * cosine.float()).clamp_min(0).tolist()
