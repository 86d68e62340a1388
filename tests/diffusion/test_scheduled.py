"""Which process a stock scheduler belongs to."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from calotype.diffusion import Epsilon, Flow, LogitNormal, Uniform, Velocity, process_of, spec_of
from calotype.diffusion.scheduled import Scheduled

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 4, 2, 8, 8, generator=generator)
    return x0, noise, torch.tensor([0.01, 0.3, 0.7, 0.999])


@pytest.mark.parametrize("process", [Flow(Uniform(), 3.0), Epsilon(snr_gamma=5.0), Velocity()])
def test_a_pipeline_of_ours_is_trained_on_as_it_was(process):
    found = process_of(process.scheduler(), process)
    assert found.times == process.times
    assert spec_of(found) == process
    for own, was in zip(found.noised(*batch()), process.noised(*batch()), strict=True):
        torch.testing.assert_close(own, was)


def test_discrete_ones_noise_by_their_own_betas():
    """And not by Stable Diffusion's, where they have others."""
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, num_train_timesteps=500)
    x0, noise, times = batch()
    assert spec_of(process_of(scheduler)) is None
    found = process_of(scheduler).noised(x0, noise, times)
    t = (500 * times).long()
    assert torch.equal(found.timestep, t) and t.max() == 499
    torch.testing.assert_close(found.noisy, scheduler.add_noise(x0, noise, t))
    assert torch.equal(found.target, noise) and torch.equal(found.weight, torch.ones(4))


def test_a_velocity_is_known_and_weighed():
    scheduler = EulerDiscreteScheduler(prediction_type="v_prediction", **BETAS)
    x0, noise, times = batch()
    found = process_of(scheduler, snr_gamma=5.0).noised(x0, noise, times)
    was = Velocity(snr_gamma=5.0).noised(x0, noise, times)
    torch.testing.assert_close(found.target, was.target)
    torch.testing.assert_close(found.weight, was.weight)


def test_a_sample_is_predicted_where_that_is_asked():
    x0, noise, times = batch()
    scheduler = DDIMScheduler(prediction_type="sample", **BETAS)
    found = process_of(scheduler)
    assert torch.equal(found.noised(x0, noise, times).target, x0)
    assert spec_of(found) is None


def test_the_usual_epsilon_is_stable_diffusions():
    found = process_of(PNDMScheduler(**BETAS))
    assert isinstance(found, Scheduled) and found.times == Uniform()
    for own, was in zip(found.noised(*batch()), Epsilon().noised(*batch()), strict=True):
        torch.testing.assert_close(own, was)


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    ],
)
def test_flows_are_known_with_their_shift(scheduler):
    assert process_of(scheduler) == Flow(LogitNormal(), 3.0)
    assert process_of(scheduler, times=Uniform()) == Flow(Uniform(), 3.0)
    with pytest.raises(ValueError, match="of a flow all errors weigh alike"):
        process_of(scheduler, snr_gamma=5.0)


def test_what_is_not_known_is_refused():
    scheduler = DDIMScheduler(**BETAS)
    scheduler.register_to_config(prediction_type="riddle")
    with pytest.raises(ValueError, match="DDIMScheduler expects 'riddle' of the network: choose a"):
        process_of(scheduler)
