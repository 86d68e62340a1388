"""A name that there is is taken as it stands; any other is a pattern."""

from pathlib import Path

import pytest

from calotype.data.paths import files_of


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
