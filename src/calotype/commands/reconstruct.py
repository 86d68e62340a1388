"""Pictures beside what a tokenizer makes of them."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from calotype.commands.quiet import quiet
from calotype.data import CenterCrop, Folder, Source, Transform, once
from calotype.data.pictures import spread
from calotype.pages.sheet import enlarged, write_sheet
from calotype.pipelines import checked
from calotype.tokenizers import ImageTokenizer, psnr
from calotype.training.devices import Computation, computing
from calotype.training.progress import Told


@dataclass(frozen=True)
class Reconstruct(Computation):
    """Pictures beside what a tokenizer makes of them, and their PSNR."""

    tokenizer: tyro.conf.Positional[str]
    """Folder of a tokenizer, ours or a stock one, or a name on the Hub."""
    data: Source = field(default_factory=lambda: Folder(Path("images")))
    size: int | None = None
    """Pixels a side; pictures are resized and centre-cropped to it. None: as the tokenizer was
    trained, or 256 where it does not say."""
    count: int = 16
    """Pictures to reconstruct, from all over the data; of a stream the first."""
    out: Path = Path("reconstructions.png")
    """The picture to write: pairs of original and reconstruction, small ones enlarged."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("size", "count"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name} is {value}: it must be at least 1")


def reconstruct(options: Reconstruct) -> Path:
    """Reconstruct from the likeliest latents, posteriors' means or nearest codes, and save; returns
    the file.

    Raises:
        ValueError, FileNotFoundError: there is no such tokenizer, or there are no pictures.
    """
    quiet()
    options.warn_of_emulation()
    device = options.place
    _check_writable(options.out)
    tokenizer = ImageTokenizer.load(options.tokenizer).to(device)
    size = options.size or tokenizer.autoencoder.config.get("sample_size") or 256
    tokenizer.check(size)
    transform = Transform(CenterCrop(size), None)
    chosen = spread(options.data.build(), options.count)
    real = next(once(chosen, options.count, transform))["image"]
    decoded = []
    networks = computing(options.precision, device, *tokenizer.networks)
    with networks, Told("reconstructing", len(real), images=1) as told:
        for some in real.split(16):
            decoded.append(checked(tokenizer.reconstruct(some.to(device)).cpu()))
            told.advance(len(some))
    fake = torch.cat(decoded).clamp(-1, 1)
    values = psnr(fake, real)
    print(f"PSNR {values.mean():.2f} dB over {len(real)} pictures of {size} pixels, in "
          f"{options.exactness} on {device}")  # fmt: skip
    write_pairs(options.out, real, fake)
    return options.out


def write_pairs(path: Path, real: Float[Tensor, "n 3 H W"], fake: Float[Tensor, "n 3 H W"]) -> None:
    """Write originals in [-1, 1], each left of what became of it, to one picture that says which is
    which.
    """
    said = [f"decoded, {value:.1f} dB" for value in psnr(fake, real).tolist()]
    captions = [caption for each in said for caption in ("original", each)]
    images = torch.stack([real, fake], 1).flatten(0, 1)
    write_sheet(path, images, captions, side=enlarged(real.shape[-1]))


def _check_writable(file: Path) -> None:
    if file.is_dir() or file.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"--out is {file}: name a picture, such as pairs.png")
