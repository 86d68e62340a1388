"""Every bottleneck with every corruption and every likelihood keeps the same promises."""

import math
from itertools import product

import pytest
import torch

import family
import tiny
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Discrete
from calotype.tokenizers.corruptions.filling import filled
from calotype.training.noise import generators
from ranks import together

EVERY = list(product(family.BOTTLENECKS, family.CORRUPTIONS, family.PIXELS))
PAIRS = list(product(family.CORRUPTIONS, family.PIXELS))
PLACES = [
    (backbone, bottleneck) for bottleneck, backbone in product(family.BOTTLENECKS, family.BACKBONES)
    if (backbone, bottleneck) not in product(["map"], family.VECTORS)
]  # fmt: skip
SOME = [(*PLACES[i % len(PLACES)], *PAIRS[i % len(PAIRS)])
        for i in range(max(len(PLACES), len(PAIRS)))]  # fmt: skip
"""Each bottleneck on each backbone, and each corruption with each likelihood, at least once."""


def test_those_that_are_tried_leave_nothing_out():
    assert {names[:2] for names in SOME} == set(PLACES)
    assert {names[2:] for names in SOME} == set(PAIRS)


@pytest.mark.parametrize("names", EVERY, ids="-".join)
def test_a_batch_repeated_keeps_its_value_and_all_that_learns_is_moved(names):
    objective = family.begun(family.member("dense", *names))
    batch = family.batch(4)
    twice = {**{name: batch[name].repeat(2, *[1] * (batch[name].ndim - 1))
                for name in ("image", "factors")}, "key": batch["key"] * 2}  # fmt: skip
    values = []
    for each in (batch, twice):
        losses = objective(each, 0)
        values.append({name: value.item() for name, value in losses.items()})
        objective.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        objective.step_skipped()
    if names[0] not in family.COMPARING:
        assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-6)
    unmoved = [name for name, parameter in objective.named_parameters()
               if parameter.requires_grad and not _moves(name, parameter.grad)]  # fmt: skip
    assert not unmoved


def _moves(name: str, gradient: torch.Tensor | None) -> bool:
    if gradient is None:
        return False
    # Codes begin as latents, fewer than they are, and there their own loss is least.
    return bool(gradient.any()) or name.endswith("codebook.embedding")


@pytest.mark.parametrize("names", SOME, ids="-".join)
def test_what_is_saved_reloads(names, tmp_path):
    objective = family.begun(family.member(*names))
    tokenizer = objective.tokenizer.eval()
    tokenizer.save(tmp_path / "model")
    found = ImageTokenizer.load(tmp_path / "model")
    image = tiny.images(3)
    torch.testing.assert_close(found.reconstruct(image), tokenizer.reconstruct(image))
    assert (tmp_path / "model/config.json").is_file() == tokenizer.is_stock
    if isinstance(tokenizer.bottleneck, Discrete):
        assert torch.equal(found.pack(image), tokenizer.pack(image))


@pytest.mark.parametrize("names", SOME, ids="-".join)
def test_resumed_equals_uninterrupted(names, tmp_path):
    whole = family.train(names, tmp_path / "whole", steps=4)
    family.train(names, tmp_path / "parts", steps=2)
    parts = family.train(names, tmp_path / "parts", steps=4, resume=True)
    state = whole.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in parts.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("bottleneck", family.BOTTLENECKS)
def test_two_ranks_equal_one(bottleneck, tmp_path):
    number = list(family.BOTTLENECKS).index(bottleneck)
    corruption = list(family.CORRUPTIONS)[1 + number % (len(family.CORRUPTIONS) - 1)]
    pixel = list(family.PIXELS)[number % len(family.PIXELS)]
    # Eight vectors are fewer than there are codes, which then begin alike, and rounding decides.
    backbone = "map" if bottleneck in tiny.BOTTLENECKS else "pooled"
    names = (backbone, bottleneck, corruption, pixel)
    one = family.train(names, tmp_path / "one", steps=2, batch_size=8, save_every=2)
    settings = {"steps": 2, "save_every": 2, "batch_size": 8}
    together(2, family.ranked, names, tmp_path / "two", settings)
    two = tiny.load_step(tmp_path / "two", 2, "model-0")
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("name", family.CORRUPTIONS)
def test_what_is_sought_is_the_clean_picture(name):
    """The loss of who gives back the clean picture is 0 whatever the encoder saw; of who gives back
    what was seen it is how far that is from the clean one.
    """
    objective, batch = family.member("map", "identity", name, "l2"), tiny.batch(2)
    seen = list[torch.Tensor]()
    objective.tokenizer.autoencoder.encoder.register_forward_pre_hook(
        lambda _, given: seen.append(given[0])
    )
    answers = {"clean": lambda: batch["image"], "seen": lambda: seen[-1]}
    found = {}
    for kind, answer in answers.items():
        hook = objective.tokenizer.last_layer.register_forward_hook(
            lambda _, given, maps, answer=answer: answer() + 0 * maps
        )
        found[kind] = objective(batch, 0)["pixel"].item()
        hook.remove()
    apart = (seen[0] - batch["image"]).square()
    assert found["clean"] == 0
    if name in ("patches", "box"):  # of which what was seen does not count
        assert found["seen"] > apart.mean().item() > 0
    else:
        assert found["seen"] == pytest.approx(apart.mean().item()) and (
            (found["seen"] > 0) == (name != "none")
        )


@pytest.mark.parametrize("name", [n for n in family.CORRUPTIONS if n != "none"])
def test_a_corruption_is_of_its_picture_and_key_alone(name):
    corruption = family.CORRUPTIONS[name]
    assert corruption is not None
    images = tiny.images(3)

    def chance(*keys):
        return [torch.Generator().manual_seed(key) for key in keys]

    together_ = corruption(images, chance(5, 6, 7)).images
    alone = corruption(images[1:2], chance(6)).images
    torch.testing.assert_close(together_[1:2], alone)
    assert together_.shape == images.shape and not torch.equal(together_, images)
    assert together_.isfinite().all()
    for channels in (1, 4):
        other = images.new_zeros(2, channels, 16, 16)
        assert corruption(other, chance(1, 2)).images.shape == other.shape


def test_a_hidden_box_is_whole_of_its_sides_and_it_alone_counts():
    images = tiny.images(40) * 0 + 9.0
    chance = [torch.Generator().manual_seed(key) for key in range(40)]
    seen, counted = family.HiddenBox(3, 6, value=0.0)(images, chance)
    assert counted is not None and torch.equal(seen == 0, counted.expand_as(seen) > 0)
    sides = {(int(box.any(1).sum()), int(box.any(0).sum())) for box in counted[:, 0]}
    assert all(box.sum() == box.any(1).sum() * box.any(0).sum() for box in counted[:, 0])
    assert {side for pair in sides for side in pair} == {3, 4, 5, 6} and len(sides) > 8
    assert all(counted.amax((0, 1, side)).min() == 1 for side in (2, 3))  # up to the edges


def test_a_hidden_box_continues_what_is_around_it_and_nothing_of_what_is_hidden():
    images, hidden = tiny.images(4), torch.zeros(4, 1, 16, 16)
    for i, (top, left, side) in enumerate(((0, 0, 6), (5, 4, 8), (9, 10, 7), (3, 0, 11))):
        hidden[i, :, top : top + side, left : left + side] = 1
    images.requires_grad_()
    found = filled(images, hidden, None)
    (slope,) = torch.autograd.grad(found.square().sum(), images)
    assert (slope * hidden == 0).all() and (slope * (1 - hidden)).any()
    assert torch.equal(found * (1 - hidden), images * (1 - hidden))
    assert torch.equal(found[2:3], filled(images[2:3], hidden[2:3], None))
    most = images.masked_fill(hidden > 0, -math.inf).amax((2, 3))
    least = images.masked_fill(hidden > 0, math.inf).amin((2, 3))
    assert (found.amax((2, 3)) <= most + 1e-6).all() and (found.amin((2, 3)) >= least - 1e-6).all()


@pytest.mark.parametrize("shape", [(16, 16), (7, 12)])
def test_a_plane_is_continued_nearly_and_one_colour_exactly(shape):
    down, right = torch.meshgrid(*(torch.linspace(-0.5, 0.5, n) for n in shape), indexing="ij")
    images = torch.stack([torch.full(shape, 0.3), down, down + right])[:, None]
    hidden = torch.zeros(1, 1, *shape)
    hidden[..., 2:6, 3:8] = 1
    found = filled(images, hidden, None)
    assert (found - images).abs().amax((1, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=2e-2)
    assert torch.allclose(found[0], images[0], atol=1e-6)


def test_hidden_patches_are_so_many_and_they_alone_count():
    hidden = family.HiddenPatches(0.75, size=4, value=9.0)
    images = tiny.images(6)
    seen, counted = hidden(images, [torch.Generator().manual_seed(i) for i in range(6)])
    assert counted is not None
    assert counted.mean((1, 2, 3)).tolist() == [0.75] * 6
    assert torch.equal((seen == 9.0).all(1, keepdim=True).float(), counted)
    chance = [torch.Generator().manual_seed(i) for i in range(6)]
    smooth = family.HiddenPatches(0.75, size=4, value=None)(images, chance).images
    assert torch.equal(smooth, filled(images, counted, None))
    masks = counted.flatten(1)
    assert len({tuple(row.tolist()) for row in masks}) > 1
    assert hidden.counts_all is False
    every = family.HiddenPatches(size=4, counts_all=True)
    assert every(images, [torch.Generator() for _ in range(6)]).counted is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"corruption": family.HiddenPatches(size=5)}, "corruption.size is 5"),
     ({"corruption": family.HiddenBox(9, 16)}, "corruption.largest is 16"),
     ({"corruption": family.Downsampling(17)}, "corruption.factor is 17"),
     ({"pixel": family.BinaryLikelihood()}, "of the first pictures' values are neither")],
)  # fmt: skip
def test_bug_what_goes_with_no_such_pictures_was_seen_in_the_first_step(changes, named, tmp_path):
    """Or never: greys are no black and white. Now before the run has a folder."""
    recipe = tiny.tokenizer_recipe(tmp_path, **changes)
    with pytest.raises(ValueError, match=named):
        train_tokenizer(recipe)
    assert not recipe.run.out.exists()


def test_bits_are_the_bound_and_there_are_none_of_a_part_of_a_picture():
    """-ln p(x|z) + KL of a dimension, in bits, of one of 256 levels; patches that are told from
    others have no likelihood of the picture.
    """
    objective, batch = family.member("dense", "gaussian", "noise", "normal"), tiny.batch(4)
    objective(batch, 0)
    noisy, _ = objective._seen(batch)
    with torch.no_grad():
        latent = objective.tokenizer.encode(noisy.images, generators(batch["key"]))
        nats = objective.terms["pixel"].each(objective.fake, batch["image"]).flatten(1).sum(1)
    assert latent.divergence is not None
    dimensions = batch["image"][0].numel()
    bound = (nats + latent.divergence).mean() / dimensions - math.log(2 / 255)
    assert objective.metrics["bits"].item() == pytest.approx(bound.item() / math.log(2), rel=1e-5)
    part = family.member("dense", "gaussian", "patches", "normal")
    part(batch, 0)
    assert "bits" not in part.metrics


def test_what_does_not_count_moves_nothing():
    objective = family.member("map", "identity", "patches", "l2")
    images = tiny.images(2)
    maps = torch.zeros_like(images)
    counted = torch.zeros(2, 1, 16, 16)
    counted[:, :, :8] = 1
    _, gradients, _ = objective._image_terms(maps, images, 0, counted)
    assert not gradients["pixel"][:, :, 8:].any() and gradients["pixel"][:, :, :8].any()
    values = objective._image_terms(maps, images, 0, counted)[0]
    assert values["pixel"].item() == pytest.approx(images[:, :, :8].square().mean().item())


def test_noise_has_the_deviation_that_it_says():
    images = torch.zeros(4, 3, 64, 64)
    noisy = family.GaussianNoise(0.4)(images, [torch.Generator().manual_seed(i) for i in range(4)])
    assert noisy.images.std().item() == pytest.approx(0.4, rel=0.02)
    assert abs(noisy.images.mean().item()) < 0.01


@pytest.mark.parametrize(
    ("make", "named"),
    [(lambda: family.GaussianNoise(0.0), "corruption.sigma"),
     (lambda: family.GaussianNoise(float("nan")), "corruption.sigma"),
     (lambda: family.Blur(float("inf")), "corruption.sigma"),
     (lambda: family.Masking(1.0), "corruption.share"),
     (lambda: family.Masking(value=float("nan")), "corruption.value"),
     (lambda: family.HiddenPatches(value=float("inf")), "corruption.value"),
     (lambda: family.HiddenBox(value=float("nan")), "corruption.value"),
     (lambda: family.JPEG(0), "corruption.quality"),
     (lambda: family.Downsampling(1), "corruption.factor"),
     (lambda: family.HiddenPatches(size=5)(tiny.images(1), []), "corruption.size"),
     (lambda: family.HiddenPatches(size=16)(tiny.images(1), []), "of 1 patches 1: some"),
     (lambda: family.HiddenPatches(0.01, size=4)(tiny.images(1), []), "of 16 patches 0: some"),
     (lambda: family.HiddenBox(9, 8), "corruption.smallest"),
     (lambda: family.HiddenBox(9, 16)(tiny.images(1), []), "corruption.largest")],
)  # fmt: skip
def test_what_cannot_be_is_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.parametrize("pixel", ["normal", "emitted", "bernoulli", "logit-laplace"])
def test_a_likelihood_is_normalised(pixel):
    """Its density, summed over all that a value can be, is 1."""
    spec = family.PIXELS[pixel]
    term = spec.build()
    x = torch.tensor([-1.0, 1.0]) if pixel == "bernoulli" else torch.linspace(-8, 8, 160_001)
    if pixel == "logit-laplace":  # Of x in (0, 1), squeezed.
        unit = torch.linspace(1e-6, 1 - 1e-6, 400_001, dtype=torch.float64)
        x = (unit - 0.1) / 0.8 * 2 - 1
    real = x.view(-1, 1, 1, 1)
    fake = torch.full((1, spec.maps, 1, 1), 0.3).to(x).expand(len(x), -1, -1, -1)
    density = (-term.each(fake, real)).exp().flatten()
    total = density.sum() if pixel == "bernoulli" else torch.trapezoid(
        density, unit if pixel == "logit-laplace" else x)  # fmt: skip
    assert total.item() == pytest.approx(1, abs=1e-3)


def test_a_learnt_deviation_is_learnt():
    """It becomes the root of the mean squared error; in LDM's code no optimiser ever had it."""
    objective = family.member("dense", "identity", "none", "normal")
    batch = tiny.batch(4)
    (deviation,) = [p for n, p in objective.named_parameters() if n.endswith("log_deviation")]
    optimizer = torch.optim.Adam([deviation], 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        torch.stack(list(objective(batch, 0).values())).sum().backward()
        optimizer.step()
    error = (objective.fake - batch["image"]).square().mean().sqrt()
    assert deviation.exp().item() == pytest.approx(error.item(), rel=0.02)
