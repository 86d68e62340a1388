import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from calotype.data import Parquet, Stream, WebDataset
from calotype.data.reading import remote
from calotype.data.reading.remote import Patience
from calotype.data.reading.steady import Steady
from calotype.mistakes import is_told


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been slept."""
    slept: list[float] = []
    monkeypatch.setattr(remote, "PATIENCE", Patience(sleep=slept.append))
    return slept


class Line(io.BytesIO):
    """A file that every other reading of all fails of."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        Line.reads += 1
        if Line.reads % 2:
            raise ConnectionResetError("reset by peer")
        return super().read(size)


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[io.BytesIO]], None]:
    """Let files in memory be of this kind."""
    system = fsspec.get_filesystem_class("memory")
    opened = system.open

    def cut(kind: type[io.BytesIO]) -> None:
        def open_again(self: Any, path: str, mode: str = "rb", **options: Any) -> Any:
            file = opened(self, path, mode, **options)
            return kind(file.read()) if mode == "rb" else file

        monkeypatch.setattr(system, "open", open_again)

    return cut


def put(name: str, data: bytes) -> str:
    fsspec.filesystem("memory").pipe_file(f"/{name}", data)
    return f"memory://{name}"


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def tar() -> str:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as members:
        for i in range(40):
            info = tarfile.TarInfo(f"{i}.png")
            info.size = len(png(i))
            members.addfile(info, io.BytesIO(png(i)))
    return put("a.tar", file.getvalue())


def parquet() -> str:
    file = io.BytesIO()
    pq.write_table(pa.table({"image": [png(i) for i in range(40)]}), file, row_group_size=10)
    return put("a.parquet", file.getvalue())


SOURCES = [
    pytest.param(lambda: WebDataset(tar(), caption_key=None), id="tar"),
    pytest.param(lambda: Parquet(parquet(), caption_column=None, streaming=True), id="parquet"),
]


@pytest.mark.parametrize("made", SOURCES)
def test_bug_a_line_that_was_cut_ended_a_run(
    made: Callable[[], Any], cut: Callable[[type], None], pauses: list[float]
) -> None:
    """Bug: of tables and tars at URLs nothing was tried again."""
    source = made()
    cut(Line)
    stream = source.build()
    assert isinstance(stream, Stream)
    assert [e["image"].getpixel((0, 0))[0] for e in stream] == [*range(40)]  # type: ignore[index]
    assert pauses and set(pauses) == {0.5}


class Dead(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise ConnectionResetError("reset by peer")


@pytest.mark.parametrize("made", SOURCES)
def test_a_line_that_stays_cut_is_no_broken_file(
    made: Callable[[], Any], cut: Callable[[type], None]
) -> None:
    source = made()
    cut(Dead)
    with pytest.raises(OSError, match=r"^memory://a\.\w+ cannot be read, tried 5 times") as fault:
        list(source.build())
    assert is_told(fault.value)


class OneWay(io.BytesIO):
    """A file of a server that gives all or nothing."""

    def seek(self, offset: int, whence: int = 0) -> int:
        raise ValueError("cannot seek")


def test_what_cannot_go_elsewhere_is_read_up_to_there(cut: Callable[[type], None]) -> None:
    url = put("b", bytes(range(100)))
    cut(OneWay)
    with Steady(url) as file:
        assert file.seek(-10, io.SEEK_END) == 90
        assert file.read(2) == bytes([90, 91]) and file.tell() == 92
        file.seek(5)
        assert file.read(1) == b"\x05" and file.read() == bytes(range(6, 100))


def test_a_path_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a b#1").write_bytes(b"abc")
    with Steady(str(tmp_path / "a b#1")) as file:
        assert file.read() == b"abc"
