"""Tokenizers with codes, and transformers in them, of normal pictures of one set."""

from dataclasses import replace
from pathlib import Path

from calotype.commands.cache_latents import cache
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import CenterCrop, Folder, Transform
from calotype.recipes.small import small_ar, small_tokens, small_vq
from calotype.tokenizers import Backbone

SIZE = 64


def trained(folder: Path, steps: int, later: int) -> Path:
    """A transformer's pipeline beside a set, trained on its `train/good` if it is not there yet:
    `steps` of 16 pictures for the tokenizer, `later` of 16 for the transformer.
    """
    done = folder / "tokens-model/model"
    if done.is_dir():
        return done
    data, out = Folder(folder / "train/good", captions="none"), folder / "codes-model"
    recipe = small_vq()
    assert recipe.model is not None
    backbone = Backbone(widths=(16, 32, 64), layers=1, attention=False, groups=8)
    if not (out / "model").is_dir():
        train_tokenizer(replace(
            recipe, data=data, measure=400, transform=Transform(CenterCrop(SIZE)),
            model=replace(recipe.model, backbone=backbone),
            run=replace(recipe.run, out=out, steps=steps, resume=True),
        ))  # fmt: skip
    cached = replace(small_tokens(), tokenizer=str(out / "model"), out=folder / "tokens",
                     data=data, text=None)  # fmt: skip
    cache(cached)
    transformer = small_ar()
    train_generator(replace(
        transformer, tokenizer=str(out / "model"), cache=cached.out, prompted=False,
        transformer=replace(transformer.transformer, width=96, layers=3, heads=3),
        run=replace(transformer.run, out=folder / "tokens-model", steps=later, resume=True),
    ))  # fmt: skip
    return done
