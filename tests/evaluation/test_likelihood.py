"""Importance sampling bounds the likelihood, and is exact where that is known."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

import family
import tiny
from calotype.evaluation.likelihood import importance_bound
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Gaussian
from calotype.tokenizers.terms import FixedDeviation, GaussianLikelihood
from calotype.tokenizers.vector import Dense

SIZE, DEVIATION = 4, 0.5


def linear() -> ImageTokenizer:
    """x = W z + b + noise: a linear model, whose likelihood is a normal density."""
    torch.manual_seed(0)
    spec = Gaussian(2, keep_prior=True)
    made = ImageTokenizer(Dense(()).autoencoder(spec, SIZE, 1), spec.build()).eval()
    with torch.no_grad():
        for parameter in made.autoencoder.decoder.parameters():
            parameter.normal_(std=0.4)
        made.autoencoder.post_quant_conv.weight.copy_(torch.eye(2)[..., None, None])
        made.autoencoder.post_quant_conv.bias.zero_()
        made.autoencoder.quant_conv.weight *= 0.3
    return made


def exact(made: ImageTokenizer, x: torch.Tensor) -> torch.Tensor:
    z = torch.eye(3)[:, :2, None, None]  # Two axes, and nothing.
    with torch.no_grad():
        ends = made.decode(z).flatten(1).double()
    weight, mean = (ends[:2] - ends[2]).T, ends[2]
    covariance = weight @ weight.T + DEVIATION**2 * torch.eye(SIZE**2).double()
    return MultivariateNormal(mean, covariance).log_prob(x.flatten(1).double())


@pytest.mark.parametrize("samples", [1, 8, 2000])
def test_of_a_linear_model_it_is_the_likelihood(samples):
    made, term = linear(), GaussianLikelihood(deviation=FixedDeviation(DEVIATION)).build()
    x = torch.rand(16, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = importance_bound(made, term, [{"image": x, "key": list(range(16))}], samples)
    truth = -exact(made, x).mean().item()
    assert found.elbo > truth - 0.1
    if samples == 2000:
        assert found.nll == pytest.approx(truth, abs=0.1)
        assert found.elbo > found.nll + 0.5
    if samples == 1:
        assert found.nll == pytest.approx(found.elbo)
    level = math.log(2 / 255)
    assert found.bits == pytest.approx((found.nll / SIZE**2 - level) / math.log(2))


def test_the_mean_of_log_weights_is_the_trained_bound():
    """Their mean over samples is the ELBO that training minimises, by its closed divergence."""
    objective = family.member("dense", "gaussian", "none", "bernoulli")
    batch = tiny.batch(4)
    term = objective.terms["pixel"]
    found = importance_bound(objective.tokenizer, term, [batch], 400)
    losses = [objective({**batch, "key": [i * 10 + k for k in range(4)]}, 0) for i in range(100)]
    trained = sum(sum(each.values()).item() for each in losses) / 100 * batch["image"][0].numel()
    assert found.elbo == pytest.approx(trained, rel=0.01)


def test_latents_without_a_prior_are_refused():
    objective = family.member("dense", "identity", "none", "bernoulli")
    with pytest.raises(ValueError, match="no prior"):
        importance_bound(objective.tokenizer, objective.terms["pixel"], [tiny.batch(2)], 2)
    with pytest.raises(ValueError, match="empty"):
        importance_bound(objective.tokenizer, objective.terms["pixel"], [], 2)
