"""What encoders pay by themselves: for steep latents, and for views that are told apart badly."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.func import jacrev, vmap

import tiny
from calotype.commands.train_tokenizer import assemble_tokenizer, train_tokenizer
from calotype.recipes.tokenizer import NewTokenizer, PretrainedDecoder
from calotype.tokenizers import Gaussian, ImageTokenizer, Reconstruction
from calotype.tokenizers.bottlenecks import Identity
from calotype.tokenizers.bottlenecks.divergences import Decomposed
from calotype.tokenizers.contraction import Exact, Hutchinson, Jacobian
from calotype.tokenizers.contrast import InfoNCE, Views
from calotype.tokenizers.encoder_terms import EncoderTerm, Seen
from calotype.tokenizers.terms import L2
from calotype.tokenizers.vector import Dense
from calotype.training import fit
from calotype.training.noise import generators

SMALL = Dense((12,), "sigmoid")
IDENTITY = Identity(3)


def seen(images: torch.Tensor) -> Seen:
    return Seen(images, images, generators(range(50, 50 + len(images))))


def dense(seed: int = 0) -> ImageTokenizer:
    torch.manual_seed(seed)
    return ImageTokenizer(SMALL.autoencoder(IDENTITY, tiny.SIZE), IDENTITY.build())


def squared(tokenizer: ImageTokenizer, images: torch.Tensor) -> torch.Tensor:
    """|J|^2 of each image, by torch.func."""
    rows = vmap(jacrev(lambda image: tokenizer.latents(image[None])[0].flatten()))(images)
    return rows.flatten(1).square().sum(1)


@pytest.mark.parametrize("attention", [False, True])
def test_the_exact_norm_is_the_jacobians(attention):
    """Of convolutions with attention too, whose fused kernel has no second derivative."""
    tokenizer, images = dense(), tiny.images(3)
    if attention:
        torch.manual_seed(0)
        backbone, spec = replace(tiny.BACKBONE, attention=True), Identity(1)
        tokenizer = ImageTokenizer(backbone.autoencoder(spec, 8), spec.build())
        images = images[:1, :, 4:12, 4:12]
    found = Jacobian(0.5, Exact())(tokenizer, seen(images))
    expected = torch.stack([
        torch.autograd.functional.jacobian(lambda x: tokenizer.latents(x).flatten(), image[None])
        .square().sum() for image in images
    ])  # fmt: skip
    torch.testing.assert_close(found, 0.5 * expected / images[0].numel())
    found.sum().backward()
    weight = tokenizer.autoencoder.get_parameter("quant_conv.weight")
    assert weight.grad is not None and weight.grad.abs().max() > 0


def test_the_closed_form_of_one_layer_of_sigmoids():
    """Rifai et al. 2011, eq. 7: sum_j (h_j (1 - h_j))^2 sum_i W_ji^2."""
    tokenizer, images = dense(), tiny.images(3)
    first = tokenizer.autoencoder.encoder[2]
    with torch.no_grad():  # z is the hidden layer's first three units
        quant = tokenizer.autoencoder.quant_conv
        quant.weight.copy_(torch.eye(6, 12)[..., None, None])
        quant.bias.zero_()
    hidden = torch.sigmoid(first(images.flatten(1)[..., None, None]))[:, :3, 0, 0]
    rows = first.weight[:3].flatten(1).square().sum(1)
    expected = ((hidden * (1 - hidden)).square() * rows).sum(1) / images[0].numel()
    torch.testing.assert_close(Jacobian(1.0, Exact())(tokenizer, seen(images)), expected)


def test_random_directions_have_the_exact_mean():
    """By 600 of them, within four standard errors; and one does not do."""
    tokenizer, images = dense(), tiny.images(2)
    exact = Jacobian(1.0, Exact())(tokenizer, seen(images)).detach()
    each = torch.stack([
        Jacobian(1.0, Hutchinson())(
            tokenizer, seen(images)._replace(generators=generators([2 * i, 2 * i + 1]))
        ).detach() for i in range(600)
    ])  # fmt: skip
    error = each.std(0) / 600**0.5
    assert ((each.mean(0) - exact).abs() < 4 * error).all()
    assert (error < 0.1 * exact).all(), "too few to tell"
    assert (each[0] - exact).abs().max() > 0.05 * exact.max()


@pytest.mark.parametrize("term", [Jacobian(), Jacobian(norm=Exact())])
def test_steepness_is_every_images_own(term):
    tokenizer, images = dense(), tiny.images(3)
    once = term(tokenizer, seen(images))
    fresh = seen(images.repeat(2, 1, 1, 1))._replace(generators=generators([50, 51, 52] * 2))
    torch.testing.assert_close(term(tokenizer, fresh), once.repeat(2))


def test_a_chosen_pair_is_told_by_the_formula():
    """Of three pictures, by hand."""
    one, other = (F.normalize(torch.randn(3, 4), dim=1) for _ in range(2))
    found = InfoNCE(temperature=0.2).scored(one, other)
    both, expected = torch.cat([one, other]), []
    for i in range(6):
        cosines = (both @ both[i] / 0.2).exp()
        rest = cosines.sum() - cosines[i]
        expected.append(-(cosines[(i + 3) % 6] / rest).log())
    torch.testing.assert_close(found, torch.stack(expected).view(2, 3).mean(0))


def test_a_picture_alone_is_refused_as_are_micro_batches(tmp_path):
    for run, match in (
        (tiny.run(tmp_path, batch_size=1), "batch_size of 2"),
        (tiny.run(tmp_path, micro_batch=2), "choose --run.micro-batch None"),
    ):
        recipe = tiny.tokenizer_recipe(tmp_path, contrast=InfoNCE(), run=run)
        with pytest.raises(ValueError, match=match):
            assemble_tokenizer(recipe, recipe.data.build())


def test_views_are_their_samples_own_and_differ():
    images = tiny.images(3)
    together = Views()(images, generators([5, 6, 7]))
    alone = torch.cat([Views()(images[j : j + 1], generators([5 + j])) for j in range(3)])
    assert torch.equal(together, alone)
    assert together.min() >= -1 and together.max() <= 1
    own = generators([5, 6, 7])
    assert not torch.equal(Views()(images, own), Views()(images, own))
    before = torch.get_rng_state()
    Views()(images, own)
    assert torch.equal(torch.get_rng_state(), before), "the ambient generator was drawn from"
    alpha = torch.cat([images, torch.ones(3, 1, 16, 16)], 1)
    assert Views()(alpha, own)[:, 3].min() > 0.999


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"contraction": Jacobian(), "run.compile": True}, r"choose --run\.no-compile"),
        ({"contraction": Jacobian(), "model": PretrainedDecoder("x")}, "contraction is a term of"),
        ({"contrast": InfoNCE(), "model": PretrainedDecoder("x")}, "contrast is a term of"),
    ],
)
def test_what_cannot_be_is_refused_by_the_recipe(changes, match, tmp_path):
    run = tiny.run(tmp_path, compile=changes.pop("run.compile", False))
    with pytest.raises(ValueError, match=match):
        tiny.tokenizer_recipe(tmp_path, run=run, **changes)


def test_codes_have_no_slope_and_data_sets_their_size(tmp_path):
    codes = NewTokenizer(tiny.BACKBONE, tiny.VQ_BOTTLENECK)
    recipe = tiny.tokenizer_recipe(tmp_path, contraction=Jacobian(), model=codes)
    with pytest.raises(ValueError, match="are codes, which jump"):
        assemble_tokenizer(recipe, recipe.data.build())
    parts = NewTokenizer(tiny.BACKBONE, Gaussian(2, divergence=Decomposed(100)))
    recipe = tiny.tokenizer_recipe(tmp_path, model=parts)
    with pytest.raises(ValueError, match="pictures is 100, and there are 32: say 32"):
        assemble_tokenizer(recipe, recipe.data.build())


def test_checkpointed_activations_have_the_same_second_derivative():
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        tokenizer = ImageTokenizer(tiny.BACKBONE.autoencoder(IDENTITY, 16), IDENTITY.build())
        if again:
            tokenizer.enable_gradient_checkpointing()
        Jacobian()(tokenizer, seen(tiny.images(2))).sum().backward()
        gradients.append([p.grad for p in tokenizer.autoencoder.encoder.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert (plain is None) == (checkpointed is None)
        if plain is not None:
            torch.testing.assert_close(plain, checkpointed)


def test_a_recipe_of_both_trains_and_logs_them(tmp_path):
    """In bf16 too; and resumes exactly."""
    both = {"contraction": Jacobian(), "contrast": InfoNCE()}
    whole = tiny.tokenizer_recipe(tmp_path, **both, run=tiny.run(tmp_path / "w", steps=4))
    first = replace(whole, run=tiny.run(tmp_path / "p", steps=2))
    train_tokenizer(whole)
    train_tokenizer(first)
    train_tokenizer(replace(first, run=replace(first.run, steps=4, resume=True)))
    said = (tmp_path / "w/metrics.jsonl").read_text()
    assert '"contraction"' in said and '"contrast"' in said
    assert said == (tmp_path / "p/metrics.jsonl").read_text()
    low = replace(whole, run=tiny.run(tmp_path / "b", steps=2, precision="bf16"))
    train_tokenizer(low)


def rebuilt(
    out, images: torch.Tensor, terms: dict[str, EncoderTerm], steps: int = 150
) -> tuple[ImageTokenizer, float]:
    """A small autoencoder, and its mean squared error on what it was trained on."""
    torch.manual_seed(0)
    spec, shape = Identity(8), images.shape
    backbone = Dense((64,), "silu")
    made = ImageTokenizer(backbone.autoencoder(spec, shape[-1], shape[1]), spec.build())
    objective = Reconstruction(made, {"pixel": (1.0, L2().build())}, tiny.adam(3e-3),
                               encoder_terms=terms)  # fmt: skip
    run = tiny.run(out, steps=steps, batch_size=32, ema=None, save_every=steps, log_every=steps)
    fit([objective], tiny.Repeating({"image": images}, 32), run)
    with torch.no_grad():
        return made, (made.reconstruct(images) - images).square().mean().item()


@pytest.mark.slow
def test_the_jacobian_falls_and_the_error_rises_with_the_weight(tmp_path):
    norms, errors = [], []
    for weight in (0.0, 0.1, 1.0, 10.0):
        terms: dict[str, EncoderTerm] = {"contraction": Jacobian(weight)}
        made, error = rebuilt(tmp_path / str(weight), tiny.digits(), terms)
        norms.append(squared(made, tiny.digits(1)[:32]).mean().item())
        errors.append(error)
    assert norms == sorted(norms, reverse=True) and norms[-1] < norms[0] / 3
    assert errors == sorted(errors)


def sensitivity(tokenizer: ImageTokenizer, images: torch.Tensor) -> float:
    """How far views move latents, in parts of how far these lie apart."""
    with torch.no_grad():
        z = tokenizer.latents(images).mean((2, 3))
        moved = tokenizer.latents(Views()(images, generators(range(len(images))))).mean((2, 3))
        spread = (z - z.mean(0)).square().sum(1).mean()
        return ((moved - z).square().sum(1).mean() / spread).sqrt().item()
