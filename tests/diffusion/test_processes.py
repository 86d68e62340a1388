"""What a process trains is what its scheduler samples: the analytic answer draws the data."""

import math

import pytest
import torch

import tiny
from calotype.diffusion import Epsilon, Flow, LogitNormal, Uniform, Velocity
from calotype.diffusion.processes import ProcessSpec

MEAN, STD = 0.4, 0.7
STEPS = 25
PROCESSES = {"flow": Flow(), "shifted": Flow(shift=3.0), "epsilon": Epsilon(), "v": Velocity()}

# Stable Diffusion's scaled-linear betas, written out.
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
SIGNAL = (1 - BETAS).cumprod(0)

all_processes = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def optimal(process: ProcessSpec, noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """E[target | noisy] for x0 ~ N(MEAN, STD^2), told what the network is told."""
    match process:
        case Flow():
            a, b = 1 - t / 1000, t / 1000
        case _:
            a, b = SIGNAL[t.long()].sqrt(), (1 - SIGNAL[t.long()]).sqrt()
    a, b = (x.to(noisy).reshape(-1, 1, 1, 1) for x in (a, b))
    surprise = (noisy - a * MEAN) / (a**2 * STD**2 + b**2)
    x0, eps = MEAN + a * STD**2 * surprise, b * surprise
    match process:
        case Flow():
            return eps - x0
        case Epsilon():
            return eps
        case Velocity():
            return a * eps - b * x0


@all_processes
@pytest.mark.parametrize("time", [0.02, 0.3, 0.7, 0.98])
def test_the_target_is_its_optimal_answer_and_noise(process, time):
    """The residual has no mean and nothing to do with what the network sees, so that no function
    of that has a smaller error: for Gaussians the regression is linear."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 4, 1, 200, 200, generator=generator)
    noised = process.noised(MEAN + STD * x0, noise, torch.full((4,), time))
    answer = optimal(process, noised.noisy, noised.timestep)
    residual = noised.target - answer
    assert abs(residual.mean()) < 0.01 * noised.target.std()
    pair = torch.stack([residual.flatten(), noised.noisy.flatten()])
    assert abs(pair.corrcoef()[0, 1]) < 0.01
    assert residual.std() < noised.target.std()


@all_processes
def test_the_exported_scheduler_draws_the_data(process):
    """Called exactly as StableDiffusionPipeline calls it."""
    scheduler = process.scheduler()
    scheduler.set_timesteps(STEPS)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 1, 200, 200, generator=generator) * scheduler.init_noise_sigma
    assert len(scheduler.timesteps) == STEPS
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(latents, t)
        latents = scheduler.step(optimal(process, seen, t), t, latents, return_dict=False)[0]
    assert latents.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert latents.std().item() == pytest.approx(STD, rel=0.03)


@all_processes
def test_timesteps_are_the_networks(process):
    times = torch.tensor([0.0, 1e-9, 0.5, 0.9995, 1 - 2**-24])
    x0 = torch.zeros(5, 1, 2, 2)
    timestep = process.noised(x0, x0, times).timestep
    assert (timestep >= 0).all() and (timestep < 1000).all()
    assert (timestep.diff() >= 0).all() and timestep[-1] > 998


@pytest.mark.parametrize("kind", [Epsilon, Velocity])
def test_a_gamma_that_cannot_be_is_refused(kind):
    with pytest.raises(ValueError, match=r"process\.snr_gamma is 0\.0: it must be positive"):
        kind(snr_gamma=0.0)


@pytest.mark.parametrize("gamma", [None, 5.0])
@pytest.mark.parametrize("kind", [Epsilon, Velocity])
def test_min_snr_weights_are_their_formulas(kind, gamma):
    """Hang et al. 2023: the weight of x0's error, min(SNR, gamma), as one of eps' or of v's."""
    times = torch.tensor([0.0, 0.2, 0.5, 0.8, 0.999])
    x0 = torch.zeros(5, 1, 2, 2)
    weight = kind(snr_gamma=gamma).noised(x0, x0, times).weight
    snr = (SIGNAL / (1 - SIGNAL))[(1000 * times).long()].float()
    capped = snr.clamp(max=5) / (snr if kind is Epsilon else snr + 1)
    expected = capped if gamma else torch.ones(5)
    torch.testing.assert_close(weight, expected, rtol=1e-3, atol=0)


def test_a_shift_moves_training_and_sampling_alike():
    """Esser et al. 2024, eq. 23: shift s / (1 + (shift - 1) s), of one half at 3 three quarters."""
    noised = Flow(shift=3.0).noised(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2),
                                      torch.tensor([0.5]))  # fmt: skip
    assert noised.timestep == 750 and (noised.noisy == 0.75).all()
    plain, shifted = Flow().scheduler(), Flow(shift=3.0).scheduler()
    for scheduler in (plain, shifted):
        scheduler.set_timesteps(10)
    expected = 3 * plain.sigmas / (1 + 2 * plain.sigmas)
    torch.testing.assert_close(shifted.sigmas, expected, atol=2e-3, rtol=0)


def test_flow_weighs_all_alike():
    x0 = torch.zeros(3, 1, 2, 2)
    assert torch.equal(Flow().noised(x0, x0, torch.rand(3)).weight, torch.ones(3))


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


def test_times_have_their_distributions():
    uniform, middle = (law.draw(generators(4000)) for law in (Uniform(), LogitNormal(0.5, 1.0)))
    assert uniform.median().item() == pytest.approx(0.5, abs=0.03)
    assert uniform.std().item() == pytest.approx(12**-0.5, abs=0.01)
    logits = middle.logit()
    assert middle.median().item() == pytest.approx(1 / (1 + math.exp(-0.5)), abs=0.02)
    assert logits.mean().item() == pytest.approx(0.5, abs=0.05)
    assert logits.std().item() == pytest.approx(1.0, abs=0.05)
    assert 0 < middle.min() and middle.max() < 1


@torch.no_grad()
@all_processes
def test_a_samples_noise_is_its_own(process):
    """The loss of a batch is the mean of its samples' losses alone."""
    objective = tiny.denoising().eval()
    objective.process = process
    batch = {k: v[:4] for k, v in tiny.latents().items()} | {"key": [7, 8, 9, 10]}
    together = objective(batch, 0)["denoising"]
    alone = [
        objective({k: v[j : j + 1] for k, v in batch.items()}, 0)["denoising"] for j in range(4)
    ]
    torch.testing.assert_close(together, torch.stack(alone).mean())
    assert len({round(loss.item(), 6) for loss in alone}) == 4
    other = objective({**batch, "key": [7, 8, 9, 11]}, 0)["denoising"]
    assert other != together
