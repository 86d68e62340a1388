"""Reading pictures beside torchvision, HF `datasets` and webdataset: images/s from a folder,
parquet files and tars, listed and streamed, and memory of a stream from a thousand images to a
million.

    python benchmarks/data.py speed
    python benchmarks/data.py photographs
    python benchmarks/data.py memory

The pictures are made here: JPEGs of 256 pixels, cut at random from scikit-learn's two photographs,
photographs of 12 megapixels put together of such, and, for memory, PNGs of 8. All readers decode,
resize the shorter side to 224 antialiased, crop the centre and give batches of 64 floats in
[-1, 1], of photographs of 8, with the same number of workers; they take turns. What a peer cannot
read from is left out.
"""

import io
import itertools
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from paired import in_turns, median, ratio
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from calotype.data import (
    CenterCrop,
    Filtered,
    Folder,
    Loader,
    Parquet,
    Source,
    Transform,
    WebDataset,
)
from calotype.training.images import scaled

IMAGES, SIDE, CROP, BATCH, ROUNDS = 1024, 256, 224, 64, 3
SHARDS = 4
"""Tars, and parquet files."""
COUNTS = (1_000, 10_000, 100_000, 1_000_000)
"""Images of the streams whose memory is measured."""
PEER = v2.Compose([
    v2.RGB(), v2.Resize(CROP, v2.InterpolationMode.BICUBIC), v2.CenterCrop(CROP), v2.ToImage(),
    v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3),
])  # fmt: skip
PHOTOGRAPHS, PHOTOGRAPH, FEW = 16, (4000, 3000), 8
"""How many of a camera's size there are, which that is, and how many a batch has."""
Batches = Callable[[], Iterator[Any]]


def jpegs(count: int) -> Iterator[bytes]:
    """Crops of photographs."""
    from sklearn.datasets import load_sample_images

    rng, photos = np.random.default_rng(0), load_sample_images().images
    for i in range(count):
        photo = photos[i % len(photos)]
        y, x = (int(rng.integers(n - SIDE)) for n in photo.shape[:2])
        out = io.BytesIO()
        Image.fromarray(photo[y : y + SIDE, x : x + SIDE]).save(out, "JPEG", quality=90)
        yield out.getvalue()


def write(root: Path, encoded: Sequence[bytes]) -> None:
    """The same pictures as a folder, parquet files and tars."""
    for i, data in enumerate(encoded):
        file = root / f"folder/{i % 16:02d}/{i:06d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    rows = [{"bytes": data, "path": None} for data in encoded]
    table = pa.table({"image": rows, "caption": [f"picture {i}" for i in range(len(rows))]})
    (root / "tables").mkdir()
    each = len(rows) // SHARDS
    for i in range(0, len(rows), each):
        pq.write_table(table.slice(i, each), root / f"tables/{i:06d}.parquet")
    write_tars(root / "tars", encoded, "jpg", each)


def write_tars(folder: Path, encoded: Iterable[bytes], ending: str, each: int) -> None:
    """Pictures and captions, `each` pictures a tar."""
    folder.mkdir()
    numbered = enumerate(encoded)
    while shard := list(itertools.islice(numbered, each)):
        with tarfile.open(folder / f"{shard[0][0]:08d}.tar", "w") as tar:
            for i, data in shard:
                for name, content in ((ending, data), ("txt", f"picture {i}".encode())):
                    member = tarfile.TarInfo(f"{i:08d}.{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def photographs_of_a_camera() -> Iterator[bytes]:
    """Photographs of a camera's size, in whose every part there is as much to see."""
    parts = [Image.open(io.BytesIO(data)) for data in jpegs(256)]
    rng = np.random.default_rng(1)
    for _ in range(PHOTOGRAPHS):
        whole, out = Image.new("RGB", PHOTOGRAPH), io.BytesIO()
        for x in range(0, PHOTOGRAPH[0], SIDE):
            for y in range(0, PHOTOGRAPH[1], SIDE):
                whole.paste(parts[rng.integers(len(parts))], (x, y))
        whole.save(out, "JPEG", quality=90)
        yield out.getvalue()


def ours(source: Source, workers: int, each: int) -> Batches:
    """Our loader."""
    loader = Loader(source.build(), each, seed=0, transform=Transform(CenterCrop(CROP)),
                    workers=workers)  # fmt: skip
    # The others give floats, so that what the training process has left to do counts too.
    return lambda: (scaled(batch["image"]) for batch in loader.batches())


def torchvision_folder(path: Path, workers: int, each: int) -> Batches:
    """Torchvision's ImageFolder in torch's DataLoader."""
    data = ImageFolder(str(path), PEER)
    return lambda: (images for images, _ in endless(data, workers, True, each))


def hugging_face(table: Any, column: str, workers: int, each: int) -> Batches:
    """HF `datasets` in torch's DataLoader."""

    def transform(row: dict[str, Any]) -> dict[str, Any]:
        return {"image": PEER(row[column])}

    streamed = isinstance(table, datasets.IterableDataset)
    if streamed:
        data = table.shuffle(seed=0, buffer_size=1000).map(
            transform, remove_columns=table.column_names
        )
    else:
        data = table.with_transform(lambda rows: {"image": [PEER(x) for x in rows[column]]})
    shuffle = None if streamed else True
    return lambda: (batch["image"] for batch in endless(data, workers, shuffle, each))


def web_dataset(pattern: str, workers: int, each: int) -> Batches:
    """The `webdataset` package in torch's DataLoader, where it is installed."""
    import webdataset

    data = (
        webdataset.WebDataset(sorted(glob(pattern)), shardshuffle=True)
        .shuffle(1000).decode("pil").map(lambda sample: {"image": PEER(sample["jpg"])})
    )  # fmt: skip
    return lambda: (batch["image"] for batch in endless(data, workers, None, each))


def endless(data: Any, workers: int, shuffle: bool | None, each: int) -> Iterator[Any]:
    """Epoch after epoch of torch's DataLoader, whose workers stay."""
    loader = DataLoader(data, each, shuffle, num_workers=workers, drop_last=True,
                        persistent_workers=workers > 0)  # fmt: skip
    while True:
        yield from loader


def readers(root: Path, workers: int, each: int) -> dict[str, dict[str, Batches]]:
    """By what is read and who reads."""
    load: Any = partial(datasets.load_dataset, split="train")
    folder, tars, tables = root / "folder", str(root / "tars/*.tar"), root / "tables"

    def ours_of(source: Source) -> Batches:
        return ours(source, workers, each)

    def theirs(table: Any, column: str = "image") -> Batches:
        return hugging_face(table, column, workers, each)

    def parquet(streaming: bool) -> Any:
        table = load("parquet", data_dir=str(tables), streaming=streaming)
        return table.cast_column("image", datasets.Image())

    def web_datasets() -> Any:
        return load("webdataset", data_files=tars, streaming=True)

    large = Filtered(WebDataset(tars), least_side=32)
    own_tools = {"webdataset": web_dataset(tars, workers, each)} if find_spec("webdataset") else {}
    return {
        "folder": {
            "calotype": ours_of(Folder(folder)),
            "torchvision ImageFolder": torchvision_folder(folder, workers, each),
            "datasets imagefolder": theirs(load("imagefolder", data_dir=str(folder))),
        },
        "parquet": {
            "calotype": ours_of(Parquet(tables)),
            "datasets parquet": theirs(parquet(False)),
        },
        "parquet, streamed": {
            "calotype": ours_of(Parquet(tables, streaming=True)),
            "datasets parquet": theirs(parquet(True)),
        },
        "tars, streamed": {
            "calotype": ours_of(WebDataset(tars)),
            "datasets webdataset": theirs(web_datasets(), "jpg"),
            **own_tools,
        },
        "tars, streamed and filtered by size": {
            "calotype": ours_of(large),
            "datasets webdataset": theirs(
                web_datasets().filter(lambda row: min(row["jpg"].size) >= 32), "jpg"
            ),
        },
    }


def rate(found: dict[str, Batches], workers: int, count: int, name: str) -> list[float]:
    """Images a second over an epoch of `count`, after the batches that workers have by then."""
    batches, had = found[name](), 0
    for _ in range(2 * max(workers, 1)):
        next(batches)
    started = time.perf_counter()
    while had < count:
        batch = next(batches)
        assert tuple(batch.shape[1:]) == (3, CROP, CROP)
        had += len(batch)
    return [had / (time.perf_counter() - started)]


def speed() -> None:
    """The table of small pictures."""
    compare([*jpegs(IMAGES)], BATCH)


def photographs() -> None:
    """That of a camera's."""
    compare([*photographs_of_a_camera()], FEW, rounds=2)


def compare(encoded: Sequence[bytes], each: int, rounds: int = ROUNDS) -> None:
    """Print how fast each reads what is written."""
    print(f"torch {torch.__version__}, datasets {datasets.__version__}, "
          f"{torch.get_num_threads()} threads\n")  # fmt: skip
    print("| read from | workers | by | images/s | ours is faster by (spread) |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), encoded)
        for workers in (0, 2):
            for source, found in readers(Path(folder), workers, each).items():
                rates = in_turns([*found], partial(rate, found, workers, len(encoded)), rounds)
                ours = [row[0] for row in rates["calotype"]]
                for name, rows in rates.items():
                    said = "" if name == "calotype" else ratio([row[0] for row in rows], ours)
                    print(f"| {source} | {workers} | {name} | {median(rows, 0):.0f} | "
                          f"{said} |", flush=True)  # fmt: skip


def memory() -> None:
    """Resident memory at the end of one pass over streams of more and more images."""
    print("| images streamed | workers | MiB of the process | of each worker | images/s |")
    print("|---|---|---|---|---|")
    for workers, count in itertools.product((0, 2), COUNTS):
        command = [sys.executable, __file__, "pass", str(count), str(workers)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print(done.stdout.splitlines()[-1], flush=True)


def one_pass(count: int, workers: int) -> None:
    """Stream `count` small pictures, in a process of its own."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    encoded = []
    for image in pixels:
        out = io.BytesIO()
        Image.fromarray(image).save(out, "PNG")
        encoded.append(out.getvalue())
    with tempfile.TemporaryDirectory() as folder:
        tars = Path(folder) / "tars"
        write_tars(tars, (encoded[i % 16] for i in range(count)), "png", each=20_000)
        loader = Loader(WebDataset(str(tars)).build(), 100, seed=0, workers=workers)
        started, batches = time.perf_counter(), loader.batches()
        for _ in itertools.islice(batches, count // 100):
            pass
        took, this = time.perf_counter() - started, psutil.Process()
        mib = [p.memory_info().rss / 2**20 for p in (this, *this.children())]
    each = ", ".join(f"{size:.0f}" for size in mib[1:]) or "-"
    print(f"| {count:,} | {workers} | {mib[0]:.0f} | {each} | {count / took:.0f} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["pass"]:
        one_pass(int(sys.argv[2]), int(sys.argv[3]))
    else:
        {"speed": speed, "photographs": photographs, "memory": memory}[sys.argv[1]]()
