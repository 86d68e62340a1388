"""Pictures beside what a tokenizer makes of them."""

from collections.abc import Sequence
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
from calotype.commands.whole import learnt_in_buckets, whole_shapes
from calotype.commands.worst import Rebuild, rank
from calotype.data import CenterCrop, Folder, Source, Transform
from calotype.data.loading.passes import Turn, own_turns
from calotype.data.pictures import spread
from calotype.pages.sheet import enlarged, write_sheet
from calotype.pipelines import checked
from calotype.recipes.tokenizer import shapes_of
from calotype.tokenizers import ImageTokenizer, psnr
from calotype.training.agreement import agree_to_share
from calotype.training.devices import Computation, computing
from calotype.training.distributed import processes
from calotype.training.images import scaled
from calotype.training.progress import track
from calotype.training.sharing import in_turn
from calotype.training.sheet import framed
from calotype.training.weights import weights_of

Pair = tuple[Float[Tensor, "_ c _ _"], Float[Tensor, "_ c _ _"]]
"""Images of one shape, and what becomes of them."""
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
    whole: bool = False
    """Pictures are resized and cropped to shapes of about that area, each to the one nearest its
    own, and not to squares; so are they without it where the tokenizer's run had buckets."""
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
    size = options.size or tokenizer.sample_size
    tokenizer.check(size)
    agree_to_share(tokenizer=partial(weights_of, tokenizer))
    dataset, rebuild = options.data.build(), partial(_rebuilt, tokenizer, device)
    whole = options.whole or learnt_in_buckets(options.tokenizer)
    crop = whole_shapes(size, tokenizer.factor) if whole else CenterCrop(size)
    transform = Transform(crop, mode=tokenizer.mode)
    shapes = shapes_of(size, transform) if whole else f"of {size} pixels"
    how = f"{shapes}, in {options.exactness} on {device}"
    with computing(options.precision, device, *tokenizer.networks):
        if options.worst:
            _rank(options, dataset, options.worst, rebuild, transform, how)
            return file
        count = options.count or EACH
        turns = own_turns(spread(dataset, count), EACH, transform, count=count)
        told = track(turns, "reconstructing", -(-count // EACH), EACH)
        pairs = list(filter(None, in_turn(told, partial(_pair, rebuild))))
    if processes().is_main_process:
        if not pairs:
            raise ValueError("no pictures to reconstruct: none of them can be read")
        print(f"{_psnr(pairs, tokenizer)} pictures {how}")
        write_pairs(file, pairs)
    return file


def _psnr(pairs: Sequence[Pair], tokenizer: ImageTokenizer) -> str:
    values = torch.cat([psnr(fake, real) for real, fake in pairs])
    beside = ""
    if tokenizer.mode == "RGBA":
        alphas = torch.cat([psnr(fake[:, 3:], real[:, 3:]) for real, fake in pairs])
        beside = f" on white, {alphas.mean():.2f} dB of alpha,"
    return f"PSNR {values.mean():.2f} dB{beside} over {len(values)}"


def _pair(rebuild: Rebuild, turn: Turn) -> Pair | None:
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


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """Write originals in [-1, 1], each left of what became of it, to one picture that says which is
    which: those of several shapes in the middle of white squares. Alpha lies over a checkerboard,
    and the figure is of colours on white.
    """
    said = [f"decoded, {value:.1f} dB" for real, fake in pairs for value in psnr(fake, real)]
    captions = [caption for each in said for caption in ("original", each)]
    images = framed([torch.stack(pair, 1).flatten(0, 1) for pair in pairs])
    write_sheet(path, images, captions, side=enlarged(images.shape[-1]))
