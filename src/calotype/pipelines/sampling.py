"""Images from a pipeline: many prompts, a seed for each image."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from inspect import signature
from typing import Any, Union, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.autoregressive import Ramp, TokenSampling
from calotype.lazy import diffusers
from calotype.pipelines.schedulers import check_name, scheduled
from calotype.pipelines.tokens import TokenPipeline, draw
from calotype.training.devices import Precision, computing

Pipeline = Union["diffusers.DiffusionPipeline", TokenPipeline]


@dataclass(frozen=True)
class Sampling:
    """How a diffusion pipeline is called."""

    steps: int | None = 25
    """Steps of the solver; None: as many as the pipeline's author chose."""
    guidance: float | None = 4.0
    """Classifier-free guidance scale; 1: none; None: what the pipeline's author chose."""
    batch_size: int = 32
    """Images at a time."""
    precision: Precision = "fp32"
    """Of the networks that are called for each step; images are decoded in float32."""
    scheduler: str | None = None
    """The solver, by its name in `schedulers.SOLVERS`; None: the pipeline's own."""
    guidance_rescale: float | None = None
    """How far the guided answer keeps the contrast of the unguided one, in [0, 1] (Lin et al. 2024,
    section 3.4); None: as the pipeline's author chose."""
    negative_prompt: str | None = None
    """What guidance leads away from; None: the empty prompt."""
    original_size: tuple[int, int] | None = None
    """Of a pipeline that is told frames: height and width of the picture that an image is of; None:
    as the pipeline's author chose."""
    crops_coords_top_left: tuple[int, int] | None = None
    """Likewise: pixels that were cropped away above the image, and to its left."""

    def __post_init__(self) -> None:
        for name, least in (("original_size", 1), ("crops_coords_top_left", 0)):
            if (given := getattr(self, name)) is not None and min(given) < least:
                raise ValueError(f"sampling.{name} is {given}: both are {least} or more")
        for name in ("steps", "batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"sampling.{name} is {value}: it must be at least 1")
        if self.guidance is not None and not math.isfinite(self.guidance):
            raise ValueError(f"sampling.guidance is {self.guidance}: it must be finite; 1 is none")
        if self.scheduler is not None:
            check_name(self.scheduler)
        if self.guidance_rescale is not None and not 0 <= self.guidance_rescale <= 1:
            raise ValueError(
                f"sampling.guidance_rescale is {self.guidance_rescale}: it lies in [0, 1]"
            )

    @property
    def said(self) -> list[str]:
        """What of it only some pipelines can be told, and is to be."""
        return [name for name in MORE if getattr(self, name) is not None]

    def completed(self, pipeline: "diffusers.DiffusionPipeline") -> "Sampling":
        """With what the pipeline's author chose for what is None, where the call says it."""
        asks = signature(cast("Any", pipeline).__call__).parameters
        own = {name: asks[TOLD[name]].default for name in heeds(pipeline)
               if getattr(self, name) is None}  # fmt: skip
        return replace(self, **own)


TOLD = {"steps": "num_inference_steps", "guidance": "guidance_scale"}
"""A Sampling's numbers, and what pipelines call them."""
MORE = ("guidance_rescale", "negative_prompt", "original_size", "crops_coords_top_left")
"""What else of a Sampling is an argument of some pipelines' calls, by its name there."""
AS_ITS_AUTHOR = Sampling(steps=None, guidance=None)
"""How a pipeline is called of which nobody says how it draws best."""
HowToSample = Sampling | TokenSampling


@dataclass(frozen=True)
class Choice:
    """How to call a pipeline. What is None is as its recipe drew samples, or, of other people's
    pipelines, as their authors chose.
    """

    steps: int | None = None
    """Steps of a diffusion pipeline's solver."""
    guidance: float | None = None
    """Classifier-free guidance scale; 1: none."""
    scheduler: str | None = None
    """Of a diffusion pipeline: the solver by name: dpm++, dpm++-sde or unipc; of networks that
    answer epsilon or v also dpm++-karras, deis, ddim, ddpm, euler, euler-ancestral, heun, lms,
    pndm."""
    guidance_rescale: float | None = None
    """Of a diffusion pipeline: how far guidance keeps the contrast that there is without it, in
    [0, 1]."""
    negative_prompt: str | None = None
    """What the images are not to show."""
    original_size: tuple[int, int] | None = None
    """Of a diffusion pipeline that is told frames: height and width of the picture that an image is
    of."""
    crops_coords_top_left: tuple[int, int] | None = None
    """Likewise: pixels that were cropped away above the image, and to its left."""
    batch_size: int | None = None
    """Images at a time."""
    ramp: Ramp | None = None
    """Of a transformer: how the scale grows from an image's first token to its last."""
    temperature: float | None = None
    """Of a transformer: divides the logits; 0: the likeliest token always."""
    top_k: int | None = None
    """Of a transformer: so many of the likeliest codes are drawn."""
    top_p: float | None = None
    """Of a transformer: the fewest codes that together are so likely are drawn."""
    compiled: bool | None = None
    """Of a transformer: a step is compiled, which pays where many images are drawn."""

    def over(self, default: HowToSample) -> HowToSample:
        """What is chosen, and the rest of `default`.

        Raises:
            ValueError: what is chosen is not of such a pipeline.
        """
        own = [field.name for field in fields(self)]
        chosen = {name: value for name in own if (value := getattr(self, name)) is not None}
        known = {field.name for field in fields(default)}
        if unknown := sorted(chosen.keys() - known):
            kind = "transformer" if isinstance(default, TokenSampling) else "diffusion pipeline"
            raise ValueError(
                f"sampling.{unknown[0]}: a {kind} has none; choose from "
                f"{', '.join(sorted(known & {*own}))}"
            )
        return replace(default, **chosen)


def sample(
    pipeline: Pipeline, prompts: Sequence[str], seeds: Sequence[int], sampling: HowToSample,
    progress: Callable[[int], None] = lambda images: None, also: Mapping[str, Any] | None = None,
) -> Iterator[Float[Tensor, "b c H W"]]:  # fmt: skip
    """Batches of images in [-1, 1] on the CPU, one for each prompt and its seed.

    An image depends on its own prompt and seed alone, not on its batch's other ones (up to the
    rounding of batched arithmetic). An unconditional pipeline only counts the prompts. `progress`
    is called with the number of images after each of `turns` turns of theirs. `also` are further
    arguments of a diffusion pipeline's call, such as `width`; of all images alike.

    Raises:
        ValueError: the sampling is for another kind of pipeline, or asks for what this one cannot
            be told.
    """
    if isinstance(pipeline, TokenPipeline):
        for codes in draw(pipeline, prompts, seeds, for_tokens(sampling), progress=progress):
            yield pipeline.decode(codes)
        return
    if not isinstance(sampling, Sampling):
        raise ValueError("a diffusion pipeline is called by a Sampling, not a TokenSampling")
    for first in range(0, len(prompts), sampling.batch_size):
        chosen = slice(first, first + sampling.batch_size)
        generator = [torch.Generator().manual_seed(seed) for seed in seeds[chosen]]
        what = {"prompt": list(prompts[chosen])} if reads_prompts(pipeline) else {
            "batch_size": len(generator)}  # fmt: skip
        yield draw_batch(pipeline, {**what, **(also or {}), "generator": generator}, sampling)
        progress(len(generator))


@torch.no_grad()
def draw_batch(
    pipeline: "diffusers.DiffusionPipeline", told: Mapping[str, Any], sampling: Sampling
) -> Float[Tensor, "b c H W"]:
    """Images in [-1, 1] on the CPU, of one call of a diffusion pipeline.

    Args:
        pipeline: What draws.
        told: Arguments of its call; `generator`, a list, among them.
        sampling: The rest of them; its `batch_size` is not looked at.

    Raises:
        ValueError: the sampling asks for what the pipeline cannot be told.
    """
    check_asked(pipeline, sampling)
    pipeline.set_progress_bar_config(disable=True)
    asked = {TOLD[name]: value for name in heeds(pipeline)
             if (value := getattr(sampling, name)) is not None}  # fmt: skip
    asked |= {name: getattr(sampling, name) for name in sampling.said}
    if "negative_prompt" in asked:
        asked["negative_prompt"] = [asked["negative_prompt"]] * len(told["generator"])
    call = cast("Any", pipeline)
    with (
        scheduled(pipeline, sampling.scheduler),
        computing(sampling.precision, pipeline.device, *_networks(pipeline)),
    ):
        images = call(**{**asked, **told}, output_type="np").images
    return 2 * torch.from_numpy(images).float().permute(0, 3, 1, 2) - 1


def check_asked(pipeline: "diffusers.DiffusionPipeline", sampling: Sampling) -> None:
    """Refuse what a pipeline cannot be told, or a scheduler that does not fit it.

    Raises:
        ValueError: that is asked for.
    """
    for name in sampling.said:
        if name not in asks(pipeline):
            raise ValueError(f"sampling.{name}: a {type(pipeline).__name__} has none")
    with scheduled(pipeline, sampling.scheduler):
        pass


def checked(images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b c H W"]:
    """Images that are numbers: what is none would be drawn black.

    Raises:
        ValueError: they are not.
    """
    if not images.isfinite().all():
        raise ValueError(
            "what was drawn is not finite: some weights are not, or the precision is too narrow "
            "for them; try --precision fp32"
        )
    return images


def for_tokens(sampling: HowToSample) -> TokenSampling:
    """The same, where it is for a transformer.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(sampling, TokenSampling):
        raise ValueError("a transformer is called by a TokenSampling, not a Sampling")
    return sampling


def reads_prompts(pipeline: Pipeline) -> bool:
    """Whether it heeds prompts; an unconditional one only counts them."""
    if isinstance(pipeline, TokenPipeline):
        return pipeline.prompts is not None
    return "prompt" in asks(pipeline)


def draws(pipeline: "diffusers.DiffusionPipeline") -> bool:
    """Whether it makes images, of prompts or of nothing but noise, and can be told the seed of
    each.
    """
    told = asks(pipeline)
    can = ("prompt" in told or "batch_size" in told) and {"generator", "output_type"} <= told
    return can and not told & {"image", "control_image", "mask_image", "num_frames"}


def heeds(pipeline: "diffusers.DiffusionPipeline") -> list[str]:
    """What of a Sampling's numbers moves its images."""
    told = asks(pipeline)
    return [name for name, argument in TOLD.items() if argument in told]


def turns(pipeline: Pipeline) -> int:
    """How often `sample` tells of the progress of an image."""
    return pipeline.layout.length if isinstance(pipeline, TokenPipeline) else 1


def _networks(pipeline: "diffusers.DiffusionPipeline") -> list[nn.Module]:
    """All that are called; an autoencoder, which is not but by `decode`, stays in float32, because
    many overflow in fp16.
    """
    return [part for part in pipeline.components.values() if isinstance(part, nn.Module)]


def asks(pipeline: "diffusers.DiffusionPipeline") -> set[str]:
    """What it can be told when it is called."""
    return set(signature(cast("Any", pipeline).__call__).parameters)
