"""The commands that are printed are understood, and mean what they were printed for."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from calotype.cli.parsing import named_recipe
from calotype.commands.command_line import spell
from calotype.data import CenterCrop, Flip, Folder, Transform
from calotype.recipes.caches import CACHES
from calotype.recipes.generators import GENERATORS
from calotype.recipes.tokenizers import TOKENIZERS
from calotype.tokenizers.terms import L1


def parsed(said: str, recipes) -> object:
    program, command, *words = shlex.split(said)
    assert program == "calotype"
    return named_recipe(command, recipes, words)


KL, CACHED, DIFFUSION = TOKENIZERS["scenes-kl"](), CACHES["scenes"](), GENERATORS["scenes-ar"]()
FOLDER = Folder("my own/pictures")


@pytest.mark.parametrize(
    ("recipes", "name", "recipe"),
    [
        (TOKENIZERS, "scenes-kl", KL),
        (TOKENIZERS, "scenes-kl", replace(
            KL, data=FOLDER, transform=Transform(CenterCrop(48), Flip()), measure=7,
            optimizer=replace(KL.optimizer, schedule="constant", betas=(0.5, 0.75)),
            run=replace(KL.run, out=Path("a b"), resume=True, ema=None), pixel=L1(),
        )),
        (TOKENIZERS, "ldm-kl-f8", replace(
            TOKENIZERS["ldm-kl-f8"](), perceptual=None, adversary=None, data=FOLDER,
        )),
        (CACHES, "scenes", replace(CACHED, data=FOLDER, transform=Transform(CenterCrop(64)),
                                   text=None, count=None, flipped=True)),
        (GENERATORS, "scenes-ar", replace(DIFFUSION, prompted=False, drop=0.0)),
    ],
)  # fmt: skip
def test_a_recipe_is_what_its_command_says(recipes, name, recipe):
    said = spell("a-verb", name, recipes[name](), recipe)
    assert parsed(said, recipes) == recipe


def test_only_what_differs_is_said():
    other = replace(KL, run=replace(KL.run, steps=3))
    assert spell("train-tokenizer", "scenes-kl", KL, KL) == "calotype train-tokenizer scenes-kl"
    assert spell("train-tokenizer", "scenes-kl", KL, other).endswith("scenes-kl --run.steps 3")
