"""Mixtures of streams are drawn as those of listed pictures are: in shares, from anywhere, by any
number of ranks, of which each reads its own part.
"""

import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from itertools import chain, islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from calotype.data import Filtered, Folder, Loader, Mixture, Pictures, Reader, Record, Stream, once
from calotype.data import WebDataset as Tars
from calotype.data.loading.in_order import in_order
from calotype.data.loading.lanes import Lanes
from calotype.data.loading.order import shares
from calotype.data.mixed_streams import MixedStream
from calotype.data.mixtures import BalancedPictures, joint
from calotype.data.streams import Parts, picked

PICTURE = Image.new("RGB", (4, 4))
LENGTHS = st.lists(st.integers(1, 12), min_size=2, max_size=5)
KIND = st.sampled_from(["cut", "dealt", "listed"])
SOURCES = st.lists(st.tuples(KIND, LENGTHS), min_size=1, max_size=3).filter(
    lambda some: any(kind != "listed" for kind, _ in some)
)


class Made(Parts):
    """Parts without files; `opened` says which were begun."""

    def __init__(self, name: str, lengths: Sequence[int], *, counted: bool) -> None:
        most = sum(lengths) if counted else len(lengths)
        super().__init__(lengths if counted else [None] * len(lengths), most)
        self.name, self.lengths, self.counted, self.seeks = name, lengths, counted, counted
        self.opened: Counter[int] = Counter()

    def read(self, part: int, places: Iterable[int]) -> Iterator[Record]:
        self.opened[part] += 1
        records = (
            Record(PICTURE, f"{self.name} {part}.{i}", "") for i in range(self.lengths[part])
        )
        yield from picked(records, places, lambda length: self.learn(part, length))


def stream(name: str, lengths: Sequence[int], *, counted: bool, buffer: int = 20) -> Stream:
    return Stream(Made(name, lengths, counted=counted), Reader("skip", name), buffer=buffer,
                  local=True, identity=lambda: name)  # fmt: skip


def listed(name: str, n: int) -> Pictures:
    records = [Record(PICTURE, f"{name} 0.{i}", "") for i in range(n)]
    return Pictures(records, Reader("skip", name), lambda: name)


def source(name: str, kind: str, lengths: Sequence[int]) -> Pictures | Stream:
    if kind == "listed":
        return listed(name, sum(lengths))
    return stream(name, lengths, counted=kind == "cut")


def mixed(some: Sequence[tuple[str, Sequence[int]]], weights: Sequence[float]) -> MixedStream:
    datasets = [source(f"s{k}", *each) for k, each in enumerate(some)]
    return MixedStream(datasets, weights, joint(datasets))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 96), st.integers(1, 40), st.data())
def test_the_samples_of_a_lane_are_those_of_its_ordinals(most: int, step: int, data) -> None:
    lanes = Lanes.of(most, step)
    lane = data.draw(st.integers(0, len(lanes) - 1))
    start = data.draw(st.integers(0, 300))
    found = [*islice(chain.from_iterable(lanes.ordinals(lane, start)), 40)]
    assert [lanes.lane(ordinal) for ordinal in found] == [lane] * 40
    assert [lanes.before(ordinal, lane) for ordinal in found] == [*range(start, start + 40)]


@settings(deadline=None, max_examples=20)
@given(SOURCES, st.data())
def test_a_lane_may_be_begun_anywhere_and_gives_each_source_its_share(some, data) -> None:
    weights = data.draw(st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=len(some),
                                 max_size=len(some)))  # fmt: skip
    dataset, step = mixed(some, weights), data.draw(st.integers(1, 12))
    lanes = Lanes.of(dataset.lanes, step)
    lane, start = data.draw(st.integers(0, len(lanes) - 1)), data.draw(st.integers(0, 150))
    order, each = dataset.draws(3, lanes), shares(weights)
    whole = [record.name for record in islice(order.records(lane, 0), start + 60)]
    assert [record.name for record in islice(order.records(lane, start), 60)] == whole[start:]
    block = sum(each)
    for first in range(0, len(whole) - block + 1, block):
        had = Counter(name.split()[0] for name in whole[first : first + block])
        assert had == {f"s{k}": n for k, n in enumerate(each)}


@settings(deadline=None, max_examples=12)
@given(SOURCES.filter(lambda some: all(k != "dealt" for k, _ in some)), st.data())
def test_of_each_source_all_come_once_before_any_again(some, data) -> None:
    """Where lanes have come equally far."""
    dataset, step = mixed(some, [1.0] * len(some)), data.draw(st.integers(1, 4))
    lanes = Lanes.of(min(dataset.lanes, 20), step)
    order = dataset.draws(5, lanes)
    for k, (_, lengths) in enumerate(some):
        total, came = sum(lengths), list[str]()
        for lane in range(len(lanes)):
            own = (r.name for r in order.records(lane, 0) if r.name.startswith(f"s{k} "))
            came += islice(own, lanes.before(total, lane))
        assert len({*came}) == len(came) == total


KINDS = [
    [("cut", [7, 9, 12]), ("listed", [11])],
    [("dealt", [5, 6, 7, 8]), ("cut", [9, 3, 4])],
    [("dealt", [4] * 8), ("dealt", [3] * 9), ("listed", [5])],
]


@pytest.mark.parametrize("weights", [(3.0, 1.0), (1.0, 1.0, 2.0)], ids=str)
@pytest.mark.parametrize("some", KINDS, ids=lambda some: "-".join(kind for kind, _ in some))
def test_ranks_workers_and_a_resumed_run_see_what_one_process_sees(some, weights) -> None:
    weights = (*weights, 1.0)[: len(some)]

    def steps(position: int = 0, rank: int = 0, world: int = 1, workers: int = 0):
        loader = Loader(mixed(some, weights), 8, seed=5, workers=workers)
        batches = islice(loader.batches(position, rank, world), 8 - position // 8)
        return [list(zip(batch["name"], batch["key"], strict=True)) for batch in batches]

    alone = steps()
    assert steps(workers=2) == alone
    assert steps(24) == alone[3:]
    first, second = (steps(0, rank, 2, workers=rank) for rank in (0, 1))
    assert [a + b for a, b in zip(first, second, strict=True)] == alone


def test_ranks_read_parts_of_their_own() -> None:
    """Of every source: two ranks together open no part of a tar more often than one alone does."""

    def opened(rank: int, world: int, batches: int) -> list[Counter[int]]:
        dataset = mixed([("dealt", [6] * 24), ("dealt", [6] * 24)], (2.0, 1.0))
        loader = Loader(dataset, 12, seed=1)
        for _ in islice(loader.batches(0, rank, world), batches):
            pass
        return [each.source.opened for each in dataset.datasets if isinstance(each, Stream)]  # pyright: ignore

    one, (first, second) = opened(0, 1, 9), (opened(rank, 2, 9) for rank in (0, 1))
    for alone, a, b in zip(one, first, second, strict=True):
        assert a + b == alone and not a.keys() & b.keys()


def test_without_weights_each_comes_once_an_epoch() -> None:
    dataset = mixed([("cut", [40, 9, 21]), ("listed", [50])], ())
    batches = islice(Loader(dataset, 12, seed=2).batches(), 30)
    names = [name for batch in batches for name in batch["name"]]
    for epoch in (names[:120], names[120:240]):
        assert len({*epoch}) == 120
    assert names[:120] != names[120:240]
    assert Counter(name[:2] for name in names[:24]).keys() == {"s0", "s1"}


@pytest.mark.parametrize("some", KINDS, ids=lambda some: "-".join(kind for kind, _ in some))
def test_a_pass_in_order_has_each_once(some) -> None:
    dataset = mixed(some, [1.0] * len(some))
    for each in (dataset, in_order(dataset, 100)):
        names = [name for batch in once(each, 7, workers=1) for name in batch["name"]]
        assert names == [
            f"s{k} {part}.{i}" for k, (kind, lengths) in enumerate(some)
            for part, n in enumerate([sum(lengths)] if kind == "listed" else lengths)
            for i in range(n)
        ]  # fmt: skip
    assert [r.name for r in dataset.some(6)][:2] == ["s0 0.0", "s0 0.1"]
    assert {r.name[:2] for r in dataset.some(6)} == {f"s{k}" for k in range(len(some))}


def test_lengths_that_were_learnt_are_taken_up() -> None:
    dataset = mixed([("dealt", [3, 4]), ("cut", [5])], (1.0, 1.0))
    loader = Loader(dataset, 4, seed=0, workers=1)
    for _ in islice(loader.batches(), 12):
        pass
    learnt = loader.learnt()
    assert learnt is not None and learnt.tolist() == [3, 4, 5]
    again = Loader(mixed([("dealt", [3, 4]), ("cut", [5])], (1.0, 1.0)), 4, seed=0)
    again.take_up(learnt)
    assert again.dataset.datasets[0].source.counts == [3, 4]  # pyright: ignore


def test_classes_stay_balanced_beside_a_stream() -> None:
    records = [Record(PICTURE, f"birds {i}", c) for i, c in enumerate(["owl"] * 9 + ["barn"])]
    birds = BalancedPictures(Pictures(records, Reader("skip", "birds")))
    datasets = [birds, stream("sea", [30, 30], counted=True)]
    dataset = MixedStream(datasets, (1.0, 1.0), joint(datasets))
    said = Counter(
        c for b in islice(Loader(dataset, 10, seed=0).batches(), 24) for c in b["caption"]
    )
    assert abs(said["owl"] - said["barn"]) <= len(Lanes.of(dataset.lanes, 10)) and said[""] > 110


def tar(path: Path, sizes: Sequence[int], how: str = "w") -> Path:
    with tarfile.open(path, how) as archive:  # pyright: ignore
        for i, size in enumerate(sizes):
            file = BytesIO()
            Image.new("RGB", (size, 8)).save(file, "PNG")
            for ending, data in (("png", file.getvalue()), ("txt", b"a b")):
                member = tarfile.TarInfo(f"{path.stem.split('.')[0]}-{i}.{ending}")
                member.size = len(data)
                archive.addfile(member, BytesIO(data))
    return path


def test_what_is_broken_is_passed_over_in_its_own_source(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", [8] * 6)
    torn = [Record(b"torn" if i == 1 else PICTURE, f"more {i}", "") for i in range(4)]
    datasets = [Tars(tmp_path / "a.tar").build(), Pictures(torn, Reader("skip", "more"))]
    dataset = MixedStream(datasets, (1.0, 1.0), joint(datasets))
    with pytest.warns(UserWarning, match="more 1"):
        names = [n for b in once(dataset, 3) for n in b["name"]]
    assert len(names) == 9 and list(dataset.reader.skipped) == ["more 1"]


def test_a_compressed_tar_needs_weights_and_then_mixes(tmp_path: Path) -> None:
    packed = Tars(tar(tmp_path / "a.tar.gz", [8] * 9, "w:gz"))
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (9, 8)).save(folder / "0.png")
    with pytest.raises(ValueError, match=r"by --data\.weights how often each source is drawn"):
        Mixture(packed, Folder(folder)).build()
    with pytest.raises(ValueError, match=r"choose --data\.second\.no-streaming"):
        Mixture(Folder(folder), packed).build()
    built = Mixture(packed, Folder(folder), weights=(2.0, 1.0)).build()
    assert isinstance(built, MixedStream) and built.identity is not None
    other = Mixture(packed, Folder(folder), weights=(1.0, 2.0)).build()
    assert built.identity() != other.identity()  # pyright: ignore
    sizes = Counter(size[0] for b in islice(Loader(built, 6, seed=0, transform=_size).batches(), 5)
                    for size in b["size"])  # fmt: skip
    assert sizes == {8: 20, 9: 10}


def test_bug_what_is_met_while_reading_named_the_flag_as_of_a_source_alone(tmp_path: Path) -> None:
    """It said `--data.uncaptioned`, which a mixture has not."""
    path = tar(tmp_path / "a.tar.gz", [8] * 9, "w:gz")
    with tarfile.open(path) as archive:
        kept = [(m, archive.extractfile(m)) for m in archive if m.name != "a-6.txt"]
        with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as torn:
            for member, file in kept:
                torn.addfile(member, file)
    spec = Mixture(
        Tars(path),
        Filtered(
            Tars(tmp_path / "b.tar.gz", caption_key="txt", uncaptioned="refuse"), least_side=2
        ),
        weights=(1.0, 1.0),
    )
    with pytest.raises(ValueError, match=r"by --data\.second\.source\.uncaptioned empty"):
        next(islice(Loader(spec.build(), 18, seed=0).batches(), 3, None))


def _size(example, rng):
    return {"size": example["size"]}


@pytest.mark.parametrize("workers", [0, 2])
def test_what_filters_of_streams_remove_is_told_once_by_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    """Counted over workers and epochs, in the training process, as of listed pictures."""
    for k in range(4):
        tar(tmp_path / f"{k}.tar", [8, 30, 8, 2, 8])
    spec = Filtered(Tars(tmp_path), least_side=4, greatest_ratio=2.0)
    dataset = spec.build()
    for _ in islice(Loader(dataset, 4, seed=0, workers=workers).batches(), 12):  # four epochs
        pass
    said = capsys.readouterr().err
    assert said.count("12 of 20 pictures are left") == 1 and "filtered as it is read" in said
    assert said.count("removed: 4, longer than 2:1") == 1
    assert said.count("removed: 4, shorter side under 4 pixels") == 1
    assert "0-3.png" in said and said.count("removed") == 2


def test_what_was_removed_up_to_there_is_told_when_reading_ends(tmp_path, capsys) -> None:
    tar(tmp_path / "a.tar.gz", [8, 30, *[8] * 40], "w:gz")
    stream = Filtered(Tars(tmp_path / "a.tar.gz"), greatest_ratio=2.0).build()
    assert isinstance(stream, Stream)
    stream.buffer = 1
    next(once(stream, 4))
    assert "pictures are left" not in capsys.readouterr().err  # of a look at the first few
    next(Loader(stream, 4, seed=0).batches())
    said = capsys.readouterr().err
    assert "pictures are left" in said and "41 of 42" not in said
    assert len([*chain.from_iterable(b["name"] for b in once(stream, 8))]) == 41
    assert "41 of 42 pictures are left" in capsys.readouterr().err
