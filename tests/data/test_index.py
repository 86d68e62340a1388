"""The index of a large folder is kept, and believed only while the folder is what it was."""

import json
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow
import pytest

from calotype.data import Folder
from calotype.data.folders import keeping, survey
from calotype.data.folders.folder import FolderRecords
from calotype.data.identity import of_files
from calotype.data.reading.paths import cache_home

LOOKED: list[Path] = []


@pytest.fixture(autouse=True)
def every_index_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a folder is trusted at once."""
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(keeping, "KEPT_FROM", 1)
    monkeypatch.setattr(survey, "SETTLED", 0)
    look = survey.survey

    def looked(root: Path):
        LOOKED.append(root)
        return look(root)

    LOOKED.clear()
    monkeypatch.setattr(keeping, "survey", looked)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    for name in ("a/1", "a/2", "b/3"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.jpg").write_bytes(b"x" * int(name[-1]))
        (root / f"{name}.txt").write_text(f"text {name}")
    time.sleep(0.02)  # clocks of file systems tick
    return root


def captions(folder: Path, **options) -> list[str]:
    return [record.caption for record in Folder(folder, **options).build().records]


def is_looked_through(folder: Path, **options) -> bool:
    before = len(LOOKED)
    Folder(folder, **options).build()
    return len(LOOKED) > before


def test_the_second_start_lists_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, first = captions(folder), Folder(folder).build().identity()
    assert known == ["text a/1", "text a/2", "text b/3"]

    def scandir(path):
        raise AssertionError(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert captions(folder) == known and Folder(folder).build().identity() == first
    assert LOOKED == [folder]
    assert first == of_files(
        [folder / f"{n}.jpg" for n in ("a/1", "a/2", "b/3")], folder, "pictures"
    )


@pytest.mark.parametrize("change", [
    "added", "removed", "renamed", "in a new folder", "in a folder that had none", "another size",
])  # fmt: skip
def test_a_folder_that_changed_is_looked_through_anew(folder: Path, change: str) -> None:
    (folder / "empty").mkdir()
    time.sleep(0.02)
    known = Folder(folder, captions="none").build()
    assert not is_looked_through(folder, captions="none")
    if change == "added":
        (folder / "b/4.jpg").touch()
    elif change == "removed":
        (folder / "a/2.jpg").unlink()
    elif change == "renamed":
        (folder / "a/2.jpg").rename(folder / "a/x.jpg")
    elif change == "in a new folder":
        (folder / "b/deep").mkdir()
        (folder / "b/deep/4.jpg").touch()
    elif change == "in a folder that had none":
        (folder / "empty/4.jpg").touch()
    else:  # of a picture that is looked at: one in `SEEN_EVERY`
        (folder / "a/1.jpg").write_bytes(b"another")
    new = Folder(folder, captions="none").build()
    assert new.identity() != known.identity()
    assert {r.name for r in new.records} == {str(f) for f in folder.rglob("*.jpg")}


def test_metadata_that_changed_are_read_anew(folder: Path) -> None:
    for text in folder.rglob("*.txt"):
        text.unlink()
    table = folder / "metadata.jsonl"
    for said in ("one", "two"):  # written in place: no folder's time tells
        rows = [{"file_name": f"{n}.jpg", "text": said} for n in ("a/1", "a/2", "b/3")]
        table.write_text("\n".join(map(json.dumps, rows)))
        time.sleep(0.02)
        assert captions(folder) == [said] * 3
        assert not is_looked_through(folder) and captions(table) == [said] * 3


def test_texts_that_changed_need_no_new_index(folder: Path) -> None:
    captions(folder)
    (folder / "a/2.txt").write_text("rewritten")
    assert captions(folder) == ["text a/1", "rewritten", "text b/3"] and len(LOOKED) == 1
    records = Folder(folder).build().records
    (folder / "a/2.txt").write_bytes(b"one\ncaf\xe9")
    with pytest.raises(ValueError, match=r"a/2\.txt line 2: not UTF-8"):
        records[1]


def test_what_was_asked_for_otherwise_is_another_index(folder: Path) -> None:
    captions(folder)
    assert captions(folder, captions="none") == [""] * 3
    assert captions(folder, captions="folders") == ["a", "a", "b"]
    assert captions(folder, captions="folders", caption_template="a {name}") == [
        "a a",
        "a a",
        "a b",
    ]
    assert len(LOOKED) == 3


def test_what_is_passed_over_is_told_each_time(folder: Path) -> None:
    (folder / "b/4.jpg").touch()
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"1 picture without a caption passed over.*4\.jpg"):
            records = Folder(folder, uncaptioned="skip").build().records
        assert isinstance(records, FolderRecords)
        assert list(records.passed_over()) == [(str(folder / "b/4.jpg"), "no caption")]


def test_a_folder_that_changes_while_it_is_looked_through_is_not_trusted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "SETTLED", 2_000_000_000)
    captions(folder)
    assert is_looked_through(folder) and is_looked_through(folder)


def test_an_index_is_shared_and_not_copied(folder: Path) -> None:
    captions(folder)
    before = pyarrow.total_allocated_bytes()
    data = Folder(folder).build()
    assert pyarrow.total_allocated_bytes() == before
    sent = pickle.dumps(data)
    assert b"2.jpg" not in sent and b"3.txt" not in sent  # its place travels to a worker
    assert list(pickle.loads(sent).records) == list(data.records)


def test_small_folders_leave_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "KEPT_FROM", 4)
    data = Folder(folder).build()
    assert not cache_home().exists()
    assert list(pickle.loads(pickle.dumps(data)).records) == list(data.records)


def test_two_that_begin_at_once_write_one_index(folder: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(captions, [folder] * 4))
    assert found == [["text a/1", "text a/2", "text b/3"]] * 4
    (home,) = (cache_home() / "folders").iterdir()
    indices = [each.name for each in home.iterdir() if each.is_dir()]
    assert indices == [json.loads((home / "newest.json").read_text())]


def test_old_indices_are_removed_but_for_the_last(folder: Path) -> None:
    for i in range(4):
        (folder / f"a/{i}.jpg").write_bytes(b"new")
        (folder / f"a/{i}.txt").write_text("new")
        time.sleep(0.02)
        captions(folder)
    (home,) = (cache_home() / "folders").iterdir()
    assert len([each for each in home.iterdir() if each.is_dir()]) == 2


@pytest.mark.parametrize("damage", ["newest.json", "*/rows.arrow", "*/header.json"])
def test_an_index_that_is_damaged_is_written_anew(folder: Path, damage: str) -> None:
    known = captions(folder)
    (home,) = (cache_home() / "folders").iterdir()
    (file,) = home.glob(damage)
    file.write_bytes(file.read_bytes()[:10])
    assert captions(folder) == known == captions(folder) and len(LOOKED) == 2


def test_where_nothing_can_be_kept_it_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.parent / "file").touch()
    monkeypatch.setenv("CALOTYPE_CACHE", str(folder.parent / "file"))
    with pytest.warns(UserWarning, match="cannot be written .*another folder by CALOTYPE_C"):
        assert len(captions(folder)) == 3
