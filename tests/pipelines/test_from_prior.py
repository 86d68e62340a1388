"""A tokenizer that draws by itself, from a prior beside it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import family
import tiny
from calotype.commands.fit_prior import FitPrior, fit
from calotype.commands.generate import Generate, generate
from calotype.data import Scenes
from calotype.pipelines.assemble import load
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.likelihood import keep_likelihood
from calotype.tokenizers.priors import Mixture, Prior
from calotype.tokenizers.terms import GaussianLikelihood
from calotype.training.noise import generators


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "model"
    family.member("dense", "gaussian", "none", "l2").tokenizer.save(folder)
    fit(FitPrior(folder, data=Scenes(size=tiny.SIZE, count=24), prior=Mixture(2), device="cpu"))
    return folder


def pictures(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(file)) for file in sorted(folder.glob("0*.png"))]


def test_the_run_draws_what_decoding_the_prior_gives(model, tmp_path):
    drawn = pictures(generate(Generate((), str(model.parent), tmp_path / "some", images=3, seed=5)))
    prior, tokenizer = Prior.load(model), ImageTokenizer.load(model)
    z = prior.draw([torch.Generator().manual_seed(seed) for seed in (5, 6, 7)])
    with torch.no_grad():
        images = (tokenizer.decode(z).clamp(-1, 1) + 1) * 127.5
    wanted = images.round().byte().permute(0, 2, 3, 1).numpy()
    assert len(drawn) == 3
    for one, other in zip(drawn, wanted, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1
    assert (drawn[0] != drawn[1]).any()


def test_a_picture_says_how_it_is_drawn_again(model, tmp_path):
    made = generate(Generate((), str(model), tmp_path / "some", images=2))
    file = sorted(made.glob("0*.png"))[1]
    again = pictures(generate(Generate((), str(model), tmp_path / "again", like=file)))
    assert len(again) == 1 and (again[0] == pictures(made)[1]).all()
    fit(FitPrior(model, data=Scenes(size=tiny.SIZE, count=20), prior=Mixture(1), device="cpu"))
    with pytest.raises(ValueError, match=r"is .* now"):
        generate(Generate((), str(model), tmp_path / "other", like=file))


def test_it_is_called_as_a_stock_pipeline_without_prompts_is(model):
    pipeline = load(model)
    (image,) = pipeline(generator=torch.Generator().manual_seed(0)).images
    assert image.size == (tiny.SIZE, tiny.SIZE)
    (images,) = pipeline(2, output_type="pt", return_dict=False)
    assert images.shape == (2, 3, tiny.SIZE, tiny.SIZE) and 0 <= images.min() <= images.max() <= 1


def test_what_cannot_draw_says_so(model, tmp_path):
    with pytest.raises(ValueError, match="reads no prompts"):
        generate(Generate(("a cat",), str(model), tmp_path / "some"))
    tokenizer = family.member("pooled", "identity", "none", "l2").tokenizer
    tokenizer.save(tmp_path / "model")
    with pytest.raises(ValueError, match="keeps no prior"):
        generate(Generate((), str(tmp_path / "model"), tmp_path / "some"))
    (model / "calotype_prior.safetensors").rename(tmp_path / "model/calotype_prior.safetensors")
    with pytest.raises(ValueError, match="fit-prior again"):
        generate(Generate((), str(tmp_path / "model"), tmp_path / "some"))
    assert not (tmp_path / "some").exists()


OWN = ("gaussian", "poisson", "bernoulli", "rbm", "sphere", "circle", "causal")


@pytest.mark.parametrize("name", OWN)
def test_a_tokenizer_that_keeps_its_prior_draws_from_it(name, tmp_path):
    """Nothing was fitted: a seed's picture is that of the latent which the bottleneck draws."""
    tokenizer = family.begun(family.member("dense", name, "none", "normal")).tokenizer.eval()
    tokenizer.save(tmp_path / "model")
    pipeline: Any = load(tmp_path / "model")
    found = pipeline(batch_size=64, generator=generators(range(64)), output_type="pt").images
    with torch.no_grad():
        z = tokenizer.bottleneck.sample_prior(1, 1, generators(range(64)))
        expected = tokenizer.decode(z).clamp(-1, 1) / 2 + 0.5
    torch.testing.assert_close(found, expected)
    assert found.std(0).max() > 0
    one = pipeline(generator=generators([1]), output_type="pt").images
    torch.testing.assert_close(one, found[1:2])


def test_a_stock_tokenizer_keeps_its_prior_where_a_likelihood_says_so(tmp_path):
    """`AutoencoderKL` does not tell whether its latents were held to N(0, 1)."""
    tokenizer = family.member("map", "gaussian", "none", "normal").tokenizer
    tokenizer.save(tmp_path / "model")
    with pytest.raises(ValueError, match="keeps no prior: to draw from it alone, fit one by"):
        load(tmp_path / "model")
    keep_likelihood(tmp_path / "model", GaussianLikelihood())
    pipeline: Any = load(tmp_path / "model")
    found = pipeline(generator=generators([5]), output_type="pt").images
    assert found.shape == (1, 3, tiny.SIZE, tiny.SIZE)
