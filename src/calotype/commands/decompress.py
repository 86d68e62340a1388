"""Compressed pictures to pictures."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import tyro
from torch import Tensor

from calotype.commands.quiet import quiet
from calotype.commands.wrong import tell_wrong
from calotype.pipelines import picture
from calotype.training.agreement import by_main
from calotype.training.devices import Computation, computing
from calotype.training.files import write_bytes
from calotype.training.progress import Told
from calotype.uses.compression import SUFFIX, Codec, Compressed, DamagedError, OtherModelError
from calotype.uses.compression.codec import together


@dataclass(frozen=True)
class Decompress(Computation):
    """Pictures of files that `calotype compress` wrote. The latents are exactly those that were
    compressed, on any machine; what the decoder makes of them may differ in its last bits.
    """

    compressed: tyro.conf.Positional[Path]
    """Folder of compressed pictures, at any depth, or one of them."""
    model: str = "runs/small-ar"
    """What they were compressed by: the folder of a transformer over tokens or of a tokenizer, or a
    name on the Hub."""
    out: Path = Path("decompressed")
    """Folder of the PNGs, in the same sub-folders."""
    batch_size: int = 64
    """Files at a time, of pictures of one shape."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise ValueError(f"--batch-size is {self.batch_size}: it must be at least 1")
        if self.out.is_file():
            raise ValueError(f"--out is {self.out}, a file: name a folder")


def decompress(options: Decompress) -> Path:
    """Decompress; returns the folder. Of several processes the main one does.

    Raises:
        ValueError, FileNotFoundError: there is no such model, there are no files, or some could not
            be decompressed, after all others were.
    """
    quiet()
    return by_main(lambda: _decompress(options))


def _decompress(options: Decompress) -> Path:
    options.warn_of_emulation()
    root, files = _found(options.compressed)
    _check_free([_target(options.out, root, file) for file in files])
    codec = Codec.load(options.model)
    codec.tokenizer.to(options.place)
    read, wrong = dict[Path, Compressed](), dict[str, str]()
    for file in files:
        try:
            read[file] = codec.read(file.read_bytes())
        except (DamagedError, OtherModelError) as error:
            wrong[str(file)] = str(error)
    started, whole = time.monotonic(), list(read)
    with (
        computing(options.precision, options.place, *codec.tokenizer.networks),
        Told("decompressing", len(whole), images=1) as told,
    ):
        for places in together(list(read.values()), options.batch_size):
            some = {whole[i]: read[whole[i]] for i in places}
            for file, image in _images(codec, some, wrong):
                _write(_target(options.out, root, file), image)
            told.advance(len(places))
    seconds = max(time.monotonic() - started, 1e-9)
    print(f"{len(whole)} pictures, {len(whole) / seconds:.1f} a second, in {options.exactness} on "
          f"{options.place}")  # fmt: skip
    tell_wrong(wrong, len(files), "decompressed")
    return options.out


def _target(out: Path, root: Path, file: Path) -> Path:
    return out / file.relative_to(root).with_suffix(".png")


def _check_free(targets: list[Path]) -> None:
    """Refuse to write in the place of pictures, which may be those that were compressed.

    Raises:
        ValueError: there are some.
    """
    if there := [target for target in targets if target.exists()]:
        raise ValueError(
            f"{len(there)} of the pictures to write are there already, the first {there[0]}: name "
            "another folder by --out, or remove them"
        )


def _found(where: Path) -> tuple[Path, list[Path]]:
    """A folder, and the files in it."""
    if where.is_file():
        return where.parent, [where]
    if not where.is_dir():
        raise FileNotFoundError(f"there is no folder {where}")
    files = sorted(file for file in where.rglob(f"*{SUFFIX}") if not file.name.startswith("."))
    if not files:
        raise FileNotFoundError(f"no {SUFFIX} in {where}: calotype compress writes them")
    return where, files


def _images(
    codec: Codec, files: dict[Path, Compressed], wrong: dict[str, str]
) -> Iterator[tuple[Path, Tensor]]:
    """The images of files of one shape; where one is wrong, of each alone."""
    first = next(iter(files.values()))
    try:
        latents = codec.unpack(list(files.values()))
    except DamagedError as error:
        if len(files) == 1:
            wrong[str(next(iter(files)))] = str(error)
            return
        for file, each in files.items():
            yield from _images(codec, {file: each}, wrong)
        return
    yield from zip(files, codec.pictures(latents, codec.size(first)), strict=True)


def _write(file: Path, image: Tensor) -> None:
    held = BytesIO()
    picture(image).save(held, "PNG")
    write_bytes(file, held.getvalue())
