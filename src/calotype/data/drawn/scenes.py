"""Captioned scenes with true factors: endless, seeded, drawn at any size, nothing to download.

A scene is one object (shape, colour, size, place) on a plain background, or two objects in a
relation. Scene i is a function of (seed, i) alone. A fixed part of all combinations of factors is
held out, so that a model can be asked for what it was never shown.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from calotype.data.drawn.checks import check_at_least, check_names
from calotype.data.drawn.shapes import SHAPES, coverage
from calotype.data.reading.transforms import to_tensor

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 32, 36),
    "orange": (255, 136, 0),
    "yellow": (250, 222, 30),
    "green": (24, 160, 60),
    "cyan": (40, 215, 225),
    "blue": (30, 85, 230),
    "purple": (135, 40, 150),
    "pink": (255, 130, 190),
}
"""sRGB of the objects; any two, and any one and a background, are 35 or more apart in CIELAB."""

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "grey": (135, 135, 135),
    "brown": (105, 65, 30),
}
"""sRGB of the backgrounds."""

SIZES: dict[str, float] = {"small": 0.14, "large": 0.235}
"""Radius of an object as a fraction of the image's side."""

PLACES: dict[str, tuple[float, float]] = {
    "top left": (0.25, 0.25),
    "top": (0.5, 0.25),
    "top right": (0.75, 0.25),
    "left": (0.25, 0.5),
    "centre": (0.5, 0.5),
    "right": (0.75, 0.5),
    "bottom left": (0.25, 0.75),
    "bottom": (0.5, 0.75),
    "bottom right": (0.75, 0.75),
}
"""Centre (x, y) of an object as fractions of the image's side; y points down."""

RELATIONS: dict[str, tuple[int, int]] = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
"""Direction (x, y) from the second object to the first; y points down."""

PHRASES: dict[str, tuple[str, ...]] = {
    "small": ("small", "little"),
    "large": ("large", "big"),
    **{p: (f"at the {p}", f"in the {p} corner") for p in PLACES if " " in p},
    "top": ("at the top", "in the top middle"),
    "bottom": ("at the bottom", "in the bottom middle"),
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "centre": ("in the centre", "in the middle"),
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
"""The words for a factor, the canonical ones first; a factor not listed is its own word."""

WORDINGS: tuple[str, ...] = (
    "a {object} {place} on a {background} background",
    "{background} background with a {object} {place}",
    "There is a {object} {place}; the background is {background}.",
    "{place}, a {object} on {background}",
    "A picture of a {object} {place} of a {background} canvas.",
    "The {object} sits {place}, and everything else is {background}.",
    "on {background}: a {object} {place}",
    "{object}, {place}, {background} background",
)
"""Wordings of a scene of one object, the canonical one first."""

RELATION_WORDINGS: tuple[str, ...] = (
    "a {object} {relation} a {other} on a {background} background",
    "{background} background with a {object} {relation} a {other}",
    "There is a {object} {relation} a {other}; the background is {background}.",
    "on {background}, a {object} {relation} a {other}",
    "A picture of a {object} {relation} a {other} on a {background} canvas.",
    "The {object} is {relation} the {other}, and everything else is {background}.",
    "on {background}: a {object} {relation} a {other}",
    "{object} {relation} {other}, {background} background",
)
"""Wordings of a scene of two objects, the canonical one first."""

HELD_OUT = 0.12
"""Fraction of the combinations of factors that the training split never shows."""

Split = Literal["train", "held-out"]
ONE, TWO = ("shape", "colour", "size", "place", "background"), ("relation", "background")
"""Factors of a scene of one object, and those of two that are neither's."""


@dataclass(frozen=True)
class Object:
    """The factors of one object."""

    shape: str
    colour: str
    size: str
    place: str | None
    """None in a relation, which says where the object is."""


@dataclass(frozen=True)
class Scene:
    """What a caption says of an image, and all that can be right or wrong in it."""

    background: str
    objects: tuple[Object, ...]
    relation: str | None = None
    """Of the first object to the second; None where there is only one."""

    def caption(self, rng: np.random.Generator | None = None) -> str:
        """Word the scene, naming every factor: canonically, or as `rng` draws."""
        pick = _Pick(rng)
        first, *others = (f"{pick(o.size)} {o.colour} {o.shape}" for o in self.objects)
        facts = {"object": first, "background": self.background}
        if self.relation is None:
            facts["place"] = pick(self.objects[0].place or "")
        else:
            facts |= {"relation": pick(self.relation), "other": others[0]}
        wordings = WORDINGS if self.relation is None else RELATION_WORDINGS
        return pick.one(wordings).format_map(facts)


class _Pick:
    """Chooses words: at random, or always the first."""

    def __init__(self, rng: np.random.Generator | None) -> None:
        self.rng = rng

    def one(self, options: Sequence[str]) -> str:
        return options[0 if self.rng is None else int(self.rng.integers(len(options)))]

    def __call__(self, factor: str) -> str:
        return self.one(PHRASES.get(factor, (factor,)))


@dataclass(frozen=True)
class Scenes:
    """A procedural set of captioned scenes.

    Raises:
        ValueError: If a field has a value that cannot be drawn.
    """

    size: int = 32
    """Side of the images, in pixels; 16 or more."""
    seed: int = 0
    """Scene i is a function of this and i alone."""
    count: int = 1_000_000
    """Number of scenes in the set."""
    objects: int = 1
    """1: an object in a place; 2: two objects of different colours in a relation."""
    shapes: tuple[str, ...] = ("circle", "square", "triangle", "cross")
    """From circle, square, triangle, cross, diamond, ring, star, heart."""
    colours: tuple[str, ...] = tuple(COLOURS)
    """From red, orange, yellow, green, cyan, blue, purple, pink."""
    sizes: tuple[str, ...] = tuple(SIZES)
    """From small, large."""
    places: tuple[str, ...] = tuple(PLACES)
    """From "top left", top, "top right", left, centre, right, "bottom left", bottom, ..."""
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
    """From white, black, grey, brown."""
    split: Split = "train"
    """The combinations of factors shown in training, or those held out (about 12 %)."""

    def __post_init__(self) -> None:
        check_names("shapes", self.shapes, SHAPES)
        check_names("colours", self.colours, COLOURS)
        check_names("sizes", self.sizes, SIZES)
        check_names("places", self.places, PLACES)
        check_names("backgrounds", self.backgrounds, BACKGROUNDS)
        check_names("split", (self.split,), get_args(Split))
        check_at_least("size", self.size, 16)
        check_at_least("seed", self.seed, 0)
        check_at_least("count", self.count, 1)
        if self.objects not in (1, 2):
            raise ValueError(f"data.objects: {self.objects} is not possible; choose from 1, 2")
        if self.objects == 2 and len(self.colours) < 2:
            raise ValueError("data.colours: two objects differ in colour; name at least 2 colours")

    def build(self) -> "SceneDataset":
        """Make the data set.

        Raises:
            ValueError: If no combination of these factors belongs to the split.
        """
        return SceneDataset(self)


class SceneDataset(Dataset):
    """A map-style set of `{"image": PIL.Image, "caption": str, "factors": float32 [f]}`; also gives
    batches of tensors. Factors are those of `names`, by the place of their value among the spec's.
    """

    def __init__(self, spec: Scenes) -> None:
        self.spec = spec
        self.combinations = [c for c in _combinations(spec) if _split(c) == spec.split]
        if not self.combinations:
            raise ValueError(f"split: {spec.split!r} has no combination of these factors; add some")

    def __len__(self) -> int:
        return self.spec.count

    @property
    def names(self) -> tuple[str, ...]:
        """Of the factors."""
        if self.spec.objects == 1:
            return ONE
        return *(f"{which} {name}" for which in ("first", "second") for name in ONE[:3]), *TWO

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixels, captions, factors = self._draw([index])
        return {"image": Image.fromarray(pixels[0]), "caption": captions[0], "factors": factors[0]}

    def batch(self, indices: Sequence[int], keys: Sequence[int] = ()) -> dict:
        """Draw many scenes at once: the same pixels as one by one, several times faster.

        Args:
            indices: Which scenes.
            keys: Seeds of augmentations; a scene has none.

        Returns:
            `{"image": float32 [b, 3, size, size] in [-1, 1], "caption": b strings, "factors":
            float32 [b, f]}`.
        """
        pixels, captions, factors = self._draw(indices)
        return {"image": to_tensor(pixels), "caption": captions, "factors": factors}

    def scene(self, index: int) -> Scene:
        """Give the true factors of scene `index`."""
        return self._scene(self._rng(index))

    def _rng(self, index: int) -> np.random.Generator:
        if not 0 <= index < self.spec.count:
            raise IndexError(f"scene {index} of {self.spec.count}")
        return np.random.default_rng((self.spec.seed, index))

    def _scene(self, rng: np.random.Generator) -> Scene:
        return _complete(self.combinations[rng.integers(len(self.combinations))], self.spec, rng)

    def _draw(
        self, indices: Sequence[int]
    ) -> tuple[UInt8[np.ndarray, "b H W 3"], list[str], Float32[Tensor, "b f"]]:
        rngs = [self._rng(index) for index in indices]
        scenes = [self._scene(rng) for rng in rngs]
        captions = [scene.caption(rng) for scene, rng in zip(scenes, rngs, strict=True)]
        layouts = [layout(scene, rng) for scene, rng in zip(scenes, rngs, strict=True)]
        factors = torch.tensor([self._factors(scene) for scene in scenes]).float()
        return draw(scenes, np.stack(layouts), self.spec.size), captions, factors

    def _factors(self, scene: Scene) -> list[int]:
        spec, found = self.spec, list[int]()
        for each in scene.objects:
            found += [spec.shapes.index(each.shape), spec.colours.index(each.colour),
                      spec.sizes.index(each.size)]  # fmt: skip
        if scene.relation is None:
            found.append(spec.places.index(scene.objects[0].place or ""))
        else:
            found.append([*RELATIONS].index(scene.relation))
        return [*found, spec.backgrounds.index(scene.background)]


def held_out_scenes(spec: Scenes, n: int, seed: int = 0) -> list[Scene]:
    """Choose n scenes that `split="train"` never shows; distinct while there are so many."""
    held_out = replace(spec, split="held-out").build().combinations
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(held_out))
    return [_complete(held_out[order[i % len(order)]], spec, rng) for i in range(n)]


def _combinations(spec: Scenes) -> list[Scene]:
    """List what the split is made over: all factors, or for two objects all but size, background.

    The factors left free are empty strings, for `_complete` to draw.
    """
    if spec.objects == 1:
        factors = spec.shapes, spec.colours, spec.sizes, spec.places, spec.backgrounds
        return [Scene(f[-1], (Object(*f[:4]),)) for f in product(*factors)]
    return [
        Scene("", (Object(s, c, "", None), Object(t, d, "", None)), relation)
        for s, t in product(spec.shapes, repeat=2)
        for c, d in permutations(spec.colours, 2)
        for relation in RELATIONS
    ]


def _complete(scene: Scene, spec: Scenes, rng: np.random.Generator) -> Scene:
    if spec.objects == 1:
        return scene
    sizes = (spec.sizes[rng.integers(len(spec.sizes))] for _ in scene.objects)
    objects = tuple(replace(o, size=s) for o, s in zip(scene.objects, sizes, strict=True))
    background = spec.backgrounds[rng.integers(len(spec.backgrounds))]
    return Scene(background, objects, scene.relation)


def _split(combination: Scene) -> Split:
    """Hash the factors' names, so that no choice of factors or version of Python moves a scene."""
    words = [combination.background, combination.relation or ""]
    for o in combination.objects:
        words += [o.shape, o.colour, o.size, o.place or ""]
    digest = hashlib.blake2b("|".join(words).encode(), digest_size=8).digest()
    return "held-out" if int.from_bytes(digest, "big") < HELD_OUT * 2**64 else "train"


def layout(scene: Scene, rng: np.random.Generator) -> Float32[np.ndarray, "objects 3"]:
    """Draw where the objects are: rows of (x, y, radius), as fractions of the image's side.

    Radii vary by 3 %, places by 3 % of the side; objects lie whole within the image, two never
    touch and their centres are farther apart along the relation than across it.
    """
    radii = np.array([SIZES[o.size] for o in scene.objects]) * rng.uniform(0.97, 1.03)
    if scene.relation is None:
        centre = np.array([PLACES[o.place or ""] for o in scene.objects])
        centre = centre + rng.uniform(-0.03, 0.03, (1, 2))
        centre = np.clip(centre, radii[0], 1 - radii[0])
    else:
        centre = _related_centres(RELATIONS[scene.relation], radii, rng)
    return np.column_stack([centre, radii]).astype(np.float32)


def _related_centres(
    direction: tuple[int, int], radii: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    gap = 0.02  # of the side; the largest two objects leave 0.03
    across = 0.5 + rng.uniform(-0.1, 0.1, 2)
    slack = rng.dirichlet((1, 1, 1)) * (1 - gap - 2 * radii.sum())
    near = int(sum(direction) > 0)  # the object nearer to the left or to the top
    along = np.empty(2)
    along[near] = slack[0] + radii[near]
    along[1 - near] = 1 - slack[2] - radii[1 - near]
    return np.column_stack([along, across] if direction[0] else [across, along])


def draw(
    scenes: Sequence[Scene], layouts: Float32[np.ndarray, "b objects 3"], size: int
) -> UInt8[np.ndarray, "b {size} {size} 3"]:
    """Draw scenes of one number of objects, each where its layout says; sRGB in 0..255."""
    few = max(1, 2**17 // size**2)  # scenes at a time, so that the masks stay in the cache
    parts = [slice(start, start + few) for start in range(0, len(scenes), few)]
    return np.concatenate([_draw_few(scenes[part], layouts[part], size) for part in parts])


def _draw_few(
    scenes: Sequence[Scene], layouts: Float32[np.ndarray, "b objects 3"], size: int
) -> UInt8[np.ndarray, "b {size} {size} 3"]:
    canvas = np.empty((len(scenes), 3, size, size), np.float32)
    canvas[:] = _rgb([BACKGROUNDS[scene.background] for scene in scenes])
    for k in range(layouts.shape[1]):
        objects = [scene.objects[k] for scene in scenes]
        mask = coverage([o.shape for o in objects], layouts[:, k], size)[:, None]
        canvas += mask * (_rgb([COLOURS[o.colour] for o in objects]) - canvas)
    return np.rint(canvas).astype(np.uint8).transpose(0, 2, 3, 1)


def _rgb(colours: Sequence[tuple[int, int, int]]) -> Float32[np.ndarray, "b 3 1 1"]:
    return np.array(colours, np.float32)[:, :, None, None]
