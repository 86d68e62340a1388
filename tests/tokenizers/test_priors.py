"""Priors that are fitted to latents."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

import family
import tiny
from calotype.commands.fit_prior import FitPrior, fit
from calotype.data import Scenes
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Identity
from calotype.tokenizers.priors import Mixture, OneGaussian, Prior, fit_prior


def latents(count: int = 4000) -> torch.Tensor:
    """Of two clouds that lean, three numbers each."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    lean = torch.tensor([[1.0, 0.8, 0.0], [0.0, 0.6, 0.0], [0.0, 0.0, 0.1]], dtype=torch.float64)
    side = torch.arange(count) % 4 == 0
    return noise @ lean + torch.where(side, 6.0, -2.0)[:, None]


def test_one_gaussian_has_the_latents_mean_and_covariance():
    z = latents()
    parts = OneGaussian().fit(z)
    torch.testing.assert_close(parts.means[0], z.mean(0))
    covariance = parts.roots[0] @ parts.roots[0].T
    torch.testing.assert_close(covariance, z.T.cov(correction=0), rtol=1e-3, atol=1e-3)
    exact = MultivariateNormal(parts.means[0], scale_tril=parts.roots[0]).log_prob(z[:50])
    torch.testing.assert_close(parts.log_density(z[:50]), exact)


def test_a_mixture_finds_what_one_gaussian_cannot():
    z = latents()
    one, two = OneGaussian().fit(z), Mixture(2).fit(z)
    assert sorted(two.weights.tolist()) == pytest.approx([0.25, 0.75], abs=0.01)
    # Of two clouds so far apart one knows which: ln 2 and more is gained.
    assert (two.log_density(z).mean() - one.log_density(z).mean()).item() > math.log(2)


@pytest.mark.parametrize("spec", [OneGaussian(), Mixture(2)])
def test_what_is_drawn_is_like_what_it_was_fitted_to(spec):
    z = latents()
    prior = Prior(spec.fit(z), (3, 1, 1), "", len(z))
    drawn = prior.draw([torch.Generator().manual_seed(i) for i in range(4000)]).flatten(1).double()
    torch.testing.assert_close(drawn.mean(0), z.mean(0), atol=0.25, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), z.T.cov(), rtol=0.1, atol=0.1)
    (again,) = prior.draw([torch.Generator().manual_seed(7)])
    assert torch.equal(again.flatten().double(), drawn[7])


def test_shrinkage_moves_the_covariance_to_a_ball():
    parts = OneGaussian(shrinkage=1.0).fit(latents())
    covariance = parts.roots[0] @ parts.roots[0].T
    torch.testing.assert_close(covariance, covariance[0, 0] * torch.eye(3).double())


def test_the_command_keeps_it_beside_the_tokenizer(tmp_path):
    tokenizer = family.member("dense", "gaussian", "none", "l2").tokenizer
    tokenizer.save(tmp_path / "model")
    file = fit(FitPrior(tmp_path / "model", data=Scenes(size=tiny.SIZE, count=24),
                        prior=Mixture(2), count=20, device="cpu"))  # fmt: skip
    assert file.parent == tmp_path / "model"
    prior, loaded = Prior.load(tmp_path / "model"), ImageTokenizer.load(tmp_path / "model")
    prior.check(loaded)
    assert prior.images == 20 and prior.shape == (2, 1, 1)
    drawn = loaded.decode(prior.draw([torch.Generator()]))
    assert drawn.shape == (1, 3, tiny.SIZE, tiny.SIZE)


def test_another_tokenizer_is_refused():
    one = family.member("dense", "gaussian", "none", "l2").tokenizer
    prior = fit_prior(one, [{"image": tiny.images(8), "key": list(range(8))}], OneGaussian())
    torch.manual_seed(1)
    other = ImageTokenizer(
        family.BACKBONES["dense"].autoencoder(Identity(2), tiny.SIZE), Identity(2).build()
    )
    with pytest.raises(ValueError, match="fit-prior again"):
        prior.check(other)


def test_codes_and_too_large_latents_are_refused():
    batch = [{"image": tiny.images(4), "key": list(range(4))}]
    with pytest.raises(ValueError, match="transformer"):
        fit_prior(family.member("map", "vq", "none", "l2").tokenizer, batch, OneGaussian())
    with pytest.raises(ValueError, match="fewer"):
        fit_prior(family.member("map", "identity", "none", "l2").tokenizer, batch, Mixture(9))
    with pytest.raises(ValueError, match="fewer than 2"):
        fit_prior(family.member("map", "identity", "none", "l2").tokenizer,
                  [{"image": tiny.images(1), "key": [0]}], OneGaussian())  # fmt: skip


def test_a_broken_prior_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="fit-prior"):
        Prior.load(tmp_path)
    (tmp_path / "calotype_prior.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="fit it again"):
        Prior.load(tmp_path)
