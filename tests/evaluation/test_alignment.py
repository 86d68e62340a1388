"""The checker finds right scenes right, spoiled or not, and wrong ones wrong."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from math import sqrt

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from calotype.data.drawn.scenes import RELATIONS, Object, Scene, Scenes, draw, layout, to_tensor
from calotype.data.drawn.shapes import SHAPES
from calotype.evaluation.alignment import alignment, check

ONE = Scenes(shapes=tuple(SHAPES))
TWO = replace(ONE, objects=2)
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def drawn(scenes: list[Scene], size: int = 32, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return to_tensor(draw(scenes, np.stack([layout(s, rng) for s in scenes]), size))


build = lru_cache(Scenes.build)


def sample(spec: Scenes, count: int) -> tuple[Tensor, list[Scene]]:
    data = build(spec)
    return data.batch(range(count))["image"], [data.scene(i) for i in range(count)]


def noisy(images: Tensor) -> Tensor:
    """Add noise of 28 dB PSNR."""
    generator = torch.Generator().manual_seed(0)
    return images + 2 * 10 ** (-28 / 20) * torch.randn(images.shape, generator=generator)


def blurred(images: Tensor) -> Tensor:
    """Blur by 2.2 % of the side: about 30 dB PSNR."""
    sigma = 0.022 * images.shape[-1]
    return torch.from_numpy(ndimage.gaussian_filter(images.numpy(), (0, 0, sigma, sigma)))


def cloudy(images: Tensor) -> Tensor:
    """Add errors an eighth of the side large, as autoencoders make: about 30 dB PSNR."""
    clouds = torch.randn((len(images), 3, 8, 8), generator=torch.Generator().manual_seed(0))
    return images + 0.08 * torch.nn.functional.interpolate(
        clouds, size=images.shape[-2:], mode="bicubic"
    )


@pytest.mark.parametrize("spec", [ONE, TWO])
def test_real_scenes_are_right(spec: Scenes):
    images, scenes = sample(spec, 500)
    assert min(alignment(images, scenes).accuracy.values()) >= 0.99


@pytest.mark.parametrize("spoil", [noisy, blurred, cloudy])
@pytest.mark.parametrize(
    ("spec", "count"),
    [
        (ONE, 100),
        (replace(ONE, size=64), 40),
        (replace(ONE, size=256), 10),
        (TWO, 40),
        (replace(TWO, size=64), 40),
    ],
)
def test_spoiled_scenes_are_right(spec: Scenes, count: int, spoil: Callable[[Tensor], Tensor]):
    images, scenes = sample(spec, count)
    result = alignment(spoil(images), scenes)
    assert min(result.accuracy.values()) >= 0.97  # at most 1 wrong in 40, 3 in 100
    assert result.all_right <= min(result.accuracy.values())


def agreement(shown: Scene, asked: Scene) -> dict[str, bool] | None:
    """Compare true factors; None where it is open which of two objects stands for which."""
    common = {"background": shown.background == asked.background, "count": True}
    if asked.relation is None:
        names = "shape", "colour", "size", "place"
        return common | {n: _same(shown.objects[0], asked.objects[0], n) for n in names}
    turned = replace(shown, objects=shown.objects[::-1], relation=OPPOSITE[shown.relation or ""])
    less, more = sorted((_pairs(s, asked) for s in (shown, turned)), key=_score)
    return common | more if _score(less) < _score(more) else None


def _pairs(shown: Scene, asked: Scene) -> dict[str, bool]:
    verdict = {"relation": shown.relation == asked.relation}
    for word, one, other in zip(("first", "second"), shown.objects, asked.objects, strict=True):
        verdict |= {f"{word} {n}": _same(one, other, n) for n in ("shape", "colour", "size")}
    return verdict


def _score(verdict: dict[str, bool]) -> tuple[int, int]:
    """Objects are matched by colour first, then by all they have in common."""
    colours = verdict["first colour"] + verdict["second colour"]
    return colours, sum(verdict.values()) - verdict["relation"]


def _same(one: Object, other: Object, factor: str) -> bool:
    return getattr(one, factor) == getattr(other, factor)


@pytest.mark.parametrize("spec", [ONE, TWO])
def test_independent_scenes_are_right_exactly_where_they_agree(spec: Scenes):
    images, shown = sample(spec, 100)
    asked = sample(replace(spec, seed=1), 100)[1]
    truth = [agreement(s, a) for s, a in zip(shown, asked, strict=True)]
    verdicts = alignment(noisy(images), asked).verdicts
    told = [(t, v) for t, v in zip(truth, verdicts, strict=True) if t is not None]
    assert len(told) > 50
    for factor in verdicts[0]:
        assert sum(t[factor] != v[factor] for t, v in told) <= 0.01 * len(told)


def test_chance_is_one_in_the_number_of_values():
    images, _ = sample(ONE, 200)
    asked = sample(replace(ONE, seed=1), 200)[1]
    accuracy = alignment(images, asked).accuracy
    for factor, values in {"shape": 8, "colour": 8, "size": 2, "place": 9, "background": 4}.items():
        chance = 1 / values
        assert abs(accuracy[factor] - chance) < 4 * sqrt(chance * (1 - chance) / 200)


def test_one_wrong_factor_is_the_only_one_found_wrong():
    images, scenes = sample(ONE, 8)
    for image, scene in zip(images, scenes, strict=True):
        wanted = scene.objects[0]
        for factor in ("shape", "colour", "size", "place"):
            for value in getattr(ONE, f"{factor}s"):
                if value != getattr(wanted, factor):
                    other = replace(scene, objects=(replace(wanted, **{factor: value}),))
                    assert wrong(check(image, other)) == {factor}
        background = ONE.backgrounds[ONE.backgrounds.index(scene.background) - 1]
        assert wrong(check(image, replace(scene, background=background))) == {"background"}


def test_one_wrong_factor_of_two_objects_is_the_only_one_found_wrong():
    images, scenes = sample(TWO, 10)
    for image, scene in zip(images, scenes, strict=True):
        first, second = scene.objects
        for relation in set(RELATIONS) - {scene.relation}:
            assert wrong(check(image, replace(scene, relation=relation))) == {"relation"}
        shape = next(s for s in SHAPES if s != second.shape)
        other = replace(scene, objects=(first, replace(second, shape=shape)))
        assert wrong(check(image, other)) == {"second shape"}
        colour = next(c for c in TWO.colours if c not in (first.colour, second.colour))
        other = replace(scene, objects=(replace(first, colour=colour), second))
        assert wrong(check(image, other)) == {"first colour"}
        size = {"small": "large", "large": "small"}[first.size]
        other = replace(scene, objects=(replace(first, size=size), second))
        assert wrong(check(image, other)) == {"first size"}


def test_two_objects_may_be_named_in_either_order():
    images, scenes = sample(TWO, 10)
    for image, scene in zip(images, scenes, strict=True):
        turned = Scene(scene.background, scene.objects[::-1], OPPOSITE[scene.relation or ""])
        assert all(check(image, turned).values())
        swapped = replace(scene, objects=scene.objects[::-1])
        assert wrong(check(image, swapped)) == {"relation"}


def wrong(verdict: dict[str, bool]) -> set[str]:
    return {factor for factor, right in verdict.items() if not right}


def stripes() -> Tensor:
    return torch.ones(3, 32, 32) * (torch.arange(32) // 4 % 2 * 2 - 1)


NOTHING = {
    "white": torch.ones(3, 32, 32),
    "red": torch.tensor([214, 32, 36]).view(3, 1, 1).expand(3, 32, 32) / 127.5 - 1,
    "grey": torch.zeros(3, 64, 64),
    "uniform noise": torch.rand((3, 32, 32), generator=torch.Generator().manual_seed(0)) * 2 - 1,
    "normal noise": torch.randn((3, 32, 32), generator=torch.Generator().manual_seed(0)),
    "stripes": stripes(),
    "halves": torch.ones(3, 32, 32) * (torch.arange(32) // 16 * 2 - 1),
    "gradient": torch.ones(3, 32, 32) * torch.linspace(-1, 1, 32),
}


@pytest.mark.parametrize("name", NOTHING)
@pytest.mark.parametrize("spec", [ONE, TWO])
def test_an_image_without_objects_has_nothing_right(name: str, spec: Scenes):
    for scene in sample(spec, 5)[1]:
        assert not any(check(NOTHING[name], scene).values())


@pytest.mark.parametrize("place", ["bottom right", "centre"])
@pytest.mark.parametrize("colour", ["red", "green"])
def test_one_object_too_many_or_too_few_is_counted(place: str, colour: str):
    large = Object("square", "red", "large", "top left")
    small = Object("cross", colour, "small", "bottom right")
    rng = np.random.default_rng(0)
    pair = Scene("white", (large, small))
    places = np.stack([layout(Scene("white", (o,)), rng)[0] for o in pair.objects])
    image = to_tensor(draw([pair], places[None], 32))[0]
    asked = replace(large, place=place if place == "centre" else "top left")
    expected = {"count"} | ({"place"} if place == "centre" else set())
    assert wrong(check(image, Scene("white", (asked,)))) == expected
    alone = drawn([Scene("white", (large,))])[0]
    verdict = check(alone, Scene("white", (large, replace(small, colour="green")), "above"))
    assert {"count", "relation", "second shape", "second colour"} <= wrong(verdict)
    assert verdict["first shape"] and verdict["first colour"] and verdict["background"]


def test_what_lies_between_two_values_is_neither():
    """Half-way between two places, sizes or colours, no value is right."""
    scene = Scene("white", (Object("circle", "red", "large", "top left"),))
    middle = to_tensor(draw([scene], np.array([[[0.375, 0.25, 0.235]]], np.float32), 32))[0]
    for place in ("top left", "top"):
        moved = replace(scene, objects=(replace(scene.objects[0], place=place),))
        assert wrong(check(middle, moved)) == {"place"}
    medium = to_tensor(draw([scene], np.array([[[0.25, 0.25, 0.18]]], np.float32), 32))[0]
    assert wrong(check(medium, scene)) == {"size"}
    yellow = replace(scene, objects=(replace(scene.objects[0], colour="yellow"),))
    layouts = np.array([[[0.25, 0.25, 0.235]]], np.float32)
    red_and_yellow = [to_tensor(draw([s], layouts, 32))[0] for s in (scene, yellow)]
    brownish = torch.stack(red_and_yellow).mean(0) * 0.8
    assert not check(brownish, scene)["colour"]


def test_an_ellipse_a_smear_and_half_an_object_are_no_shape():
    scene = Scene("white", (Object("circle", "red", "large", "centre"),))
    image = drawn([scene])[0]
    half = image.clone()
    half[:, :, :16] = 1
    assert not check(half, scene)["shape"]
    rows = torch.nn.functional.interpolate(image[None], size=(13, 32), mode="area")[0]
    flat = torch.ones(3, 32, 32)
    flat[:, 9:22] = rows
    assert not check(flat, scene)["shape"]
    smear = torch.from_numpy(ndimage.gaussian_filter(image.numpy(), (0, 0, 8)))
    assert not check(smear, scene)["shape"]


def test_alignment_sums_up_its_verdicts():
    images, scenes = sample(ONE, 4)
    background = next(b for b in ONE.backgrounds if b != scenes[0].background)
    other = replace(scenes[0], background=background)
    result = alignment(images, [other, *scenes[1:]])
    assert result.accuracy["background"] == 0.75 and result.accuracy["shape"] == 1
    assert result.all_right == 0.75
    assert [all(v.values()) for v in result.verdicts] == [False, True, True, True]


def test_bad_input_is_one_line_that_names_it():
    images, scenes = sample(ONE, 2)
    with pytest.raises(ValueError, match="2 images for 1 scenes"):
        alignment(images, scenes[:1])
    with pytest.raises(ValueError, match="some have one object and some two"):
        alignment(images, [scenes[0], sample(TWO, 1)[1][0]])
    with pytest.raises(ValueError, match="0 images"):
        alignment([], [])
    with pytest.raises(ValueError, match=r"\(3, 32, 16\) is not square"):
        check(images[0, :, :, :16], scenes[0])
