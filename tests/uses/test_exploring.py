"""What a page of latents shows, and the figures that say how far it may be believed."""

import json
from importlib import util
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from calotype import cli
from calotype.pages.exploration import Charted, Shown, Strip, write_exploration
from calotype.pipelines import picture
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Causal
from calotype.tokenizers.vector import Dense
from calotype.uses.attributes import PixelJudge, direction, having, random_like, upper, words
from calotype.uses.codes import commonest
from calotype.uses.exploring import (
    AMOUNTS,
    SET_TO,
    Decoder,
    attribute,
    edited,
    effects,
    interventions,
    pairs,
    ways,
)
from calotype.uses.maps import Principal, Umap, nearest, trustworthiness
from calotype.uses.paths import energy, geodesic, linear, spherical


def bent(z: torch.Tensor) -> torch.Tensor:
    """Pictures of two pixels and one that is high over the middle: who goes straight climbs."""
    return torch.stack([z[:, 0], z[:, 1], 4 * torch.exp(-z.square().sum(1))], 1)[..., None, None]


def ends(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """On both sides of the middle."""
    made = torch.Generator().manual_seed(0)
    side = torch.randn(count, 2, generator=made)
    return side - torch.tensor([2.0, 0.0]), side * 0.3 + torch.tensor([2.0, 0.1])


def test_ways_begin_and_end_where_they_should():
    first, last = ends(5)
    for way in (linear(first, last, 7), spherical(first, last, 7), geodesic(bent, first, last, 7)):
        assert way.shape == (7, 5, 2)
        assert torch.equal(way[0], first) and torch.equal(way[-1], last)
    with pytest.raises(ValueError, match="points is 1"):
        linear(first, last, 1)


def test_a_geodesic_goes_around_what_straight_ways_climb():
    first, last = ends(8)
    straight, found = linear(first, last, 16), geodesic(bent, first, last, 16)
    before, after = energy(bent, straight), energy(bent, found)
    assert (after <= before).all() and (after < 0.8 * before).any()
    assert not found.requires_grad


def test_no_geodesic_is_longer_than_the_straight_way():
    """Even by an optimiser that throws it away."""
    first, last = ends(8)
    found = geodesic(bent, first, last, 9, steps=3, step_size=1e3)
    assert torch.equal(found, linear(first, last, 9))


def test_where_pictures_are_linear_the_straight_way_is_the_geodesic():
    first, last = ends(4)
    matrix = torch.tensor([[1.0, 2.0], [0.5, -1.0], [0.0, 3.0]])

    def flat(z: torch.Tensor) -> torch.Tensor:
        return z @ matrix.T

    way = linear(first, last, 9)
    length = (flat(last) - flat(first)).square().sum(1)
    assert torch.allclose(energy(flat, way), length, rtol=1e-4)
    assert torch.allclose(geodesic(flat, first, last, 9), way, atol=0.02)


def test_around_the_origin_lengths_change_evenly():
    first, last = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    lengths = spherical(first, last, 5).norm(dim=2).flatten()
    assert torch.allclose(lengths, torch.tensor([3.0, 2.5, 2.0, 1.5, 1.0]))
    # In line there is no way around, and none of it is not a number.
    for other in (first, -first, torch.zeros_like(first)):
        assert spherical(first, other, 5).isfinite().all()


def test_a_direction_is_what_some_have():
    z = torch.randn(200, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    has = torch.arange(200) % 4 == 0
    z[has] += torch.tensor([5.0, 0.0, 0.0])[:, None, None]
    way = direction(z, has)
    assert torch.allclose(way.mean((1, 2)), torch.tensor([5.0, 0.0, 0.0]), atol=0.3)
    other = random_like(way)
    assert other.norm() == pytest.approx(way.norm().item(), rel=1e-5)
    assert not torch.allclose(other, way, atol=0.5)
    with pytest.raises(ValueError, match="0 of 200 have it"):
        direction(z, has & ~has)


def test_words_tell_pictures_apart():
    captions = ["a red cat", "a blue cat", "a red dog", "a blue dog 7", "a Red fox", "a fox 7"]
    assert words(captions, 3) == ["red", "blue", "cat"]  # "a" is everybody's, 7 a number
    assert having(captions, "RED").tolist() == [True, False, True, False, True, False]
    with pytest.raises(ValueError, match=r"'green' is in 0 of 6 captions.* such as red, blue"):
        having(captions, "green")


def test_a_judge_of_pixels_sees_what_is_there():
    images, has = tiny.images(80), torch.arange(80) % 2 == 0
    images = images * 0.2 + torch.where(has, 0.7, -0.7)[:, None, None, None]
    judge = PixelJudge(images[:60], has[:60])
    assert judge.part(images[60:][has[60:]]) > 0.8 > 0.2 > judge.part(images[60:][~has[60:]])


def test_an_attribute_is_added_and_seen():
    """By a decoder that shows its latents, whose first number is how light a picture is."""
    made = torch.Generator().manual_seed(0)
    z = torch.rand(120, 3, 4, 4, generator=made) - 0.5
    has = torch.arange(120) % 3 == 0
    z[has] += 0.8
    decode = lambda some: some.clamp(-1, 1)  # noqa: E731
    frames, told = edited(decode, attribute(z, z, has))
    assert frames.shape == (3, len(AMOUNTS), 3, 4, 4)
    assert told.before < 0.2 < 0.8 < told.after and told.control < 0.2
    whole = AMOUNTS.index(1.0)
    assert (frames[:, whole] - frames[:, 0]).mean() > 0.3


def test_an_edit_says_what_it_does_to_the_others():
    """By a decoder that shows its latents: how red and how green pictures are is drawn by itself,
    and what is bright is nearly always red.
    """
    made = torch.Generator().manual_seed(0)
    z = 0.4 * torch.rand(240, 3, 4, 4, generator=made) - 0.2
    red, green = torch.arange(240) % 4 < 2, torch.arange(240) // 4 % 3 == 0
    bright = red & (torch.rand(240, generator=made) > 0.15)
    for channel, has in enumerate((red, green, bright)):
        z[has, channel] += 0.7
    decode = lambda some: some.clamp(-1, 1)  # noqa: E731
    named = {"red": red, "green": green, "bright": bright}
    known = {name: attribute(z, z, has) for name, has in named.items()}
    found = effects(decode, known)
    assert [*found] == [*named] and all([*row] == [*named] for row in found.values())
    for name, each in known.items():
        told = edited(decode, each)[1]
        assert found[name][name] == pytest.approx(told.after - told.before) and told.after > 0.8
        assert abs(found[name]["green"]) < 0.2 or name == "green"
    assert abs(found["green"]["red"]) < 0.2 and found["bright"]["red"] > 0.6


def test_the_upper_half_of_a_factor():
    assert upper(torch.tensor([0.0, 1, 2, 3]), 0).tolist() == [False, False, True, True]
    with pytest.raises(ValueError, match=r"--factor 2: all pictures have the same value"):
        upper(torch.ones(4), 2)


def test_maps_and_neighbours():
    chance = np.random.default_rng(0)
    plane = chance.normal(size=(60, 2)).astype(np.float32)
    wide = np.concatenate([plane * 5, 0.01 * chance.normal(size=(60, 6))], 1).astype(np.float32)
    found = Principal().plane(wide)
    assert found.shape == (60, 2) and trustworthiness(wide, found) > 0.99
    assert trustworthiness(wide, chance.normal(size=(60, 2)).astype(np.float32)) < 0.7
    twice = np.concatenate([wide, wide])
    near = nearest(twice, np.arange(4), 3)
    assert near.shape == (4, 3) and all(i not in row for i, row in enumerate(near.tolist()))
    assert near[:, 0].tolist() == [60, 61, 62, 63]


@pytest.mark.slow
def test_a_map_by_umap_holds_clouds_together():
    chance = np.random.default_rng(0)
    which = np.arange(90) % 3
    vectors = (chance.normal(size=(90, 5)) + 30 * np.eye(5)[which]).astype(np.float32)
    plane = Umap(10).plane(vectors)
    middle = np.stack([plane[which == i].mean(0) for i in range(3)])
    own = np.linalg.norm(plane[:, None] - middle, axis=2).argmin(1)
    assert (own == which).mean() > 0.95


def test_without_umap_learn_it_is_said_before_any_work(monkeypatch, tmp_path, capsys):
    found = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "umap" else found(name))
    with pytest.raises(SystemExit):
        cli.main(["explore", str(tmp_path / "none"), "map:umap"])
    assert 'pip install "calotype[uses]", or choose map:principal' in capsys.readouterr().err


def test_a_code_is_what_is_under_it():
    tokenizer, images = tiny.tokenizer(bottleneck=tiny.VQ_BOTTLENECK).eval(), tiny.images(6)
    ids, side = tokenizer.encode_ids(images), tokenizer.factor
    found = commonest(ids, images, 3)
    counts = sorted((ids == code).sum().item() for code in ids.unique().tolist())
    assert [round(each.part * ids.numel()) for each in found] == counts[::-1][:3]
    first = found[0]
    under = [images[n, :, side * y : side * (y + 1), side * x : side * (x + 1)]
             for n, y, x in (ids == first.code).nonzero().tolist()]  # fmt: skip
    assert torch.allclose(first.mean, torch.stack(under).mean(0), atol=1e-5)
    pictures = (ids == first.code).any((1, 2)).sum().item()
    assert len(first.examples) == min(4, pictures) and torch.equal(first.examples[0], under[0])
    assert torch.allclose(first.where, (ids == first.code).float().sum(0) / len(under))


def causal() -> ImageTokenizer:
    torch.manual_seed(0)
    spec = Causal()
    return ImageTokenizer(Dense((16,)).autoencoder(spec, 8, 3), spec.build()).eval()


def test_interventions_set_a_factor():
    decode = Decoder(causal())
    latents = decode.latents(torch.rand(2, 3, 8, 8) * 2 - 1)
    found = interventions(decode, latents, 1)
    assert found.shape == (2, len(SET_TO), 3, 8, 8)
    there = decode(decode.tokenizer.bottleneck.do(latents, 1, SET_TO[0]))
    assert torch.equal(found[:, 0], there) and not torch.equal(found[:, 0], found[:, -1])


def test_pairs_are_of_different_captions_where_there_are():
    captions = ["a"] * 6 + ["b"] * 2
    found = pairs(captions, 4, seed=0)
    assert len({place for pair in found for place in pair}) == 8
    assert sum(captions[one] != captions[other] for one, other in found) == 2
    assert pairs(captions, 2, 1) == pairs(captions, 2, 1)


def test_ways_leave_a_tokenizer_as_it_is():
    tokenizer = tiny.tokenizer().eval()
    decode, images = Decoder(tokenizer, 3), tiny.images(4)
    z = decode.latents(images)
    (found,) = ways(decode, z[:1], z[1:2], points=4, steps=3)
    assert set(found.pictures) == {"linear", "spherical", "geodesic", "mixed pixels"}
    assert found.energies["geodesic"] <= found.energies["linear"]
    assert all(weight.grad is None for weight in tokenizer.parameters())
    assert torch.allclose(found.pictures["linear"][0], tokenizer.decode(z[:1])[0], atol=1e-5)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Light and dark ones, with captions."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(tiny.images(24)):
        light = i % 2 == 0
        picture(image * 0.3 + (0.6 if light else -0.6)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a {'light' if light else 'dark'} <picture> {i}")
    return folder


KINDS = {
    "continuous": ("Grid", "Ways between pictures", "Attributes", "Nearest pictures"),
    "codes": ("Codes", "Nearest pictures"),
    "causal": ("Grid", "Ways between pictures", "Attributes", "Interventions"),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_page_has_what_the_tokenizer_has(kind, photos, tmp_path, capsys):
    made = {"continuous": tiny.tokenizer, "causal": causal,
            "codes": lambda: tiny.tokenizer(bottleneck=tiny.VQ_BOTTLENECK)}[kind]()  # fmt: skip
    made.eval().save(tmp_path / "model")
    out = tmp_path / "new/page.html"
    size = 8 if kind == "causal" else tiny.SIZE
    cli.main(["explore", str(tmp_path / "model"), "--data.path", str(photos), "--out", str(out),
              "--path-steps", "2", "--pairs", "2", "--points", "4", "--size", str(size),
              "--device", "cpu"])  # fmt: skip
    page, said = out.read_text(), capsys.readouterr().out
    for title in ("Map", *KINDS[kind]):
        assert f"<h2>{title}</h2>" in page
    for other in {title for titles in KINDS.values() for title in titles} - set(KINDS[kind]):
        assert f"<h2>{other}</h2>" not in page or other == "Nearest pictures"
    assert "&lt;picture&gt;" in page and "<picture>" not in page and "Trustworthiness" in said
    assert page.count("<ellipse") == 24 and "http" not in page.replace("http-equiv", "")
    found = json.loads(out.with_suffix(".json").read_text())
    assert found["pictures"] == 24 and 0 <= found["map"]["trustworthiness"] <= 1
    if kind == "continuous":
        assert set(found["attributes"]) == set(found["effects"]) == {"dark", "light"}
        assert all(each["geodesic"] <= each["linear"] for each in found["ways"])
    if kind == "codes":
        assert found["codes"]["used"][0] >= 1


@pytest.mark.parametrize(
    ("data", "asked", "names"),
    [
        ("data:shapes --data.size 16 --data.places 3", "1 2", ["factor 1, scale", "factor 2, x"]),
        ("data:pendulum --data.count 60 --data.size 16", "0", ["factor 0, angle"]),
        ("data:scenes --data.count 60 --data.size 16", "2 4",
         ["factor 2, size", "factor 4, background"]),
    ],
)  # fmt: skip
def test_true_factors_are_attributes(data, asked, names, artifacts, tmp_path, capsys):
    out = tmp_path / "page.html"
    cli.main(["explore", str(artifacts / "tokenizer/model"), *data.split(), "--factor",
              *asked.split(), "--count", "60", "--out", str(out), "--pairs", "0", "--size",
              "16"])  # fmt: skip
    found, page = json.loads(out.with_suffix(".json").read_text()), out.read_text()
    assert [*found["attributes"]] == [*found["effects"]] == names
    assert "<th>added</th>" in page and all(f"<th>{name}</th>" in page for name in names)
    for name in names:
        told = found["attributes"][name]
        change = told["after"] - told["before"]
        assert found["effects"][name][name] == pytest.approx(change)
        assert f"<td>{change:+.2f}</td>" in page


def test_pictures_of_any_channels_are_shown(tmp_path):
    for channels in (1, 3, 4):
        images = torch.rand(5, channels, 200, 100) * 2 - 1
        charted = Charted("Map", "", np.zeros((5, 2), np.float32), list("abcde"), images)
        strips = [Strip("one", images, True), Strip("", images[:4], columns=2)]
        write_exploration(tmp_path / "page.html", "t", ["x"], charted, [Shown("s", [], strips)])
        assert (tmp_path / "page.html").read_text().count("<img") == 2


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ("--count 7", "--count is 7: it must be at least 8"),
        ("--points 2", "--points is 2: it must be at least 3"),
        ("--out page.txt", "--out is page.txt: name a page, such as exploration.html"),
        ("--attributes green", "'green' is in 0 of 24 captions"),
        ("--factor -1", "--factor is (-1,): factors are numbered from 0"),
        ("--factor 0", "--factor is 0, and of true factors data has none"),
        ("map:umap --map.neighbours 1", "--map.neighbours is 1: it must be at least 2"),
    ],
)
def test_a_mistake_is_one_line(arguments, answer, artifacts, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(["explore", str(artifacts / "tokenizer/model"), "--data.path", str(photos),
                  *arguments.split()])  # fmt: skip
    assert stop.value.code == 2 and answer in capsys.readouterr().err
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ("--attributes green", "'green' is in 0 of 24 captions"),
        ("--factor 0", "--factor is 0, and of true factors data has none"),
        ("data:shapes --factor 4", "--factor is 4, and of true factors data has 4"),
        ("data:pendulum --factor 1 7", "--factor is 7, and of true factors data has 4"),
    ],
)
def test_bug_what_data_tell_to_be_wrong_is_told_before_a_network_is_loaded(
    arguments, answer, photos, capsys
):
    """It was after all pictures had been read and encoded: there is no such tokenizer here."""
    given = arguments.split()
    data = given if given[0].startswith("data:") else ["--data.path", str(photos), *given]
    with pytest.raises(SystemExit) as stop:
        cli.main(["explore", "./nowhere", *data])
    assert stop.value.code == 2 and answer in capsys.readouterr().err


def test_attributes_of_codes_are_refused_and_not_passed_over(photos, tmp_path, capsys):
    tiny.tokenizer(bottleneck=tiny.VQ_BOTTLENECK).eval().save(tmp_path / "model")
    with pytest.raises(SystemExit):
        cli.main(["explore", str(tmp_path / "model"), "--data.path", str(photos), "--attributes",
                  "light", "--size", "16"])  # fmt: skip
    said = capsys.readouterr().err
    assert "has codes, between which there are no directions" in said and "so far" not in said


def test_few_pictures_are_refused(artifacts, photos, capsys):
    for file in [*photos.iterdir()]:
        if int(file.stem) >= 4:
            file.unlink()
    with pytest.raises(SystemExit):
        cli.main(["explore", str(artifacts / "tokenizer/model"), "--data.path", str(photos)])
    assert "data has 4 pictures: a map wants 8 or more" in capsys.readouterr().err
