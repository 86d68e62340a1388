"""LoRA weights beside the pipeline that they were trained on: diffusers' own file of them."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from calotype.lazy import diffusers, peft
from calotype.pipelines.folders import fingerprint
from calotype.pipelines.sampling import HowToSample
from calotype.pipelines.tokens import MARK
from calotype.training.files import publish, room
from calotype.training.run import describe

TEXT = """# LoRA weights

Trained with calotype on `{base}`; they load in plain diffusers.

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{base}")
pipeline.load_lora_weights(".")
image = pipeline("a prompt").images[0]
image.save("drawn.png")
```
"""


def save_adapter(
    pipeline: Any, folder: Path, sampling: HowToSample, base: str, start: str, tokenizer: str
) -> None:
    """Save what was added to a pipeline's networks, whole or not at all; beside, what it belongs
    to, and a README.md that says how anybody loads it.

    Args:
        pipeline: A StableDiffusionPipeline.
        folder: Where to.
        sampling: How it is best called.
        base: Folder or name of the pipeline that was added to.
        start: Its fingerprint.
        tokenizer: The fingerprint of its latents.
    """
    unet, text_encoder = _added(pipeline.unet), _added(pipeline.text_encoder)
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    need = sum(weight.nbytes for weight in (*unet.values(), *text_encoder.values()))
    with room(beside, folder, need, "the checkpoints are as they were"):
        # By transformers before 5.6 and by everybody else these names begin so.
        named: Any = {f"text_model.{name.removeprefix('text_model.')}": weight
                      for name, weight in text_encoder.items()}  # fmt: skip
        diffusers.StableDiffusionPipeline.save_lora_weights(
            beside, unet_lora_layers=dict(unet), text_encoder_lora_layers=named
        )
        mark = {"base": base, "start": start, "tokenizer": tokenizer,
                "sampling": describe(sampling)}  # fmt: skip
        (beside / MARK).write_text(json.dumps(mark) + "\n")
        (beside / "README.md").write_text(TEXT.format(base=base))
        publish(beside, folder)


def add_adapter(pipeline: Any, path: str | Path, start: str) -> None:
    """Add LoRA weights to the pipeline that they were trained on.

    Raises:
        ValueError: it is another one, or the weights cannot be read.
    """
    if (found := fingerprint(pipeline)) != start:
        raise ValueError(
            f"{path} holds LoRA weights of pipeline {start}, and what is now in its place is "
            f"{found}: put that one back"
        )
    try:
        pipeline.load_lora_weights(path, use_safetensors=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"no LoRA weights in {path} ({error})") from error


def _added(network: Any) -> dict[str, Tensor]:
    """What was added to a network, by diffusers' names; nothing, if it has no adapter."""
    if not getattr(network, "peft_config", None):
        return {}
    # Embeddings are not added to, and whether they are would be looked up at the network's origin.
    added = peft.get_peft_model_state_dict(network, save_embedding_layers=False)
    return diffusers.utils.convert_state_dict_to_diffusers(added)
