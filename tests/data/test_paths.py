"""A name that there is is taken as it stands; any other is a pattern."""

from pathlib import Path
from threading import Thread

import pytest

from calotype.data.reading.paths import alone, files_of


def names(path: str | Path) -> list[str]:
    return [Path(file).name for file in files_of(path, ".tar")]


@pytest.mark.parametrize("folder", ["data [v2]", "a*b", "what?", "plain"])
def test_folders_and_files_that_are_there(tmp_path: Path, folder: str) -> None:
    """Bug: `data [v2]` was a pattern that matched `data v` and `data 2`."""
    (tmp_path / folder / "deep").mkdir(parents=True)
    for name in ("b.tar", "a [1].TAR", "deep/c.tar", ".hidden.tar", "d.parquet"):
        (tmp_path / folder / name).touch()
    assert names(tmp_path / folder) == ["a [1].TAR", "b.tar", "c.tar"]
    assert names(tmp_path / folder / "a [1].TAR") == ["a [1].TAR"]
    assert names(tmp_path / folder / "b.tar") == ["b.tar"]


def test_patterns_and_urls(tmp_path: Path) -> None:
    for name in ("1.tar", "2.tar", "deep/3.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names(tmp_path / "*.tar") == ["1.tar", "2.tar"]
    assert names(f"{tmp_path}/**/[23].tar") == ["2.tar", "3.tar"]
    assert files_of("https://x.org/[1].tar", ".tar") == ["https://x.org/[1].tar"]


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.tar").touch()
    assert files_of("~/a.tar", ".tar") == files_of("~", ".tar") == [str(tmp_path / "a.tar")]


@pytest.mark.parametrize("path", ["", "*.tar", "gone"])
def test_nothing(tmp_path: Path, path: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"no files .*: expected a \.tar file, pattern or"):
        files_of(tmp_path / path, ".tar")


def test_of_two_one_is_alone_and_without_a_place_for_a_lock_both_are(tmp_path: Path) -> None:
    lock, order = tmp_path / "cache" / "some.lock", list[str]()

    def second() -> None:
        with alone(lock):
            order.append("second")

    with alone(lock):
        other = Thread(target=second)
        other.start()
        other.join(0.2)
        order.append("first")
    other.join()
    assert order == ["first", "second"]
    (tmp_path / "file").touch()
    with alone(tmp_path / "file" / "some.lock"):
        pass
