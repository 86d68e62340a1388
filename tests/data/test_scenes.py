"""Scenes are a function of (seed, index), captions are true, and what is held out stays so."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from calotype.data.drawn.scenes import (
    HELD_OUT,
    PHRASES,
    RELATION_WORDINGS,
    RELATIONS,
    WORDINGS,
    Object,
    Scene,
    Scenes,
    draw,
    held_out_scenes,
    layout,
)
from calotype.data.drawn.shapes import SHAPES, coverage

ONE = Scenes()
TWO = Scenes(objects=2)
SPECS = [ONE, TWO]


def combination(scene: Scene) -> tuple:
    """Give what the held-out split is made over."""
    if scene.relation is None:
        return scene.background, scene.objects[0]
    return scene.relation, *((o.shape, o.colour) for o in scene.objects)


@pytest.mark.parametrize("spec", SPECS)
def test_a_scene_is_a_function_of_seed_and_index(spec):
    data, again, other = spec.build(), spec.build(), replace(spec, seed=1).build()
    late = again[999_999]
    for index in (0, 7, 999_999):
        assert data[index]["caption"] == again[index]["caption"]
        assert data[index]["image"].tobytes() == again[index]["image"].tobytes()
    assert late["image"].tobytes() == data[999_999]["image"].tobytes()
    assert [data.scene(i) for i in range(20)] != [other.scene(i) for i in range(20)]


@pytest.mark.parametrize("spec", SPECS)
def test_factors_are_those_of_the_scene_by_their_names(spec):
    """By the place of each value among those that the spec names, in any order."""
    data = replace(spec, shapes=("heart", "circle"), sizes=("large", "small")).build()
    batch = data.batch(range(30))["factors"]
    assert batch.shape == (30, len(data.names)) and batch.dtype == torch.float32
    for index, told in enumerate(batch.tolist()):
        scene, found = data.scene(index), dict(zip(data.names, map(int, told), strict=True))
        assert data[index]["factors"].tolist() == told
        assert data.spec.backgrounds[found["background"]] == scene.background
        for which, each in zip(("first ", "second "), scene.objects, strict=False):
            which = which if spec.objects == 2 else ""
            assert data.spec.shapes[found[f"{which}shape"]] == each.shape
            assert data.spec.colours[found[f"{which}colour"]] == each.colour
            assert data.spec.sizes[found[f"{which}size"]] == each.size
        if spec.objects == 1:
            assert data.spec.places[found["place"]] == scene.objects[0].place
        else:
            assert [*RELATIONS][found["relation"]] == scene.relation


@pytest.mark.parametrize("spec", SPECS)
def test_a_batch_has_the_same_pixels_and_captions_as_its_items(spec):
    data = replace(spec, shapes=tuple(SHAPES)).build()
    indices = [5, 3, 3, *range(100, 140)]
    batch = data.batch(indices, list(range(len(indices))))
    assert batch["image"].dtype == torch.float32
    for image, caption, index in zip(batch["image"], batch["caption"], indices, strict=True):
        item = data[index]
        bytes_ = ((image + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
        assert np.array_equal(bytes_, np.asarray(item["image"]))
        assert caption == item["caption"]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("size", [16, 33, 256])
def test_a_scene_is_the_same_at_any_size(spec, size):
    """Averaged down to one size, drawings of all sizes agree."""
    small = replace(spec, size=16).build().batch(range(40))["image"]
    image = replace(spec, size=size).build().batch(range(40))["image"]
    assert image.shape == (40, 3, size, size)
    shrunk = torch.nn.functional.interpolate(image, size=(16, 16), mode="area")
    assert (shrunk - small).abs().mean() < 0.03


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_are_antialiased(shape):
    """A pixel holds the fraction of it that the shape covers, as drawing 16 times finer shows."""
    place = np.array([[0.47, 0.52, 0.235]], np.float32)
    mask = coverage([shape], place, 32)[0]
    fine = coverage([shape], place, 512)[0] > 0.5
    exact = fine.reshape(32, 16, 32, 16).mean((1, 3))
    assert ((mask > 0.05) & (mask < 0.95)).sum() > 15
    assert np.abs(mask - exact).max() < 0.4  # the tips of the star
    assert np.abs(mask - exact).mean() < 0.005


@pytest.mark.parametrize("spec", SPECS)
def test_objects_are_whole_apart_and_where_they_should_be(spec):
    data = spec.build()
    for index in range(500):
        scene, rng = data.scene(index), np.random.default_rng(index)
        centres, radii = np.split(layout(scene, rng), [2], axis=1)
        assert (centres - radii > -1e-6).all() and (centres + radii < 1 + 1e-6).all()
        if scene.relation:
            step = (centres[0] - centres[1]) * RELATIONS[scene.relation]
            assert step.sum() > radii.sum()
            assert np.abs(centres[0] - centres[1]).max() == pytest.approx(step.sum())


def says(caption: str, factor: str) -> bool:
    return any(phrase in caption for phrase in PHRASES.get(factor, (factor,)))


@pytest.mark.parametrize("spec", SPECS)
def test_every_caption_names_every_factor(spec):
    data = spec.build()
    rng = np.random.default_rng(0)
    for scene in map(data.scene, range(300)):
        for caption in (scene.caption(rng), scene.caption()):
            factors = [scene.background, scene.relation]
            factors += [f for o in scene.objects for f in asdict(o).values()]
            assert all(says(caption, f) for f in factors if f), (caption, scene)


@pytest.mark.parametrize("spec", SPECS)
def test_a_caption_tells_its_scene_from_all_others(spec):
    """No caption is shared by two scenes: nothing that it says can be taken otherwise."""
    data = spec.build()
    rng = np.random.default_rng(0)
    scenes = {}
    for scene in map(data.scene, range(4000)):
        assert scenes.setdefault(scene.caption(rng), scene) == scene
    assert len(scenes) > 3000


@pytest.mark.parametrize(("spec", "wordings"), [(ONE, WORDINGS), (TWO, RELATION_WORDINGS)])
def test_every_wording_and_every_phrase_occurs(spec, wordings):
    data = spec.build()
    captions = data.batch(range(600))["caption"]
    used = [f for f in PHRASES if f in spec.sizes or (f in RELATIONS) == (spec is TWO)]
    assert all(any(p in c for c in captions) for f in used for p in PHRASES[f])
    rng = np.random.default_rng(0)
    worded = {data.scene(0).caption(rng) for _ in range(2000)}
    phrases = 2 * 2 if spec is ONE else 2 * 2 * 2  # of a size and a place; two sizes, a relation
    assert len(worded) == phrases * len(wordings)


def test_the_canonical_caption_reads_as_documented():
    one = Scene("white", (Object("circle", "red", "large", "top left"),))
    assert one.caption() == "a large red circle at the top left on a white background"
    first, second = Object("circle", "red", "small", None), Object("square", "blue", "large", None)
    assert Scene("grey", (first, second), "left of").caption() == (
        "a small red circle to the left of a large blue square on a grey background"
    )


@pytest.mark.parametrize("spec", SPECS)
def test_held_out_combinations_are_never_trained_on(spec):
    train, held_out = spec.build(), replace(spec, split="held-out").build()
    seen = {combination(train.scene(i)) for i in range(8000)}
    unseen = {combination(held_out.scene(i)) for i in range(3000)}
    prompts = {combination(scene) for scene in held_out_scenes(spec, 200)}
    assert not seen & (unseen | prompts)
    total = len(train.combinations) + len(held_out.combinations)
    assert len(held_out.combinations) / total == pytest.approx(HELD_OUT, abs=0.02)


@pytest.mark.parametrize("spec", SPECS)
def test_training_shows_every_single_factor(spec):
    data = spec.build()
    objects = [o for i in range(1000) for o in data.scene(i).objects]
    assert {o.shape for o in objects} == set(spec.shapes)
    assert {o.colour for o in objects} == set(spec.colours)
    assert {o.size for o in objects} == set(spec.sizes)
    assert {data.scene(i).background for i in range(200)} == set(spec.backgrounds)


def test_a_combination_stays_held_out_whatever_else_is_drawn():
    held_out = {combination(s) for s in replace(ONE, split="held-out").build().combinations}
    fewer = replace(ONE, colours=("red", "blue"), places=("top", "left"))
    few = {(b, o) for b, o in held_out if o.colour in fewer.colours and o.place in fewer.places}
    still = replace(fewer, split="held-out").build().combinations
    assert {combination(s) for s in still} == few


@pytest.mark.parametrize("spec", SPECS)
def test_held_out_scenes_are_distinct_complete_and_seeded(spec):
    scenes = held_out_scenes(spec, 150, seed=3)
    assert len(set(scenes)) == 150
    assert scenes == held_out_scenes(spec, 150, seed=3) != held_out_scenes(spec, 150, seed=4)
    rngs = [np.random.default_rng(i) for i in range(150)]
    layouts = np.stack([layout(s, rng) for s, rng in zip(scenes, rngs, strict=True)])
    assert draw(scenes, layouts, 24).shape == (150, 24, 24, 3)
    assert len(held_out_scenes(spec, 2000)) == 2000  # more than there are: they repeat


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"shapes": ("circle", "hexagon")}, ["shapes", "hexagon", "triangle"]),
        ({"colours": ("teal",)}, ["colours", "teal", "orange"]),
        ({"sizes": ()}, ["sizes", "small"]),
        ({"places": ("top", "top")}, ["places", "bottom right"]),
        ({"backgrounds": ("red",)}, ["backgrounds", "red", "white"]),
        ({"objects": 3}, ["objects", "3", "1, 2"]),
        ({"objects": 2, "colours": ("red",)}, ["colours", "2"]),
        ({"size": 4}, ["size", "4", "16"]),
        ({"count": 0}, ["count", "0", "1"]),
        ({"seed": -1}, ["seed", "-1", "0"]),
    ],
)
def test_a_bad_field_is_one_line_that_names_it(fields, words):
    with pytest.raises(ValueError) as error:
        Scenes(**fields)
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words)


def test_a_split_without_combinations_says_so():
    tiny = Scenes(
        shapes=("circle",),
        colours=("red",),
        sizes=("small",),
        places=("top",),
        backgrounds=("white",),
        split="held-out",
    )
    assert len(replace(tiny, split="train").build().combinations) == 1
    with pytest.raises(ValueError, match="split: 'held-out' has no combination"):
        tiny.build()


def test_indices_beyond_the_count_are_errors_so_that_iteration_ends():
    data = Scenes(count=3).build()
    assert len(data) == len(list(data)) == 3  # pyright: ignore[reportArgumentType]
    with pytest.raises(IndexError):
        data[3]


def cost(work: Callable[[], object]) -> float:
    """Seconds of the processor that it takes, at the best of five times."""
    times = []
    for _ in range(5):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def test_scenes_are_drawn_several_times_as_fast_as_training_eats_them():
    """Three convolutions are far less than a step of any tokenizer; measured: 20 times the cost."""
    data = ONE.build()
    images = data.batch(range(64))["image"]
    shapes = (3, 32), (32, 32), (32, 3)
    network = torch.nn.Sequential(*(torch.nn.Conv2d(*shape, 3, padding=1) for shape in shapes))
    training = cost(lambda: network(images).square().mean().backward())
    assert cost(lambda: data.batch(range(64))) < training / 4
