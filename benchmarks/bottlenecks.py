"""Every bottleneck on the same footing: encoder and decoder, steps, batches and seed are the same.

    python benchmarks/bottlenecks.py --data FOLDER --backbone-weights FILE

Scenes, emoji and photographs of 32 pixels, to 8x8 sites each; about 10 bits a site for those with
codes. Measured on scenes of held-out combinations, on emoji families and photographs that were not
trained on. A run that was stopped goes on; one that has ended is only measured again.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from real_input import Places, split
from torch import Tensor

from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import CenterCrop, Parquet, RandomCrop, Scenes, Source, Transform, once
from calotype.evaluation.codebook import codebook_health
from calotype.recipes.discrete import scenes_vq
from calotype.recipes.tokenizer import NewTokenizer, TokenizerRecipe
from calotype.tokenizers import Gaussian, ImageTokenizer, psnr
from calotype.tokenizers.bottlenecks import (
    BSQ,
    FSQ,
    LFQ,
    RVQ,
    VQ,
    BottleneckSpec,
    Discrete,
    Gumbel,
)
from calotype.tokenizers.bottlenecks.codebook import EMA, Codebook, CodebookLoss
from calotype.tokenizers.terms import L2, LPIPS, LogitLaplace, Pixel
from calotype.training import Run, has_ended
from calotype.training.images import scaled
from calotype.training.log import save_grid
from calotype.training.schedules import Cosine

SIDE = 32
SITE_BETA = 6.6 / 4
"""The published KL weight for a quarter of the pixels behind each site."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    data: Path
    """Folder of emoji_train.parquet and photos_train.parquet."""
    out: Path = Path("runs/bottlenecks")
    """Folder of the runs."""
    backbone_weights: Path | None = None
    """VGG-16's features as safetensors, for LPIPS; None: torchvision fetches them."""
    steps: int = 400
    kinds: tuple[str, ...] = ()
    """Of those below; none: all."""
    pictures: tuple[str, ...] = ("scenes", "emoji", "photos")


def kinds(steps: int) -> dict[str, tuple[BottleneckSpec, Pixel]]:
    """What is compared. Codes are those of their papers' tables nearest to 1024; features between
    encoder and codes are as wide for all. The dVAE has its likelihood, all others L2.
    """
    dvae = Gumbel(1024, 32, temperature=Cosine(1.0, 1 / 16, int(0.75 * steps)),
                  kl_weight=Cosine(0.0, SITE_BETA, int(0.4 * steps)))  # fmt: skip
    light = replace(dvae, kl_weight=replace(dvae.kl_weight, last=0.4))
    by_l2 = {name: (spec, L2()) for name, spec in _by_l2().items()}
    return {
        **by_l2,
        "dvae": (dvae, LogitLaplace()),
        "dvae-least-scale": (light, LogitLaplace(least_scale=0.2)),
    }


def _by_l2() -> dict[str, BottleneckSpec]:
    book, wide = Codebook(1024, 8), 32
    return {
        "kl": Gaussian(channels=4, kl_weight=1e-4),
        "vq-loss": VQ(replace(book, learning=CodebookLoss()), features=wide),
        "vq-ema": VQ(replace(book, learning=EMA()), features=wide),
        "lfq": LFQ(bits=10, features=wide),
        "bsq": BSQ(bits=10, features=wide),
        "fsq": FSQ((8, 5, 5, 5), features=wide),
        "rvq-2x32": RVQ(2, replace(book, size=32), features=wide),
        "rvq-2x1024": RVQ(2, book, features=wide),
    }


@dataclass(frozen=True)
class Pictures:
    """A source to train on, and pictures that it lacks."""

    source: Source
    transform: Transform | None
    held_out: Callable[[], Tensor]


def scenes() -> Pictures:
    """Held-out combinations of factors."""
    unseen = Scenes(size=SIDE, split="held-out", seed=1)
    return Pictures(Scenes(size=SIDE), None, lambda: unseen.build().batch(range(512))["image"])


def real(options: Options, name: str, group: str, train: Transform) -> Pictures:
    """Groups that are kept apart, centre-cropped."""
    parts = split(Places(options.data, options.out), name, group)

    def held_out() -> Tensor:
        data = Parquet(parts.validation, caption_column=None).build()
        batches = once(data, 64, Transform(CenterCrop(SIDE)))
        return scaled(torch.cat([batch["image"] for batch in batches]))

    return Pictures(Parquet(parts.train, caption_column=None), train, held_out)


def pictures(options: Options) -> dict[str, Pictures]:
    """The three sources."""
    return {
        "scenes": scenes(),
        "emoji": real(options, "emoji_train", "family", Transform(CenterCrop(SIDE))),
        "photos": real(options, "photos_train", "photo", Transform(RandomCrop(SIDE, resize=64))),
    }


def recipe(
    options: Options, name: str, spec: BottleneckSpec, pixel: Pixel, shown: Pictures
) -> TokenizerRecipe:
    """The same for all but the bottleneck and the likelihood."""
    base = scenes_vq()
    assert isinstance(base.model, NewTokenizer)
    return replace(
        base, data=shown.source, transform=shown.transform, validation=None,
        model=NewTokenizer(base.model.backbone, spec),
        pixel=pixel, measure=2000,
        run=Run(options.out / name, steps=options.steps, batch_size=32, ema=0.99,
                precision="bf16", save_every=options.steps, resume=True),
    )  # fmt: skip


def bits(tokenizer: ImageTokenizer, images: Tensor) -> float:
    """Of an image: of its codes, each as long as any; of a posterior, its divergence from the
    prior.
    """
    bottleneck, features = tokenizer.bottleneck, tokenizer.features(images)
    if isinstance(bottleneck, Discrete):
        return bottleneck.pack(features)[0].numel() * math.log2(bottleneck.codes)
    weight = bottleneck.spec.kl_weight
    return (bottleneck(features).rates["kl"].mean() / weight / math.log(2)).item()


@torch.no_grad()
def figures(options: Options, tokenizer: ImageTokenizer, images: Tensor) -> dict[str, float]:
    """What is kept of images, and how much is written for it."""
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    fake = torch.cat([tokenizer.reconstruct(x) for x in images.split(64)]).clamp(-1, 1)
    lpips = LPIPS(backbone_weights=options.backbone_weights).build()
    found = {
        "bits": bits(tokenizer, images[:256]),
        "psnr": psnr(fake, images).mean().item(),
        "ssim": ssim(fake, images, data_range=2.0).item(),  # type: ignore[union-attr]
        "lpips": torch.cat(
            [lpips(f, r) for f, r in zip(fake.split(64), images.split(64), strict=True)]
        )
        .mean()
        .item(),
    }
    if isinstance(tokenizer.bottleneck, Discrete):
        health = codebook_health(tokenizer, [{"image": x} for x in images.split(64)])
        found |= {"use": health.use, "perplexity": health.perplexity}
    return found


def main(options: Options) -> None:
    """Train what is missing, print a table for each source, and save what each makes of the same
    pictures.
    """
    for source, shown in pictures(options).items():
        if source not in options.pictures:
            continue
        images = shown.held_out()
        sheet = [images[:8]]
        print(f"\n| {source}, {len(images)} held out | bits | PSNR, dB | SSIM | LPIPS | use | "
              "perplexity |\n|---|---|---|---|---|---|---|", flush=True)  # fmt: skip
        for kind, (spec, pixel) in kinds(options.steps).items():
            if options.kinds and kind not in options.kinds:
                continue
            wanted = recipe(options, f"{source}-{kind}", spec, pixel, shown)
            if not has_ended(wanted.run, wanted):
                train_tokenizer(wanted)
            tokenizer = ImageTokenizer.load(wanted.run.model)
            found = figures(options, tokenizer, images)
            sheet.append(tokenizer.reconstruct(images[:8]))
            print(row(kind, found), flush=True)
        save_grid(torch.cat(sheet), options.out / f"{source}.png")


def row(kind: str, found: dict[str, float]) -> str:
    """Of the table."""
    codes = f"{found['use']:.0%} | {found['perplexity']:.0f}" if "use" in found else "- | -"
    return (f"| `{kind}` | {found['bits']:.0f} | {found['psnr']:.2f} | {found['ssim']:.3f} | "
            f"{found['lpips']:.3f} | {codes} |")  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Options, config=(tyro.conf.OmitArgPrefixes,)))
