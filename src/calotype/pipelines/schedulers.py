"""Stock schedulers by name, and which fit what a pipeline's network was trained to answer."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

from calotype.lazy import diffusers


@dataclass(frozen=True)
class Solver:
    """A stock scheduler, made from a pipeline's own config."""

    kind: str
    """Its class in diffusers."""
    flows: bool
    """Whether it follows a flow's straight paths to their end, by `use_flow_sigmas`; all follow the
    curved ones of networks that answer epsilon, the noise, or v."""
    random: bool = False
    """Whether it draws noise at each step."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of its config: what the class would take otherwise."""


NO_CLIP = {"clip_sample": False}
"""Latents are no pixels: they pass 1."""
SOLVERS: dict[str, Solver] = {
    "dpm++": Solver("DPMSolverMultistepScheduler", flows=True),
    "dpm++-sde": Solver("DPMSolverMultistepScheduler", flows=True, random=True,
                        settings={"algorithm_type": "sde-dpmsolver++"}),
    "unipc": Solver("UniPCMultistepScheduler", flows=True),
    "dpm++-karras": Solver("DPMSolverMultistepScheduler", flows=False,
                           settings={"use_karras_sigmas": True}),
    # It takes flow sigmas too, but its last step of a flow is none: noise is left in the image.
    "deis": Solver("DEISMultistepScheduler", flows=False),
    "ddim": Solver("DDIMScheduler", flows=False, settings=NO_CLIP),
    "ddpm": Solver("DDPMScheduler", flows=False, random=True, settings=NO_CLIP),
    "euler": Solver("EulerDiscreteScheduler", flows=False),
    "euler-ancestral": Solver("EulerAncestralDiscreteScheduler", flows=False, random=True),
    "heun": Solver("HeunDiscreteScheduler", flows=False),
    "lms": Solver("LMSDiscreteScheduler", flows=False),
    "pndm": Solver("PNDMScheduler", flows=False, settings={"skip_prk_steps": True}),
}  # fmt: skip
"""By name. Those of LCM and TCD want networks that were distilled for them."""


def check_name(name: str) -> None:
    """Refuse what is no scheduler's name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in SOLVERS:
        raise ValueError(f"sampling.scheduler is {name!r}: choose from {', '.join(SOLVERS)}")


def is_flow(scheduler: Any) -> bool:
    """Whether a stock scheduler follows a flow, whose network answers its velocity."""
    return scheduler.config.get("prediction_type") == "flow_prediction"


@contextmanager
def scheduled(pipeline: "diffusers.DiffusionPipeline", name: str | None) -> Iterator[None]:
    """While it is entered, a pipeline draws by the scheduler of that name; None: by its own.

    Raises:
        ValueError: the scheduler does not fit what the pipeline's network answers, or the pipeline
            cannot tell it the seed of an image.
    """
    if name is None:
        yield
        return
    own: Any = pipeline.scheduler  # type: ignore[reportAttributeAccessIssue]
    pipeline.scheduler = _made(pipeline, own, name)  # type: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        pipeline.scheduler = own  # type: ignore[reportAttributeAccessIssue]


def _made(pipeline: "diffusers.DiffusionPipeline", own: Any, name: str) -> Any:
    check_name(name)
    solver, flow = SOLVERS[name], is_flow(own)
    silent = isinstance(pipeline, diffusers.LDMPipeline)
    fitting = [each for each, one in SOLVERS.items()
               if one.flows >= flow and not (one.random and silent)]  # fmt: skip
    if own.config.get("prediction_type") is None:  # as those of Stable Diffusion 3
        why, fitting = f"a {type(own).__name__} has no other that fits what its network answers", []
    elif solver.flows < flow:
        why = "this pipeline follows a flow, and that fits networks that answer epsilon or v"
    else:
        why = "it draws noise at each step, which an LDMPipeline cannot give a seed"
    if name not in fitting:
        choose = f": choose from {', '.join(fitting)}" if fitting else ": leave it out"
        raise ValueError(f"sampling.scheduler is {name}, but {why}{choose}")
    kind = getattr(diffusers, solver.kind)
    # Of names that the class does not know, such as a flow's shift for another, diffusers warns.
    known = signature(kind.__init__).parameters
    config = {name: value for name, value in own.config.items()
              if name in known or name.startswith("_")}  # fmt: skip
    return kind.from_config(config, **solver.settings)
