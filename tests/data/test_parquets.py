from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from calotype.data import Hub, Parquet, Pictures, Record, Stream
from calotype.data.pictures import Chosen, captions_of_all
from calotype.data.tabular.columns import Columns

READ = pytest.mark.parametrize("streaming", [False, True])


@pytest.fixture(autouse=True)
def quiet_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def png(shade: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write(file: Path, image: pa.Array, caption: pa.Array | None = None, **options: Any) -> Path:
    columns = {"image": image, **({} if caption is None else {"caption": caption})}
    pq.write_table(pa.table(columns), file, **options)
    return file


def read(source: Parquet) -> list[tuple[int, str]]:
    """Shade and caption of each picture."""
    dataset = source.build()
    each = dataset if isinstance(dataset, Stream) else map(dataset.__getitem__, range(len(dataset)))
    return [(e["image"].getpixel((0, 0))[0], e["caption"]) for e in each]  # type: ignore[index]


BYTES = pa.array([png(1), png(2)])
NOTHING = pa.nulls(2)


@READ
def test_bug_the_first_files_types_were_those_of_all(tmp_path: Path, streaming: bool) -> None:
    """Bug: all-null captions first, and no later caption could be read; and so pictures as plain
    bytes, as `datasets` writes them, or as paths.
    """
    kinds = [
        (BYTES, NOTHING),
        (BYTES, pa.array(["one", None])),
        (BYTES.cast(pa.large_binary()), pa.array(["two", "three"], pa.large_string())),
        (pa.array([{"bytes": png(3), "path": None}, {"bytes": png(4), "path": "x.png"}]),
         pa.array(["four", "five"])),
    ]  # fmt: skip
    for number, (image, caption) in enumerate(kinds):
        write(tmp_path / f"{number}.parquet", image, caption)
    said = ["", "", "one", "", "two", "three", "four", "five"]
    assert read(Parquet(tmp_path, streaming=streaming)) == list(
        zip([1, 2, 1, 2, 1, 2, 3, 4], said, strict=True)
    )


@READ
def test_captions_of_two_kinds_are_refused_by_name(tmp_path: Path, streaming: bool) -> None:
    write(tmp_path / "0.parquet", BYTES, NOTHING)
    write(tmp_path / "1.parquet", BYTES, pa.array(["a", "b"]))
    write(tmp_path / "2.parquet", BYTES, pa.array([["a", "b"], []]))
    with pytest.raises(ValueError, match=r"2\.parquet: column caption holds list.*of .*1\.parquet"):
        Parquet(tmp_path, streaming=streaming).build()


@READ
def test_labels_of_other_names_are_refused_by_name(tmp_path: Path, streaming: bool) -> None:
    for file, names in (("0", ["cat", "dog"]), ("1", ["dog", "cat"])):
        table = datasets.Dataset.from_dict({"image": BYTES.to_pylist(), "caption": [0, 1]})
        table = table.cast_column("caption", datasets.ClassLabel(names=names))
        table.to_parquet(tmp_path / f"{file}.parquet")
    one = Parquet(tmp_path / "1.parquet", streaming=streaming)
    assert read(one) == [(1, "dog"), (2, "cat")]
    with pytest.raises(ValueError, match=r"1\.parquet: column caption holds ClassLabel"):
        Parquet(tmp_path, streaming=streaming).build()


@READ
def test_bug_paths_were_looked_up_where_the_command_ran(tmp_path: Path, streaming: bool) -> None:
    folder = tmp_path / "data [v2]"  # no pattern, since it is there
    (folder / "images").mkdir(parents=True)
    (folder / "images/a.png").write_bytes(png(6))
    (tmp_path / "b.png").write_bytes(png(7))
    paths = pa.array(["images/a.png", str(tmp_path / "b.png")])
    write(folder / "0.parquet", paths, NOTHING)
    write(folder / "1.parquet", pa.array([{"bytes": None, "path": p} for p in paths.to_pylist()]),
          NOTHING)  # fmt: skip
    assert [shade for shade, _ in read(Parquet(folder, streaming=streaming))] == [6, 7, 6, 7]


@READ
def test_pictures_bear_the_names_of_their_files(tmp_path: Path, streaming: bool) -> None:
    for number, image in enumerate((BYTES, pa.array([png(3), b"", png(4)]))):
        write(tmp_path / f"{number}.parquet", image, row_group_size=2)
    source = Parquet(tmp_path, streaming=streaming, caption_column=None)
    with pytest.warns(UserWarning, match=r"cannot read picture .*/1\.parquet row 1: no bytes"):
        # By its index each picture has a place; a stream has none to fill.
        assert [shade for shade, _ in read(source)] == [1, 2, 3, *([] if streaming else [4]), 4]


def test_row_groups_are_parts(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.array([png(i) for i in range(7)]), row_group_size=3)
    write(tmp_path / "b.parquet", BYTES)
    stream = Parquet(tmp_path, caption_column=None, streaming=True).build()
    assert isinstance(stream, Stream) and stream.source.counts == [3, 3, 1, 2]
    places = [[r.name.split(".parquet row ")[1] for r in stream.part(n)] for n in range(4)]
    assert places == [["0", "1", "2"], ["3", "4", "5"], ["6"], ["0", "1"]]
    assert [r.name[-5:] for r in stream.source.read(1, [1, 2, 9])] == ["row 4", "row 5"]


@READ
def test_bug_of_several_captions_the_first_was_left(tmp_path: Path, streaming: bool) -> None:
    """Bug: no other of a list in a column was ever drawn."""
    file = write(tmp_path / "0.parquet", BYTES, pa.array([["a", "b"], ["c"]]))
    records = list(records_of(Parquet(file, streaming=streaming)))
    assert [(r.caption, r.captions) for r in records] == [("a", ("a", "b")), ("c", ())]


@READ
def test_bug_paths_fell_back_to_where_the_command_ran(
    tmp_path: Path, streaming: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: a picture of that name there was read in place of the one that is missing."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.png").write_bytes(png(1))
    monkeypatch.chdir(tmp_path / "elsewhere")
    file = write(tmp_path / "0.parquet", pa.array(["a.png"]), pa.nulls(1))
    with pytest.raises(FileNotFoundError, match=r"0\.parquet row 0 .*cannot be read"):
        read(Parquet(file, streaming=streaming))
    if streaming:  # or the tests' checks of types look at a record
        with pytest.raises(ValueError, match=r"row 0: its picture is a\.png, a path from a folder"):
            read(Parquet(f"file://{file}", streaming=True))


def records_of(source: Parquet) -> Iterable[Record]:
    dataset = source.build()
    return dataset.records() if isinstance(dataset, Stream) else dataset.records


@pytest.mark.parametrize("caption", ["caption", None])
def test_bug_captions_were_read_with_all_pictures(
    tmp_path: Path, caption: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, said in enumerate((["a", None], ["c", "d"])):
        write(tmp_path / f"{number}.parquet", BYTES, pa.array(said))
    table = Parquet(tmp_path, caption_column=caption).build()
    hub = Hub(str(tmp_path), caption_column=caption).build()
    monkeypatch.setattr(Columns, "record", lambda *_: Record(b"", "", "not read so"))
    for dataset in (table, hub):
        assert isinstance(dataset, Pictures)
        wanted = ["a", "", "c", "d"] if caption else [""] * 4
        assert list(captions_of_all(dataset.records)) == wanted
        some = Chosen(dataset.records, [3, 0, 3])
        assert list(captions_of_all(some)) == [wanted[place] for place in some.places]


def test_captions_of_some_records_that_cannot_say_them_alone() -> None:
    records = [Record(b"", str(i), str(i)) for i in range(4)]
    assert list(captions_of_all(Chosen(records, [3, 0]))) == ["3", "0"]


@READ
def test_bug_a_file_without_rows_stopped_all(tmp_path: Path, streaming: bool) -> None:
    write(tmp_path / "0.parquet", BYTES.slice(0, 0), NOTHING.slice(0, 0))
    write(tmp_path / "1.parquet", BYTES, pa.array(["one", "two"]))
    write(tmp_path / "2.parquet", BYTES.slice(0, 0), pa.array([], pa.string()))
    assert read(Parquet(tmp_path, streaming=streaming)) == [(1, "one"), (2, "two")]
