"""An adversary assisted by an autoencoder: what that cannot rebuild is paid for, and what it makes
of pictures can feed the decoder that plays.
"""

import json
from dataclasses import replace

import pytest
import torch

import tiny
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import Digits
from calotype.recipes.family import GREY
from calotype.recipes.tokenizer import PretrainedDecoder
from calotype.tokenizers import ImageTokenizer, Reconstruction
from calotype.tokenizers.bottlenecks import Identity
from calotype.tokenizers.rebuildable import Rebuildable, RebuildableTerm
from calotype.tokenizers.terms import L2
from calotype.tokenizers.vector import Dense
from calotype.training import fit


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of a small stock tokenizer."""
    root = tmp_path_factory.mktemp("held")
    return train_tokenizer(tiny.tokenizer_recipe(root, run=tiny.run(root / "run", steps=2)))


def test_it_is_what_the_autoencoder_changes_and_asks_nothing_of_the_original(trained):
    term = Rebuildable(str(trained)).build(tiny.SIZE, "RGB")
    fake, real = tiny.images(3).requires_grad_(), tiny.images(3, seed=1)
    found = term(fake, real)
    again = term.tokenizer.reconstruct(fake.detach())
    torch.testing.assert_close(found, (again - fake.detach()).square().mean((1, 2, 3)))
    torch.testing.assert_close(term(fake, -real), found)
    torch.testing.assert_close(term(fake.repeat(2, 1, 1, 1), real.repeat(2, 1, 1, 1))[3:], found)
    found.sum().backward()
    assert fake.grad is not None and fake.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in term.parameters())
    assert not term.train().tokenizer.training
    hidden = torch.zeros(3, 1, tiny.SIZE, tiny.SIZE)
    torch.testing.assert_close(term(fake, real, hidden), term(real, real))


def test_what_it_was_trained_on_costs_less_than_what_is_no_such_picture(tmp_path):
    """Digits against their pixels in another order, and noise of their mean and deviation."""
    torch.manual_seed(0)
    spec, learnt, held = Identity(16), tiny.digits(), tiny.digits(1)
    made = ImageTokenizer(Dense((64,)).autoencoder(spec, 8, 1), spec.build())
    objective = Reconstruction(made, {"pixel": (1.0, L2().build())}, tiny.adam(3e-3))
    run = tiny.run(tmp_path, steps=400, batch_size=64, ema=None, save_every=400, log_every=400)
    fit([objective], tiny.Repeating({"image": learnt}, 64), run)
    term = RebuildableTerm(made)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    mixed = held.flatten(1)[:, order].view_as(held)
    noise = held.mean() + held.std() * torch.randn(held.shape, generator=torch.Generator())
    with torch.no_grad():
        digits, others, noises = (term(each, held).mean().item() for each in (held, mixed, noise))
    assert 3 * digits < min(others, noises)


def test_a_decoder_fed_by_it_plays_and_is_held_by_it(trained, tmp_path):
    """Of the adversary, of the error and of the term alike the encoder learns nothing."""
    recipe = tiny.tokenizer_recipe(
        tmp_path, model=PretrainedDecoder(str(trained)), adversary=tiny.adversary(),
        rebuildable=Rebuildable(str(trained), 0.5), run=tiny.run(tmp_path / "run", steps=3),
    )  # fmt: skip
    before, after = ImageTokenizer.load(trained), ImageTokenizer.load(train_tokenizer(recipe))
    for name, weight in before.state_dict().items():
        same = torch.equal(weight, after.state_dict()[name])
        assert same != name.startswith(("autoencoder.decoder.", "autoencoder.post_quant_conv."))
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    told = {name for line in lines for name in line}
    assert {"rebuildable", "adversarial", "discriminator"} <= told


def test_it_is_resumed_only_beside_the_same(trained, tmp_path):
    held = Rebuildable(str(trained))
    run = tiny.run(tmp_path / "run", steps=2, save_every=1)
    recipe = tiny.tokenizer_recipe(tmp_path, rebuildable=held, run=run)
    train_tokenizer(recipe)
    other = tiny.tokenizer(3)
    other.save(tmp_path / "other")
    changed = replace(recipe, rebuildable=Rebuildable(str(tmp_path / "other")),
                      run=replace(recipe.run, steps=3, resume=True))  # fmt: skip
    with pytest.raises(ValueError, match="rebuildable"):
        train_tokenizer(changed)


def test_mistakes_are_named(trained, tmp_path):
    with pytest.raises(ValueError, match=r"rebuildable.path: .*nowhere"):
        Rebuildable(str(tmp_path / "nowhere")).build(tiny.SIZE, "RGB")
    with pytest.raises(ValueError, match=r"rebuildable.weight is -1"):
        Rebuildable("x", -1.0)
    grey = tiny.tokenizer_recipe(tmp_path, data=Digits(), transform=GREY,
                                 rebuildable=Rebuildable(str(trained)))  # fmt: skip
    with pytest.raises(ValueError, match=r"transform.mode is L, and .* takes RGB"):
        train_tokenizer(grey)
