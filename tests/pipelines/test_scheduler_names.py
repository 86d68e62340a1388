"""Schedulers by name reach what a network answers, or are refused."""

import inspect
import logging
from typing import Any

import pytest
import torch

from calotype.diffusion import Epsilon, Flow, Velocity
from calotype.pipelines import Choice, Over, Sampling, load, sample
from calotype.pipelines.schedulers import SOLVERS, scheduled

pytestmark = pytest.mark.filterwarnings("ignore:__array")  # of numpy, in diffusers' DEIS

DATA = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ALPHAS = torch.cumprod(1 - BETAS, 0)


@pytest.fixture(scope="module")
def pipeline(artifacts) -> Any:
    return load(artifacts / "generator/model")


def answer(process, x: torch.Tensor, t: float) -> torch.Tensor:
    """Of a network that has learnt two images by heart: there is one way back."""
    if isinstance(process, Flow):
        return (x - DATA) / max(t / 1000, 1e-4)
    low = int(t)
    part = ALPHAS[low] + (t - low) * (ALPHAS[min(low + 1, 999)] - ALPHAS[low])
    alpha, sigma = float(part) ** 0.5, float(1 - part) ** 0.5
    noise = (x - alpha * DATA) / sigma
    return noise if isinstance(process, Epsilon) else alpha * noise - sigma * DATA


def drawn(pipeline: Any, process, name: str) -> torch.Tensor:
    pipeline.scheduler = process.scheduler()
    with scheduled(pipeline, name):
        solver = pipeline.scheduler
        solver.set_timesteps(20)
        chance = torch.Generator().manual_seed(1)
        x = torch.randn(DATA.shape, generator=chance) * solver.init_noise_sigma
        random = "generator" in inspect.signature(solver.step).parameters
        told = {"generator": chance} if random else {}
        for t in solver.timesteps:
            out = answer(process, solver.scale_model_input(x, t), float(t))
            x = solver.step(out, t, x, **told, return_dict=False)[0]
    return x


def test_bug_diffusers_warned_of_names_that_another_class_has(pipeline):
    """Three times for each drawing, of a flow's shift."""
    logger, said = logging.getLogger("diffusers.configuration_utils"), []
    logger.addFilter(hears := said.append)
    own = pipeline.scheduler
    for name in (name for name, solver in SOLVERS.items() if solver.flows):
        with scheduled(pipeline, name):
            assert pipeline.scheduler.config["flow_shift"] == own.config["flow_shift"]
    logger.removeFilter(hears)
    assert said == []


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("process", [Flow(), Flow(shift=3.0), Epsilon(), Velocity()], ids=str)
def test_a_scheduler_that_fits_reaches_the_image(name, process, pipeline):
    if isinstance(process, Flow) and not SOLVERS[name].flows:
        with pytest.raises(
            ValueError, match=r"this pipeline follows a flow.* choose from dpm\+\+, "
        ):
            drawn(pipeline, process, name)
        return
    # Stable Diffusion's PNDM and DEIS end at the first timestep, where a little noise is left.
    left = 0.15 if name in ("pndm", "deis") else 0.01
    assert (drawn(pipeline, process, name) - DATA).abs().max() < left


def test_a_pipeline_has_its_own_again(artifacts):
    pipeline = load(artifacts / "generator/model")
    own, images = pipeline.scheduler, {}
    for name in (None, "unipc", "dpm++"):
        how = Sampling(steps=4, guidance=2.0, scheduler=name)
        (images[name],) = sample(pipeline, ["a red circle"], [0], how)
        assert pipeline.scheduler is own
    assert torch.equal(images[None], images["dpm++"])
    assert not torch.equal(images[None], images["unipc"])


def test_what_a_pipeline_cannot_be_told_is_refused(artifacts):
    silent = load(artifacts / "unconditional/model")
    for asked, match in (
        (
            {"scheduler": "dpm++-sde"},
            r"which an LDMPipeline cannot give a seed: choose from dpm\+\+",
        ),
        ({"negative_prompt": "x"}, "sampling.negative_prompt: a LDMPipeline has none"),
        ({"guidance_rescale": 0.5}, "sampling.guidance_rescale: a LDMPipeline has none"),
    ):
        with pytest.raises(ValueError, match=match):
            next(sample(silent, [""], [0], Sampling(steps=2, **asked)))


def test_guidance_heeds_what_is_asked(artifacts):
    pipeline = load(artifacts / "generator/model")
    plain = Choice(steps=3, guidance=4.0)
    images = [
        next(sample(pipeline, ["a red circle"], [0], asked.over(Sampling())))
        for asked in (plain, Choice(steps=3, guidance=4.0, negative_prompt="a blue square"),
                      Choice(steps=3, guidance=4.0, guidance_rescale=0.7),
                      Choice(steps=3, guidance=4.0, negative_prompt="a red circle"),
                      Choice(steps=3, guidance=1.0))
    ]  # fmt: skip
    assert all(not torch.equal(images[0], other) for other in images[1:4])
    torch.testing.assert_close(images[3], images[4], rtol=0, atol=1e-4)  # away from itself: nowhere


def test_flows_begin_a_picture_at_their_own_noise(artifacts):
    """x_s = (1 - s) x0 + s eps, at the time that the network is told."""
    pipeline = load(artifacts / "generator/model")
    editor = Over(torch.zeros(3, 16, 16), 0.5).editor(pipeline)
    for name in (None, "unipc", "dpm++-sde"):
        with scheduled(editor, name):
            editor.scheduler.set_timesteps(10)
            times, steps = editor.get_timesteps(10, 0.5, "cpu")
            noise = torch.randn_like(DATA)
            noisy = editor.scheduler.add_noise(DATA, noise, times[:1].repeat(2))
        s = editor.scheduler.sigmas[5] if name is None else None
        assert steps == 5
        part = ((noisy - DATA) * (noise - DATA)).sum() / (noise - DATA).square().sum()
        torch.testing.assert_close(noisy, DATA + part * (noise - DATA), rtol=0, atol=1e-5)
        assert abs(1000 * float(part) - float(times[0])) <= 1 and (
            s is None or abs(s - part) < 1e-5
        )
