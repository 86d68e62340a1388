"""Stock pipelines from trained parts."""

import json
import shutil
from pathlib import Path

from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    LDMPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from transformers import CLIPTextModel, CLIPTokenizer

from calotype.tokenizers import fingerprint
from calotype.training.checkpoint import publish

Pipeline = StableDiffusionPipeline | LDMPipeline


def text_to_image(
    vae: AutoencoderKL, unet: UNet2DConditionModel, scheduler: DPMSolverMultistepScheduler,
    text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer,
) -> StableDiffusionPipeline:  # fmt: skip
    """A StableDiffusionPipeline; `AutoPipeline` makes img2img of it, and, where latents have the
    four channels that diffusers' inpainting insists on, inpainting.
    """
    return StableDiffusionPipeline(
        vae=vae.eval(), text_encoder=text_encoder.eval(), tokenizer=tokenizer, unet=unet.eval(),
        scheduler=scheduler, safety_checker=None, feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )  # fmt: skip


def unconditional(
    vae: AutoencoderKL, unet: UNet2DModel, scheduler: DPMSolverMultistepScheduler
) -> LDMPipeline:
    """An LDMPipeline: latents from noise, without a prompt."""
    return LDMPipeline(vqvae=vae.eval(), unet=unet.eval(), scheduler=scheduler)  # type: ignore[arg-type]


def save(pipeline: Pipeline, folder: Path) -> None:
    """Save a pipeline, whole or not at all, with the fingerprint of its latents beside."""
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    pipeline.save_pretrained(beside, safe_serialization=True)
    if isinstance(pipeline, StableDiffusionPipeline):
        # transformers 4 reads vocab.json and merges.txt, which transformers 5 no longer writes.
        pipeline.tokenizer.backend_tokenizer.model.save(str(beside / "tokenizer"))
    mark = json.dumps({"tokenizer": fingerprint(autoencoder(pipeline))})
    (beside / "calotype.json").write_text(mark + "\n")
    publish(beside, folder)


def load(path: str | Path) -> Pipeline:
    """A pipeline from its folder or the Hub; only safetensors are read.

    Raises:
        ValueError: there is none, or its tokenizer is not the one it was trained with.
    """
    try:
        found = DiffusionPipeline.from_pretrained(path, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no pipeline in {path}: expected a folder with model_index.json, such as the "
            f"model/ of a train-generator run, or a name on the Hub ({error})"
        ) from error
    if not isinstance(found, Pipeline):
        raise ValueError(f"{path} holds a {type(found).__name__}, which calotype cannot call")
    _check(Path(path), found)
    return found


def autoencoder(pipeline: Pipeline) -> AutoencoderKL:
    """A pipeline's tokenizer, whatever its class calls it."""
    return pipeline.vae if isinstance(pipeline, StableDiffusionPipeline) else pipeline.vqvae


def _check(folder: Path, pipeline: Pipeline) -> None:
    mark = folder / "calotype.json"
    if not mark.exists():
        return
    trained = json.loads(mark.read_text())["tokenizer"]
    if (found := fingerprint(autoencoder(pipeline))) != trained:
        raise ValueError(
            f"{folder} has tokenizer {found}, but the generator was trained in the latents of "
            f"{trained}: put that tokenizer back"
        )
