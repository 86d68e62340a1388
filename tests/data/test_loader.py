import re
import tarfile
import warnings
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from calotype.data import (
    AsStored,
    BrokenImage,
    CenterCrop,
    Example,
    Flip,
    Loader,
    OnError,
    Parquet,
    Pictures,
    RandomResizedCrop,
    Record,
    Stream,
    Transform,
    WebDataset,
    Whole,
    once,
)
from calotype.data import Reader as PictureReader
from calotype.data.loading.batches import draw_keys
from calotype.data.reading.images import TO_RGB, Decoding
from calotype.data.tabular.columns import Columns
from calotype.data.tabular.origin import Origin
from calotype.data.tabular.tables import Shards

N = 10
TRANSFORM = Transform(RandomResizedCrop(8), Flip())


def picture(i: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (12, 12, 3), np.uint8))


class Mapped(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": picture(index), "caption": str(index)}


def legacy_state() -> np.ndarray:
    return np.random.get_state()[1]  # pyright: ignore[reportArgumentType]


def rows() -> Iterator[dict[str, Any]]:
    for i in range(N):
        yield {"image": {"bytes": _png(picture(i)), "path": None}, "caption": str(i)}


def _png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def streamed(local: bool = False) -> Stream:
    table = datasets.IterableDataset.from_generator(rows)
    shards = Shards(table, Columns("image", "caption"), Origin("numbers", "numbers"))
    return Stream(shards, PictureReader("skip", "numbers"), buffer=4, local=local)


def build(kind: str) -> Dataset:
    return Mapped() if kind == "map" else streamed(kind == "local stream")


def loader(kind: str, batch_size: int = 3, workers: int = 0, seed: int = 5, **options) -> Loader:
    options = {"transform": TRANSFORM, **options}
    return Loader(build(kind), batch_size, seed=seed, workers=workers, **options)


def flat(batches: Iterator[dict[str, Any]], count: int) -> list[tuple]:
    """Give the samples of `count` batches, one after another."""
    return [
        (key, caption, image.numpy().tobytes())
        for batch in islice(batches, count)
        for key, caption, image in zip(batch["key"], batch["caption"], batch["image"], strict=True)
    ]


KINDS = pytest.mark.parametrize("kind", ["map", "stream", "local stream"])
MANY = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on few cores


@KINDS
def test_ranks_together_see_what_one_process_sees(kind: str) -> None:
    alone = list(islice(loader(kind, 12).batches(), 2))
    for k, expected in enumerate(alone):
        ranks = [next(islice(loader(kind, 12).batches(0, r, 3), k, None)) for r in range(3)]
        torch.testing.assert_close(torch.cat([b["image"] for b in ranks]), expected["image"])
        assert [key for b in ranks for key in b["key"]] == expected["key"]


@KINDS
def test_two_batches_are_one_of_twice_the_size(kind: str) -> None:
    assert flat(loader(kind, 4).batches(), 6) == flat(loader(kind, 8).batches(), 3)


@KINDS
@pytest.mark.parametrize("position", [6, 9, 21])
def test_resumed_anywhere_equals_uninterrupted(kind: str, position: int) -> None:
    assert flat(loader(kind).batches(), 12)[position:] == flat(
        loader(kind).batches(position), 12 - position // 3
    )


@KINDS
def test_resumed_with_another_number_of_ranks(kind: str) -> None:
    expected = flat(loader(kind).batches(), 8)
    halves = [flat(loader(kind, 6).batches(12, rank, 2), 2) for rank in (0, 1)]
    assert expected[12:] == halves[0][:3] + halves[1][:3] + halves[0][3:] + halves[1][3:]


@MANY
@KINDS
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_change_nothing(kind: str, workers: int) -> None:
    for rank in 0, 1:
        expected = flat(loader(kind, 6).batches(6, rank, 2), 9)
        assert flat(loader(kind, 6, workers=workers).batches(6, rank, 2), 9) == expected


@KINDS
@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_is_its_pictures_plane_by_plane(kind: str, workers: int) -> None:
    options = {"shuffle": False, "transform": None, "workers": workers}
    image = next(loader(kind, N, **options).batches())["image"]
    levels = torch.stack([torch.from_numpy(np.array(picture(i))) for i in range(N)])
    assert image.is_contiguous()  # or networks would compute in another layout
    assert torch.equal(image, levels.permute(0, 3, 1, 2))


@KINDS
def test_each_epoch_has_each_example_once_in_its_own_order(kind: str) -> None:
    captions = [caption for _, caption, _ in flat(loader(kind).batches(), N)]
    epochs = [captions[e * N : (e + 1) * N] for e in range(3)]
    in_order = [str(i) for i in range(N)]
    assert all(sorted(epoch) == in_order for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, in_order]}) == 4
    other = [caption for _, caption, _ in flat(loader(kind, seed=6).batches(), N)]
    assert other[:N] != captions[:N]


@KINDS
def test_without_shuffling_epochs_are_in_order(kind: str) -> None:
    captions = [c for _, c, _ in flat(loader(kind, 5, shuffle=False).batches(5), 3)]
    assert captions == [str(i % N) for i in range(5, 20)]


def test_batches_larger_than_the_dataset() -> None:
    batch = next(loader("map", 25).batches(position=7))
    assert batch["image"].shape == (25, 3, 8, 8)
    assert sorted(batch["caption"][3:23]) == sorted(2 * [str(i) for i in range(N)])


@KINDS
def test_keys_seed_the_transform_and_differ_for_each_draw(kind: str) -> None:
    samples = flat(loader(kind).batches(), 20)
    assert len({key for key, _, _ in samples}) == 60
    for key, caption, image in samples[:12]:
        example: Example = {"image": picture(int(caption)), "caption": caption}
        again = TRANSFORM(example, np.random.default_rng(key))["image"]
        assert again.numpy().tobytes() == image


def test_keys_are_a_function_of_seed_and_ordinal() -> None:
    keys = draw_keys(3, 0, 50_000)
    assert len(set(keys)) == 50_000
    assert 0 <= min(keys) < 2**50 and 2**62 < max(keys) < 2**63
    assert all(draw_keys(3, start, 5) == keys[start : start + 5] for start in range(41))
    assert draw_keys(3, 2**40, 8)[3:] == draw_keys(3, 2**40 + 3, 5)
    assert not set(keys) & set(draw_keys(4, 0, 50_000))


@KINDS
def test_the_runs_own_generators_are_left_alone(kind: str) -> None:
    before = torch.get_rng_state(), legacy_state()
    flat(loader(kind, workers=1).batches(), 3)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], legacy_state())


@MANY
@KINDS
@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_once_is_one_pass_in_order(kind: str, workers: int) -> None:
    batches = list(once(build(kind), 4, TRANSFORM, workers))
    assert [len(batch["key"]) for batch in batches] == [4, 4, 2]
    assert [c for batch in batches for c in batch["caption"]] == [str(i) for i in range(N)]
    assert [k for batch in batches for k in batch["key"]] == draw_keys(0, 0, N)


@pytest.mark.filterwarnings("ignore:skipped")
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_plain_dataloader_gives_a_stream_once(workers: int) -> None:
    """Each of its workers once gave the whole where files were local."""
    for local in (False, True):
        plain = DataLoader(streamed(local), batch_size=None, num_workers=workers, collate_fn=dict)
        assert [example["caption"] for example in plain] == [str(i) for i in range(N)]
        broken = DataLoader(broken_stream("0123456 8", local=local), batch_size=None,
                            num_workers=workers, collate_fn=dict)  # fmt: skip
        assert [example["caption"] for example in broken] == [*"01234568"]


def test_a_part_of_a_pass_is_what_the_whole_has_there() -> None:
    """Shards of a cache were once read as data sets of their own, and repeated one another's keys
    and with them the crops.
    """
    whole = list(once(build("map"), 2, TRANSFORM))[2:4]
    part = list(once(build("map"), 2, TRANSFORM, rows=range(4, 8)))
    parts = list(once(build("map"), 2, TRANSFORM, rows=[range(4, 6), range(0), range(6, 7)]))
    assert [batch["key"] for batch in parts] == [whole[0]["key"], whole[1]["key"][:1]]
    for a, b in zip(whole, part, strict=True):
        assert a["key"] == b["key"] and a["caption"] == b["caption"]
        assert torch.equal(a["image"], b["image"])


def test_a_stream_has_no_parts() -> None:
    with pytest.raises(ValueError, match="rows: a stream is read from its start"):
        once(build("stream"), 2, rows=range(2))


def test_a_map_style_start_reads_nothing_before() -> None:
    class Counted(Mapped):
        read = 0

        def __getitem__(self, index: int) -> dict[str, Any]:
            type(self).read += 1
            return super().__getitem__(index)

    next(Loader(Counted(), 2, seed=0, transform=TRANSFORM).batches(10**12))
    assert Counted.read == 2


class Broken(Record):
    """Counts what is decoded; every third is broken."""

    decoded: list[str] = []  # noqa: RUF012

    def decode(self, decoding=TO_RGB):
        self.decoded.append(self.name)
        return super().decode(decoding)


def broken_stream(good: str, on_error: OnError = "skip", local: bool = False) -> Stream:
    def records() -> Iterator[Record]:
        for i in range(N):
            yield Broken(picture(i) if str(i) in good else b"", f"picture {i}", str(i))

    return Stream(Whole(records), PictureReader(on_error, "numbers"), local=local)


def test_a_stream_is_skipped_without_decoding() -> None:
    Broken.decoded.clear()
    next(Loader(broken_stream("0123456789"), 4, seed=0, shuffle=False).batches(27, 1, 2))
    assert Broken.decoded == ["picture 9", "picture 0"]


@pytest.mark.filterwarnings("ignore:skipped")
@pytest.mark.parametrize("start", [0, 4, 17])
def test_a_streams_broken_pictures_give_way_to_the_next(start: int) -> None:
    expected = [{8: "9", 2: "3", 3: "3"}.get(i % N, str(i % N)) for i in range(40)]
    batches = Loader(broken_stream("0134567 9"), 4, seed=0, shuffle=False).batches(start)
    assert [c for b in islice(batches, 5) for c in b["caption"]] == expected[start : start + 20]


def test_a_broken_picture_is_named_once() -> None:
    with pytest.warns(UserWarning) as warned:
        flat(Loader(broken_stream("13579"), 4, seed=0).batches(), 10)
    assert len(warned) == 5
    assert "skipped (5 so far): cannot read picture picture" in str(warned[-1].message)


@pytest.mark.filterwarnings("ignore:skipped")
@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (broken_stream(""), "numbers: none of 1000 pictures in a row can be read; .*picture"),
        (broken_stream("1", "stop"), r"cannot read picture picture \d: no bytes"),
        (Stream(Whole(lambda: iter(())), PictureReader("skip", "numbers")), "numbers: no pictures"),
    ],
)
def test_streams_that_cannot_be_read(stream: Stream, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(Loader(stream, 4, seed=0).batches())


class Picky(Mapped):
    """Raises what it is told."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, index: int) -> dict[str, Any]:
        raise self.error


def stopping(kind: str) -> Dataset:
    if kind != "map":
        return broken_stream("013", "stop", kind == "local stream")
    records = [Record(b"", f"picture {i}", str(i)) for i in range(N)]
    return Pictures(records, PictureReader("stop", "numbers"))


@KINDS
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_bug_a_workers_error_was_a_traceback(kind: str, workers: int) -> None:
    """Bug: "Caught BrokenImage in DataLoader worker process 0.", and its traceback in one line."""
    batches = Loader(stopping(kind), 4, seed=0, shuffle=False, workers=workers).batches()
    with pytest.raises(BrokenImage) as error:
        next(batches)
    first = 0 if kind == "map" else 2
    assert str(error.value) == f"cannot read picture picture {first}: no bytes"
    if workers:  # which is where the rest is told
        assert "in decode" in str(error.value.__cause__)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("one line"),
        FileNotFoundError(2, "No such file", "x.png"),
        UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "bad"),
    ],
)
def test_a_worker_hands_back_the_error_itself(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        next(Loader(Picky(error), 2, seed=0, workers=1).batches())
    assert str(raised.value) == str(error)


class StubbornError(ValueError):
    """Cannot be made anew of what it is pickled as."""

    def __init__(self, name: str, *, reason: str) -> None:
        super().__init__(f"{name}: {reason}")


def test_an_error_that_cannot_travel_still_arrives() -> None:
    with pytest.raises(RuntimeError, match=r"^StubbornError: x: y$"):
        next(Loader(Picky(StubbornError("x", reason="y")), 2, seed=0, workers=1).batches())


@KINDS
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_each_skipped_picture_is_counted_once(kind: str, workers: int) -> None:
    """Bug: each worker counted its own, and all of them told of the same picture."""
    dataset: Dataset = broken_stream("02468", local=kind == "local stream")
    if kind == "map":
        records = [Record(picture(i) if i % 2 == 0 else b"", f"p {i}", str(i)) for i in range(N)]
        dataset = Pictures(records, PictureReader("skip", "numbers"))
    data = Loader(dataset, 3, seed=0, workers=workers)
    with pytest.warns(UserWarning) as warned:
        flat(data.batches(), 12)
    assert data.skipped == len(warned) == 5
    assert [str(w.message).split(":")[0] for w in warned] == [
        f"skipped ({n} so far)" for n in range(1, 6)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flat(data.batches(), 12)  # all are known
    assert loader("map").skipped == 0


def test_what_an_unknown_reader_skips_is_still_told() -> None:
    """Its worker warns, which is an error here."""
    dataset = Subset(Pictures([Record(b"", "p", "")], PictureReader("skip", "numbers")), [0])
    with pytest.raises(UserWarning, match=r"skipped \(1 so far\)"):
        next(Loader(dataset, 1, seed=0, workers=1).batches())


@KINDS
def test_once_says_that_there_is_nothing(kind: str) -> None:
    """Bug: StopIteration from `next(once(...))`."""
    reader = PictureReader("skip", "numbers")
    empty = Stream(Whole(lambda: iter(())), reader, local=kind == "local stream")
    for workers in (0, 1, 2):
        with pytest.raises(ValueError, match=r"no examples in it|numbers: no pictures in it"):
            next(once(Empty() if kind == "map" else empty, 4, workers=workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataset_may_read_whole_batches(workers: int) -> None:
    class Rows(Mapped):
        def batch(self, indices: list[int], keys: list[int]) -> dict[str, Any]:
            return {"x": torch.tensor(indices), "bit": [key & 1 for key in keys]}

    batch = next(Loader(Rows(), 4, seed=0, workers=workers).batches())
    assert batch["x"].shape == (4,)
    assert batch["bit"] == [key & 1 for key in batch["key"]]
    assert "image" in next(Loader(Rows(), 4, seed=0, transform=TRANSFORM).batches())


def test_pictures_of_one_size_need_no_transform() -> None:
    batch = next(Loader(Mapped(), 4, seed=0, shuffle=False).batches())
    expected = torch.from_numpy(np.asarray(picture(2)).copy()).permute(2, 0, 1)
    assert torch.equal(batch["image"][2], expected)


def test_pictures_of_many_sizes_do() -> None:
    class Sizes(Mapped):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"image": Image.new("RGB", (4 + index, 4)), "caption": ""}

    with pytest.raises(ValueError, match=r"image: different shapes .*give the Loader a transform"):
        next(Loader(Sizes(), 4, seed=0).batches())
    next(Loader(Sizes(), 4, seed=0, transform=Transform(CenterCrop(4))).batches())


class Numbers(Mapped):
    """Tensors of other shapes and types than pictures."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "number": torch.tensor(index), "even": torch.tensor([index % 2 == 0]),
            "none": torch.empty(0, 3), "large": torch.full((2**20,), index / 8).bfloat16(),
        }  # fmt: skip


@pytest.mark.parametrize("workers", [0, 1])
def test_all_tensors_of_samples_are_stacked(workers: int) -> None:
    batch = next(Loader(Numbers(), 4, seed=0, shuffle=False, workers=workers).batches())
    assert torch.equal(batch["number"], torch.arange(4))
    assert torch.equal(batch["even"], torch.tensor([[True], [False], [True], [False]]))
    assert batch["none"].shape == (4, 0, 3)
    assert torch.equal(
        batch["large"][:, -1], torch.arange(4).bfloat16() / 8
    )  # in memory of its own


def test_one_batch_has_one_type() -> None:
    class Types(Mapped):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"depth": torch.zeros(3, dtype=(torch.float32, torch.float64)[index % 2])}

    with pytest.raises(ValueError, match=r"depth: torch.float32 and torch.float64 in one batch"):
        next(Loader(Types(), 4, seed=0).batches())


class Empty(Mapped):
    def __len__(self) -> int:
        return 0


class Iterable(IterableDataset):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


@pytest.mark.parametrize(
    ("dataset", "batch_size", "seed", "message"),
    [
        (Mapped(), 0, 0, "batch_size: 0"),
        (Mapped(), 1, -1, "seed: -1"),
        (Empty(), 1, 0, "Empty: no examples"),
        (Iterable(), 1, 0, "Iterable: only a Stream can be resumed"),
    ],
)
def test_what_cannot_be_loaded(dataset: Dataset, batch_size: int, seed: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Loader(dataset, batch_size, seed=seed)


def _tables(folder: Path) -> Stream:
    for shard in range(3):
        table = datasets.Dataset.from_list(list(rows())[shard::3])
        table.to_parquet(folder / f"{shard}.parquet")
    stream = Parquet(folder, streaming=True, shuffle_buffer=4).build()
    assert isinstance(stream, Stream)
    return stream


def _tars(folder: Path) -> Stream:
    for shard in range(3):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for i in range(shard, N, 3):
                for ending, data in (("png", _png(picture(i))), ("txt", str(i).encode())):
                    member = tarfile.TarInfo(f"{i}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, BytesIO(data))
    stream = WebDataset(folder, shuffle_buffer=4).build()
    assert isinstance(stream, Stream)
    return stream


@MANY
@pytest.mark.parametrize("write", [_tables, _tars])
def test_files_resume_in_workers(tmp_path: Path, write: Callable[[Path], Stream]) -> None:
    stream = write(tmp_path)
    assert stream.local
    whole = flat(Loader(stream, 3, seed=1, transform=TRANSFORM).batches(), 8)
    resumed = Loader(stream, 3, seed=1, transform=TRANSFORM, workers=3).batches(12)
    assert flat(resumed, 4) == whole[12:]
    assert sorted(caption for _, caption, _ in whole[:N]) == [str(i) for i in range(N)]


def two_ways(kind: str, records: list[Record]) -> Pictures | Stream:
    reader = PictureReader("skip", "some")
    if kind == "mapped":
        return Pictures(records, reader)
    return Stream(Whole(lambda: iter(records)), reader)


@pytest.mark.parametrize("kind", ["mapped", "stream"])
def test_a_dataset_decoded_otherwise_shares_what_is_skipped(kind: str) -> None:
    dataset = two_ways(kind, [Record(picture(0), "good", ""), Record(b"", "bad", "")])
    otherwise = dataset.decoded_by(Decoding(colour=AsStored()))
    with pytest.warns(UserWarning, match="skipped"):
        batches = list(once(otherwise, 1))
    assert batches[0]["name"] == ["good"]
    assert list(dataset.reader.skipped) == list(otherwise.reader.skipped) == ["bad"]
    assert dataset.reader.decoding == TO_RGB


class Grey(Transform):
    @property
    def decoding(self) -> Decoding:
        return Decoding("L")

    def __call__(self, example: Example, rng: np.random.Generator) -> dict[str, Any]:
        return {"mode": example["image"].mode, "size": example.get("size")}


@pytest.mark.parametrize("kind", ["mapped", "stream"])
def test_pictures_are_decoded_as_the_transform_asks(kind: str) -> None:
    dataset = two_ways(kind, [Record(_png(picture(0)), "good", "")])
    for batches in (
        once(dataset, 1, Grey()),
        Loader(dataset, 1, seed=0, transform=Grey()).batches(),
    ):
        batch = next(batches)
        assert batch["mode"] == ["L"] and batch["size"] == [(12, 12)]


@pytest.mark.filterwarnings("ignore:skipped")
@pytest.mark.parametrize("kind", ["parquet", "parquet streamed", "tars", "tars indexed"])
@pytest.mark.parametrize("workers", [0, 2])
def test_of_what_is_listed_one_pass_leaves_out_what_is_broken(
    tmp_path: Path, kind: str, workers: int
) -> None:
    streaming = kind in ("parquet streamed", "tars")
    listed = [(str(i), b"broken" if i % 3 == 1 else _png(picture(i))) for i in range(N)]
    if kind.startswith("parquet"):
        rows = [{"image": {"bytes": data, "path": None}, "caption": c} for c, data in listed]
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / "x.parquet")
        dataset = Parquet(tmp_path / "x.parquet", streaming=streaming).build()
    else:
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            for caption, data in listed:
                for ending, content in (("png", data), ("txt", caption.encode())):
                    member = tarfile.TarInfo(f"{caption}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, BytesIO(content))
        dataset = WebDataset(tmp_path / "x.tar", streaming=streaming).build()
    batches = list(once(dataset, 4, workers=workers))
    read = [c for batch in batches for c in batch["caption"]]
    assert read == [str(i) for i in range(N) if i % 3 != 1]
    assert [row for batch in batches for row in batch["row"]] == [int(c) for c in read]
    skipped = [int(re.search(r"(row |:)(\d+)", name)[2]) for name in dataset.reader.skipped]
    assert sorted(skipped) == [1, 4, 7]
    trained = flat(Loader(dataset, 3, seed=0, shuffle=False, workers=workers).batches(), 4)[:N]
    assert [c for _, c, _ in trained] == [str(i + (i % 3 == 1)) for i in range(N)]
