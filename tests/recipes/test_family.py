"""The family's named recipes train, and what they leave is what they say."""

import json

import pytest
import torch

from calotype.commands.train_tokenizer import train_tokenizer
from calotype.recipes.family import FAMILY, tiny
from calotype.tokenizers import ImageTokenizer, fold


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.filterwarnings("ignore:no stock class holds", "ignore:.*departs by")
def test_a_recipe_trains_and_its_tokenizer_loads(name, tmp_path, monkeypatch):
    folded = []

    def counted(*arguments):
        folded.append(1)
        return fold(*arguments)

    monkeypatch.setattr("calotype.commands.export.fold", counted)
    recipe = FAMILY[name]()
    assert recipe.run.out.name == name and recipe.data != recipe.validation
    model = train_tokenizer(tiny(recipe, tmp_path / name))
    tokenizer = ImageTokenizer.load(model)
    size, channels = recipe.size, tokenizer.channels
    images = torch.rand(2, channels, size, size) * 2 - 1
    assert tokenizer.reconstruct(images).shape == images.shape
    assert tokenizer.is_stock == (model / "config.json").is_file()
    lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
    figures = [json.loads(line) for line in lines]
    told = {name for line in figures for name in line}
    assert any("restored" in name for name in told) == (recipe.corruption is not None)
    # What is to be drawn from its prior, or means something as it is, is not normalised.
    assert len(folded) == tokenizer.bottleneck.may_scale
