import os
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from calotype.data.archives import kept as kept_tars
from calotype.data.archives.tars import Endings, Index

ENDINGS = Endings(("png",), "txt", "caption", "empty")


def write(file: Path, *names: str) -> Path:
    with tarfile.open(file, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, BytesIO(name.encode()))
    return file


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kept_tars, "KEPT_FROM", 0)
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path / "home"))
    return tmp_path / "home/tars"


def looked(tar: Path, endings: Endings = ENDINGS) -> tuple[object, ...]:
    index: Index = kept_tars.looked_through([str(tar)], endings)[0]
    return index.places.tolist(), index.names, index.ends.tolist(), dict(index.endings), index.bare


def test_a_tar_is_looked_through_once(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = write(tmp_path / "a.tar", "é.png", "é.txt", "1.txt", "2.png")
    first = looked(tar)
    monkeypatch.setattr(kept_tars, "indexed", None)  # which is not asked again
    assert looked(tar) == first and first[1] == "é.png2.png".encode()
    assert first[3] == {"png": 2, "txt": 2} and len(list(home.iterdir())) == 1


def test_what_is_no_longer_so_is_looked_through_anew(tmp_path: Path, home: Path) -> None:
    tar = write(tmp_path / "a.tar", "0.png", "1.png")
    looked(tar)
    write(tar, "0.png", "x.png")
    os.utime(tar, ns=(1, 1))
    assert looked(tar)[1] == b"0.pngx.png"
    assert looked(tar, Endings(("txt",), None, "", "empty"))[0] == []
    for kept in home.iterdir():
        kept.write_bytes(kept.read_bytes()[:20])
    assert looked(tar)[1] == b"0.pngx.png"


def test_a_place_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    assert looked(write(tmp_path / "a.tar", "0.png"))[1] == b"0.png"
