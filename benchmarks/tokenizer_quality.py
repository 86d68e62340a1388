"""Tokenizers after equal steps, beside diffusers' train_autoencoderkl.py and train_vqgan.py
(scripts.py says how they are taken over), by `calotype compare` on what was not trained on.

    python benchmarks/tokenizer_quality.py emoji --data FOLDER --backbone-weights FOLDER
    python benchmarks/tokenizer_quality.py photos --data FOLDER --backbone-weights FOLDER

Autoencoder, its beginning, pictures, batch, learning rate, LPIPS and the discriminator's network
are the same; averaged weights are measured. A step is the scripts' own count, a batch for one
player: ours teaches both by each. The adversary's weight is each one's own: 0.5 of all other terms
in train_autoencoderkl.py, as much as LPIPS in train_vqgan.py, 0.1 in ours, whose discriminator
learns for 50 steps before the decoder feels it. Codes of ours begin at k-means, restart and follow
by our defaults; train_vqgan.py's follow the loss from a stock model's start. `even` is ours by the
first script's weight and start, or by the second's codes. `kl-leaking` is train_autoencoderkl.py
with a gradient for LPIPS, `kl-published` as it stands; `bf16` is ours in that precision, LPIPS and
the discriminator too; all else is float32. Training's LPIPS is VGG's; AlexNet's, which nobody
trained by, is measured too.
A tokenizer that is there already is not trained again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from real_input import Places, split
from scripts import KLScript, Script, VQScript
from tokenizer_step import LATENTS, PIXELS, SIDE, fresh
from torch import Tensor

from calotype.commands.compare import Compare, compare
from calotype.data import CenterCrop, Flip, Loader, Parquet, RandomCrop, Transform
from calotype.tokenizers import VQ, Backbone, Critic, Reconstruction
from calotype.tokenizers.bottlenecks import BottleneckSpec
from calotype.tokenizers.bottlenecks.codebook import Codebook
from calotype.tokenizers.terms import LPIPS, Adaptive, Adversary, PerceptualTerm
from calotype.training import AdamW, Run, fit
from calotype.training.images import scaled

BACKBONE = Backbone((32, 64, 128), layers=1, attention=False, groups=8)
PICTURES = {
    "emoji": ("emoji_train", "family", Transform(CenterCrop(SIDE))),
    "photos": ("photos_train", "photo", Transform(RandomCrop(SIDE, resize=128), Flip())),
}
"""Table, what groups its rows, and how rows are cropped."""


@dataclass(frozen=True)
class Options:
    """What is trained, and on what."""

    pictures: tyro.conf.Positional[Literal["emoji", "photos"]]
    data: Path
    """Folder of emoji_train.parquet and photos_train.parquet."""
    backbone_weights: Path
    """Folder of alexnet-features.safetensors and vgg16-features.safetensors."""
    out: Path = Path("runs/quality")
    """Folder of tokenizers and comparisons."""
    kinds: tuple[Literal["kl", "vq"], ...] = ("kl", "vq")
    who: tuple[str, ...] = ()
    """Rows of a table, such as calotype; none: all."""
    steps: int = 600
    start: int = 300
    """Step from which there is an adversary, of those that wait."""
    batch_size: int = 8
    lr: float = 3e-4
    seed: int = 0

    @property
    def folder(self) -> Path:
        """Of these pictures and settings."""
        return self.out / f"{self.pictures}-{self.steps}-{self.start}-{self.seed}"

    def lpips(self) -> PerceptualTerm:
        """Over VGG."""
        return LPIPS(backbone_weights=self.backbone_weights / "vgg16-features.safetensors").build()


Train = Callable[[Options, str, Loader, Path], None]


def ours(
    precision: Literal["fp32", "bf16"], lead: int, weight: Adaptive,
    latents: dict[str, BottleneckSpec], options: Options, kind: str, loader: Loader, folder: Path,
) -> None:  # fmt: skip
    """By `fit`."""
    tokenizer = fresh(BACKBONE, latents[kind])
    settings = AdamW(options.lr, weight_decay=0.01)
    terms = {"pixel": (1.0, PIXELS[kind].build()), "lpips": (1.0, options.lpips())}
    first = Reconstruction(tokenizer, terms, settings)
    adversary = Adversary(balance=weight, start=options.start - lead, effect_start=options.start)
    critic = Critic(adversary, first, settings)
    run = Run(folder.with_name(f"{folder.name}-run"), steps=options.steps, seed=options.seed,
              batch_size=options.batch_size, ema=0.99, precision=precision, log_every=50,
              sample_every=9999)  # fmt: skip
    fit([first, critic], loader, run)
    tokenizer.save(folder)


def peer(make: Callable[..., Script]) -> Train:
    """By a script."""

    def train(options: Options, kind: str, loader: Loader, folder: Path) -> None:
        model: Any = fresh(BACKBONE, LATENTS[kind]).export()
        # train_vqgan.py's discriminator plays from the first step.
        script = make(model, options.lpips(), options.lr, options.start if kind == "kl" else 0)
        for image in islice(pictures(loader), options.steps):
            script.step(image)
        script.average.copy_to(model.parameters())
        model.save_pretrained(folder)

    return train


def defective(teaching: bool, *given: Any) -> Script:
    """train_autoencoderkl.py with its leak, and LPIPS that teaches or not."""
    script = KLScript(*given)
    script.teaching, script.leaking = teaching, True
    return script


def pictures(loader: Loader) -> Iterator[Tensor]:
    """Batches in the order in which ours sees them."""
    return (scaled(batch["image"]) for batch in loader.batches())


FREE, EVEN = Adaptive(0.1), Adaptive(0.5, largest=1e4 / (3 * SIDE**2))
"""Our weight, and the first script's: its losses are sums over the image where ours are means."""
OWN: dict[str, BottleneckSpec] = {**LATENTS, "vq": VQ(Codebook(1024, 4))}
"""Codes by our defaults; LATENTS has them by the script's."""
OURS: dict[str, Train] = {
    "calotype": partial(ours, "fp32", 50, FREE, OWN), "bf16": partial(ours, "bf16", 50, FREE, OWN),
}  # fmt: skip
WHO: dict[str, dict[str, Train]] = {
    "kl": {
        **OURS, "even": partial(ours, "fp32", 0, EVEN, OWN), "script": peer(KLScript),
        "leaking": peer(partial(defective, True)), "published": peer(partial(defective, False)),
    },
    "vq": {
        **OURS, "even": partial(ours, "fp32", 50, FREE, LATENTS), "script": peer(VQScript),
    },
}  # fmt: skip


def main(options: Options) -> None:
    """Train what is not there, and compare."""
    name, group, transform = PICTURES[options.pictures]
    cut = split(Places(options.data, options.out), name, group)
    data = Parquet(cut.train, caption_column=None).build()
    for kind in options.kinds:
        folders = []
        for who, train in WHO[kind].items():
            if options.who and who not in options.who:
                continue
            folders.append(str(folder := options.folder / f"{kind}-{who}"))
            if not (folder / "config.json").exists():
                torch.manual_seed(options.seed)
                loader = Loader(data, options.batch_size, seed=options.seed, transform=transform)
                train(options, kind, loader, folder)
        compare(Compare(
            artifacts=tuple(folders), out=options.folder / f"compare-{kind}", size=SIDE,
            data=Parquet(cut.validation, caption_column=None), features="efficientnet-lite0",
            backbone_weights=options.backbone_weights,
        ))  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Options))
