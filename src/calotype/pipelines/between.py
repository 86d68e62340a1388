"""Images on the way from one prompt, or from one seed's noise, to another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.lazy import diffusers
from calotype.training.devices import Precision, computing

Way = Literal["linear", "spherical"]
"""Straight, or along the sphere on which both ends lie (Shoemake 1985)."""


@dataclass(frozen=True)
class Toward:
    """The other end of a way, and how far along it an image lies."""

    prompt: str
    seed: int
    part: float
    """0: at the beginning, 1: at this end."""
    way: Way


@dataclass(frozen=True)
class Wanted:
    """One image: its prompt, the seed of its noise, and where it lies between two, what of both
    ends there is.
    """

    prompt: str
    seed: int
    toward: Toward | None = None


def blend(a: Tensor, b: Tensor, part: float, way: Way) -> Tensor:
    """What lies between two tensors of one shape: (1 - t) a + t b, or with the angle w between
    them sin((1 - t) w) / sin(w) a + sin(t w) / sin(w) b.
    """
    if part in (0, 1):
        return b if part else a
    if way == "linear":
        return (1 - part) * a + part * b
    x, y = a.double().flatten(), b.double().flatten()
    cosine = float(x @ y / (x.norm() * y.norm()).clamp_min(1e-12))
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if math.sin(angle) < 1e-6:  # one direction, or opposite ones, between which there is no one way
        return (1 - part) * a + part * b
    return (math.sin((1 - part) * angle) * a + math.sin(part * angle) * b) / math.sin(angle)


@torch.no_grad()
def between(
    pipeline: "diffusers.DiffusionPipeline", wanted: Sequence[Wanted],
    generators: Sequence[torch.Generator], height: int | None, width: int | None,
    precision: Precision = "fp32",
) -> dict[str, Any]:  # fmt: skip
    """Arguments of a call: embedded prompts and noise of images that lie between others. At either
    end they are those of the prompt and seed alone. `precision` is the text encoder's.

    Raises:
        ValueError: the pipeline cannot be given them.
    """
    check_between(pipeline)
    call: Any = pipeline
    ends = [(one, one.toward or Toward(one.prompt, one.seed, 0.0, "linear")) for one in wanted]
    texts = dict.fromkeys(text for one, end in ends for text in (one.prompt, end.prompt))
    with computing(precision, pipeline.device, call.text_encoder):
        # One by one: of several at once, the last bits depend on how many.
        of = {text: call.encode_prompt(text, pipeline.device, 1, False)[0][0] for text in texts}
    shape = (call.unet.config.in_channels, *(
        (side or call.unet.config.sample_size * call.vae_scale_factor) // call.vae_scale_factor
        for side in (height, width)
    ))  # fmt: skip
    prompts, noise = [], []
    for (one, end), generator in zip(ends, generators, strict=True):
        prompts.append(blend(of[one.prompt], of[end.prompt], end.part, end.way))
        noise.append(blend(_noise(shape, generator), _other(shape, one, end), end.part, end.way))
    return {"prompt_embeds": torch.stack(prompts), "latents": torch.cat(noise)}


def check_between(pipeline: Any) -> None:
    """Refuse pipelines that take no embedded prompts and noise.

    Raises:
        ValueError: this is one.
    """
    if not isinstance(pipeline, diffusers.StableDiffusionPipeline):
        raise ValueError(
            f"between: there is nothing between images of a {type(pipeline).__name__}: choose a "
            "StableDiffusionPipeline"
        )


def _noise(shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "1 c h w"]:
    """As the pipeline itself draws it."""
    return diffusers.utils.torch_utils.randn_tensor((1, *shape), generator=generator)


def _other(shape: tuple[int, ...], one: Wanted, end: Toward) -> Float[Tensor, "1 c h w"]:
    return _noise(shape, torch.Generator().manual_seed(end.seed))
