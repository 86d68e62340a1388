"""Restoring by a draw from what a diffusion model holds for likely, given what was seen."""

import math
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.lazy import diffusers
from calotype.pipelines import Pipeline, TokenPipeline, autoencoder
from calotype.pipelines.schedulers import check_name, is_flow, scheduled
from calotype.tokenizers import ImageTokenizer
from calotype.training.noise import gaussian, generators
from calotype.uses.restoration.measurements import Images, Measurement, Seen

Latents = Float[Tensor, "b z i j"]


@dataclass(frozen=True)
class Posterior:
    """Diffusion posterior sampling (Chung et al. 2023, algorithm 1) in the latents of a stock
    pipeline with a UNet.

    After each of the solver's steps z moves against the gradient of

        guidance ||A(decode(z0)) - y|| + gluing ||z0 - encode(decode(z0) with what is known of x)||

    through the decoder and the network's prediction z0 of the clean latent. Without `gluing` it is
    DPS with a decoder before A; with it PSLD (Rout et al. 2023), whose second term keeps z0 where
    encoder and decoder agree. What is drawn is near the posterior and not of it: the likelihood of
    y given z is taken at z0, which both papers say.
    """

    steps: int = 100
    """Of the solver, each a pass forward and back."""
    guidance: float = 1.0
    """How far z moves for what was seen."""
    gluing: float = 0.0
    """How far z moves to where the encoder puts the picture, what is known of it put back, where a
    measurement knows any."""
    prompt: str = ""
    """Of a pipeline that reads prompts: what the picture shows."""
    scheduler: str = "dpm++"
    """The solver, by name, as of `generate`."""
    seed: int = 0
    """Of the first picture's noise; the next has the next one."""

    def __post_init__(self) -> None:
        check_name(self.scheduler)
        if self.steps < 1:
            raise ValueError(f"way.steps is {self.steps}: it must be at least 1")
        for name in ("guidance", "gluing"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"way.{name} is {value}: it must be 0 or more, and finite")

    def __call__(self, pipeline: Pipeline, measurement: Measurement, seen: Seen) -> Images:
        """Draw.

        Raises:
            ValueError: as of `check`.
        """
        model = self.check(pipeline)
        with scheduled(model, self.scheduler), torch.no_grad():
            return self._drawn(model, tokenizer_of(pipeline), measurement, seen)

    def check(self, pipeline: Pipeline) -> Any:
        """The pipeline, which can be drawn from so.

        Raises:
            ValueError: it is not of a UNet, it is told a prompt and reads none, or the solver does
                not fit it.
        """
        kinds = diffusers.StableDiffusionPipeline, diffusers.LDMPipeline
        if isinstance(pipeline, TokenPipeline) or not isinstance(pipeline, kinds):
            raise ValueError(
                f"way:posterior: a {type(pipeline).__name__} has no UNet in latents that is told "
                "prompts alone, or nothing: give a pipeline such as small-diffusion makes"
            )
        if self.prompt and isinstance(pipeline, diffusers.LDMPipeline):
            raise ValueError(
                f"--way.prompt is {self.prompt!r}, and this pipeline reads none: leave it out"
            )
        with scheduled(pipeline, self.scheduler):
            solver: Any = pipeline.scheduler
            if float(getattr(solver, "init_noise_sigma", 1.0)) > 1.001:
                raise ValueError(
                    f"--way.scheduler {self.scheduler} holds latents with all of their noise, and "
                    "posteriors are drawn among such as keep their variance: choose dpm++ or ddim"
                )
            return pipeline

    def _drawn(
        self, model: Any, tokenizer: ImageTokenizer, measurement: Measurement, seen: Seen
    ) -> Images:
        chance = generators([self.seed + place for place in range(len(seen))])
        solver, device = model.scheduler, tokenizer.weight.device
        height, width = (side * measurement.shrinks // tokenizer.factor for side in seen.shape[-2:])
        solver.set_timesteps(self.steps, device=device)
        z = gaussian((model.unet.config.in_channels, height, width), chance, device)
        told = _told(model, self.prompt, len(seen))
        draws = "generator" in signature(solver.step).parameters
        drawn = {"generator": chance} if draws else {}
        for t in solver.timesteps:
            with torch.enable_grad():
                z = z.detach().requires_grad_()
                answer = model.unet(solver.scale_model_input(z, t), t, **told).sample
                clean = predicted(solver, answer, z, t)
                apart = self._apart(tokenizer, measurement, seen, clean)
                slope = torch.autograd.grad(apart.sum(), z)[0]
            stepped = solver.step(answer.detach(), t, z.detach(), **drawn, return_dict=False)
            z = stepped[0] - slope
        return tokenizer.decode(tokenizer.stored(z))

    def _apart(
        self, tokenizer: ImageTokenizer, measurement: Measurement, seen: Seen, clean: Latents
    ) -> Float[Tensor, " b"]:
        shown = tokenizer.decode(tokenizer.stored(clean)).float()
        apart = self.guidance * _norm(measurement(shown) - seen)
        if self.gluing and measurement.has_known:
            again = tokenizer.normalised(tokenizer.latents(measurement.kept(shown, seen)))
            apart = apart + self.gluing * _norm(clean - again)
        return apart


def predicted(solver: Any, answer: Latents, z: Latents, t: Tensor) -> Latents:
    """The clean latents that a network's answer stands for, by a stock solver that keeps the
    variance, or follows a flow.

    Raises:
        ValueError: it answers something else.
    """
    if is_flow(solver):
        return z - t / solver.config.num_train_timesteps * answer
    signal = solver.alphas_cumprod.to(z.device)[t.long()]
    match solver.config.prediction_type:
        case "epsilon":
            return (z - (1 - signal).sqrt() * answer) / signal.sqrt()
        case "v_prediction":
            return signal.sqrt() * z - (1 - signal).sqrt() * answer
        case "sample":
            return answer
    raise ValueError(f"this pipeline's network answers {solver.config.prediction_type}")


def tokenizer_of(pipeline: Pipeline) -> ImageTokenizer:
    """The tokenizer in a pipeline."""
    if isinstance(pipeline, TokenPipeline):
        return pipeline.tokenizer
    return ImageTokenizer.around(autoencoder(pipeline)).eval()


def _told(model: Any, prompt: str, count: int) -> dict[str, Any]:
    """What a network reads beside latents and time."""
    if not isinstance(model, diffusers.StableDiffusionPipeline):
        return {}
    said, _ = model.encode_prompt(prompt, model.device, 1, False)
    return {"encoder_hidden_states": said.expand(count, -1, -1)}


def _norm(values: Tensor) -> Float[Tensor, " b"]:
    """Lengths, whose gradient at 0 is 0."""
    return values.flatten(1).square().sum(1).add(1e-12).sqrt()
