"""Pictures beside what a tokenizer makes of them."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro

from calotype.data import CenterCrop, Folder, Source, Transform, once
from calotype.tokenizers import ImageTokenizer, psnr
from calotype.training.log import save_grid


@dataclass(frozen=True)
class Reconstruct:
    """Pictures beside what a tokenizer makes of them, and their PSNR."""

    tokenizer: tyro.conf.Positional[str]
    """Folder of a tokenizer, ours or any stock AutoencoderKL or VQModel, or a name on the Hub."""
    data: Source = field(default_factory=lambda: Folder(Path("images")))
    size: int | None = None
    """Pixels a side; pictures are resized and centre-cropped to it. None: as the tokenizer was
    trained, or 256 where it does not say."""
    count: int = 16
    """Pictures to reconstruct."""
    out: Path = Path("reconstructions.png")
    """The picture to write: pairs of original and reconstruction."""

    def __post_init__(self) -> None:
        for name in ("size", "count"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name} is {value}: it must be at least 1")


def reconstruct(options: Reconstruct) -> Path:
    """Reconstruct from the likeliest latents, posteriors' means or nearest codes, and save; returns
    the file.

    Raises:
        ValueError, FileNotFoundError: there is no such tokenizer, or there are no pictures.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    _check_writable(options.out)
    tokenizer = ImageTokenizer.load(options.tokenizer).to(device)
    size = options.size or tokenizer.autoencoder.config.get("sample_size") or 256
    tokenizer.check(size)
    transform = Transform(CenterCrop(size), None)
    real = next(once(options.data.build(), options.count, transform))["image"]
    decoded = (tokenizer.reconstruct(x.to(device)).cpu() for x in real.split(16))
    fake = torch.cat(list(decoded)).clamp(-1, 1)
    values = psnr(fake, real)
    print(f"PSNR {values.mean():.2f} dB over {len(real)} pictures of {size} pixels")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_grid(torch.stack([real, fake], 1).flatten(0, 1), options.out)
    return options.out


def _check_writable(file: Path) -> None:
    if file.is_dir() or file.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"--out is {file}: name a picture, such as pairs.png")
