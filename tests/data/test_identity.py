"""Data is told from other data, wherever it lies."""

import shutil
from pathlib import Path

import pytest
from torch.utils.data import Dataset

import tiny
from calotype.data import Folder, Scenes
from calotype.data.identity import identified, identity
from calotype.data.pictures import Pictures, spread
from calotype.pipelines import picture


@pytest.fixture
def folder(tmp_path) -> Path:
    for i, image in enumerate(tiny.images(10)):
        place = tmp_path / "pictures" / ("ab"[i > 4])
        place.mkdir(parents=True, exist_ok=True)
        picture(image).save(place / f"{i}.png")
    return tmp_path / "pictures"


def of(path: Path) -> str | None:
    return identity(Folder(path).build())


def test_a_folder_that_moved_is_the_same(folder, tmp_path):
    known = of(folder)
    assert known is not None and known.startswith("10 pictures, ")
    assert of(Path(shutil.copytree(folder, tmp_path / "elsewhere"))) == known
    (tmp_path / "link").symlink_to(folder)
    assert of(tmp_path / "link") == known


@pytest.mark.parametrize("change", ["more", "fewer", "renamed", "another"])
def test_other_pictures_are_others(change, folder):
    known, first = of(folder), folder / "a/0.png"
    if change == "more":
        shutil.copy(first, folder / "a/10.png")
    elif change == "fewer":
        first.unlink()
    elif change == "renamed":
        first.rename(folder / "a/x.png")
    else:
        first.write_bytes(first.read_bytes() + b"\0")
    assert of(folder) != known


def test_what_a_recipe_says_whole_needs_no_more():
    assert identity(Scenes(count=4).build()) is None
    assert identified(data=Scenes(count=4).build(), validation=None) == {}


def test_so_many_are_taken_from_all_over(folder):
    """Bug: of a folder that is sorted by class the first were all of one."""
    data = Folder(folder).build()
    some = spread(data, 4)
    captions = [some[i]["caption"] for i in range(4)]
    assert captions == ["a", "a", "b", "b"] and len(some) == 4  # type: ignore[arg-type]
    assert identity(some) == identity(data)
    assert spread(data, None) is data and spread(data, 10) is data and spread(data, 11) is data
    scenes: Dataset = Scenes(count=9).build()
    assert spread(scenes, 3) is scenes and not isinstance(scenes, Pictures)


def test_a_link_to_nothing_is_left_to_the_policy_for_broken_pictures(folder):
    (folder / "a/x.png").symlink_to(folder / "absent.png")
    said = of(folder)
    assert said is not None and said.startswith("11 pictures, ")
