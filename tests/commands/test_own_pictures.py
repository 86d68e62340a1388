"""A folder is looked through once, and what is passed over is said with its reason."""

import json
from pathlib import Path

import pytest
from PIL import Image

from calotype.commands.own_pictures import Looked, look_through
from calotype.data import Folder


def photographs(folder: Path, count: int = 4, size: tuple[int, int] = (40, 30)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (size[0] + i, size[1]), (60 * i, 0, 0)).save(folder / f"{i}.png")
    return folder


def looked(folder: Path, seconds: float = 60.0) -> Looked:
    return look_through(folder, folder.parent / "out/pictures", seconds, 0)


def test_copies_are_small_and_keep_their_captions(tmp_path):
    folder = photographs(tmp_path / "photos")
    Image.new("RGB", (1000, 500)).save(folder / "large.png")
    for file in list(folder.glob("*.png")):
        file.with_suffix(".txt").write_text(f"picture {file.stem}\n")
    found = looked(folder)
    assert (found.found, found.copied, found.captioned, found.captions) == (5, 5, 5, 5)
    assert found.smallest == (40, 30) and found.largest == (1000, 500)
    copies = Folder(tmp_path / "out/pictures").build()
    pictures = {example["caption"]: example["image"].size for example in copies}
    assert pictures["picture large"] == (320, 160) and pictures["picture 2"] == (42, 30)


def test_what_cannot_be_read_and_what_is_no_picture_is_passed_over(tmp_path):
    folder = photographs(tmp_path / "photos")
    (folder / "broken.png").write_bytes((folder / "1.png").read_bytes()[:50])
    for name in ("a.psd", "b.PSD", "c.mp4", ".hidden.mp4"):
        (folder / name).touch()
    found = looked(folder)
    assert (found.found, found.copied) == (5, 4) and list(found.broken) == ["broken.png"]
    assert found.others == {".psd": 2, ".mp4": 1}
    said = "\n".join(found.lines())
    assert "5 pictures in" in said and "1 that cannot be read; broken.png: " in said
    assert "2 files .psd" in said and "4 pictures are few" in said
    assert "none of them has a caption" in said and not found.prompted


def test_captions_of_a_few_are_no_prompts(tmp_path):
    folder = photographs(tmp_path / "photos", 5)
    rows = [{"file_name": f"{i}.png", "caption": "on the Left" if i < 2 else ""} for i in range(5)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = looked(folder)
    assert found.captioned == 2 and not found.prompted and found.tell_sides


def test_metadata_of_any_name_are_no_files_of_another_kind(tmp_path):
    folder = photographs(tmp_path / "photos", 2)
    rows = [{"file_name": f"{i}.png", "caption": "on"} for i in range(2)]
    (folder / "metadata1000.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = looked(folder)
    assert found.captioned == 2 and not found.others


def test_there_is_time_for_some_and_the_rest_is_said(tmp_path):
    found = looked(photographs(tmp_path / "photos", 6), seconds=0.0)
    assert found.copied == 1
    assert "left out: 5, which the minutes do not suffice to read" in found.lines()


def test_it_is_looked_through_once(tmp_path):
    folder = photographs(tmp_path / "photos")
    found = looked(folder)
    for file in folder.iterdir():
        file.unlink()
    assert looked(folder) == found
    with pytest.raises(ValueError, match=r"was begun with the pictures of .*photos"):
        looked(photographs(tmp_path / "others"))


def test_a_folder_of_which_nothing_can_be_read_leaves_no_copies(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"none of 1 pictures in .* can be read; a\.png"):
        looked(folder)
    assert not (tmp_path / "out/pictures").exists()
    with pytest.raises(FileNotFoundError, match="no folder"):
        look_through(tmp_path / "absent", tmp_path / "out/pictures", 1.0, 0)
