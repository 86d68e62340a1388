"""From data to noise and what is learnt of the way back; each names its stock scheduler.

A process maps clean latents x0, noise and times s in [0, 1) to what the network sees, the
timestep it is told, what it should answer, and the weight of each sample's error.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from calotype.diffusion.schedules import LogitNormal, Uniform
from calotype.lazy import diffusers

TIMESTEPS = 1000
"""Timesteps that stock schedulers and networks count."""

Latents = Float[Tensor, "b c h w"]
Times = Float[Tensor, " b"]


class Noised(NamedTuple):
    """One batch of the regression that a process asks of its network."""

    noisy: Latents
    timestep: Tensor
    """[B], in [0, 1000)."""
    target: Latents
    weight: Float[Tensor, " b"]


@runtime_checkable
class Process(Protocol):
    """What `Denoising` needs of a process."""

    @property
    def times(self) -> LogitNormal | Uniform:
        """How times are drawn."""
        ...

    def noised(self, x0: Latents, noise: Latents, times: Times) -> Noised:
        """Noise a batch."""
        ...

    def scheduler(self) -> "diffusers.DPMSolverMultistepScheduler":
        """The stock scheduler that samples what was trained."""
        ...


@dataclass(frozen=True)
class Flow:
    """Straight paths x_s = (1 - s) x0 + s eps with velocity eps - x0 (Lipman et al. 2023; Liu et
    al. 2023); the network is told t = 1000 s.
    """

    times: LogitNormal | Uniform = field(default_factory=LogitNormal)
    shift: float = 1.0
    """Moves training and sampling towards noise, s' = shift s / (1 + (shift - 1) s): more than 1
    for large latents (Esser et al. 2024, eq. 23)."""

    def __post_init__(self) -> None:
        if self.shift <= 0:
            raise ValueError(f"process.shift is {self.shift}: it must be positive; 1 is none")

    def noised(self, x0: Latents, noise: Latents, times: Times) -> Noised:
        """Noise a batch."""
        times = self.shift * times / (1 + (self.shift - 1) * times)
        s = times[:, None, None, None]
        return Noised((1 - s) * x0 + s * noise, TIMESTEPS * times, noise - x0,
                       torch.ones_like(times))  # fmt: skip

    def scheduler(self) -> "diffusers.DPMSolverMultistepScheduler":
        """A second-order solver: with the network at hand the flow's Euler scheduler cannot be
        called by StableDiffusionPipeline, which also warns of any `steps_offset` but 1, though
        these timesteps do not use it.
        """
        return diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=self.shift,
            steps_offset=1, trained_betas=_levels_of_flows(),
        )  # fmt: skip


@dataclass(frozen=True)
class Epsilon:
    """Predict the noise (Ho et al. 2020, eq. 14), on Stable Diffusion's scaled-linear betas."""

    times: LogitNormal | Uniform = field(default_factory=Uniform)
    snr_gamma: float | None = None
    """Errors weigh min(SNR, gamma) / SNR (Hang et al. 2023, eq. 7); None: all alike."""

    def __post_init__(self) -> None:
        _check_gamma(self.snr_gamma)

    def noised(self, x0: Latents, noise: Latents, times: Times) -> Noised:
        """Noise a batch."""
        schedule, t = _discrete(times)
        noisy = schedule.add_noise(x0, noise, t)  # type: ignore[arg-type]
        return Noised(noisy, t, noise, min_snr(schedule, t, self.snr_gamma, 0.0))

    def scheduler(self) -> "diffusers.DPMSolverMultistepScheduler":
        """DPM-Solver++ over the same betas."""
        return _solver("epsilon")


@dataclass(frozen=True)
class Velocity:
    """Predict v = alpha eps - sigma x0 (Salimans & Ho 2022, section 4), on the same betas."""

    times: LogitNormal | Uniform = field(default_factory=Uniform)
    snr_gamma: float | None = None
    """Errors weigh min(SNR, gamma) / (SNR + 1) (Hang et al. 2023); None: all alike."""

    def __post_init__(self) -> None:
        _check_gamma(self.snr_gamma)

    def noised(self, x0: Latents, noise: Latents, times: Times) -> Noised:
        """Noise a batch."""
        schedule, t = _discrete(times)
        noisy = schedule.add_noise(x0, noise, t)  # type: ignore[arg-type]
        target = schedule.get_velocity(x0, noise, t)  # type: ignore[arg-type]
        return Noised(noisy, t, target, min_snr(schedule, t, self.snr_gamma, 1.0))

    def scheduler(self) -> "diffusers.DPMSolverMultistepScheduler":
        """DPM-Solver++ over the same betas."""
        return _solver("v_prediction")


def _check_gamma(gamma: float | None) -> None:
    if gamma is not None and gamma <= 0:
        raise ValueError(f"process.snr_gamma is {gamma}: it must be positive, or None")


ProcessSpec = Flow | Epsilon | Velocity

_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _levels_of_flows() -> list[float]:
    """Betas of which timestep t has noise and signal in a ratio of t / 1000, a flow's level.

    Flows do not read them. Schedulers do that space the levels otherwise (`use_karras_sigmas` and
    the like) and that, of diffusers' own betas, make levels of 100 and more, which a flow has none
    of: what they draw is NaN.
    """
    # The first is not 0: their logarithms are taken.
    signal = [1 / (1 + (max(t, 0.5) / TIMESTEPS) ** 2) for t in range(TIMESTEPS)]
    return [float(f"{1 - now / before:.6g}") for before, now in pairwise([1.0, *signal])]


def betas() -> Tensor:
    """Of `Epsilon` and `Velocity`: Stable Diffusion's, one for each timestep."""
    return _schedule().betas


def _discrete(times: Times) -> "tuple[diffusers.DDPMScheduler, Tensor]":
    return _schedule(), (TIMESTEPS * times).long().clamp(max=TIMESTEPS - 1)


def _schedule() -> "diffusers.DDPMScheduler":
    return _schedule_in(_get_current_dispatch_mode())


@lru_cache(maxsize=1)
def _schedule_in(mode: Any) -> "diffusers.DDPMScheduler":
    """Kept, but no longer than a mode of torch's lasts: tensors of a rehearsed step have no
    contents (evaluation/needs.py), and are of no use to another one.
    """
    return diffusers.DDPMScheduler(num_train_timesteps=TIMESTEPS, **_BETAS)


def _solver(
    prediction: Literal["epsilon", "v_prediction"],
) -> "diffusers.DPMSolverMultistepScheduler":
    """What other schedulers are to know when they are made `from_config` is there as well: by
    default DDIM, DDPM and LCM clip latents to [-1, 1], and PNDM takes steps that pipelines do not
    expect.
    """
    made: Any = diffusers.DPMSolverMultistepScheduler.from_config({
        "num_train_timesteps": TIMESTEPS, "prediction_type": prediction,
        "timestep_spacing": "trailing", "steps_offset": 1, **_BETAS,
        "clip_sample": False, "skip_prk_steps": True,
    })  # fmt: skip
    return made


def min_snr(
    schedule: "diffusers.DDPMScheduler", timesteps: Tensor, gamma: float | None, offset: float
) -> Float[Tensor, " b"]:
    """Weights min(SNR, gamma) / (SNR + offset) of timesteps (Hang et al. 2023); None: all alike."""
    if gamma is None:
        return torch.ones(timesteps.shape, device=timesteps.device)
    snr = diffusers.training_utils.compute_snr(schedule, timesteps)
    return snr.clamp(max=gamma) / (snr + offset)
