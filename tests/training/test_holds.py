"""A folder of another kind than was looked for is told by its name."""

import json
from pathlib import Path

import pytest

import tiny
from calotype.diffusion import PretrainedText
from calotype.pipelines import load
from calotype.tokenizers import ImageTokenizer
from calotype.training.holds import instead


@pytest.fixture
def lora(artifacts, tmp_path, monkeypatch) -> str:
    """Where the weights of a run lie, of which none is read."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/lora/model")
    folder.mkdir(parents=True)
    Path("runs/base").symlink_to(artifacts / "generator/model")
    (folder / "calotype.json").write_text(json.dumps({"base": "../../base", "start": "f00d"}))
    return "runs/lora"


def test_each_kind_has_its_words(artifacts, lora):
    for name, words in (
        ("generator", "a pipeline (StableDiffusionPipeline)"),
        ("tokenizer/model", "a tokenizer (AutoencoderKL)"),
        ("generator/model/unet", "a UNet2DConditionModel"),
        ("latents", "a cache of latents or tokens"),
        ("", "generator, latents, tokenizer, unconditional"),
    ):
        assert instead(artifacts / name) == f", which holds {words}"
    assert instead(lora).endswith("LoRA weights alone; they were trained on runs/base")
    assert instead("absent") == instead(artifacts / "latents/text_tokenizer") == ""
    assert instead(artifacts / "tokenizer", "tokenizer") == ""


def test_who_looks_for_another_is_told(artifacts, lora, tmp_path):
    trained = r"which holds LoRA weights alone; they were trained on runs/base: exp"
    with pytest.raises(ValueError, match=f"no AutoencoderKL, .* in runs/lora/model, {trained}"):
        ImageTokenizer.load(lora)
    with pytest.raises(ValueError, match=r"no pipeline in .*, which holds a tokenizer \(Auto"):
        load(artifacts / "tokenizer")
    with pytest.raises(ValueError, match=r"no pipeline in .*, which holds a cache of latents"):
        load(artifacts / "latents")
    with pytest.raises(ValueError, match=r"no CLIP .* in runs/lora, which holds LoRA weights"):
        PretrainedText(lora).tokenizer([])
    tiny.tokenizer().save(tmp_path / "broken")
    (tmp_path / "broken/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no Auto.* in .*broken: expected a folder .* \("):
        ImageTokenizer.load(tmp_path / "broken")
