import importlib.util

import pytest

from calotype.data import CenterCrop, OpenMoji, Transform, once, openmoji


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmoji, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'run pip install "calotype\[openmoji\]"'):
        OpenMoji().build()


def test_a_size_that_cannot_be_is_named() -> None:
    with pytest.raises(ValueError, match=r"data\.size is 0: it must be at least 1"):
        OpenMoji(size=0)


INSTALLED = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in openmoji.PACKAGES),
    reason="the extra openmoji is not installed",
)


@INSTALLED
def test_drawings_have_names_and_stand_on_white() -> None:
    dataset = OpenMoji(size=48).build()
    captions = {record[1]: index for index, record in enumerate(dataset.records.drawings)}  # pyright: ignore
    example = dataset[captions["red heart"]]
    assert len(dataset) > 3900
    assert example["caption"] == "red heart"
    assert example["image"].size == (48, 48)
    assert example["image"].getpixel((0, 0)) == (255, 255, 255)
    red, green, blue = example["image"].getpixel((24, 24))  # pyright: ignore
    assert red > 180 and green < 80 and blue < 80


@INSTALLED
def test_drawings_have_alpha_where_they_stand_on_nothing() -> None:
    sizes = Transform(CenterCrop(48), mode="RGBA")
    image = next(once(OpenMoji(48, "transparent").build(), 8, sizes))["image"]
    assert image.shape == (8, 4, 48, 48)
    assert (image[:, :, 0, 0] == image.new_tensor([255, 255, 255, 0])).all()
    assert (image[:, 3].amax((1, 2)) == 255).all()
    opaque = next(once(OpenMoji(48).build(), 8, sizes))["image"]
    assert (opaque[:, 3] == 255).all()
    # On white they are the same, but for the rounding of edges.
    assert (opaque[:, :3].int() - image[:, :3].int()).abs().max() <= 3
