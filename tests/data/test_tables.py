import json
import shutil
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import datasets
import pytest
from PIL import Image

from calotype.data import BrokenImage, Hub, Parquet, Pictures, Stream, WebDataset
from calotype.data.identity import identity
from calotype.training.network import Place

COLOURS = ["red", "lime", "blue", "white"]


def png(colour: str) -> bytes:
    file = BytesIO()
    Image.new("RGB", (4, 4), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(autouse=True)
def quiet_cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def write_parquet(file: Path, colours: list[str] = COLOURS, **columns: list) -> Path:
    images = [{"bytes": png(c) if c else b"broken", "path": None} for c in colours]
    table = datasets.Dataset.from_dict({"image": images, **columns})
    table = table.cast_column("image", datasets.Image())
    if "label" in columns:
        table = table.cast_column("label", datasets.ClassLabel(names=["cat", "dog"]))
    table.to_parquet(file)
    return file


def seen(dataset: Pictures | Stream) -> list[tuple]:
    mapped = isinstance(dataset, Pictures)
    examples = [dataset[i] for i in range(len(dataset))] if mapped else dataset
    return [(e["image"].mode, e["image"].getpixel((0, 0)), e["caption"]) for e in examples]


WHAT = [
    ("RGB", (255, 0, 0), "red"),
    ("RGB", (0, 255, 0), "lime"),
    ("RGB", (0, 0, 255), "blue"),
    ("RGB", (255, 255, 255), "white"),
]


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet(tmp_path: Path, streaming: bool) -> None:
    write_parquet(tmp_path / "0.parquet", COLOURS[:2], caption=COLOURS[:2])
    write_parquet(tmp_path / "1.parquet", COLOURS[2:], caption=COLOURS[2:])
    for path in (tmp_path, str(tmp_path / "*.parquet")):
        assert seen(Parquet(path, streaming=streaming).build()) == WHAT
    one = Parquet(tmp_path / "0.parquet", streaming=streaming, caption_column=None).build()
    assert [caption for _, _, caption in seen(one)] == ["", ""]


@pytest.mark.parametrize("streaming", [False, True])
def test_captions_of_lists_and_class_labels(tmp_path: Path, streaming: bool) -> None:
    lists = write_parquet(tmp_path / "a.parquet", ["red"] * 3, text=[["one", "two"], [], None])
    source = Parquet(lists, caption_column="text", streaming=streaming)
    assert [caption for _, _, caption in seen(source.build())] == ["one", "", ""]
    labels = write_parquet(tmp_path / "b.parquet", ["red"] * 2, label=[1, 0])
    source = Parquet(labels, caption_column="label", streaming=streaming)
    assert [caption for _, _, caption in seen(source.build())] == ["dog", "cat"]


@pytest.mark.parametrize("streaming", [False, True])
def test_hub_reads_what_datasets_reads(tmp_path: Path, streaming: bool) -> None:
    write_parquet(tmp_path / "train-0.parquet", caption=COLOURS)
    assert seen(Hub(str(tmp_path), streaming=streaming).build()) == WHAT


def write_tar(file: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    return file


@pytest.mark.parametrize("streaming", [False, True])
def test_webdataset(tmp_path: Path, streaming: bool) -> None:
    for shard in (0, 1):
        members: dict[str, bytes] = {}
        for i, colour in enumerate(COLOURS[2 * shard : 2 * shard + 2]):
            described = json.dumps({"caption": f"a {colour}"}).encode()
            members |= {
                f"{i}.png": png(colour),
                f"{i}.txt": colour.encode(),
                f"{i}.json": described,
            }
        write_tar(tmp_path / f"{shard}.tar", members)
    assert seen(WebDataset(tmp_path, streaming=streaming).build()) == WHAT
    source = WebDataset(f"{tmp_path}/*.tar", caption_key="json", streaming=streaming)
    assert [caption for _, _, caption in seen(source.build())] == [f"a {c}" for c in COLOURS]


def test_streams_of_paths_are_local_and_those_of_urls_are_not(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    tar = write_tar(tmp_path / "x.tar", {"0.png": png("red"), "0.txt": b"red"})
    parquet = write_parquet(tmp_path / "tables/x.parquet", caption=COLOURS)
    for path, local in (("", True), ("file://", False)):
        for source in (WebDataset(f"{path}{tar}"), Parquet(f"{path}{parquet}", streaming=True)):
            stream = source.build()
            assert isinstance(stream, Stream) and stream.local is local
            assert seen(stream)[0] == WHAT[0]
    folder = Hub(str(tmp_path / "tables"), streaming=True).build()
    assert isinstance(folder, Stream) and folder.local


@pytest.mark.parametrize("streaming", [False, True])
def test_broken_pictures_meet_the_policy(tmp_path: Path, streaming: bool) -> None:
    file = write_parquet(tmp_path / "x.parquet", ["", "red", "blue", ""], caption=list("abcd"))
    with pytest.warns(UserWarning, match=r"cannot read picture .*x\.parquet row"):
        captions = [caption for _, _, caption in seen(Parquet(file, streaming=streaming).build())]
    # By its index each picture has a place; a stream has none to fill.
    assert captions == (["b", "c"] if streaming else ["b", "b", "c", "b"])
    with pytest.raises(BrokenImage, match=r"x\.parquet row 0"):
        seen(Parquet(file, streaming=streaming, on_error="stop").build())


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_that_are_not_there(tmp_path: Path, streaming: bool) -> None:
    file = write_parquet(tmp_path / "x.parquet", caption=COLOURS, number=[1, 2, 3, 4])
    with pytest.raises(ValueError, match="no column jpg, text; it has image, caption, number"):
        Parquet(file, "jpg", "text", streaming).build()
    with pytest.raises(ValueError, match=r"column number holds .*not encoded pictures"):
        Parquet(file, "number", streaming=streaming).build()
    tar = write_tar(tmp_path / "x.tar", {"0.png": png("red"), "0.cls": b"1"})
    with pytest.raises(ValueError, match=r"no \.txt in it; it has \.cls, \.png"):
        WebDataset(tar, streaming=streaming).build()


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected a \.parquet file"):
        Parquet(tmp_path).build()
    with pytest.raises(FileNotFoundError, match=r"gone\.tar: expected a \.tar or"):
        WebDataset(tmp_path / "gone.tar").build()


def write_tars(root: Path, texts: list[bytes]) -> None:
    """Make shards of one picture each."""
    root.mkdir(exist_ok=True)
    for shard, text in enumerate(texts):
        write_tar(root / f"{shard}.tar", {"0.png": png("red"), "0.txt": text})


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("shard", [0, 1])
def test_a_broken_tar_is_named(tmp_path: Path, streaming: bool, shard: int) -> None:
    """Bug: tarfile.ReadError, or that there was an error, and a traceback."""
    write_tars(tmp_path, [b"a"] * 3)
    (tmp_path / f"{shard}.tar").write_bytes(b"no tar" * 999)
    with pytest.raises(ValueError, match=rf"/{shard}\.tar: broken \(.*fetch it again") as caught:
        seen(WebDataset(tmp_path, streaming=streaming).build())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("streaming", [False, True])
def test_tars_that_hold_nothing_to_read(tmp_path: Path, streaming: bool) -> None:
    write_tars(tmp_path / "latin", ["café".encode("latin-1")])
    if streaming:
        with pytest.raises(ValueError, match=r"caption of .*/0\.tar:0\.png: not UTF-8; save it"):
            seen(WebDataset(tmp_path / "latin").build())
    write_tar(tmp_path / "empty.tar", {})
    with pytest.raises(ValueError, match=r"empty\.tar: no \.jpg or .* in it; there is nothing"):
        WebDataset(tmp_path / "empty.tar", streaming=streaming).build()


@pytest.mark.parametrize("streaming", [False, True])
def test_a_broken_parquet_file_is_named(tmp_path: Path, streaming: bool) -> None:
    write_parquet(tmp_path / "0.parquet", caption=COLOURS)
    file = write_parquet(tmp_path / "1.parquet", caption=COLOURS)
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"1\.parquet: broken \(Parquet magic bytes.*fetch it"):
        Parquet(tmp_path, streaming=streaming).build()
    file.write_bytes(whole[:10] + b"\xff" * 60 + whole[70:])  # its end is good
    with pytest.raises(ValueError, match=r"1\.parquet: broken \(.*fetch it"):
        seen(Parquet(tmp_path, streaming=streaming).build())


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("columns", [{"text": COLOURS}, {}])
def test_parquet_files_of_different_columns(tmp_path: Path, streaming: bool, columns: dict) -> None:
    """Bug: DatasetGenerationCastError of ten lines; without the caption's, all captions empty."""
    write_parquet(tmp_path / "0.parquet", caption=COLOURS)
    write_parquet(tmp_path / "1.parquet", **columns)
    has = ", ".join(["image", *columns])
    with pytest.raises(
        ValueError, match=rf"1\.parquet: has the columns {has}, but .*0\.parquet has"
    ):
        Parquet(tmp_path, streaming=streaming).build()


@pytest.mark.parametrize("streaming", [False, True])
def test_a_parquet_file_may_lack_what_is_not_asked_for(tmp_path: Path, streaming: bool) -> None:
    write_parquet(tmp_path / "0.parquet", COLOURS[:2], caption=COLOURS[:2], more=[1, 2])
    write_parquet(tmp_path / "1.parquet", COLOURS[2:], caption=COLOURS[2:], other=["a", "b"])
    assert seen(Parquet(tmp_path, streaming=streaming).build()) == WHAT


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_without_rows(tmp_path: Path, streaming: bool) -> None:
    write_parquet(tmp_path / "0.parquet", [], caption=[])
    with pytest.raises(ValueError, match="no rows in it; expected one for each picture"):
        Parquet(tmp_path, streaming=streaming).build()


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_that_datasets_cannot_read(tmp_path: Path, streaming: bool) -> None:
    (tmp_path / "train-0.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"dataset .*: cannot be read \(.*; expected") as caught:
        seen(Hub(str(tmp_path), streaming=streaming).build())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("streaming", [False, True])
def test_captions_that_are_bytes_are_decoded(tmp_path: Path, streaming: bool) -> None:
    """Bug: the caption of b"a cat" was "b'a cat'"."""
    tar = write_tar(tmp_path / "0.tar", {"0.png": png("red"), "0.caption": "a café".encode()})
    source = WebDataset(tar, caption_key="caption", streaming=streaming)
    assert [caption for _, _, caption in seen(source.build())] == ["a café"]
    file = write_parquet(tmp_path / "0.parquet", ["red"] * 2, caption=[b"a cat", None])
    source = Parquet(file, streaming=streaming)
    assert [caption for _, _, caption in seen(source.build())] == ["a cat", ""]


def test_captions_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "x.parquet", ["red"], caption=["café".encode("latin-1")])
    with pytest.raises(ValueError, match=r"caption of .*x\.parquet row 0: not UTF-8; save it"):
        seen(Parquet(file, streaming=True).build())


@pytest.mark.parametrize("spec", [Parquet, Hub, WebDataset])
def test_a_buffer_holds_something(spec: type[Parquet]) -> None:
    with pytest.raises(ValueError, match=r"data\.shuffle_buffer is 0: it must be at least 1"):
        spec("x", shuffle_buffer=0)


@pytest.mark.parametrize("streaming", [False, True])
def test_tables_are_told_from_others_by_their_files(tmp_path: Path, streaming: bool) -> None:
    for name in "ac":
        (tmp_path / name).mkdir()
    file = write_parquet(tmp_path / "a/x.parquet", caption=COLOURS)
    said = identity(Parquet(file, streaming=streaming).build())
    assert said is not None and said.startswith("1 files, ")
    moved = Path(shutil.copytree(tmp_path / "a", tmp_path / "b")) / "x.parquet"
    assert identity(Parquet(moved, streaming=streaming).build()) == said
    other = write_parquet(tmp_path / "c/x.parquet", COLOURS[:3], caption=COLOURS[:3])
    assert identity(Parquet(other, streaming=streaming).build()) != said


@pytest.mark.parametrize("streaming", [False, True])
def test_bug_the_hub_was_known_by_its_count(tmp_path: Path, streaming: bool) -> None:
    """Bug: other data of the same length went on in a run; a stream's was known by nothing."""
    for name in "ac":
        (tmp_path / name).mkdir()
    write_parquet(tmp_path / "a/x.parquet", caption=COLOURS)
    write_parquet(tmp_path / "c/x.parquet", caption=["some longer text"] * 4)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    said = [identity(Hub(str(tmp_path / name), streaming=streaming).build()) for name in "abc"]
    assert said[0] and said[0] == said[1] != said[2]


@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_on_the_hub_is_known_by_its_commit(
    tmp_path: Path, streaming: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "x.parquet", caption=COLOURS)
    builder = datasets.load_dataset_builder(str(tmp_path))
    monkeypatch.setattr("calotype.data.tabular.tables.place", Place)
    monkeypatch.setattr("datasets.load_dataset_builder", lambda *_, **__: builder)
    for commit in ("0a1b", "2c3d"):
        builder.hash = commit
        said = identity(Hub("user/name", streaming=streaming).build())
        assert said == f"default train of user/name at {commit}"


@pytest.mark.parametrize("streaming", [False, True])
def test_bug_tables_at_urls_were_known_by_their_count(tmp_path: Path, streaming: bool) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    write_parquet(tmp_path / "a/x.parquet", caption=COLOURS)
    write_parquet(tmp_path / "c/x.parquet", caption=["some longer text"] * 4)
    shutil.copy(tmp_path / "a/x.parquet", tmp_path / "b/x.parquet")
    urls = [f"file://{tmp_path}/{name}/x.parquet" for name in "abc"]
    said = [identity(Parquet(url, streaming=streaming).build()) for url in urls]
    assert said[0] == said[1] != said[2] and str(said[0]).startswith("1 files, ")
