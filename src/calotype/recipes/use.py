"""Using what was trained: images from prompts, reconstructions of pictures."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from diffusers import StableDiffusionPipeline

from calotype.data import CenterCrop, Folder, Source, Transform, once
from calotype.pipelines import Choice, load, picture, recommended, sample
from calotype.tokenizers import ImageTokenizer, psnr
from calotype.training.log import save_grid


@dataclass(frozen=True)
class Generate:
    """Draw images from prompts with a trained pipeline."""

    prompts: tyro.conf.Positional[tuple[str, ...]]
    """What to draw, each in quotes; an unconditional pipeline counts them, and needs none."""
    pipeline: str = "runs/demo/pipeline"
    """Folder of a pipeline, or a name on the Hub."""
    out: Path = Path("generated")
    """Folder of the PNG files, named by number, prompt and seed."""
    images: int = 1
    """Images of each prompt."""
    seed: int = 0
    """Of the first image of each prompt; the next ones count up."""
    sampling: Choice = field(default_factory=Choice)

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ValueError(f"--images is {self.images}: it must be at least 1")


def generate(options: Generate) -> Path:
    """Draw and save; returns the folder.

    Raises:
        ValueError: there is no such pipeline.
    """
    pipeline = load(options.pipeline).to("cuda" if torch.cuda.is_available() else "cpu")
    asked = options.prompts
    if not asked and isinstance(pipeline, StableDiffusionPipeline):
        raise ValueError("no prompts: say what to draw, in quotes")
    if len(asked) > 1 and not any(" " in prompt for prompt in asked):
        print(f"{len(asked)} prompts of one word each; one of several words stands in quotes")
    prompts = [prompt for prompt in asked or [""] for _ in range(options.images)]
    seeds = [options.seed + i for _ in asked or [""] for i in range(options.images)]
    options.out.mkdir(parents=True, exist_ok=True)
    number = 0
    sampling = options.sampling.over(recommended(options.pipeline))
    for images in sample(pipeline, prompts, seeds, sampling):
        for image in images:
            name = f"{number:03d}-{_slug(prompts[number])}-{seeds[number]}.png"
            picture(image).save(options.out / name)
            number += 1
    return options.out


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


def _slug(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "empty"
