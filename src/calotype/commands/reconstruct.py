"""Pictures beside what a tokenizer makes of them."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import tyro
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from calotype.commands.quiet import quiet
from calotype.commands.readers import readers
from calotype.commands.worst import Rebuild, rank
from calotype.data import CenterCrop, Folder, Source, Transform
from calotype.data.loading.passes import Turn, own_turns
from calotype.data.pictures import spread
from calotype.pages.sheet import enlarged, write_sheet
from calotype.pipelines import checked
from calotype.tokenizers import ImageTokenizer, psnr
from calotype.training.devices import Computation, computing
from calotype.training.distributed import processes
from calotype.training.images import scaled
from calotype.training.progress import track
from calotype.training.sharing import in_turn

EACH = 16
"""Pictures at a time, and as many as are reconstructed where nothing else is said."""


@dataclass(frozen=True)
class Reconstruct(Computation):
    """Pictures beside what a tokenizer makes of them, and their PSNR. Processes of a launcher share
    them.
    """

    tokenizer: tyro.conf.Positional[str]
    """Folder of a tokenizer, ours or a stock one, or a name on the Hub."""
    data: Source = field(default_factory=lambda: Folder(Path("images")))
    size: int | None = None
    """Pixels a side; pictures are resized and centre-cropped to it. None: as the tokenizer was
    trained, or 256 where it does not say."""
    count: int | None = None
    """Pictures to reconstruct, from all over the data; of a stream the first. None: 16, and with
    --worst all of them."""
    worst: int | None = None
    """Rank the pictures by what the tokenizer does worst, and show so many on a page."""
    out: Path | None = None
    """The picture to write: pairs of original and reconstruction, small ones enlarged. With --worst
    the page, beside which a .jsonl ranks all. None: reconstructions.png, or worst.html."""
    workers: int = 0
    """Processes that read and decode pictures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("size", 1), ("count", 1), ("worst", 1), ("workers", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"--{name} is {value}: it must be at least {least}")

    @property
    def file(self) -> Path:
        """What is written.

        Raises:
            ValueError: it is a folder, or not of the kind that is written.
        """
        kinds = (".html",) if self.worst else (".png", ".jpg", ".jpeg", ".webp")
        default = "worst.html" if self.worst else "reconstructions.png"
        file = self.out or Path(default)
        if file.is_dir() or file.suffix.lower() not in kinds:
            what = "page, such as worst.html" if self.worst else "picture, such as pairs.png"
            raise ValueError(f"--out is {file}: name a {what}")
        return file


def reconstruct(options: Reconstruct) -> Path:
    """Reconstruct from the likeliest latents, posteriors' means or nearest codes, and save; returns
    the file.

    Raises:
        ValueError, FileNotFoundError: there is no such tokenizer, or there are no pictures.
    """
    quiet()
    options.warn_of_emulation()
    device, file = options.place, options.file
    tokenizer = ImageTokenizer.load(options.tokenizer).to(device)
    size = options.size or tokenizer.autoencoder.config.get("sample_size") or 256
    tokenizer.check(size)
    dataset, rebuild = options.data.build(), partial(_rebuilt, tokenizer, device)
    transform = Transform(CenterCrop(size), mode=tokenizer.mode)
    how = f"of {size} pixels, in {options.exactness} on {device}"
    with computing(options.precision, device, *tokenizer.networks):
        if options.worst:
            _rank(options, dataset, options.worst, rebuild, transform, how)
            return file
        count = options.count or EACH
        turns = own_turns(spread(dataset, count), EACH, transform, count=count)
        told = track(turns, "reconstructing", -(-count // EACH), EACH)
        found = list(filter(None, in_turn(told, partial(_pair, rebuild))))
    if processes().is_main_process:
        if not found:
            raise ValueError("no pictures to reconstruct: none of them can be read")
        real, fake = (torch.cat(each) for each in zip(*found, strict=True))
        print(f"{_psnr(real, fake, tokenizer)} over {len(real)} pictures {how}")
        write_pairs(file, real, fake)
    return file


def _psnr(
    real: Float[Tensor, "n c H W"], fake: Float[Tensor, "n c H W"], tokenizer: ImageTokenizer
) -> str:
    beside = ""
    if tokenizer.mode == "RGBA":
        beside = f" on white, {psnr(fake[:, 3:], real[:, 3:]).mean():.2f} dB of alpha,"
    return f"PSNR {psnr(fake, real).mean():.2f} dB{beside}"


def _pair(rebuild: Rebuild, turn: Turn) -> tuple[Tensor, Tensor] | None:
    if not turn.batch:
        return None
    real = scaled(turn.batch["image"])
    return real, rebuild(real)


def _rank(
    options: Reconstruct, dataset: Dataset, worst: int, rebuild: Rebuild, transform: Transform,
    how: str,
) -> None:  # fmt: skip
    there = None if isinstance(dataset, IterableDataset) else len(dataset)  # type: ignore[arg-type]
    total = min((n for n in (options.count, there) if n is not None), default=None)
    workers = readers(options.workers, dataset)
    turns = own_turns(spread(dataset, options.count), EACH, transform, workers, options.count)
    of = f"By {options.tokenizer}, {how}."
    found = rank(rebuild, turns, total, worst, options.file, of)
    if processes().is_main_process:
        print(f"{found}; {how}")


@torch.no_grad()
def _rebuilt(
    tokenizer: ImageTokenizer, device: torch.device, images: Float[Tensor, "b c H W"]
) -> Float[Tensor, "b c H W"]:
    return checked(tokenizer.reconstruct(images.to(device)).cpu()).clamp(-1, 1)


def write_pairs(path: Path, real: Float[Tensor, "n c H W"], fake: Float[Tensor, "n c H W"]) -> None:
    """Write originals in [-1, 1], each left of what became of it, to one picture that says which is
    which; alpha lies over a checkerboard, and the figure is of colours on white.
    """
    said = [f"decoded, {value:.1f} dB" for value in psnr(fake, real).tolist()]
    captions = [caption for each in said for caption in ("original", each)]
    images = torch.stack([real, fake], 1).flatten(0, 1)
    write_sheet(path, images, captions, side=enlarged(real.shape[-1]))
