"""What keeps 4096 codes in use: photographs, a few minutes each, all else equal.

    python benchmarks/codebook_start.py --data FOLDER

Codes that begin evenly near zero, as published, or at k-means; that restart or not; that follow by
a loss or by averages. Counted on photographs that were not trained on.
"""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from real_input import Places, split

from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import CenterCrop, Parquet, RandomCrop, Transform, once
from calotype.evaluation.codebook import codebook_health
from calotype.recipes.discrete import scenes_vq
from calotype.recipes.tokenizer import NewTokenizer
from calotype.tokenizers import VQ, ImageTokenizer, psnr
from calotype.tokenizers.bottlenecks.codebook import (
    EMA,
    Codebook,
    CodebookLoss,
    KMeans,
    Restart,
    Uniform,
)
from calotype.training import Run, has_ended
from calotype.training.images import scaled


@dataclass(frozen=True)
class Options:
    """What to measure."""

    data: Path
    """Folder of photos_train.parquet."""
    out: Path = Path("runs/codebook-start")
    """Folder of the runs; one that has ended is only measured again."""
    codes: int = 4096
    steps: int = 300


def main(options: Options) -> None:
    """Print a row for each codebook."""
    photos = split(Places(options.data, options.out), "photos_train", "photo")
    crops, base = Transform(RandomCrop(64, resize=128)), scenes_vq()
    assert isinstance(base.model, NewTokenizer)
    data = Parquet(photos.validation, caption_column=None).build()
    batches = once(data, 32, Transform(CenterCrop(128)))
    real = scaled(torch.cat([batch["image"] for batch in batches]))
    print("| follows by | begins | restarts | use | perplexity | PSNR, dB |")
    print("|---|---|---|---|---|---|")
    starts, restarts = (Uniform(), KMeans()), (None, Restart())
    for chosen in itertools.product((CodebookLoss(), EMA()), starts, restarts):
        names = ["never" if x is None else type(x).__name__ for x in chosen]
        codebook = Codebook(options.codes, 8, *chosen)
        recipe = replace(
            base, data=Parquet(photos.train, caption_column=None), transform=crops, validation=None,
            model=NewTokenizer(base.model.backbone, VQ(codebook, features=32)), measure=1000,
            run=Run(options.out / "-".join(names), steps=options.steps, batch_size=16, ema=None,
                    precision="bf16", save_every=options.steps, resume=True),
        )  # fmt: skip
        if not has_ended(recipe.run, recipe):
            train_tokenizer(recipe)
        tokenizer = ImageTokenizer.load(recipe.run.model)
        health = codebook_health(tokenizer, [{"image": x} for x in real.split(8)])
        fake = torch.cat([tokenizer.reconstruct(x) for x in real.split(8)])
        print(f"| {' | '.join(names)} | {health.use:.1%} | {health.perplexity:.0f} | "
              f"{psnr(fake, real).mean():.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Options, config=(tyro.conf.OmitArgPrefixes,)))
