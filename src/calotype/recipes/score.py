"""How likely a transformer finds images under their captions."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro

from calotype.data import CenterCrop, Folder, Source, Transform, once
from calotype.pipelines import TokenPipeline, load, score
from calotype.training.checkpoint import write_text


@dataclass(frozen=True)
class Score:
    """Bits that a transformer needs for images, under their captions and without."""

    pipeline: tyro.conf.Positional[str]
    """Folder of a transformer's pipeline, or a name on the Hub."""
    data: Source = field(default_factory=lambda: Folder(Path("images")))
    prompt: str | None = None
    """Score all images under this one; None: under their captions."""
    count: int | None = None
    """Images to score; None: all."""
    batch_size: int = 32
    out: Path = Path("scores.jsonl")
    """The file to write: a line of JSON for each image."""

    def __post_init__(self) -> None:
        for name in ("count", "batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is {value}: it must be at least 1")


def score_images(options: Score) -> Path:
    """Score and write; returns the file.

    Raises:
        ValueError, FileNotFoundError: there is no such pipeline, or there are no images.
    """
    pipeline = load(options.pipeline).to("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(pipeline, TokenPipeline):
        raise ValueError(f"{options.pipeline} is a diffusion pipeline: only a transformer scores")
    lines: list[dict] = []
    transform = Transform(CenterCrop(pipeline.size))
    for batch in once(options.data.build(), options.batch_size, transform):
        lines += _scored(pipeline, batch["image"], _prompts(options, batch["caption"]))
        if options.count and len(lines) >= options.count:
            break
    lines = lines[: options.count]
    if not lines:
        raise ValueError("no images to score: the data source is empty")
    for name in ("bits_per_token", "bits_per_token_without_prompt", "bits_per_pixel"):
        print(f"{name.replace('_', ' ')}: {sum(line[name] for line in lines) / len(lines):.4f}")
    write_text(options.out, "".join(json.dumps(line) + "\n" for line in lines))
    return options.out


def _prompts(options: Score, captions: list[str]) -> list[str]:
    return captions if options.prompt is None else [options.prompt] * len(captions)


def _scored(pipeline: TokenPipeline, images: torch.Tensor, prompts: list[str]) -> list[dict]:
    codes = pipeline.codes(images)
    tokens, pixels = pipeline.layout.length, pipeline.size**2
    told, untold = (score(pipeline, codes, said) for said in (prompts, [""] * len(prompts)))
    return [
        {"prompt": prompt, "bits_per_token": a / tokens, "bits_per_pixel": a / pixels,
         "bits_per_token_without_prompt": b / tokens}
        for prompt, a, b in zip(prompts, told.tolist(), untold.tolist(), strict=True)
    ]  # fmt: skip
