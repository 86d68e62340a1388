"""Check generated images against the scenes that prompted them: alignment measured, not guessed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import permutations

from jaxtyping import Float
from torch import Tensor

from calotype.data.drawn.scenes import Object, Scene
from calotype.evaluation.reading import Found, Reading, read, relation


@dataclass(frozen=True)
class Alignment:
    """How well images show what they were asked to."""

    verdicts: tuple[dict[str, bool], ...]
    """For each image, whether each factor holds."""

    @property
    def accuracy(self) -> dict[str, float]:
        """Fraction of the images in which a factor holds, by factor."""
        names = self.verdicts[0]
        return {n: sum(v[n] for v in self.verdicts) / len(self.verdicts) for n in names}

    @property
    def all_right(self) -> float:
        """Fraction of the images in which all factors hold."""
        return sum(all(v.values()) for v in self.verdicts) / len(self.verdicts)


def alignment(
    images: Iterable[Float[Tensor, "3 H W"]] | Float[Tensor, "b 3 H W"],
    scenes: Sequence[Scene],
) -> Alignment:
    """Check images, each against its scene; see `check`.

    Raises:
        ValueError: If there are no images, or not as many as scenes, or if some scenes have one
            object and some two, which have other factors.
    """
    images = list(images)
    if not images or len(images) != len(scenes):
        raise ValueError(f"{len(images)} images for {len(scenes)} scenes: give one for each")
    if len({len(scene.objects) for scene in scenes}) > 1:
        raise ValueError("scenes: some have one object and some two; check them apart")
    pairs = zip(images, scenes, strict=True)
    return Alignment(tuple(check(image, scene) for image, scene in pairs))


def check(image: Float[Tensor, "3 H W"], scene: Scene) -> dict[str, bool]:
    """Say which factors of a scene an image shows.

    The image is read in the whole vocabulary of scenes, whatever part of it a model was trained
    on: a shape that was never asked for is wrong, rather than taken for the most similar one.

    Args:
        image: sRGB in [-1, 1]; blurred, noisy or slightly off in colour does not matter.
        scene: What the image should show.

    Returns:
        For one object: "shape", "colour", "size", "place", "background", and "count": one object
        and nothing else. For two: "first shape", ..., "second size", "relation", "background" and
        "count". All are False where no object of a known shape is seen.

    Raises:
        ValueError: If the image is not square.
    """
    if image.shape[-1] != image.shape[-2]:
        raise ValueError(f"image: {tuple(image.shape)} is not square; scenes are")
    reading = read(image, len(scene.objects))
    verdict = _check_one if scene.relation is None else _check_two
    return {
        **verdict(reading, scene),
        "background": reading.background == scene.background,
        "count": reading.complete and len(reading.objects) == len(scene.objects),
    }


def _check_one(reading: Reading, scene: Scene) -> dict[str, bool]:
    return _compare(reading.objects[0] if reading.objects else None, scene.objects[0])


def _check_two(reading: Reading, scene: Scene) -> dict[str, bool]:
    first, second = _match(reading.objects, scene.objects)
    wanted_first, wanted_second = (
        {k: v for k, v in _compare(f, o).items() if k != "place"}
        for f, o in zip((first, second), scene.objects, strict=True)
    )
    return {
        **{f"first {k}": v for k, v in wanted_first.items()},
        **{f"second {k}": v for k, v in wanted_second.items()},
        "relation": bool(first and second and relation(first, second) == scene.relation),
    }


def _compare(found: Found | None, wanted: Object) -> dict[str, bool]:
    """Compare factor by factor; a missing object has none right."""
    names = [field.name for field in fields(Object)]
    return {n: found is not None and getattr(found, n) == getattr(wanted, n) for n in names}


def _match(found: Sequence[Found], wanted: Sequence[Object]) -> tuple[Found | None, ...]:
    """Say which object found is which one wanted: by colour, then by the other factors."""

    def agreement(order: tuple[Found | None, ...]) -> tuple[int, int]:
        verdicts = [_compare(f, o) for f, o in zip(order, wanted, strict=True)]
        return sum(v["colour"] for v in verdicts), sum(sum(v.values()) for v in verdicts)

    padded = [*found, *[None] * (len(wanted) - len(found))]
    return max(permutations(padded), key=agreement)
