"""Real pictures, an hour or two of one core each: tokenizers of emoji and of photographs, and text
to emoji. Figures go to report.json of each run, pictures to docs/.

    python benchmarks/real_input.py emoji-tokenizer --data FOLDER
    python benchmarks/real_input.py emoji-diffusion --data FOLDER
    python benchmarks/real_input.py emoji-codes --data FOLDER
    python benchmarks/real_input.py emoji-transformer --data FOLDER
    python benchmarks/real_input.py photo-tokenizer --data FOLDER --backbone-weights FILE

The emoji families and photographs that validate are in no training set. A run that was stopped
goes on; one that has ended is only measured again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro

from calotype.autoregressive import TokenSampling, Transformer
from calotype.commands.cache_latents import cache
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import CenterCrop, Flip, Parquet, RandomCrop, Transform, once
from calotype.diffusion import Flow, LearntText
from calotype.pages.sheet import write_sheet
from calotype.pipelines import Sampling, load, sample
from calotype.recipes.cache import CacheRecipe
from calotype.recipes.discrete import scenes_vq
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.generators import scenes_diffusion
from calotype.recipes.tokenizer import TokenizerRecipe
from calotype.recipes.tokenizers import scenes_kl
from calotype.recipes.transformer import TransformerRecipe
from calotype.tokenizers import ImageTokenizer, psnr
from calotype.tokenizers.bottlenecks import VQ
from calotype.tokenizers.bottlenecks.codebook import EMA, Codebook, KMeans, Restart
from calotype.tokenizers.terms import L1, LPIPS
from calotype.training import AdamW, Run, has_ended
from calotype.training.description import describe
from calotype.training.files import write_text
from calotype.training.images import scaled
from calotype.training.log import save_grid

EMOJI_TEXT = LearntText(width=192, layers=3, heads=4, length=24, vocabulary=4000)
FREE = ("Apache-2.0", "MIT", "CC0-1.0", "public domain")
"""Licences of the pictures that docs/ shows."""


@dataclass(frozen=True)
class Places:
    """Where things are."""

    data: Path
    """Folder of emoji_train.parquet and photos_train.parquet."""
    out: Path = Path("runs/real")
    """Folder of the runs."""
    docs: Path = Path("docs")
    """Folder of the pictures to show."""
    backbone_weights: Path | None = None
    """VGG-16's features as safetensors, for LPIPS; None: torchvision fetches them."""


@dataclass(frozen=True)
class Split:
    """A table cut in two, so that no group of rows is in both."""

    train: Path
    validation: Path


def split(places: Places, name: str, group: str) -> Split:
    """Keep a twentieth of the groups of `name`.parquet, by a hash of their names, to validate."""
    made = Split(places.out / f"{name}-train.parquet", places.out / f"{name}-validation.parquet")
    table = pq.read_table(places.data / f"{name}.parquet")
    first = [blake2b(word.encode()).digest()[0] for word in table[group].to_pylist()]
    kept = pa.array([byte < 256 / 20 for byte in first])
    places.out.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.filter(pa.compute.invert(kept)), made.train)
    pq.write_table(table.filter(kept), made.validation)
    return made


def emoji_tokenizer_recipe(places: Places, emoji: Split) -> TokenizerRecipe:
    """Emoji of 64 pixels to 16x16x4 latents, by L2, as scenes are."""
    base = scenes_kl()
    run = replace(base.run, out=places.out / "emoji-tokenizer", steps=2800, resume=True)
    return replace(
        base, data=Parquet(emoji.train), transform=Transform(CenterCrop(64)), measure=5000, run=run
    )


def photo_tokenizer_recipe(places: Places, photos: Split) -> TokenizerRecipe:
    """Photographs to latents of a quarter of their side and 4 channels, by L1 and LPIPS."""
    base = scenes_kl()
    run = replace(base.run, out=places.out / "photo-tokenizer", steps=1000, batch_size=16,
                  resume=True)  # fmt: skip
    return replace(
        base, data=Parquet(photos.train, caption_column=None),
        transform=Transform(RandomCrop(64, resize=128), Flip()), run=run,
        pixel=L1(), perceptual=LPIPS(backbone_weights=places.backbone_weights), measure=5000,
    )  # fmt: skip


def emoji_tokenizer(places: Places) -> None:
    """Train on emoji; reconstruct families that were not shown."""
    emoji = split(places, "emoji_train", "family")
    rebuild(places, emoji_tokenizer_recipe(places, emoji), emoji.validation, 64)


def photo_tokenizer(places: Places) -> None:
    """Train on photographs; reconstruct others."""
    photos = split(places, "photos_train", "photo")
    rebuild(places, photo_tokenizer_recipe(places, photos), photos.validation, 128)


def emoji_codes_recipe(places: Places, emoji: Split) -> TokenizerRecipe:
    """Emoji of 64 pixels to 16x16 codes of 1024, by L2."""
    base = scenes_vq()
    bottleneck = VQ(Codebook(1024, 8, EMA(), KMeans(), Restart()), features=32)
    run = replace(base.run, out=places.out / "emoji-codes", steps=2800, resume=True)
    return replace(
        base, data=Parquet(emoji.train), validation=Parquet(emoji.validation),
        transform=Transform(CenterCrop(64)), measure=5000, run=run,
        model=replace(base.model, bottleneck=bottleneck),
    )  # fmt: skip


def emoji_codes(places: Places) -> None:
    """Train a tokenizer with codes on emoji; reconstruct families that were not shown."""
    emoji = split(places, "emoji_train", "family")
    rebuild(places, emoji_codes_recipe(places, emoji), emoji.validation, 64)


def emoji_transformer(places: Places) -> None:
    """Train text to emoji over tokens; draw the captions that `emoji_diffusion` draws."""
    emoji = split(places, "emoji_train", "family")
    tokenizer = emoji_codes_recipe(places, emoji)
    tokens = CacheRecipe(
        str(tokenizer.run.model), places.out / "emoji-tokens", tokenizer.data,
        tokenizer.transform, EMOJI_TEXT,
    )  # fmt: skip
    recipe = TransformerRecipe(
        tokens.tokenizer, tokens.out, Transformer(192, 6, 6),
        optimizer=AdamW(1.5e-3, (0.9, 0.95), weight_decay=0.05, warmup=100, schedule="cosine"),
        sampling=TokenSampling(guidance=2.0, temperature=0.8),
        run=replace(tokenizer.run, out=places.out / "emoji-transformer", steps=2700,
                    batch_size=32, ema=0.998, sample_every=600),
    )  # fmt: skip
    cache(tokens)
    if not has_ended(recipe.run, recipe):
        train_generator(recipe)
    show(places, emoji, recipe, "emoji-tokens")


def emoji_diffusion(places: Places) -> None:
    """Train text to emoji; draw captions it was shown and captions of other families."""
    emoji = split(places, "emoji_train", "family")
    tokenizer = emoji_tokenizer_recipe(places, emoji)
    latents = CacheRecipe(
        str(tokenizer.run.model), places.out / "emoji-latents", tokenizer.data,
        tokenizer.transform, EMOJI_TEXT,
    )  # fmt: skip
    recipe = GeneratorRecipe(
        latents.tokenizer, latents.out,
        scenes_diffusion().unet, Flow(shift=2.0), EMOJI_TEXT,
        optimizer=AdamW(1e-3, (0.9, 0.99), warmup=100, schedule="cosine"),
        sampling=Sampling(steps=25, guidance=3.0),
        run=replace(tokenizer.run, out=places.out / "emoji-diffusion", steps=2600, batch_size=64,
                    ema=0.998),
    )  # fmt: skip
    cache(latents)
    if not has_ended(recipe.run, recipe):
        train_generator(recipe)
    show(places, emoji, recipe, "emoji")


def show(
    places: Places, emoji: Split, recipe: GeneratorRecipe | TransformerRecipe, name: str
) -> None:
    """Draw captions of training and of other families."""
    pipeline = load(recipe.run.model)
    for which, file in (("shown", emoji.train), ("unseen", emoji.validation)):
        prompts = spread(pq.read_table(file)["caption"].to_pylist(), 32)
        images = torch.cat(list(sample(pipeline, prompts, range(32), recipe.sampling)))
        write_sheet(places.docs / f"{name}-{which}.png", images, prompts)
    metrics = recipe.run.out / "metrics.jsonl"
    last = json.loads(metrics.read_text().splitlines()[-1])
    report(recipe.run, {"last": last, "sampling": describe(recipe.sampling)})


def rebuild(places: Places, recipe: TokenizerRecipe, validation: Path, size: int) -> None:
    """Train, if that is still to do, and decode the posteriors' means of all validation pictures of
    `size` pixels a side; show some beside the originals.
    """
    if not has_ended(recipe.run, recipe):
        train_tokenizer(recipe)
    tokenizer = ImageTokenizer.load(recipe.run.model)
    data = Parquet(validation, caption_column=None).build()
    batches = once(data, 32, Transform(CenterCrop(size)))
    real = scaled(torch.cat([batch["image"] for batch in batches]))
    fake = torch.cat([tokenizer.reconstruct(x) for x in real.split(32)]).clamp(-1, 1)
    figures = {"pictures": len(real), "psnr_db": round(psnr(fake, real).mean().item(), 2)}
    if recipe.perceptual:
        term = recipe.perceptual.build()
        values = [term(f, r) for f, r in zip(fake.split(32), real.split(32), strict=True)]
        figures["lpips_vgg"] = round(torch.cat(values).mean().item(), 4)
    licences = pq.read_table(validation)["licence"].to_pylist()
    shown = spread([i for i, licence in enumerate(licences) if licence in FREE], 16)
    places.docs.mkdir(parents=True, exist_ok=True)
    pairs = torch.stack([real[shown], fake[shown]], 1).flatten(0, 1)
    save_grid(pairs, places.docs / f"{recipe.run.out.name}.png")
    report(recipe.run, figures)


def spread(items: Sequence, count: int) -> list:
    """Choose evenly spaced ones; some twice where there are fewer."""
    return [items[i * len(items) // count] for i in range(count)]


def report(run: Run, figures: dict) -> None:
    """Print figures and keep them with the run."""
    text = json.dumps(figures, indent=1) + "\n"
    write_text(run.out / "report.json", text)
    print(text)


RUNS = {
    "emoji-tokenizer": emoji_tokenizer,
    "emoji-diffusion": emoji_diffusion,
    "photo-tokenizer": photo_tokenizer,
    "emoji-codes": emoji_codes,
    "emoji-transformer": emoji_transformer,
}

if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(RUNS, config=(tyro.conf.OmitArgPrefixes,))
