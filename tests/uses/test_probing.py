"""What readers make of representations, and of those that tell nothing."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import tiny
from calotype import cli
from calotype.pipelines import picture
from calotype.tokenizers.masked import save_masked
from calotype.uses import Probe, of_latents, of_pixels, of_vision_model, probe, untrained
from calotype.uses.probing import WIDEST, chance, halves

CHANCE = np.random.default_rng(0)


def vectors(labels: np.ndarray, apart: float, width: int = 6) -> np.ndarray:
    """Clouds around a corner for each class."""
    found = CHANCE.normal(size=(len(labels), width)).astype(np.float32)
    found[np.arange(len(labels)), labels] += apart
    return found


LABELS = np.arange(120) % 3


def test_what_is_apart_is_told_and_what_is_not_is_chance():
    learnt, held = halves(LABELS, 0.25, 0)
    for apart, least, most in ((12.0, 0.99, 1.0), (0.0, 0.0, 0.67)):
        z = vectors(LABELS, apart)
        found = probe(z[learnt], LABELS[learnt], z[held], LABELS[held])
        for value in (found.linear, found.nearest, found.precision, found.few[20][0]):
            assert least <= value <= most
    assert set(found.few) == {2, 5, 20} and all(std >= 0 for _, std in found.few.values())


def test_few_labels_are_as_many_as_are_asked_for_and_there():
    z = vectors(LABELS, 2.0)
    found = probe(z, LABELS, z, LABELS, Probe(few=(1, 40, 41)))
    assert set(found.few) == {1, 40}
    mean, deviation = found.few[40]
    assert mean == pytest.approx(found.linear) and found.linear > found.few[1][0]
    assert deviation == pytest.approx(0, abs=1e-9)


def test_bug_deviations_are_the_samples():
    """Of few choices the deviation around their own mean, over their number, is too small."""
    z = vectors(LABELS, 1.0)
    learnt, held = halves(LABELS, 0.5, 0)
    given = (z[learnt], LABELS[learnt], z[held], LABELS[held])
    mean, deviation = probe(*given, Probe(few=(2,), draws=2)).few[2]
    of_more = probe(*given, Probe(few=(2,), draws=3)).few[2][0]
    third = 3 * of_more - 2 * mean
    # Of two values the sample's deviation is their distance over the root of 2.
    one, other = (mean + side * deviation / 2**0.5 for side in (-1, 1))
    assert deviation > 0
    assert probe(*given, Probe(few=(2,), draws=3)).few[2][1] == pytest.approx(
        np.std([one, other, third], ddof=1)
    )


def test_scale_and_shift_of_numbers_change_nothing():
    z = vectors(LABELS, 2.0)
    moved = (z * np.array([1, 100, 1e-3, 5, 7, 9], np.float32) + 3).astype(np.float32)
    one, other = (probe(x[::2], LABELS[::2], x[1::2], LABELS[1::2]) for x in (z, moved))
    assert one.nearest == other.nearest and one.precision == other.precision
    assert one.linear == pytest.approx(other.linear, abs=0.02)


def test_what_one_set_has_taught_is_scored_on_another():
    """With known answers: all of a set that is like it, nothing of one whose classes have changed
    places, and a third of one whose labels say nothing. Scales are those of the first set.
    """
    learnt, other = vectors(LABELS, 40.0, 3), vectors(LABELS, 40.0, 3)
    alike, turned = (probe(learnt, LABELS, other, right) for right in (LABELS, (LABELS + 1) % 3))
    for found, told in ((alike, 1.0), (turned, 0.0)):
        assert found.linear == found.nearest == found.precision == told
        assert all(mean == pytest.approx(told, abs=0.02) for mean, _ in found.few.values())
    blank = np.zeros_like(other)
    blind = probe(learnt, LABELS, blank, LABELS)
    assert blind.linear == blind.nearest == 1 / 3  # all are told to be of one class
    with pytest.raises(ValueError, match="class 5 is held out and never learnt"):
        probe(learnt, LABELS, other, np.where(LABELS == 2, 5, LABELS))


def test_wide_vectors_are_read_by_their_principal_numbers():
    z = np.concatenate([vectors(LABELS, 9.0), np.zeros((120, WIDEST), np.float32)], axis=1)
    assert probe(z[::2], LABELS[::2], z[1::2], LABELS[1::2]).linear > 0.95


def test_each_class_is_held_out_alike():
    labels = np.array([0] * 40 + [1] * 8 + [2] * 2)
    learnt, held = halves(labels, 0.25, 0)
    assert sorted([*learnt, *held]) == list(range(50))
    assert np.bincount(labels[held]).tolist() == [10, 2, 1]
    assert chance(labels[learnt], labels[held]) == 10 / 13
    with pytest.raises(ValueError, match="class 1 has one picture"):
        halves(np.array([0, 0, 1]), 0.5, 0)
    with pytest.raises(ValueError, match="1 class is too few"):
        probe(z := vectors(labels * 0, 0.0), labels * 0, z, labels * 0)


def test_an_untrained_one_is_another_and_begins_alike():
    tokenizer, images = tiny.tokenizer(), tiny.images(3)
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    own = of_latents(tokenizer)(images)
    assert torch.equal(own, tokenizer.latents(images).flatten(1))
    one, again, other = (of_latents(untrained(tokenizer, seed))(images) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other) and not torch.equal(one, own)
    assert one.shape == own.shape
    assert all(torch.equal(before[name], value) for name, value in tokenizer.state_dict().items())


def test_pixels_are_those_of_a_small_copy():
    images = tiny.images(2)
    assert torch.equal(of_pixels(tiny.SIZE)(images), images.flatten(1))
    small = of_pixels(tiny.SIZE // 2)(images)
    assert torch.allclose(small.view(2, 3, -1).mean(2), images.flatten(2).mean(2), atol=1e-5)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Two classes that a pixel tells."""
    for i in range(24):
        folder = tmp_path / "photos" / ("dark" if i % 2 else "light")
        folder.mkdir(parents=True, exist_ok=True)
        level = CHANCE.integers(0, 90, (16, 16, 3)) + (0 if i % 2 else 150)
        Image.fromarray(level.astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photos"


def test_the_command_says_controls_beside(artifacts, classes, tmp_path, capsys):
    out = tmp_path / "new/probe.json"
    model = str(artifacts / "tokenizer/model")
    cli.main(["probe", model, "--data.path", str(classes), "--transfer", str(classes), "--out",
              str(out), "--probe.few", "2", "--device", "cpu"])  # fmt: skip
    found = json.loads(out.read_text())
    for name in ("data", "transfer"):
        assert found[name]["classes"] == ["dark", "light"]
        assert set(found[name]["figures"]) == {"latents", "untrained", "pixels"}
        assert found[name]["figures"]["pixels"]["linear"] == 1 and found[name]["chance"] == 0.5
    said = capsys.readouterr().out
    assert "untrained" in said and "above every control" in said


def test_a_set_to_transfer_to_is_read_by_itself(artifacts, classes, tmp_path, capsys):
    """Its labels are its own: pictures that are all alike tell none of them, by no reader, whatever
    is told of the first set.
    """
    for i in range(16):
        folder = tmp_path / "other" / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(folder / f"{i}.png")
    out = tmp_path / "probe.json"
    cli.main(["probe", str(artifacts / "tokenizer/model"), "--data.path", str(classes),
              "--transfer", str(tmp_path / "other"), "--out", str(out), "--probe.few",
              "2"])  # fmt: skip
    found = json.loads(out.read_text())
    assert found["data"]["figures"]["pixels"]["linear"] == 1
    other = found["transfer"]
    assert other["classes"] == ["cat", "dog"] and (other["learnt"], other["held_out"]) == (12, 4)
    for figures in other["figures"].values():
        assert figures["linear"] == figures["nearest"] == 0.5 == other["chance"]
        assert figures["few"]["2"] == [0.5, 0]


def test_of_a_stream_the_first_are_read(artifacts, tmp_path, capsys):
    """And what is left out of the table is said."""
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for i, image in enumerate(tiny.images(20)):
            picture(image).save(tmp_path / "x.png")
            (tmp_path / "x.txt").write_text("even" if i % 2 else "odd")
            for ending in ("png", "txt"):
                tar.add(tmp_path / f"x.{ending}", f"{i:02}.{ending}")
    out = tmp_path / "probe.json"
    cli.main(["probe", str(artifacts / "tokenizer/model"), "data:web-dataset", "--data.path",
              str(tmp_path / "0.tar"), "--count", "12", "--out", str(out)])  # fmt: skip
    found = json.loads(out.read_text())["data"]
    assert found["learnt"] + found["held_out"] == 12
    assert "left out, for a class has fewer: [5, 20]" in capsys.readouterr().out


def test_a_vision_transformer_stands_beside_trained_and_untrained(tmp_path, capsys):
    """The masked autoencoder that `train-encoder` leaves: it sees all of a picture, and what its
    architecture tells alone stands beside it. Classes are true factors.
    """
    vit, model = tmp_path / "vit", tmp_path / "model"
    save_masked(tiny.masked().network, "RGB", vit)
    tiny.tokenizer().save(model)
    out = tmp_path / "probe.json"
    cli.main(["probe", str(model), "data:shapes", "--data.size", "16", "--data.places", "3",
              "--factor", "2", "--beside", str(vit), "--out", str(out)])  # fmt: skip
    found = json.loads(out.read_text())["data"]
    assert found["classes"] == ["0", "1", "2"]
    assert set(found["figures"]) == {"latents", "untrained", "pixels", str(vit),
                                     f"{vit} untrained"}  # fmt: skip
    images = tiny.images(3)
    one, again = (of_vision_model(str(vit), torch.device("cpu"))(images) for _ in range(2))
    torch.testing.assert_close(one, again)  # patches are hidden by chance, and none is
    untaught = of_vision_model(str(vit), torch.device("cpu"), trained=False)(images)
    assert untaught.shape == one.shape and not torch.allclose(untaught, one)


def stock(folder: Path) -> Path:
    """A trained vision transformer of transformers': every weight is another than at its start."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                    intermediate_size=16, image_size=16, patch_size=4)  # fmt: skip
    model = transformers.ViTModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def test_bug_an_untrained_transformer_has_nothing_of_a_trained_one(tmp_path):
    """Positions and the class token, which are no layer's, were those that training had left: what
    stands for an architecture alone is made from the config alone, whatever weights lie beside it.
    """
    one, images, device = stock(tmp_path / "one"), tiny.images(3), torch.device("cpu")
    ambient = torch.get_rng_state()
    found = of_vision_model(str(one), device, trained=False)(images)
    assert torch.equal(ambient, torch.get_rng_state())
    trained = of_vision_model(str(one), device)(images)
    (one / "model.safetensors").unlink()
    assert torch.equal(of_vision_model(str(one), device, trained=False)(images), found)
    assert found.shape == trained.shape and not torch.allclose(found, trained, atol=0.01)


def test_what_makes_no_vector_of_a_picture_is_refused_at_once(tmp_path):
    """CLIP wants a text too: what it said was found out in the middle of the pictures."""
    part = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16}  # fmt: skip
    config = transformers.CLIPConfig(
        text_config={**part, "vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1},
        vision_config={**part, "image_size": 16, "patch_size": 4}, projection_dim=8,
    )  # fmt: skip
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a CLIPModel, which makes no vector of a picture"):
        of_vision_model(str(tmp_path), torch.device("cpu"))


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ("--factor 1", "--factor is 1, and of true factors data has none"),
        ("--factor -1", "--factor is -1: factors are numbered from 0"),
        ("--held-out 1", "--held-out is 1.0: it must lie between 0 and 1"),
        ("--probe.draws 1", "--probe.draws is 1: it must be at least 2"),
        ("--probe.few 0", "--probe.few is (0,): each must be at least 1"),
        ("--beside .", "no vision transformer in .: expected config.json, model.safetensors"),
        ("--beside nowhere", "nor is there a folder nowhere"),
        ("--out .", "--out is ., a folder: name a file"),
        ("--data.captions none", "data: 24 of 24 pictures have no caption, which is the class"),
    ],
)
def test_a_mistake_is_one_line(arguments, answer, artifacts, classes, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["probe", str(artifacts / "tokenizer/model"), "--data.path", str(classes),
                  *arguments.split()])  # fmt: skip
    assert stop.value.code == 2 and answer in capsys.readouterr().err


def folder(root: Path, counts: dict[str, int]) -> str:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(root / name / f"{i}.png")
    return str(root)


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ("--data.path {lone}", "data: class 'b' has one picture; two are needed"),
        ("--data.path {one}", "data: all pictures are of one class, 'a': two or more"),
        ("--data.path {two} --transfer {lone}", "transfer: class 'b' has one picture"),
        ("--data.path {two} --transfer ./nowhere", "no folder nowhere"),
        ("--data.path {two} --count 2", "data: 2 different captions of 2 pictures are no classes"),
        ("--data.path {two} --factor 0", "--factor is 0, and of true factors data has none"),
        ("data:shapes --factor 4", "--factor is 4, and of true factors data has 4"),
        ("data:pendulum --data.size 16 --factor 0", "captions of 2000 pictures are no classes"),
        ("data:scenes --data.size 16", "captions of 2000 pictures are no classes"),
    ],
)
def test_bug_what_data_tell_to_be_wrong_is_told_before_a_network_is_loaded(
    arguments, answer, tmp_path, capsys
):
    """It was after all pictures had been encoded, of a million scenes after hours; a class was told
    by its number. There is no such tokenizer here.
    """
    counts = {"lone": {"a": 8, "b": 1}, "one": {"a": 8}, "two": {"a": 8, "b": 8}}
    made = {name: folder(tmp_path / name, each) for name, each in counts.items()}
    with pytest.raises(SystemExit) as stop:
        cli.main(["probe", "./no/such/model", *arguments.format(**made).split()])
    assert stop.value.code == 2 and answer in capsys.readouterr().err
