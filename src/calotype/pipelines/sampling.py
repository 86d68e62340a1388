"""Images from a pipeline: many prompts, a seed for each image."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from diffusers import LDMPipeline, StableDiffusionPipeline
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

Pipeline = StableDiffusionPipeline | LDMPipeline


@dataclass(frozen=True)
class Sampling:
    """How a pipeline is called."""

    steps: int = 25
    """Steps of the solver."""
    guidance: float = 4.0
    """Classifier-free guidance scale; 1: none."""
    batch_size: int = 32
    """Images at a time."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"sampling.{name} is {value}: it must be at least 1")


@dataclass(frozen=True)
class Choice:
    """How to call a pipeline. What is None is as its recipe drew samples, or else 25 steps,
    guidance 4 and 32 images at a time.
    """

    steps: int | None = None
    """Steps of the solver."""
    guidance: float | None = None
    """Classifier-free guidance scale; 1: none."""
    batch_size: int | None = None
    """Images at a time."""

    def over(self, default: Sampling) -> Sampling:
        """What is chosen, and the rest of `default`."""
        return replace(default, **{n: v for n, v in asdict(self).items() if v is not None})


def sample(
    pipeline: Pipeline, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling
) -> Iterator[Float[Tensor, "b 3 H W"]]:
    """Batches of images in [-1, 1] on the CPU, one for each prompt and its seed.

    An image depends on its own prompt and seed alone, not on its batch's other ones (up to the
    rounding of batched arithmetic). An unconditional pipeline only counts the prompts.
    """
    for first in range(0, len(prompts), sampling.batch_size):
        chosen = slice(first, first + sampling.batch_size)
        generator = [torch.Generator().manual_seed(seed) for seed in seeds[chosen]]
        yield _call(pipeline, list(prompts[chosen]), generator, sampling)


def picture(image: Float[Tensor, "3 H W"]) -> Image.Image:
    """An image of [-1, 1] as a Pillow one; what is outside is clipped."""
    return to_pil_image((image.clamp(-1, 1) + 1) / 2)


@torch.no_grad()
def _call(
    pipeline: Pipeline, prompts: list[str], generator: list[torch.Generator], sampling: Sampling
) -> Float[Tensor, "b 3 H W"]:
    pipeline.set_progress_bar_config(disable=True)
    if isinstance(pipeline, StableDiffusionPipeline):
        images: Any = pipeline(
            prompts, num_inference_steps=sampling.steps, guidance_scale=sampling.guidance,
            generator=generator, output_type="pt",
        ).images  # type: ignore[union-attr]  # fmt: skip
    else:
        images = pipeline(
            len(prompts), generator=generator, num_inference_steps=sampling.steps, eta=0.0,
            output_type="np",
        ).images  # type: ignore[union-attr]  # fmt: skip
        images = torch.from_numpy(images).permute(0, 3, 1, 2)
    return 2 * images.float().cpu() - 1
