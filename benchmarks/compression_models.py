"""Tokenizers and transformers in their codes, of which compression.py measures what they save.

    python benchmarks/compression_models.py photos --data FOLDER --backbones FOLDER
    python benchmarks/compression_models.py openmoji --backbones FOLDER
    python benchmarks/compression_models.py emoji --data FOLDER --backbones FOLDER

Writes `learnt.parquet` and `held.parquet` of other photographs or families of emoji, trains
`small-vq` with LPIPS of AlexNet on the first, and a transformer in its codes: of photographs and of
OpenMoji's drawings at 128 pixels, of emoji of seven sets at 64. Goes on where it was stopped. Then

    python benchmarks/compression.py rates OUT/ar OUT/held.parquet --size 128
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from calotype.commands.cache_latents import cache
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import CenterCrop, OpenMoji, Parquet, Transform
from calotype.data.reading.transforms import Flip, RandomCrop
from calotype.lazy import pyarrow
from calotype.recipes.small import small_ar, small_tokens, small_vq
from calotype.tokenizers import Backbone
from calotype.tokenizers.bottlenecks import VQ
from calotype.tokenizers.bottlenecks.codebook import EMA, Codebook, KMeans, Restart
from calotype.tokenizers.terms import LPIPS

Set = Literal["photos", "openmoji", "emoji"]
HELD = 0.07
"""Part of the photographs or families that is held out."""
GROUPS = {"photos": "photo", "emoji": "family"}
TONES, GENDERS = ("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"), ("1F468", "1F469", "1F9D1")
PERSON = {**dict.fromkeys(TONES, "tone"), **dict.fromkeys(GENDERS, "person")}
"""Code points that a family has in common."""


@dataclass(frozen=True)
class Plan:
    """How a set is learnt."""

    size: int
    crop: RandomCrop
    """What the tokenizer sees: parts as sharp as the whole."""
    codes: int
    steps: int
    later: int
    """Steps of the transformer, of 16 pictures each as the tokenizer's."""


PLANS: dict[Set, Plan] = {
    "photos": Plan(128, RandomCrop(64, resize=128), 64, 1800, 700),
    "openmoji": Plan(128, RandomCrop(64, resize=128), 64, 1000, 300),
    "emoji": Plan(64, RandomCrop(64), 512, 1400, 1500),
}


@dataclass(frozen=True)
class Options:
    """What to train."""

    name: tyro.conf.Positional[Set]
    data: Path = Path("data")
    """Folder of photos_train.parquet and emoji_train.parquet."""
    backbones: Path | None = None
    """Folder of LPIPS's backbones; None: torchvision fetches them."""
    out: Path = Path("runs/compression")


def main(options: Options) -> None:
    """Split, and train what is not there."""
    plan, out = PLANS[options.name], options.out / options.name
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "held.parquet").exists():
        split(options, plan, out)
    data = Parquet(out / "learnt.parquet", caption_column=None)
    weights = options.backbones and options.backbones / "alexnet-features.safetensors"
    tokenizer, tokens = out / "vq", out / "tokens"
    if not (tokenizer / "model").is_dir():
        base = small_vq()
        spec = VQ(Codebook(plan.codes, 8, EMA(), KMeans(), Restart()), features=32)
        backbone = Backbone(widths=(16, 32, 64), layers=1, attention=False, groups=8)
        assert base.model is not None
        train_tokenizer(replace(
            base, data=data, transform=Transform(plan.crop, Flip()), measure=256,
            model=replace(base.model, backbone=backbone, bottleneck=spec),
            perceptual=LPIPS(1.0, "alex", weights),
            run=replace(base.run, out=tokenizer, steps=plan.steps, resume=True),
        ))  # fmt: skip
    cache(replace(
        small_tokens(), tokenizer=str(tokenizer / "model"), out=tokens, data=data, text=None,
        transform=Transform(CenterCrop(plan.size)),
    ))  # fmt: skip
    recipe = small_ar()
    train_generator(replace(
        recipe, tokenizer=str(tokenizer / "model"), cache=tokens, prompted=False,
        transformer=replace(recipe.transformer, width=128, layers=3, heads=4),
        run=replace(recipe.run, out=out / "ar", steps=plan.later, resume=True),
    ))  # fmt: skip


def split(options: Options, plan: Plan, out: Path) -> None:
    """By whole photographs or families, never by pictures."""
    if options.name == "openmoji":
        table = pyarrow.table(drawn(plan.size))
    else:
        table = pyarrow.parquet.read_table(options.data / f"{options.name}_train.parquet")
    groups = np.array(table[GROUPS.get(options.name, "family")].to_pylist())
    every = np.random.default_rng(0).permutation(np.unique(groups))
    held = np.isin(groups, every[: round(HELD * len(every))])
    for name, rows in (("learnt", ~held), ("held", held)):
        pyarrow.parquet.write_table(table.filter(rows), out / f"{name}.parquet")
        print(f"{name}: {rows.sum()} pictures")


def drawn(size: int) -> dict[str, list[object]]:
    """OpenMoji at such a size; a family is one emoji in any tone, of man, woman or person."""
    found: dict[str, list[object]] = {"image": [], "family": []}
    for record in OpenMoji(size).build().records:
        found["image"].append({"bytes": record.contents(), "path": None})
        points = record.name.removesuffix(".svg").split("-")
        named = (PERSON.get(each, each) for each in points)
        found["family"].append("-".join(each for each in named if each != "tone"))
    return found


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
