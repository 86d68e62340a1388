"""What a quickstart ends in: drawings, pictures rebuilt, and a figure."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.commands.journey import Journey
from calotype.commands.nearest import nearest
from calotype.commands.quickstart_plan import DRAWN, Recipes
from calotype.data import CenterCrop, Folder, Transform, once
from calotype.pages.gallery import PAIR, Grid
from calotype.pages.sheet import write_sheet
from calotype.pipelines import load, sample
from calotype.tokenizers import ImageTokenizer, psnr
from calotype.training.devices import device_named
from calotype.training.images import scaled

COMPARED = 8
"""Drawings that are shown beside the nearest picture."""


def show_result(
    journey: Journey, way: Recipes, captions: tuple[str, ...], out: Path
) -> dict[str, Any]:
    """Draw and rebuild, and show it; returns figures."""
    device = device_named("auto")
    pipeline, seed = load(out / "pipeline").to(device), way.generator.run.seed
    prompts = captions or ("",) * DRAWN
    seeds = range(seed, seed + len(prompts))
    drawn = torch.cat(list(sample(pipeline, prompts, seeds, way.generator.sampling)))
    real, fake = _rebuilt(way)
    pairs = _paired(real, fake)[: 2 * DRAWN]
    shown, pictures = drawn[:COMPARED], way.tokenizer.data
    assert isinstance(pictures, Folder)
    beside = _paired(shown, nearest(shown, pictures, way.size))
    write_sheet(out / "drawn.png", drawn, prompts)
    write_sheet(out / "rebuilt.png", pairs, PAIR * (len(pairs) // 2))
    what = "new pictures that it draws of captions" if captions else "new pictures that it draws"
    journey.show(
        Grid(what, drawn, captions or None, None),
        Grid("what it draws beside the picture of yours that is nearest to it: the more alike they "
             "are, the more it repeats", beside, ("drawn", "yours") * len(shown), None, pairs=True),
        Grid("your pictures beside what the tokenizer makes of them", pairs,
             PAIR * (len(pairs) // 2), None, pairs=True),
    )  # fmt: skip
    return {"reconstruction_psnr_db": round(psnr(fake, real).mean().item(), 2),
            "reconstructed": len(real), "precision": way.generator.sampling.precision,
            "device": str(device)}  # fmt: skip


def _paired(
    left: Float[Tensor, "n c H W"], right: Float[Tensor, "n c H W"]
) -> Float[Tensor, "m c H W"]:
    return torch.stack([left, right], 1).flatten(0, 1)


def _rebuilt(way: Recipes, count: int = 64) -> tuple[Tensor, Tensor]:
    """Pictures, and what the tokenizer makes of them."""
    transform = Transform(CenterCrop(way.size))
    real = scaled(next(once(way.tokenizer.data.build(), count, transform))["image"])
    tokenizer = ImageTokenizer.load(way.tokenizer.run.model)
    return real, tokenizer.reconstruct(real).clamp(-1, 1)
