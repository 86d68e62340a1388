import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import tiny
from calotype.data import Loader, Parquet, Stream, WebDataset, Whole
from calotype.data.loading.lanes import Lanes
from calotype.data.loading.streaming import Share, StreamBatches, lanes_of
from calotype.data.reading.records import Extent, Reader, Record
from calotype.training import AdamW, Batch, Losses, Objective, fit

TARS, EACH = 24, 12
N = TARS * EACH
STEP = 24
"""Samples of a step: as many as four ranks share without a rest."""
ALONE: dict[str, list[list[str]]] = {}
"""Steps of an epoch by one process, by the source."""
READ: Counter[str] = Counter()
"""Bytes that were read of each file."""


class Counted(fsspec.AbstractFileSystem):
    """Files in memory that say what is read of them."""

    protocol, files = "counted", {}

    def _open(self, path: str, *how: Any, **options: Any) -> BytesIO:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Told(path, self.files[path])

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return {"name": path, "size": len(self.files[path]), "type": "file"}


class Told(BytesIO):
    """One of these files."""

    def __init__(self, path: str, data: bytes) -> None:
        super().__init__(data)
        self.path = path

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        READ[self.path] += len(data)
        return data


fsspec.register_implementation("counted", Counted, clobber=True)


def picture(i: int) -> bytes:
    """A picture that can be told, and that nothing packs."""
    noise = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
    return b"P6 32 32 255\n" + noise.tobytes()


def tar_of(numbers: range) -> bytes:
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for i in numbers:
            for ending, data in (("png", picture(i)), ("txt", str(i).encode())):
                member = tarfile.TarInfo(f"{i}.{ending}")
                member.size = len(data)
                tar.addfile(member, BytesIO(data))
    return file.getvalue()


def table_of(numbers: range) -> bytes:
    file = BytesIO()
    columns = {"image": [picture(i) for i in numbers], "caption": [str(i) for i in numbers]}
    pq.write_table(
        pa.table(columns), file, row_group_size=1, compression="none", write_statistics=False
    )
    return file.getvalue()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("files")
    for shard in range(TARS):
        numbers = range(shard * EACH, (shard + 1) * EACH)
        for ending, data in (("tar", tar_of(numbers)), ("parquet", table_of(numbers))):
            (root / f"{shard}.{ending}").write_bytes(data)
            Counted.files[f"{shard}.{ending}"] = data
    return root


SOURCES: dict[str, Callable[[Path, int], Any]] = {
    "tars on disk": lambda root, lanes: WebDataset(root, shuffle_buffer=48, lanes=lanes),
    "tars elsewhere": lambda root, lanes: WebDataset(
        f"counted://{{0..{TARS - 1}}}.tar", shuffle_buffer=48, lanes=lanes
    ),
    "tables elsewhere": lambda root, lanes: Parquet(
        f"counted://{{0..{TARS - 1}}}.parquet", streaming=True, shuffle_buffer=48, lanes=lanes
    ),
}
EVERYWHERE = pytest.mark.parametrize("source", [*SOURCES])


def build(source: str, files: Path, lanes: int = 24) -> Stream:
    stream = SOURCES[source](files, lanes).build()
    assert isinstance(stream, Stream)
    READ.clear()
    return stream


@pytest.fixture
def extents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count what is read of tars on disk, too."""
    whole = Extent.read

    def counted(self: Extent) -> bytes:
        READ[self.path] += self.size
        return whole(self)

    monkeypatch.setattr(Extent, "read", counted)


def as_is(example: Any, rng: np.random.Generator) -> dict[str, Any]:
    return {"image": torch.from_numpy(np.array(example["image"])), "caption": example["caption"]}


def batches_of(
    stream: Stream, workers: int = 0, position: int = 0, rank: int = 0, world: int = 1,
    accumulate: int = 1,
) -> StreamBatches:  # fmt: skip
    """What a rank's DataLoader is given."""
    share = Share(position, STEP // world // accumulate, rank, world, accumulate)
    return StreamBatches(stream, lanes_of(stream, 3, STEP), share, 3, as_is, workers)


def drawn(
    stream: Stream, steps: int, position: int = 0, world: int = 1, workers: int = 0,
    accumulate: int = 1,
) -> list[list[str]]:  # fmt: skip
    """Captions of each step, by so many ranks of so many workers, each a reader of its own."""
    ranks = [
        _taken(batches_of(stream, workers, position, rank, world, accumulate), steps * accumulate)
        for rank in range(world)
    ]
    each = [range(t * accumulate, (t + 1) * accumulate) for t in range(steps)]
    return [[c for rank in ranks for k in numbers for c in rank[k]] for numbers in each]


def _taken(batches: StreamBatches, count: int) -> list[list[str]]:
    """Batches of a rank, whose workers are asked in turn as DataLoader asks them."""
    number = max(batches.workers, 1)
    workers = [_worker(batches, worker, number) for worker in range(number)]
    return [next(workers[k % number]) for k in range(count)]


def _worker(batches: StreamBatches, worker: int, workers: int) -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        info = SimpleNamespace(id=worker, num_workers=workers)
        patch.setattr("calotype.data.loading.streaming.get_worker_info", lambda: info)
        every = batches._batches()
        first = next(every)
    yield first["caption"]
    yield from (batch["caption"] for batch in every)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 700), st.integers(1, 70))
def test_each_ordinal_has_a_place_in_one_lane(most: int, step: int) -> None:
    lanes = Lanes.of(most, step)
    assert 1 <= len(lanes) <= most
    places: Counter[int] = Counter()
    for ordinal in range(3 * lanes.turns * step + 5):
        lane = lanes.lane(ordinal)
        assert 0 <= lane < len(lanes) and lanes.before(ordinal, lane) == places[lane]
        places[lane] += 1
    assert len(places) == len(lanes)


def test_as_many_lanes_as_ranks_and_workers_are_used_to() -> None:
    found = {most: (Lanes.of(most, 512).turns, Lanes.of(most, 512).width)
             for most in (1, 2, 4, 24, 96, 768)}  # fmt: skip
    assert found == {1: (1, 1), 2: (2, 1), 4: (2, 2), 24: (6, 4), 96: (12, 8), 768: (12, 64)}


@EVERYWHERE
def test_an_epoch_has_each_picture_once_in_an_order_of_its_own(source: str, files: Path) -> None:
    stream = build(source, files)
    whole = [c for step in drawn(stream, 3 * N // STEP) for c in step]
    if stream.source.counted:
        epochs = [whole[e * N : (e + 1) * N] for e in range(3)]
        assert all(sorted(map(int, epoch)) == list(range(N)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 3
    else:  # lanes end their epochs one after another
        assert Counter(whole[:N]).most_common(1)[0][1] <= 2
        assert len(set(whole)) == N and max(Counter(whole).values()) <= 4
    assert len({int(caption) // EACH for caption in whole[:STEP]}) >= 4  # a step is of many places


@EVERYWHERE
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 2, 3])
def test_ranks_and_workers_change_no_step_and_read_a_share(
    source: str, files: Path, extents: None, world: int, workers: int
) -> None:
    """Bug: each of them read everything."""
    steps = N // STEP
    alone = ALONE.setdefault(source, [])
    if not alone:
        alone += drawn(build(source, files), steps)
    assert drawn(build(source, files), steps, world=world, workers=workers) == alone
    name = {"tars on disk": "picture", "tars elsewhere": "tar", "tables elsewhere": "parquet"}
    sizes = {"picture": N * len(picture(0)), **dict.fromkeys(("tar", "parquet"), 0)}
    for file, data in Counted.files.items():
        sizes[file.split(".")[1]] += len(data)
    assert sum(READ.values()) <= 1.1 * sizes[name[source]]


@EVERYWHERE
def test_micro_batches_change_no_step(source: str, files: Path) -> None:
    alone = drawn(build(source, files), 3)
    for world, workers, accumulate in ((1, 2, 4), (2, 2, 3), (4, 0, 2)):
        stream = build(source, files)
        assert drawn(stream, 3, 0, world, workers, accumulate) == alone


@EVERYWHERE
@pytest.mark.parametrize("step", [1, 7, 10, 23])
def test_a_start_in_the_middle_reads_nothing_that_lies_before(
    source: str, files: Path, extents: None, step: int
) -> None:
    stream = build(source, files)
    whole, learnt = drawn(stream, step + 3), Loader(stream, 1, seed=3).learnt()
    stream, unlearnt = build(source, files), 0
    if learnt is not None:
        assert drawn(build(source, files), 3, step * STEP) == whole[step:]  # it is only slower
        unlearnt = sum(READ.values())
        Loader(stream, 1, seed=3).take_up(learnt)
    READ.clear()
    assert drawn(stream, 3, step * STEP, world=2) == whole[step:]
    samples = 3 * STEP * len(picture(0))
    ready = 48 / 2 * len(picture(0))  # what half of the lanes holds to shuffle
    most = {
        "tars on disk": samples,
        "tables elsewhere": 1.2 * (samples + ready),
        "tars elsewhere": 12 * 2 * len(tar_of(range(EACH))),
    }
    assert 0 < sum(READ.values()) <= most[source]
    assert step < 23 or learnt is None or sum(READ.values()) < 0.75 * unlearnt


class Heard(Objective):
    """Learns nothing of note from captions, and keeps them."""

    def __init__(self) -> None:
        super().__init__(AdamW(0.1))
        self.w, self.captions_heard = torch.nn.Parameter(torch.zeros(())), list[list[str]]()

    def forward(self, batch: Batch, step: int) -> Losses:
        self.captions_heard.append(batch["caption"])
        return {"error": (self.w - torch.tensor([float(c) for c in batch["caption"]])).abs().mean()}


def heard(source: str, files: Path, out: Path, steps: int) -> list[list[str]]:
    objective = Heard()
    loader = Loader(build(source, files), STEP, seed=3, transform=as_is)
    fit([objective], loader, tiny.run(out, steps=steps, batch_size=STEP, save_every=8, resume=True))
    return objective.captions_heard


@EVERYWHERE
def test_a_run_keeps_what_it_learnt_of_the_parts(
    source: str, files: Path, tmp_path: Path, extents: None
) -> None:
    whole = heard(source, files, tmp_path / "whole", 12)
    assert heard(source, files, tmp_path / "parts", 8) == whole[:8]
    assert heard(source, files, tmp_path / "parts", 12) == whole[8:]
    kept = tmp_path / "parts/checkpoints/step-12/data.safetensors"
    assert kept.exists() == (source == "tars elsewhere")
    if kept.exists():
        assert {EACH} < set(load_file(kept)["learnt"].tolist()) <= {EACH, -1}


def test_a_broken_picture_gives_way_to_the_next_of_its_lane(files: Path) -> None:
    class Bad(Record):
        def decode(self, *how: Any) -> Any:
            broken = int(self.caption) % 5 == 0
            return Record(b"" if broken else self.file, *self[1:]).decode(*how)

    def records() -> Iterator[Record]:
        for i in range(40):
            yield Bad(picture(i), f"p {i}", str(i))

    stream = Stream(Whole(records), Reader("skip", "numbers"), buffer=8)
    with pytest.warns(UserWarning, match="cannot read picture p"):
        alone = drawn(stream, 6)
    assert not any(int(c) % 5 == 0 for step in alone for c in step)
    for position, world, workers in ((0, 2, 2), (2, 4, 3), (5, 1, 0)):
        found = drawn(stream, 6 - position, position * STEP, world, workers)
        assert found == alone[position:]


@EVERYWHERE
def test_once_is_in_order_from_any_number_of_workers(source: str, files: Path) -> None:
    stream = build(source, files)
    parts = [record.caption for part in range(stream.parts) for record in stream.part(part)]
    assert parts == [str(i) for i in range(N)]
    assert [e["caption"] for e in stream] == parts
    assert [record.caption for record in islice(stream.records(57), 3)] == ["57", "58", "59"]


@pytest.mark.parametrize(("lanes", "workers", "processes"),
                         [(12, 4, 4), (12, 5, 4), (12, 3, 2), (1, 4, 1)])  # fmt: skip
def test_what_is_far_is_fetched_by_as_many_as_share_nothing(
    files: Path, lanes: int, workers: int, processes: int
) -> None:
    stream = build("tars elsewhere", files, lanes)
    assert batches_of(stream, workers).processes == processes
    assert (
        batches_of(Stream(stream.source, stream.reader, local=True), workers).processes == workers
    )
