"""LoRA weights beside the pipeline that they were trained on: diffusers' own file of them."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from calotype.diffusion import ProcessSpec
from calotype.lazy import diffusers, peft
from calotype.pipelines.folders import fingerprint
from calotype.pipelines.sampling import HowToSample
from calotype.pipelines.token_parts import MARK
from calotype.tokenizers.readme import HERE
from calotype.training.description import describe
from calotype.training.files import publish, room
from calotype.training.network import Place, named
from calotype.training.portable import make_portable

WEIGHTS = "pytorch_lora_weights.safetensors"
"""What diffusers calls their file."""
TEXT = """---
license: unknown
library_name: diffusers
pipeline_tag: text-to-image
tags:
- calotype
- lora
- text-to-image
---

# LoRA weights

Trained with calotype on `{base}`; they load in plain diffusers.

```python
from diffusers import DiffusionPipeline
{read}
pipeline.load_lora_weights(".")
image = pipeline("a prompt").images[0]
image.save("drawn.png")
```
{here}"""


def save_adapter(
    pipeline: Any, folder: Path, sampling: HowToSample, base: str, start: str, tokenizer: str,
    process: ProcessSpec | None = None,
) -> None:  # fmt: skip
    """Save what was added to a pipeline's networks, whole or not at all; beside, what it belongs
    to, and a README.md that says how anybody loads it.

    Args:
        pipeline: A StableDiffusionPipeline.
        folder: Where to.
        sampling: How it is best called.
        base: Folder or name on the Hub of the pipeline that was added to. A folder is noted as it
            is reached from `folder`, so that both can be moved together.
        start: Its fingerprint.
        tokenizer: The fingerprint of its latents.
        process: By which they were trained; None: there is no word for it.
    """
    if Path(base).exists():
        base = os.path.relpath(Path(base).resolve(), folder.resolve())
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
        if process is not None:
            mark["process"] = describe(process)
        (beside / MARK).write_text(json.dumps(mark) + "\n")
        (beside / "README.md").write_text(TEXT.format(base=base, read=_read(base), here=HERE))
        make_portable(beside)
        publish(beside, folder)


def _read(base: str) -> str:
    """Lines that read the pipeline that was added to."""
    if _is_beside(base):
        return f'\npipeline = DiffusionPipeline.from_pretrained("{base}")'
    there = named(base)
    options = f', revision="{there.revision}"' if there.revision else ""
    if not there.inside:
        return f'\npipeline = DiffusionPipeline.from_pretrained("{there.root}"{options})'
    # Diffusers reads a pipeline from no folder of the Hub.
    return (
        "from huggingface_hub import snapshot_download\n\n"
        f'root = snapshot_download("{there.root}", allow_patterns="{there.inside}/*"{options})\n'
        f'pipeline = DiffusionPipeline.from_pretrained(root + "/{there.inside}")'
    )


def _is_beside(base: str) -> bool:
    """Whether a base was noted as it is reached from the folder of what was added."""
    return base.startswith("..")


def base_of(mark: Mapping[str, Any], where: Place) -> str | None:
    """The pipeline that LoRA weights belong to; None: there are none here.

    Args:
        mark: What was noted beside them.
        where: Their folder.
    """
    base = mark.get("base")
    if base is None or not _is_beside(base) or not where.is_here:
        return base
    # Versions before noted the folder as it was given, from where they were run.
    near = Path(where.root).resolve() / base
    return os.path.relpath(near) if near.exists() else base


def add_adapter(pipeline: Any, path: str | Path, start: str, where: Place) -> None:
    """Add LoRA weights to the pipeline that they were trained on.

    Args:
        pipeline: The pipeline.
        path: What the weights' folder is called in what is said.
        start: The fingerprint of the pipeline that they belong to.
        where: The folder.

    Raises:
        ValueError: it is another one, or the weights cannot be read.
    """
    if (found := fingerprint(pipeline)) != start:
        raise ValueError(
            f"{path} holds LoRA weights of pipeline {start}, and what is now in its place is "
            f"{found}: put that one back"
        )
    try:
        if (file := (where / WEIGHTS).fetched()) is None:
            raise OSError(f"there is no {WEIGHTS}")
        pipeline.load_lora_weights(file.parent, weight_name=WEIGHTS, use_safetensors=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"no LoRA weights in {path} ({error})") from error


def _added(network: Any) -> dict[str, Tensor]:
    """What was added to a network, by diffusers' names; nothing, if it has no adapter."""
    if not getattr(network, "peft_config", None):
        return {}
    # Embeddings are not added to, and whether they are would be looked up at the network's origin.
    added = peft.get_peft_model_state_dict(network, save_embedding_layers=False)
    return diffusers.utils.convert_state_dict_to_diffusers(added)
