"""Pictures of a folder to small files."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from jaxtyping import UInt8
from torch import Tensor

from calotype.commands.flags import check_counts
from calotype.commands.quiet import quiet
from calotype.commands.wrong import tell_wrong
from calotype.data import CenterCrop, Decoding, Folder, Pictures
from calotype.data.reading.transforms import levels
from calotype.training.agreement import by_main
from calotype.training.devices import Computation, computing
from calotype.training.files import write_bytes
from calotype.training.images import Mode
from calotype.training.progress import Told
from calotype.uses.compression import SUFFIX, Codec
from calotype.uses.compression.codec import STEP
from calotype.uses.compression.latents import method_of

WAITING = 4
"""Batches of pictures that are held until there are enough of their shape."""


@dataclass(frozen=True)
class Compress(Computation):
    """Compress pictures by a tokenizer and what was learnt of its latents: one small file each,
    which `calotype decompress` turns into pictures. What is lost is what the tokenizer loses.
    """

    pictures: tyro.conf.Positional[Path]
    """Folder of pictures, at any depth."""
    model: str = "runs/small-ar"
    """Folder of a transformer over tokens, or of a tokenizer for which `calotype fit-entropy-model`
    was run; or a name on the Hub."""
    out: Path = Path("compressed")
    """Folder of the files, in the same sub-folders."""
    size: int | None = None
    """Pixels a side; pictures are resized and centre-cropped to it. None: each stays as large as it
    is."""
    step: float = STEP
    """Of continuous latents, whose deviation is 1: a larger one takes fewer bits and loses more."""
    batch_size: int = 32
    """Pictures at a time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "size", "batch_size")
        if self.out.is_file():
            raise ValueError(f"--out is {self.out}, a file: name a folder")
        method_of(self.step)


@dataclass
class _Done:
    files: int = 0
    bytes: int = 0
    pixels: int = 0


def compress(options: Compress) -> Path:
    """Compress, and say how many bits it took; returns the folder. Of several processes the main
    one does.

    Raises:
        ValueError, FileNotFoundError: there is no such model, there are no pictures, or some of
            them could not be compressed, after all others were.
    """
    quiet()
    return by_main(lambda: _compress(options))


def _compress(options: Compress) -> Path:
    options.warn_of_emulation()
    pictures = Folder(options.pictures, captions="none").build()
    files = _targets(pictures, options.pictures.expanduser(), options.out)
    codec = Codec.load(options.model)
    if options.size:
        codec.check(options.size, options.size)
    codec.tokenizer.to(options.place)
    started, done, wrong = time.monotonic(), _Done(), dict[str, str]()
    with (
        computing(options.precision, options.place, *codec.tokenizer.networks),
        Told("compressing", len(files), images=1) as told,
    ):
        for numbers, images in _batches(pictures, codec.tokenizer.mode, options):
            try:
                data = codec.compress(images, options.step)
            except ValueError as error:
                wrong |= {pictures.records[i].name: str(error) for i in numbers}
                data = []
            _write(data, [files[i] for i in numbers][: len(data)], done)
            done.pixels += len(data) * images.shape[2] * images.shape[3]
            told.advance(len(numbers))
    wrong |= pictures.reader.skipped
    seconds = time.monotonic() - started
    if done.files:
        print(f"{done.files} pictures, {8 * done.bytes / done.pixels:.4f} bits a pixel, "
              f"{done.bytes / done.files:.0f} bytes each, {done.files / seconds:.1f} a second, "
              f"in {options.exactness} on {options.place}")  # fmt: skip
    tell_wrong(wrong, len(files), "compressed")
    return options.out


def _targets(pictures: Pictures, root: Path, out: Path) -> list[Path]:
    """The file of each picture.

    Raises:
        ValueError: two pictures would have one.
    """
    found: dict[Path, Path] = {}
    for record in pictures.records:
        assert isinstance(record.file, Path)
        inside = record.file.relative_to(root) if record.file.is_relative_to(root) else None
        file = out / (inside or Path(record.file.name)).with_suffix(SUFFIX)
        if file in found:
            raise ValueError(f"{found[file]} and {record.file} would both be {file}: rename one")
        found[file] = record.file
    return list(found)


def _batches(
    pictures: Pictures, mode: Mode, options: Compress
) -> Iterator[tuple[list[int], UInt8[Tensor, "b c H W"]]]:
    """Numbers of pictures, and images of them, of one shape; broken ones are left out."""
    read, waiting = pictures.decoded_by(Decoding(mode)), dict[tuple[int, int], list[tuple]]()
    for number in range(len(pictures)):
        example = read.read_one(number)
        if example is None:
            continue
        image = example["image"]
        if options.size is not None:
            image = CenterCrop(options.size)(image, np.random.default_rng(0))
        group = waiting.setdefault(image.size, [])
        group.append((number, levels(image)))
        if len(group) == options.batch_size:
            yield _stacked(waiting.pop(image.size))
        elif sum(map(len, waiting.values())) >= WAITING * options.batch_size:
            yield _stacked(waiting.pop(max(waiting, key=lambda shape: len(waiting[shape]))))
    yield from map(_stacked, waiting.values())


def _stacked(group: list[tuple[int, Tensor]]) -> tuple[list[int], UInt8[Tensor, "b c H W"]]:
    return [number for number, _ in group], torch.stack([image for _, image in group])


def _write(data: list[bytes], files: list[Path], done: _Done) -> None:
    for file, each in zip(files, data, strict=True):
        write_bytes(file, each)
        done.files, done.bytes = done.files + 1, done.bytes + len(each)
