"""More of rare classes: what it is made of, what is written, and what a judge says."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

import tiny
from calotype import cli
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import Folder
from calotype.pipelines import picture
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Identity
from calotype.tokenizers.rebuildable import Rebuildable
from calotype.training.images import scaled
from calotype.uses.augmenting import Draw, Judge, augmented, balanced, drawn, gained, methods
from calotype.uses.classifiers import Logistic
from calotype.uses.resampler import Resampler
from calotype.uses.resampling import TAKEN, Interpolation, Repetition

METHODS = ["none", "oversampling", "mixed pixels", "mixed pixels and noise", "mixed latents"]


def by(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_what_is_mixed_lies_between_neighbours():
    """Two clouds far from each other: of near neighbours nothing is made between the clouds."""
    few = torch.randn(20, 3, generator=by()) + 100 * (torch.arange(20) % 2)[:, None]
    found = Interpolation(neighbours=5).more(few, 200, by(1))
    assert found.shape == (200, 3)
    assert ((found.mean(1) < 10) | (found.mean(1) > 90)).all()
    far = Interpolation(neighbours=19).more(few, 200, by(1))
    assert ((far.mean(1) > 10) & (far.mean(1) < 90)).any()
    low, high = few[few[:, 0] < 50], few[few[:, 0] > 50]
    for own in (low, high):
        near = found[(found[:, 0] > 50) == (own[0, 0] > 50)]
        assert (near >= own.amin(0) - 1e-4).all() and (near <= own.amax(0) + 1e-4).all()
    assert len(found.unique(dim=0)) == 200


def test_of_two_each_new_one_is_on_the_line():
    few = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    found = Interpolation().more(few, 50, by())
    assert torch.allclose(found[:, 1], 2 * found[:, 0])
    assert found[:, 0].min() < 0.2 and found[:, 0].max() > 0.8
    noisy = Interpolation(noise=0.5).more(few, 500, by())
    off = (noisy[:, 1] - 2 * noisy[:, 0]) / 2  # its deviation, of both numbers' noise
    assert off.std() == pytest.approx(0.5 * few.std(0)[1].item() * 2**0.5 / 2, rel=0.15)


def test_noise_gives_back_what_mixing_takes():
    few = torch.randn(300, 2, generator=by()) * torch.tensor([1.0, 5.0])
    for noise, part in ((0.0, (2 / 3) ** 0.5), (TAKEN, 1.0)):
        found = Interpolation(299, noise).more(few, 20000, by(1))
        assert torch.allclose(found.std(0) / few.std(0), torch.tensor(part), rtol=0.05)


def test_of_one_there_is_only_that():
    few = torch.ones(1, 3, 2, 2)
    for way in (Interpolation(noise=1.0), Repetition()):
        assert torch.equal(way.more(few, 4, by()), few.expand(4, -1, -1, -1))


def test_chance_is_the_generators_alone():
    few = torch.randn(6, 4, generator=by())
    for way in (Interpolation(noise=0.1), Repetition()):
        torch.manual_seed(1)
        one = way.more(few, 5, by(3))
        torch.manual_seed(2)
        assert torch.equal(one, way.more(few, 5, by(3)))
        assert not torch.equal(one, way.more(few, 5, by(4)))


def test_sites_of_codes_are_codes():
    """What lies between two codes no decoder has seen."""
    z = torch.randn(5, 4, 8, 8, generator=by())
    found = Interpolation().crossed(z, 30, by())
    from_which = (found[:, None] == z[None]).all(2)  # [new, given, h, w]
    assert from_which.any(1).all()
    parents = from_which.flatten(2).any(2).sum(1)
    assert parents.max() == 2 and (parents == 2).sum() > 20
    tokenizer, images = tiny.tokenizer(bottleneck=tiny.VQ_BOTTLENECK).eval(), tiny.images(5)
    made = augmented(tokenizer, images, 3)
    assert made.shape == (3, *images.shape[1:]) and made.abs().max() <= 1


def test_pictures_are_decoded_from_what_lies_between_latents():
    tokenizer, images = tiny.tokenizer(bottleneck=Identity(4)).eval(), tiny.images(2)
    found = augmented(tokenizer, images, 5, Interpolation(), by(2), batch_size=2)
    z = Interpolation().more(tokenizer.latents(images).detach(), 5, by(2))
    assert torch.allclose(found, tokenizer.decode(z).clamp(-1, 1), atol=1e-5)
    assert all(weight.grad is None for weight in tokenizer.parameters())
    assert augmented(tokenizer, images, 0).shape == (0, *images.shape[1:])
    with pytest.raises(ValueError, match="no picture to make more of"):
        augmented(tokenizer, images[:0], 2)


def clouds(count: int, few: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of one colour: common ones and rare ones."""
    labels = (torch.arange(count) < few).long()
    shade = torch.where(labels == 1, 0.5, -0.5)[:, None, None, None]
    return (0.2 * tiny.images(count) + shade).clamp(-1, 1), labels


def test_a_draw_holds_out_what_it_is_judged_by():
    images, labels = clouds(60, 20)
    judge = Judge(draws=2, examples=6)
    one, other = drawn(images, labels, {1}, judge, 0), drawn(images, labels, {1}, judge, 1)
    assert (one.labels == 1).sum() == 6 and (one.labels == 0).sum() == 30
    assert (one.right == 1).sum() == 5 and (one.right == 0).sum() == 10
    shared = (one.images[:, None] == one.held[None]).all((2, 3, 4))
    assert not shared.any() and not torch.equal(one.images, other.images)
    with pytest.raises(ValueError, match=r"has 20 pictures: 5 are held out, and 16 are needed"):
        drawn(images, labels, {1}, Judge(examples=16), 0)


def test_only_rare_classes_are_made_more():
    images, labels = clouds(40, 8)
    draw = Draw(images, labels, images, labels)
    asked = []

    def make(label, few, count, chance):
        asked.append((label, len(few), count))
        return few[:1].expand(count, -1, -1, -1)

    found = balanced(draw, {1}, make, 32, 0)
    assert asked == [(1, 8, 24)] and (found.labels == 1).sum() == 32
    assert torch.equal(found.images[:40], images)
    assert balanced(draw, {1}, make, 5, 0).images.shape == images.shape  # none is taken away


def test_a_judge_sees_what_is_gained():
    """A maker that knows the rare class, beside one that makes common ones of it."""
    images, labels = clouds(200, 20)
    images = images + 1.5 * torch.randn(images.shape, generator=by())
    judge = Judge(draws=3, examples=3)
    draws = {seed: drawn(images, labels, {1}, judge, seed) for seed in range(3)}
    makers = {
        "none": None,
        "knows": lambda label, few, count, chance: images[labels == 1][:count],
        "wrong": lambda label, few, count, chance: images[labels == 0][:count],
    }
    found = gained(draws, {1}, makers, 20, 2, Logistic(1.0))
    assert found["knows"].recall[0] > found["none"].recall[0]
    assert found["wrong"].overall[0] < found["knows"].overall[0]


def test_what_is_compared_starts_from_the_same_pictures():
    tokenizer = tiny.tokenizer().eval()
    few = tiny.images(4)
    found = methods(tokenizer, Interpolation())
    assert list(found) == METHODS
    made = {name: make(0, few, 3, by()) for name, make in found.items() if make is not None}
    assert all(each.shape == (3, *few.shape[1:]) for each in made.values())
    assert all((each == few).all((1, 2, 3)).any() for each in made["oversampling"])


@parametrize_with_checks([Resampler()])
def test_it_is_an_estimator_of_scikit_learns(estimator, check):
    check(estimator)


def test_a_resampler_balances_vectors_and_pictures():
    chance = np.random.default_rng(0)
    X = chance.normal(size=(30, 3 * 16 * 16)).astype(np.float32).clip(-1, 1)
    y = np.array(["a"] * 20 + ["b"] * 7 + ["c"] * 3)
    for given in ({}, {"tokenizer": tiny.tokenizer().eval(), "shape": (3, 16, 16)}):
        one = Resampler(random_state=3, **given)
        found, labels = one.fit_resample(X, y)
        assert np.array_equal(found[:30], X) and found.dtype == X.dtype
        assert Counter(labels.tolist()) == {"a": 20, "b": 20, "c": 20}
        assert one.counts_ == {"a": 0, "b": 13, "c": 17}
        again, _ = clone(one).fit_resample(X, y)
        assert np.array_equal(found, again)
    with pytest.raises(ValueError, match="tokenizer and shape go together"):
        Resampler(shape=(3, 16, 16)).fit_resample(X, y)
    with pytest.raises(ValueError, match="way is SMOTE"):
        Resampler("SMOTE").fit_resample(X, y)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """By folders: 12 of one, 4 of another."""
    images, labels = clouds(16, 4)
    for i, image in enumerate(images):
        folder = tmp_path / "photos" / ("rare" if labels[i] else "common")
        folder.mkdir(parents=True, exist_ok=True)
        picture(image).save(folder / f"{i}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("way", ["interpolation", "repetition"])
def test_the_folder_is_one_that_training_reads(way, photos, tmp_path, capsys):
    tiny.tokenizer().eval().save(tmp_path / "model")
    out = tmp_path / "new/made"
    cli.main(["augment", str(tmp_path / "model"), "--data.path", str(photos), "--size", "16",
              "--out", str(out), "--device", "cpu", f"way:{way}"])  # fmt: skip
    found = Folder(out).build()
    assert Counter(each["caption"] for each in found) == {"common": 12, "rare": 12}
    names = sorted(file.name for file in (out / "rare").iterdir())
    assert names == [f"given-{i:05}.png" for i in range(4)] + [f"made-{i:05}.png" for i in range(8)]
    assert "rare: 4 given, 8 made" in capsys.readouterr().err
    assert not [*tmp_path.glob("new/.*")]


def test_pictures_are_drawn_by_a_pipeline_that_knows_the_classes(photos, artifacts, tmp_path):
    out = tmp_path / "made"
    cli.main(["augment", str(artifacts / "tokenizer/model"), "--data.path", str(photos), "--size",
              "16", "--out", str(out), "--device", "cpu", "--to", "14", "--rare", "rare",
              "way:drawn", "--way.pipeline", str(artifacts / "generator/model"), "--way.prompt",
              "a {name} circle"])  # fmt: skip
    assert len([*(out / "rare").iterdir()]) == 14 and len([*(out / "common").iterdir()]) == 12


def test_what_a_classifier_gains_is_written(photos, tmp_path, capsys):
    tiny.tokenizer().eval().save(tmp_path / "model")
    out = tmp_path / "judged"
    cli.main(["augment", str(tmp_path / "model"), "--data.path", str(photos), "--size", "16",
              "--out", str(out), "--device", "cpu", "judge:judge", "--judge.draws", "2",
              "--judge.examples", "2"])  # fmt: skip
    said = json.loads((out / "figures.json").read_text())
    assert list(said["figures"]) == METHODS
    assert said["rare"] == ["rare"] and [*out.iterdir()] == [out / "figures.json"]
    assert "recall of rare classes" in capsys.readouterr().out


def test_what_a_pipeline_draws_is_judged_beside_what_costs_nothing(photos, artifacts, tmp_path):
    """Oversampling and mixing of pixels stand there whatever is judged."""
    out, model = tmp_path / "judged", artifacts / "generator/model"
    cli.main(["augment", str(artifacts / "tokenizer/model"), "--data.path", str(photos), "--size",
              "16", "--out", str(out), "--device", "cpu", "way:drawn", "--way.pipeline", str(model),
              "judge:judge", "--judge.draws", "2"])  # fmt: skip
    said = json.loads((out / "figures.json").read_text())
    assert list(said["figures"]) == [*METHODS, f"drawn by {model}"]
    for figures in said["figures"].values():
        for mean, spread in figures.values():
            assert 0 <= mean <= 1 and spread >= 0


def test_pictures_are_made_by_a_decoder_that_played_and_was_held(photos, artifacts, tmp_path):
    """An adversary's, that an autoencoder assists: what is written is what that decoder makes of
    latents between those of the pictures that there are.
    """
    held = Rebuildable(str(artifacts / "tokenizer/model"), 0.5)
    run = tiny.run(tmp_path / "run", steps=2)
    model = train_tokenizer(
        tiny.tokenizer_recipe(tmp_path, adversary=tiny.adversary(), rebuildable=held, run=run)
    )
    out = tmp_path / "made"
    cli.main(["augment", str(model), "--data.path", str(photos), "--size", "16", "--out", str(out),
              "--to", "7", "--device", "cpu", "--precision", "fp32"])  # fmt: skip
    tokenizer = ImageTokenizer.load(model).eval()
    few = [np.asarray(Image.open(file)) for file in sorted((out / "rare").glob("given-*.png"))]
    given = scaled(torch.from_numpy(np.stack(few)).movedim(-1, 1))
    label = 1  # of common and rare the second, by which the seed of a class is told
    wanted = augmented(tokenizer, given, 3, Interpolation(), by(label))
    for image, file in zip(wanted, sorted((out / "rare").glob("made-*.png")), strict=True):
        one, other = (np.asarray(each, int) for each in (picture(image), Image.open(file)))
        assert np.abs(one - other).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ("--rare green", "--rare green: no such class; there are common, rare"),
        ("--to 3", "no class has fewer than 3 pictures"),
        ("--to 0", "--to is 0: it must be at least 1"),
        ("--out photos", "--out is photos, which is there: name a new folder"),
        ("way:interpolation --way.noise -1", "--way.noise is -1.0: it must be 0 or more"),
        ("way:interpolation --way.neighbours 0", "--way.neighbours is 0: it must be at least 1"),
        ("way:drawn --way.pipeline x --way.prompt cat", "put {name} where the class is"),
        ("judge:judge --judge.draws 1", "--judge.draws is 1: it must be at least 2"),
        ("way:repetition judge:judge", "--judge: oversampling is beside always"),
    ],
)
def test_a_mistake_is_one_line(arguments, answer, artifacts, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(["augment", str(artifacts / "tokenizer/model"), "--data.path", str(photos),
                  *arguments.split()])  # fmt: skip
    assert stop.value.code == 2 and answer in capsys.readouterr().err
    assert not Path("augmented").exists()


def test_a_name_that_no_folder_can_have_is_refused(photos, tmp_path, capsys):
    tiny.tokenizer().eval().save(tmp_path / "model")
    for i, file in enumerate([*photos.rglob("*.png")]):
        file.with_suffix(".txt").write_text("a/b" if i % 4 else "c")
    with pytest.raises(SystemExit):
        cli.main(["augment", str(tmp_path / "model"), "--data.path", str(photos), "--size", "16",
                  "--out", str(tmp_path / "made")])  # fmt: skip
    assert "class 'a/b' cannot be the name of a folder" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ("--rare green", "--rare green: no such class; there are common, rare"),
        ("--to 3", "no class has fewer than 3 pictures"),
        ("judge:judge --judge.examples 4", "class 'rare' has 4 pictures: 1 are held out"),
        ("--count 4 judge:judge --judge.draws 2", "class 'rare' has 1 pictures: 1 are held"),
        ("data:scenes --data.size 16", "captions of 2000 pictures are no classes"),
    ],
)
def test_bug_what_captions_tell_to_be_wrong_is_told_before_a_network_is_loaded(
    arguments, answer, photos, tmp_path, capsys
):
    """It was after all pictures had been read, of a million scenes never. There is no such
    tokenizer here.
    """
    given = arguments.split()
    data = given if given[0].startswith("data:") else ["--data.path", str(photos), *given]
    with pytest.raises(SystemExit) as stop:
        cli.main(["augment", "./no/such/model", "--out", str(tmp_path / "x"), *data])
    assert stop.value.code == 2 and answer in capsys.readouterr().err


def test_bug_a_pipeline_that_is_none_is_told_before_pictures_are_read(
    artifacts, photos, tmp_path, capsys
):
    with pytest.raises(SystemExit):
        cli.main(["augment", str(artifacts / "tokenizer/model"), "--data.path", str(photos),
                  "--size", "16", "--to", "14", "--out", str(tmp_path / "made"), "way:drawn",
                  "--way.pipeline", str(artifacts / "unconditional/model")])  # fmt: skip
    said = capsys.readouterr().err
    assert "reads no prompts, so that it knows no classes" in said and "so far" not in said
