"""Which process a stock scheduler belongs to, so that its pipeline can be trained on."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from calotype.diffusion.processes import (
    TIMESTEPS,
    Epsilon,
    Flow,
    Latents,
    Noised,
    Process,
    ProcessSpec,
    Times,
    Velocity,
    betas,
    min_snr,
)
from calotype.diffusion.schedules import LogitNormal, Uniform
from calotype.lazy import diffusers

ANSWERS = ("epsilon", "v_prediction", "sample")
"""What the networks of discrete schedulers predict."""
BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas",
         "rescale_betas_zero_snr")  # fmt: skip
"""Of a scheduler's configuration, how it noises."""


@dataclass(frozen=True)
class Scheduled:
    """Noise on a scheduler's own betas, and the answer that it expects.

    Raises:
        ValueError: it expects none that is known.
    """

    sampler: Any
    """The stock scheduler."""
    times: LogitNormal | Uniform
    snr_gamma: float | None = None
    """Errors weigh min(SNR, gamma) / SNR, of velocities / (SNR + 1) (Hang et al. 2023); None: all
    alike."""

    def __post_init__(self) -> None:
        if self.answer not in ANSWERS:
            raise ValueError(
                f"{type(self.sampler).__name__} expects {self.answer!r} of the network: choose a "
                f"pipeline whose scheduler expects a flow or {', '.join(ANSWERS)}"
            )

    @property
    def answer(self) -> str:
        """What the network predicts."""
        return self.sampler.config.get("prediction_type", "epsilon")

    def noised(self, x0: Latents, noise: Latents, times: Times) -> Noised:
        """Noise a batch."""
        schedule = self.schedule
        t = (len(schedule.betas) * times).long().clamp(max=len(schedule.betas) - 1)
        noisy = schedule.add_noise(x0, noise, t)  # type: ignore[arg-type]
        match self.answer:
            case "epsilon":
                return Noised(noisy, t, noise, min_snr(schedule, t, self.snr_gamma, 0.0))
            case "v_prediction":
                target = schedule.get_velocity(x0, noise, t)  # type: ignore[arg-type]
                return Noised(noisy, t, target, min_snr(schedule, t, self.snr_gamma, 1.0))
        return Noised(noisy, t, x0, min_snr(schedule, t, None, 0.0))

    @cached_property
    def schedule(self) -> "diffusers.DDPMScheduler":
        """One that noises, where the pipeline's own may only sample."""
        config = self.sampler.config
        own = {name: config[name] for name in BETAS if config.get(name) is not None}
        return diffusers.DDPMScheduler(**own)

    def scheduler(self) -> Any:
        """The scheduler as it is."""
        return self.sampler


def process_of(
    scheduler: Any,
    known: ProcessSpec | None = None,
    times: LogitNormal | Uniform | None = None,
    snr_gamma: float | None = None,
) -> Process:
    """How a pipeline's network was trained, told by its scheduler.

    Args:
        scheduler: A stock one.
        known: How it was trained, where that was noted.
        times: Which timesteps are trained; None: as it was, or those usual of its kind.
        snr_gamma: Of errors' weights; None: as it was, or all weigh alike.

    Raises:
        ValueError: the scheduler belongs to no process that is known.
    """
    config = scheduler.config
    if _is_flow(scheduler):
        if snr_gamma is not None:
            raise ValueError(f"snr_gamma is {snr_gamma}, and of a flow all errors weigh alike")
        if config.get("num_train_timesteps", TIMESTEPS) != TIMESTEPS:
            raise ValueError(f"a flow of other than {TIMESTEPS} timesteps cannot be trained on")
        was = known if isinstance(known, Flow) else Flow(shift=_shift(config))
        return Flow(times or was.times, was.shift)
    before = known if isinstance(known, Epsilon | Velocity) else None
    usual = before.times if before else Uniform()
    weighed = before.snr_gamma if before and snr_gamma is None else snr_gamma
    return Scheduled(scheduler, times or usual, weighed)


def spec_of(process: Process) -> ProcessSpec | None:
    """What a recipe calls a process, to be noted beside what was trained by it; None: its noise is
    not Stable Diffusion's, or a sample is predicted, and no recipe has a word for that.
    """
    if not isinstance(process, Scheduled):
        assert isinstance(process, ProcessSpec)
        return process
    named = {"epsilon": Epsilon, "v_prediction": Velocity}
    if process.answer not in named or not torch.equal(process.schedule.betas, betas()):
        return None
    return named[process.answer](process.times, process.snr_gamma)


def _is_flow(scheduler: Any) -> bool:
    config = scheduler.config
    told = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    return bool(told) or type(scheduler).__name__.startswith("FlowMatch")


def _shift(config: Any) -> float:
    """Of a flow's times towards noise."""
    return float(config.get("flow_shift") or config.get("shift") or 1.0)
