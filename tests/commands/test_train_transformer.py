"""A trained transformer goes on over the same tokens."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import transformers

import tiny
from calotype.autoregressive import NextToken, prompt_tokenizer
from calotype.autoregressive.text import PipelineTokenizer
from calotype.commands import cached
from calotype.commands.cache_latents import cache
from calotype.commands.cached import open_cache
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.commands.train_transformer import assemble_transformer
from calotype.data import LatentCache
from calotype.data.cache.index import TEXT_TOKENIZER
from calotype.data.loading.batches import draw_keys
from calotype.data.prompts import tokenize
from calotype.pipelines import load
from calotype.recipes.transformer import TrainedTransformer, TransformerRecipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[TransformerRecipe, Path, NextToken]:
    """Its recipe, its pipeline's folder, and what was trained with the weights that were saved."""
    root, ended = tmp_path_factory.mktemp("trained"), []

    def fit(objectives: Any, *rest: Any) -> None:
        training_fit(objectives, *rest)
        ended.extend(objectives)

    training_fit = cached.fit
    tokenizer, cached_, recipe = tiny.token_recipes(root)
    train_tokenizer(tokenizer)
    cache(cached_)
    with patch("calotype.commands.cached.fit", fit):
        folder = train_generator(recipe)
    return recipe, folder, ended[0]


def again(recipe: TransformerRecipe, start: Path, out: Path, **run: Any) -> TransformerRecipe:
    return replace(recipe, transformer=TrainedTransformer(str(start)), run=tiny.run(out, **run))


def begun(recipe: TransformerRecipe) -> NextToken:
    return assemble_transformer(recipe, *open_cache(recipe))[0]


@torch.no_grad()
def losses(objective: NextToken, latents: Path) -> dict[str, float]:
    found, keys = LatentCache(latents), draw_keys(0, 0, 8)
    rows = {**found.batch(list(range(8)), keys), "key": keys}
    return {name: loss.item() for name, loss in objective.eval()(rows, 3).items()}


def test_the_first_loss_is_the_last_ones(trained, tmp_path):
    recipe, folder, last = trained
    assert losses(begun(again(recipe, folder, tmp_path)), recipe.cache) == pytest.approx(
        losses(last, recipe.cache), rel=1e-6
    )


def test_it_goes_on_and_draws(trained, tmp_path):
    """On other pictures of its kind; a start that only moved may be resumed from, no other."""
    recipe, folder, _ = trained
    first = again(recipe, folder, tmp_path / "run", steps=2)
    made = train_generator(first)
    was, now = (load(each).transformer.state_dict() for each in (folder, made))
    assert all(not torch.equal(now[n], was[n]) for n in now if n.endswith("proj.weight"))
    inputs = json.loads((first.run.out / "recipe.json").read_text())["inputs"]
    assert len(inputs["start"]) == 16
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    train_generator(again(recipe, moved, tmp_path / "run", steps=3, resume=True))
    with pytest.raises(ValueError, match="was begun with start"):
        train_generator(again(recipe, made, tmp_path / "run", steps=4, resume=True))


def test_other_tokens_are_refused(trained, tmp_path, artifacts):
    recipe, folder, _ = trained
    on = again(recipe, folder, tmp_path)
    with pytest.raises(ValueError, match=r"transformer\.path: .* was trained over tokens Layout"):
        begun(replace(on, prompted=False))
    text = replace(tiny.TEXT, length=20)
    index = json.loads((recipe.cache / "latents.json").read_text())
    assert index["tokens"] == tiny.TEXT.length
    model = str(recipe.tokenizer)
    other = tiny.cache_recipe(tmp_path, tokenizer=model, out=tmp_path / "short", text=text)
    with pytest.warns(UserWarning, match="captions are longer than 20 tokens"):
        cache(other)
    with pytest.raises(
        ValueError, match=r"was trained over prompts of 49 tokens of \w+, and .* 21"
    ):
        begun(replace(on, cache=other.out))
    with pytest.raises(ValueError, match="holds a StableDiffusionPipeline: give a transformer's"):
        begun(again(recipe, artifacts / "generator/model", tmp_path))


def test_its_own_tokenizer_makes_the_prompts_of_new_pictures(trained, tmp_path):
    """Token for token, though it was learnt from other captions."""
    recipe, folder, _ = trained
    new = tiny.cache_recipe(
        tmp_path, tokenizer=recipe.tokenizer, out=tmp_path / "new",
        data=replace(tiny.SCENES, seed=8), text=PipelineTokenizer(str(folder.parent)),
    )  # fmt: skip
    made = PipelineTokenizer(str(folder)).tokenizer([])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some captions are cut
        cache(new)
    on = again(recipe, folder, tmp_path / "run", steps=1)
    train_generator(replace(on, cache=new.out))
    was = transformers.AutoTokenizer.from_pretrained(recipe.cache / TEXT_TOKENIZER)
    said = LatentCache(recipe.cache).captions
    for own, old in zip(tokenize(made, said), tokenize(was, said), strict=True):
        assert torch.equal(own, old)
    assert made.get_vocab() == was.get_vocab()
    assert (prompt_tokenizer(made)(said[0]).input_ids
            == load(folder).prompts(said[0]).input_ids)  # fmt: skip


def test_what_is_no_transformers_tokenizer_is_refused(trained):
    recipe, *_ = trained
    with pytest.raises(ValueError, match="holds no prompts of a transformer's"):
        PipelineTokenizer(str(recipe.cache / TEXT_TOKENIZER)).tokenizer([])
