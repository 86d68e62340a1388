"""Pictures of mixed shapes through the loader."""

from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from calotype.data import (
    Buckets,
    Flip,
    Loader,
    OnError,
    Pictures,
    Record,
    Transform,
    once,
    some_of,
)
from calotype.data import Reader as PictureReader
from calotype.data.aspect.buckets import Shape
from calotype.data.loading.batches import draw_keys
from calotype.data.mixtures import BalancedPictures, MixedPictures

SIZES = [(24, 16), (16, 24), (20, 20), (30, 16), (24, 17), (21, 20), (16, 25), (60, 16), (9, 9)]
CROP = Buckets(16, 2)
TRANSFORM = Transform(CROP, Flip())
MANY = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on few cores


def record(i: int, size: tuple[int, int]) -> Record:
    levels = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Record(Image.fromarray(levels), f"picture {i}", str(i))


def pictures(count: int = 40, on_error: OnError = "skip") -> Pictures:
    records = [record(i, SIZES[i % len(SIZES)]) for i in range(count)]
    return Pictures(records, PictureReader(on_error, "mixed"))


def loader(batch_size: int, **options: Any) -> Loader:
    return Loader(pictures(), batch_size, seed=5, **{"transform": TRANSFORM, **options})


def flat(batches: Iterator[dict[str, Any]], count: int) -> list[tuple]:
    return [
        (key, caption, tuple(image.shape), image.numpy().tobytes())
        for batch in islice(batches, count)
        for key, caption, image in zip(batch["key"], batch["caption"], batch["image"], strict=True)
    ]


def test_a_batch_is_of_one_bucket_and_all_of_them_come() -> None:
    batches = list(islice(loader(4).batches(), 40))
    shapes = {Shape(*batch["image"].shape[:1:-1]) for batch in batches}
    assert len(shapes) > 3 and shapes <= set(TRANSFORM.shapes)
    for batch in batches:
        for caption in batch["caption"]:
            size = SIZES[int(caption) % len(SIZES)]
            assert Shape(*batch["image"].shape[:1:-1]) == CROP.nearest(*size)


def test_ranks_and_micro_batches_together_are_one_batch() -> None:
    alone = flat(loader(8).batches(), 12)
    accumulated = flat(loader(8).batches(micro_batch=2), 48)
    two = [loader(8).batches(0, rank, 2, micro_batch=2) for rank in (0, 1)]
    ranks = [sample for _ in range(24) for each in two for sample in flat(each, 1)]
    assert alone == accumulated == ranks


@MANY
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int) -> None:
    expected = flat(loader(16).batches(16, 1, 2, micro_batch=4), 9)
    found = flat(loader(16, workers=workers).batches(16, 1, 2, micro_batch=4), 9)
    assert found == expected


@pytest.mark.parametrize("position", [4, 8, 36, 400])
def test_resumed_anywhere_equals_uninterrupted(position: int) -> None:
    whole = flat(loader(4).batches(), 110)
    assert flat(loader(4).batches(position), 10) == whole[position : position + 40]


def test_a_resume_with_other_ranks_goes_on_exactly() -> None:
    whole = flat(loader(8).batches(), 6)
    halves = [flat(loader(8).batches(16, rank, 2), 4) for rank in (0, 1)]
    assert whole[16:24] == halves[0][:4] + halves[1][:4]


def test_a_start_reads_nothing_before(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = Record.decode
    monkeypatch.setattr(
        Record, "decode", lambda self, *a: (read.append(self.name), real(self, *a))[1]
    )
    next(loader(4).batches(4 * 10**9))
    assert len(read) == 4


def test_every_picture_comes_as_often_as_any_other() -> None:
    seen = Counter(caption for _, caption, *_ in flat(loader(2).batches(), 20 * 21))
    assert len(seen) == 40 and max(seen.values()) - min(seen.values()) <= 2


@pytest.mark.filterwarnings("ignore:skipped")
def test_a_broken_picture_gives_way_to_one_of_its_bucket() -> None:
    dataset = pictures()
    whole = dataset.records[0]
    cut = Record(_cut_off(whole.file), "cut off", "cut off")  # its header is whole
    dataset = Pictures([cut, Record(b"", "nothing", ""), *dataset.records[1:]],
                       dataset.reader)  # fmt: skip
    batches = Loader(dataset, 4, seed=0, transform=TRANSFORM).batches()
    samples = flat(batches, 40)
    assert set(dataset.reader.skipped) == {"cut off", "nothing"}
    replaced = Counter(caption for _, caption, *_ in samples)
    assert {"cut off", ""}.isdisjoint(replaced)
    shape, crop = CROP.nearest(*SIZES[0]), CROP
    same = [i for i in range(1, 40) if crop.nearest(*SIZES[i % len(SIZES)]) == shape]
    counts = [replaced[str(i)] for i in same]
    assert counts[0] > max(counts[1:])  # the next of the same bucket has come twice as often


def _cut_off(image: Any) -> bytes:
    from io import BytesIO

    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()[:-200]


@pytest.mark.parametrize("rows", [None, range(7, 31)])
def test_once_has_every_picture_once_with_its_own_key(rows: range | None) -> None:
    batches = list(once(pictures(), 3, TRANSFORM, rows=rows))
    captions = [int(caption) for batch in batches for caption in batch["caption"]]
    assert sorted(captions) == list(rows or range(40))
    keys = dict(zip(captions, (key for batch in batches for key in batch["key"]), strict=True))
    assert [keys[i] for i in sorted(keys)] == [draw_keys(0, i, 1)[0] for i in sorted(captions)]
    sizes = [len(batch["key"]) for batch in batches]
    assert max(sizes) == 3 and len({batch["image"].shape[2:] for batch in batches}) > 3


def test_some_are_of_each_bucket() -> None:
    found = list(some_of(pictures(), 12, TRANSFORM))
    assert sum(len(batch["key"]) for batch in found) == 12 and len(found) > 3


@pytest.mark.parametrize("count", [None, 1, 7, 40])
def test_some_are_so_many_whatever_a_batch_holds(count: int | None) -> None:
    found = list(some_of(pictures(), count, TRANSFORM, 3))
    sizes = [(len(batch["key"]), len(batch["image"]), len(batch["caption"])) for batch in found]
    assert all(len({*size}) == 1 and size[0] <= 3 for size in sizes)
    assert sum(size[0] for size in sizes) == (count or 40)
    with pytest.raises(ValueError, match="batch_size: of all pictures it must say"):
        next(some_of(pictures(), None, TRANSFORM))


def test_what_is_found_is_said() -> None:
    said = loader(4).dataset.said()  # type: ignore[attr-defined]
    assert "5 that are longer than 2:1 up to" not in said or "cropped away" in said
    assert "4 that are longer than 2:1 up to" in said
    assert "4 have fewer pixels than their bucket and are enlarged" in said
    lost = loader(4).dataset.lost  # type: ignore[attr-defined]
    longer = loader(4).dataset.longer  # type: ignore[attr-defined]
    assert lost[~longer].max() <= 0.12 + 1e-9


def test_longer_pictures_are_refused_by_name_where_that_is_asked() -> None:
    strict = Transform(Buckets(16, 2, beyond="refuse"))
    with pytest.raises(ValueError, match="4 pictures are longer than 2:1, picture 7 with 60x16"):
        Loader(pictures(), 4, seed=0, transform=strict)


def test_bug_weights_were_not_heeded_in_buckets() -> None:
    """By a mixture's weights or a balance some pictures come more often; of buckets each does."""
    both = [pictures(), pictures()]
    for dataset in (MixedPictures(both, (3.0, 1.0)), BalancedPictures(pictures())):
        with pytest.raises(ValueError, match=r"buckets: an optimiser step draws from one bucket"):
            Loader(dataset, 4, seed=0, transform=TRANSFORM)
        next(once(dataset, 4, TRANSFORM))  # a pass has no weights
    Loader(MixedPictures(both), 4, seed=0, transform=TRANSFORM)


def test_other_map_style_sets_are_bucketed_too() -> None:
    class Plain(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {**record(index, SIZES[index % len(SIZES)]).decode()}

    class Knowing(Plain):
        def sizes(self) -> np.ndarray:
            return np.array([SIZES[index % len(SIZES)] for index in range(20)], np.int32)

    whole = flat(Loader(pictures(20), 4, seed=5, transform=TRANSFORM).batches(), 9)
    for dataset in (Plain(), Knowing()):
        assert flat(Loader(dataset, 4, seed=5, transform=TRANSFORM).batches(), 9) == whole


def test_bug_a_broken_picture_alone_in_its_bucket_stopped_the_run() -> None:
    """Under the policy to skip; now a picture of another bucket is cropped to it."""
    file = BytesIO()
    Image.new("RGB", (64, 36)).save(file, "PNG")
    torn = Record(file.getvalue()[:-40], "torn", "torn")  # its header is whole
    records = [torn, *(record(i, (20, 20)) for i in range(7))]
    dataset = Pictures(records, PictureReader("skip", "mixed"))
    with pytest.warns(UserWarning, match="torn"):
        batches = [*islice(Loader(dataset, 2, seed=0, transform=TRANSFORM).batches(), 20)]
    wide = [batch for batch in batches if batch["image"].shape[-1] > batch["image"].shape[-2]]
    assert wide and all(set(batch["caption"]) <= set("0123456") for batch in wide)
