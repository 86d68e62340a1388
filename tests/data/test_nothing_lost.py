"""What is listed is read, skipped or refused, by name, whatever the source; nothing takes the place
of what is not read.
"""

import json
import tarfile
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from calotype.data import (
    Buckets,
    Filtered,
    Folder,
    Hub,
    Loader,
    Mixture,
    OpenMoji,
    Parquet,
    Pictures,
    Source,
    Stream,
    WebDataset,
    once,
)

Kind = Literal["good", "torn", "empty", "small", "silent"]
"""What a picture is: whole, cut off, without bytes, too small for the filter, without a caption."""
KINDS = st.lists(st.sampled_from(["good", "torn", "empty", "small", "silent"]), min_size=1,
                 max_size=8).filter(lambda kinds: "good" in kinds)  # fmt: skip
MANY = settings(deadline=None, max_examples=8, derandomize=True)


@pytest.fixture(autouse=True, scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("CALOTYPE_CACHE", str(home))
        patch.setattr("datasets.config.HF_DATASETS_CACHE", home)
        datasets.disable_progress_bars()
        yield
        datasets.enable_progress_bars()


def picture(kind: Kind, number: int) -> bytes:
    """A picture whose colour is its number."""
    file = BytesIO()
    side = 4 if kind == "small" else 16
    Image.new("RGB", (side, side), (number, 200, 7)).save(file, "PNG")
    return {"torn": file.getvalue()[:50], "empty": b""}.get(kind, file.getvalue())


def says(kind: Kind, number: int) -> str | None:
    return None if kind == "silent" else f"says {number}"


def texts(root: Path, kinds: Sequence[Kind]) -> Source:
    for i, kind in enumerate(kinds):
        (root / f"{i}.png").write_bytes(picture(kind, i))
        if (text := says(kind, i)) is not None:
            (root / f"{i}.txt").write_text(text)
    return Folder(root, uncaptioned="skip")


def metadata(root: Path, kinds: Sequence[Kind]) -> Source:
    rows = [{"file_name": f"{i}.png", "text": says(kind, i)} for i, kind in enumerate(kinds)]
    for i, kind in enumerate(kinds):
        (root / f"{i}.png").write_bytes(picture(kind, i))
    (root / "metadata.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    return Folder(root, uncaptioned="skip")


def table(root: Path, kinds: Sequence[Kind]) -> Path:
    for part in (0, 1):  # the even and the odd in a file each
        some = [(i, kind) for i, kind in enumerate(kinds) if i % 2 == part]
        images = [picture(kind, i) for i, kind in some]
        captions = pa.array([says(kind, i) for i, kind in some], pa.string())
        pq.write_table(pa.table({"image": images, "caption": captions}), root / f"{part}.parquet")
    return root


def tars(root: Path, kinds: Sequence[Kind], ending: str = "tar", how: str = "w") -> Path:
    for part in (0, 1):
        with tarfile.open(root / f"{part}.{ending}", how) as tar:  # pyright: ignore
            for i, kind in enumerate(kinds):
                members = [(f"{i}.png", picture(kind, i)), (f"{i}.txt", says(kind, i))]
                for name, data in members if i % 2 == part else ():
                    if data is not None:
                        member = tarfile.TarInfo(name)
                        content = data if isinstance(data, bytes) else data.encode()
                        member.size = len(content)
                        tar.addfile(member, BytesIO(content))
    return root


def mixture(root: Path, kinds: Sequence[Kind], *, streamed: bool) -> Source:
    first, second = root / "first", root / "second"
    first.mkdir()
    second.mkdir()
    tars(first, kinds)
    picked: list[Kind] = ["good", "torn"]
    return Mixture(WebDataset(first, uncaptioned="skip", streaming=streamed),
                   texts(second, picked), weights=(1.0, 1.0))  # pyright: ignore  # fmt: skip


def urls(root: Path, kinds: Sequence[Kind], *, streamed: bool) -> Source:
    """A table of URLs; at that of an empty picture there is nothing."""
    there = fsspec.filesystem("memory")
    places = [f"memory://{root}/{i}.png" for i in range(len(kinds))]
    for i, kind in enumerate(kinds):
        if kind != "empty":
            there.pipe(places[i], picture(kind, i))
    captions = pa.array([says(kind, i) for i, kind in enumerate(kinds)], pa.string())
    pq.write_table(pa.table({"image": places, "caption": captions}), root / "urls.parquet")
    return Parquet(root / "urls.parquet", streaming=streamed)


SOURCES: dict[str, Callable[[Path, Sequence[Kind]], Source]] = {
    "texts": texts,
    "metadata": metadata,
    "parquet": lambda root, kinds: Parquet(table(root, kinds)),
    "parquet streamed": lambda root, kinds: Parquet(table(root, kinds), streaming=True),
    "hub": lambda root, kinds: Hub(str(table(root, kinds))),
    "hub streamed": lambda root, kinds: Hub(str(table(root, kinds)), streaming=True),
    "urls": lambda root, kinds: urls(root, kinds, streamed=False),
    "urls streamed": lambda root, kinds: urls(root, kinds, streamed=True),
    "tars": lambda root, kinds: WebDataset(tars(root, kinds), uncaptioned="skip"),
    "tars at random": lambda root, kinds: WebDataset(
        tars(root, kinds), uncaptioned="skip", streaming=False),
    "tars compressed": lambda root, kinds: WebDataset(
        tars(root, kinds, "tar.gz", "w:gz"), uncaptioned="skip"),
    "filtered": lambda root, kinds: Filtered(texts(root, kinds), least_side=8),  # pyright: ignore
    "filtered stream": lambda root, kinds: Filtered(
        WebDataset(tars(root, kinds), uncaptioned="skip"), least_side=8),
    "mixture": lambda root, kinds: mixture(root, kinds, streamed=False),
    "mixture of streams": lambda root, kinds: mixture(root, kinds, streamed=True),
}  # fmt: skip
SKIP_SILENT = {
    name for name in SOURCES if not name.startswith(("metadata", "parquet", "hub", "urls"))
}
"""What passes over pictures without a caption; where a row is there its caption is empty."""


def samples(dataset: Any, workers: int = 0, transform: Any = None) -> list[tuple[int, str]]:
    """Number, by its pixels, and caption of each picture that is read."""
    batches = once(dataset, 3, transform or _number, workers=workers)
    return [
        pair for batch in batches for pair in zip(batch["number"], batch["caption"], strict=True)
    ]


def _number(example: Any, rng: np.random.Generator) -> dict[str, Any]:
    return {"number": example["image"].getpixel((0, 0))[0], "caption": example["caption"]}


class Sorted:
    """`_number` of pictures that come in buckets."""

    crop = Buckets(16, 2)

    def __call__(self, example: Any, rng: np.random.Generator) -> dict[str, Any]:
        assert example["shape"] == (16, 16)
        return _number(example, rng)


@MANY
@pytest.mark.parametrize("name", SOURCES)
@given(KINDS)
def test_listed_is_read_skipped_or_refused_by_name(name: str, kinds) -> None:
    assume(len(kinds) > 1 or not name.startswith("hub"))  # `datasets` reads no empty file
    nothing_is_lost(name, kinds, samples)


ALL: list[Kind] = ["torn", "good", "silent", "small", "empty", "good", "silent", "torn", "good"]


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(("workers", "transform"), [(2, None), (0, Sorted()), (2, Sorted())])
def test_so_it_is_by_workers_and_in_buckets(name: str, workers: int, transform: Any) -> None:
    nothing_is_lost(name, ALL, partial(samples, workers=workers, transform=transform))


def nothing_is_lost(
    name: str, kinds: Sequence[Kind], samples: Callable[[Any], list[tuple[int, str]]]
) -> None:
    with TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        root = Path(folder, "data")
        root.mkdir()
        silent, small = name in SKIP_SILENT, name.startswith("filtered")
        fine: set[Kind] = {"good"} | ({"silent"} - ({"silent"} if silent else set()))
        fine |= set() if small else {"small"}
        dataset: Any = SOURCES[name](root, kinds).build()
        expected = {(i, says(kind, i) or "") for i, kind in enumerate(kinds) if kind in fine}
        extra = [(0, "says 0")] if name.startswith("mixture") else []
        found = samples(dataset)
        assert sorted(found) == sorted([*expected, *extra])
        # The rest is told, by name: of the source, of a filter, or of what was met as it was read.
        torn = {i for i, kind in enumerate(kinds) if kind in ("torn", "empty")}
        skipped = {key for key, why in dataset.reader.skipped.items() if key != why}
        assert len(skipped) == len(torn) + len(extra)
        for i in torn:
            assert any(_names(key, i, name) for key in skipped)
        said = " ".join(str(each.message) for each in told)
        if silent and "silent" in kinds:
            assert "passed over" in said or name == "tars compressed"
            assert f"{kinds.index('silent')}" in said + str(dataset.reader.skipped)
        assert isinstance(dataset, Stream) or len(dataset) == len(kinds) - (
            silent * kinds.count("silent") + small * kinds.count("small")
        ) + 2 * len(extra)


def _names(key: str, number: int, source: str) -> bool:
    if source.startswith("hub"):
        return True  # which counts rows, or samples of a file
    if source.startswith("parquet"):
        return key.endswith(f"{number % 2}.parquet row {number // 2}")
    if source.startswith("urls"):
        return f"urls.parquet row {number} (" in key
    return key.endswith(f"{number}.png")


@MANY
@pytest.mark.parametrize("name", ["texts", "parquet", "tars", "filtered stream", "mixture"])
@given(KINDS.filter(lambda kinds: len(kinds) > 2))
def test_in_training_a_broken_ones_neighbour_is_told_for_what_it_is(name: str, kinds) -> None:
    """What takes a broken picture's place keeps its own number and caption."""
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = Path(folder, "data")
        root.mkdir()
        dataset: Any = SOURCES[name](root, kinds).build()
        loader = Loader(dataset, 4, seed=0, transform=_number)
        for batch in islice(loader.batches(), 4):
            for number, caption in zip(batch["number"], batch["caption"], strict=True):
                assert caption == (says(kinds[number], number) or "") or number == 0


def test_every_openmoji_is_read() -> None:
    pytest.importorskip("resvg_py")
    dataset = OpenMoji(size=8).build()
    names = {record.name for record in (dataset.records[i] for i in range(0, len(dataset), 97))}
    assert len(names) == len(range(0, len(dataset), 97)) and dataset.reader.on_error == "stop"


def odd(root: Path, names: Sequence[str]) -> None:
    for i, name in enumerate(names):
        (root / f"{name}.png").write_bytes(picture("good", i))


ODD = ["new\nline", "br[a]c", "c,o", "100%41", " sp ace ", "q'\"o", "a:b", "#h?", "bs\\x", "{a,b}",
       "*", "ß", unicodedata.normalize("NFD", "é"), "semi;colon", "-x", "~", "a.b.c"]  # fmt: skip


@pytest.mark.parametrize("how", ["texts", "jsonl", "csv", "tsv", "parquet", "none"])
def test_names_of_every_kind_are_names(tmp_path: Path, how: str) -> None:
    """In brackets, with commas, newlines and percent signs, composed or not."""
    import csv

    odd(tmp_path, ODD)
    rows = [{"file_name": f"{name}.png", "text": f"says {i}"} for i, name in enumerate(ODD)]
    match how:
        case "texts":
            for i, name in enumerate(ODD):
                (tmp_path / f"{unicodedata.normalize('NFC', name)}.txt").write_text(f"says {i}")
        case "jsonl":
            (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        case "csv" | "tsv":
            with (tmp_path / f"metadata.{how}").open("w", newline="") as file:
                writer = csv.DictWriter(file, [*rows[0]], delimiter="\t" if how == "tsv" else ",")
                writer.writeheader()
                writer.writerows(rows)
        case "parquet":
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / "metadata.parquet")
    wanted = [(i, "" if how == "none" else f"says {i}") for i in range(len(ODD))]
    assert sorted(samples(Folder(tmp_path).build())) == wanted


def test_links_that_lead_nowhere_are_told_and_found_once(tmp_path: Path) -> None:
    """A link round to its own folder is read once; one to itself is an error at once, by its name,
    and no traceback while the folder is looked through.
    """
    folder = tmp_path / "owl"
    folder.mkdir()
    (folder / "1.png").write_bytes(picture("good", 1))
    (folder / "up").symlink_to(tmp_path)
    assert samples(Folder(tmp_path).build()) == [(1, "owl")]
    (folder / "self.png").symlink_to("self.png")
    dataset = Folder(tmp_path).build()
    assert isinstance(dataset, Pictures) and len(dataset) == 2
    with pytest.raises(OSError, match=r"owl/self\.png cannot be read: Too many levels"):
        samples(dataset)


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid x", "a pointer of Git LFS"),
        (b"<!DOCTYPE html><html>404", "a web page"), (b"\n<HTML><body>", "a web page"),
        (b"<svg xmlns='x'/>", "draw it as PNG"), (b"", "no bytes"),
    ],
)  # fmt: skip
def test_what_lies_in_a_pictures_stead_is_called_by_its_name(tmp_path, held, said) -> None:
    (tmp_path / "0.png").write_bytes(held)
    (tmp_path / "1.png").write_bytes(picture("good", 1))
    with pytest.warns(UserWarning, match=f"0.png: .*{said}"):
        assert samples(Folder(tmp_path).build()) == [(1, "")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("packed", [False, True])
def test_bug_a_tars_text_was_read_in_one_encoding(tmp_path, encoding: str, packed: bool) -> None:
    """By its mark, as a folder's is; and its lines may end as on Windows."""
    file = tmp_path / f"x.tar{'.gz' if packed else ''}"
    with tarfile.open(file, "w:gz" if packed else "w") as tar:
        for name, data in (
            ("0.png", picture("good", 0)),
            ("0.txt", "käse\r\nbrot".encode(encoding)),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
    assert samples(WebDataset(file).build()) == [(0, "käse\nbrot")]
    (tmp_path / "0.png").write_bytes(picture("good", 0))
    (tmp_path / "0.txt").write_bytes("käse\r\nbrot".encode(encoding))
    assert samples(Folder(tmp_path).build()) == [(0, "käse\nbrot")]


@pytest.mark.parametrize("workers", [0, 2])
def test_bug_what_was_passed_over_behind_the_last_batch_was_not_told(
    tmp_path: Path, workers: int
) -> None:
    """By workers of a stream, where its pictures filled their last batch."""
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for i in range(6):
            given = {"png": picture("good", i), **({"txt": b"says"} if i < 4 else {})}
            for ending, data in given.items():
                member = tarfile.TarInfo(f"{i}.{ending}")
                member.size = len(data)
                archive.addfile(member, BytesIO(data))
    dataset = WebDataset(tmp_path / "a.tar.gz", uncaptioned="skip").build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [name for batch in once(dataset, 2, workers=workers) for name in batch["name"]]
    assert len(found) == 4 and len(dataset.reader.skipped) == 2
