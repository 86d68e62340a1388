"""Which of diffusers' schedulers draw what is trained: the table of docs/clients.md, made here.

python tests/pipelines/test_schedulers.py

writes it anew. In the place of a network stands the exact answer for data of which one channel has
two values, and the other a mean and a deviation: what is drawn must have them too. The first
forgives what goes wrong on the way, the second what is drawn less varied, as few steps of some do.
"""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import pytest
import torch
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

from calotype.diffusion import Epsilon, Flow, ProcessSpec, Velocity
from calotype.pipelines.assemble import _serve_flow_schedulers
from calotype.training.portable import make_portable

PAGE = Path(__file__).parents[2] / "docs/clients.md"
MARKS = "<!-- by tests/pipelines/test_schedulers.py -->", "<!-- end -->"
MEANS = torch.tensor([[-1.0, 1.0], [0.4, 0.4]])
"""Of the two modes of each channel."""
OFTEN = torch.tensor([0.3, 0.7])
"""How often each is."""
WIDTHS = torch.tensor([[0.1], [0.7]])
"""Of a channel's modes."""
STEPS = 25
PROCESSES: dict[str, ProcessSpec] = {
    "flow": Flow(shift=3.0), "noise": Epsilon(), "velocity": Velocity(),
}  # fmt: skip
SOLVERS = ("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep")
"""Those that know all three."""
LEVELS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
OTHERS = ("LCM", "TCD", "SASolver", "IPNDM", "FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete")
"""Those that diffusers does not count as exchangeable."""
Swap = tuple[str, dict[str, Any]]


@cache
def config(name: str) -> Any:
    """What the scheduler of a saved pipeline knows once it is loaded."""
    with TemporaryDirectory() as folder:
        PROCESSES[name].scheduler().save_pretrained(folder)
        _serve_flow_schedulers(Path(folder, "scheduler_config.json"))
        make_portable(Path(folder))
        return diffusers.DPMSolverMultistepScheduler.from_pretrained(folder).config


def answer(name: str, noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """E[target | noisy], told what the network is told."""
    if name == "flow":
        a, b = 1 - t / 1000, t / 1000
    else:
        signal = diffusers.DDPMScheduler.from_config(config(name)).alphas_cumprod
        low = int(t.clamp(max=998))
        at = signal[low].lerp(signal[low + 1], float(t) - low)
        a, b = at.sqrt(), (1 - at).sqrt()
    spread = (a * WIDTHS) ** 2 + b**2
    off = noisy[..., None] - a * MEANS  # (sample, channel, mode)
    shares = (OFTEN.log() - off.square() / (2 * spread)).softmax(-1)
    x0 = (shares * (MEANS + a * WIDTHS**2 * off / spread)).sum(-1)
    eps = (noisy - a * x0) / b.clamp(min=1e-4)
    return {"flow": eps - x0, "noise": eps, "velocity": a * eps - b * x0}[name]


def drawn(name: str, scheduler: Any) -> torch.Tensor:
    """As StableDiffusionPipeline calls it, or, where it cannot, in a loop of one's own."""
    torch.manual_seed(0)
    scheduler.set_timesteps(STEPS)
    latents = torch.randn(2000, 2) * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        scale = getattr(scheduler, "scale_model_input", lambda latents, t: latents)
        latents = scheduler.step(answer(name, scale(latents, t), t), t, latents)[0]
    return latents


def verdict(name: str, kind: str, options: dict[str, Any]) -> str:
    """What comes of a swap."""
    try:
        scheduler = getattr(diffusers, f"{kind}Scheduler").from_config(config(name), **options)
        found = drawn(name, scheduler)
    except (ValueError, NotImplementedError):
        return "refused"
    if not found.isfinite().all():
        return "**NaN**"
    two, one = found.unbind(1)
    values = ((two.abs() - 1).abs() < 0.5).float().mean() > 0.9
    shares = ((two > 0).float().mean() - OFTEN[1]).abs() < 0.1
    shape = torch.hypot(one.mean() - MEANS[1, 0], one.std() - WIDTHS[1, 0]) < 0.3
    if not (values and shares and shape):
        return "**garbage**"
    return "draws" if hasattr(scheduler, "scale_model_input") else "in your own loop"


def swaps() -> list[Swap]:
    """Classes and what is changed in them."""
    stock = [each.name.removesuffix("Scheduler") for each in KarrasDiffusionSchedulers]
    stock.remove("DPMSolverSDE")  # of a package that is not installed
    return [
        *((name, {}) for name in (*stock, *OTHERS)),
        *((name, {level: True}) for name in SOLVERS for level in LEVELS),
        ("DPMSolverMultistep", {"use_lu_lambdas": True}),
        ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}),
        ("SASolver", {"algorithm_type": "data_prediction"}),
        *(("DPMSolverMultistep", {"prediction_type": other})
          for other in ("epsilon", "v_prediction", "sample")),
    ]  # fmt: skip


def table() -> str:
    """The table of the page."""
    lines = [f"| scheduler | {' | '.join(PROCESSES)} |", "|---" * (1 + len(PROCESSES)) + "|"]
    for kind, options in swaps():
        label = ", ".join([kind, *(f"{name}={value!r}" for name, value in options.items())])
        found = [verdict(name, kind, options) for name in PROCESSES]
        lines.append(f"| `{label}` | {' | '.join(found)} |")
    return "\n".join(lines)


def spliced(page: str, made: str) -> str:
    """The page with a table in the place of the one that it has."""
    before, rest = page.split(MARKS[0])
    _, after = rest.split(MARKS[1], 1)
    return f"{before}{MARKS[0]}\n{made}\n{MARKS[1]}{after}"


@pytest.fixture(autouse=True, scope="module")
def quiet():
    was = diffusers.logging.get_verbosity()
    diffusers.logging.set_verbosity_error()
    yield
    diffusers.logging.set_verbosity(was)


def test_the_page_says_which_schedulers_draw():
    page = PAGE.read_text()
    assert spliced(page, table()) == page


@pytest.mark.parametrize("kind", ["FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete"])
def test_flow_schedulers_take_the_shift(kind):
    """Bug: theirs is `shift`, the solver's `flow_shift`, and made `from_config` they had none."""
    scheduler = getattr(diffusers, f"{kind}Scheduler").from_config(config("flow"))
    assert scheduler.config.shift == 3.0 == config("flow").flow_shift


def test_a_saved_scheduler_is_loaded_without_a_word(capfd):
    """Bug: a name that its class does not know is warned of each time."""
    config.cache_clear()
    diffusers.logging.set_verbosity_warning()
    for name in PROCESSES:
        config(name)
    diffusers.logging.set_verbosity_error()
    assert capfd.readouterr().err == ""


def test_levels_of_a_flow_are_its_times():
    """So that levels which are spaced otherwise are told as what they are."""
    signal = PROCESSES["flow"].scheduler().alphas_cumprod
    levels = ((1 - signal) / signal).sqrt()
    expected = torch.arange(1000) / 1000
    torch.testing.assert_close(levels[10:], expected[10:], rtol=2e-3, atol=0)
    assert 0 < levels[0] < levels[1] and levels[-1] < 1


if __name__ == "__main__":
    diffusers.logging.set_verbosity_error()
    PAGE.write_text(spliced(PAGE.read_text(), table()))
