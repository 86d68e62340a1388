"""Prompts reach the network as the stock pipeline will send them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    T5Config,
    T5EncoderModel,
)

import tiny
from calotype.diffusion import Flow, LatentSource, PretrainedText, TextDenoising, tokenize
from calotype.diffusion.text import LearntText
from calotype.pipelines import text_to_image
from calotype.training import AdamW, fit

TEXT = LearntText(width=16, layers=1, heads=2, length=8, vocabulary=600)
PROMPTS = ["a red circle", "", "A  RED circle!", "a large pink ring on a wide and very blue square",
           "naïve — 円"]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return TEXT.tokenizer(tiny.CAPTIONS)


def pipeline(objective: TextDenoising, tokenizer: CLIPTokenizer):
    return text_to_image(tiny.tokenizer().autoencoder, unet(objective), Flow().scheduler(),
                         objective.text_encoder, tokenizer)  # fmt: skip


def unet(objective: TextDenoising) -> UNet2DConditionModel:
    assert isinstance(objective.unet, UNet2DConditionModel)
    return objective.unet


def said(objective: TextDenoising) -> list[torch.Tensor]:
    """What the text encoder is given, from now on."""
    tokens: list[torch.Tensor] = []
    objective.text_encoder.register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0]))
    return tokens


def batch(count: int) -> tiny.Batch:
    rows = [i % 16 for i in range(count)]
    return {k: v[rows] for k, v in tiny.latents().items()} | {"key": list(range(count))}


def test_a_tokenizer_is_learnt_again_the_same(tokenizer):
    """In another process too. Bug: ties between merges were broken at random, so that a cache made
    again gave the same captions other tokens."""
    script = """if True:
        import json, tiny
        from calotype.diffusion import LearntText
        learnt = LearntText(length=8, vocabulary=600).tokenizer(tiny.CAPTIONS)
        print(json.dumps(learnt.get_vocab()))
    """
    path = {**os.environ, "PYTHONPATH": str(Path(tiny.__file__).parent)}
    said = subprocess.run([sys.executable, "-c", script], env=path, capture_output=True, check=True)
    assert json.loads(said.stdout.splitlines()[-1]) == tokenizer.get_vocab()
    assert TEXT.tokenizer(tiny.CAPTIONS).get_vocab() == tokenizer.get_vocab()
    assert TEXT.tokenizer(["other captions"]).get_vocab() != tokenizer.get_vocab()


def test_any_text_can_be_said(tokenizer):
    for prompt in ("naïve", "円", "ünknown ∞ words"):
        assert tokenizer.decode(tokenizer(prompt).input_ids, skip_special_tokens=True) == prompt


def test_a_learnt_tokenizer_reloads(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    assert again.model_max_length == TEXT.length
    assert torch.equal(tokenize(again, PROMPTS), tokenize(tokenizer, PROMPTS))


def test_a_learnt_tokenizer_fits_its_encoder(tokenizer):
    encoder = TEXT.encoder(tokenizer)
    tokens = tokenize(tokenizer, PROMPTS)
    assert tokens.max() < encoder.config.vocab_size <= TEXT.vocabulary
    assert encoder(tokens).last_hidden_state.shape == (len(PROMPTS), TEXT.length, TEXT.width)
    assert tokens[0].tolist() != tokens[1].tolist() and (tokens[:, 0] == tokens[0, 0]).all()


def test_an_encoder_is_as_long_as_its_tokenizer(tokenizer):
    """Whatever the spec says: the cache's tokens are there already."""
    encoder = LearntText(width=16, layers=1, heads=2, length=4).encoder(tokenizer)
    assert encoder.config.max_position_embeddings == TEXT.length


def test_tokens_are_the_pipelines(tokenizer):
    objective = tiny.denoising()
    objective.text_encoder = TEXT.encoder(tokenizer)
    tokens, pipe = said(objective), pipeline(objective, tokenizer)
    pipe.encode_prompt(PROMPTS, "cpu", 1, do_classifier_free_guidance=True)
    assert torch.equal(tokens[0], tokenize(tokenizer, PROMPTS))
    assert torch.equal(tokens[1], objective.null.expand_as(tokens[1]))  # the unguided half


@torch.no_grad()
@pytest.mark.parametrize("drop", [0.0, 1.0])
def test_a_dropped_prompt_leaves_no_trace(drop):
    objective = tiny.denoising().eval()
    objective.drop = drop
    told = batch(4)
    losses = [objective({**told, "tokens": tokens}, 0)["denoising"]
              for tokens in (told["tokens"], told["tokens"].roll(1, 0))]  # fmt: skip
    assert torch.equal(*losses) == (drop == 1.0)


@torch.no_grad()
def test_one_prompt_in_ten_is_dropped_and_whole():
    objective = tiny.denoising()
    tokens, told = said(objective), batch(2000)
    objective(told, 0)
    dropped = (tokens[0] == objective.null).all(1)
    assert torch.equal(tokens[0][~dropped], told["tokens"][~dropped])
    assert not (told["tokens"] == objective.null).all(1).any()
    assert dropped.float().mean().item() == pytest.approx(0.1, abs=0.02)
    objective(told, 0)
    assert torch.equal(tokens[0], tokens[1])  # by the key, not by chance


@pytest.fixture(scope="module")
def pretrained(tokenizer, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("text")
    encoder = TEXT.encoder(tokenizer)
    encoder.config.attention_dropout = 0.5
    encoder.save_pretrained(root / "text_encoder")
    tokenizer.save_pretrained(root / "tokenizer")
    return root


def test_a_pretrained_encoder_is_frozen(pretrained, tmp_path):
    text = PretrainedText(str(pretrained))
    tokenizer = text.tokenizer([])
    encoder = text.encoder(tokenizer)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    objective = TextDenoising(
        unet(tiny.denoising()), encoder, tokenize(tokenizer, [""])[0],
        LatentSource(tiny.BOTTLENECK.build(), 1.0), Flow(), AdamW(1e-2),
    )  # fmt: skip
    objective.train()
    assert objective.unet.training and not encoder.training
    fit([objective], tiny.Repeating(tiny.latents(), 4), tiny.run(tmp_path))
    assert all(p.grad is None and not p.requires_grad for p in encoder.parameters())
    assert all(torch.equal(tensor, before[n]) for n, tensor in encoder.state_dict().items())


def test_a_pretrained_tokenizer_is_its_encoders(pretrained, tokenizer):
    text = PretrainedText(str(pretrained))
    assert torch.equal(tokenize(text.tokenizer([]), PROMPTS), tokenize(tokenizer, PROMPTS))


def test_an_encoder_does_not_read_anothers_tokens(pretrained):
    other = TEXT.tokenizer(["nothing like it", "something else"])
    with pytest.raises(ValueError, match=r"text\.path: .* another tokenizer made"):
        PretrainedText(str(pretrained)).encoder(other)


@pytest.mark.parametrize("part", ["tokenizer", "encoder"])
def test_an_absent_text_encoder_is_refused(part, tokenizer, tmp_path):
    text = PretrainedText(str(tmp_path))
    with pytest.raises(ValueError, match=r"text\.path: no CLIP") as refusal:
        text.tokenizer([]) if part == "tokenizer" else text.encoder(tokenizer)
    assert "\n" not in str(refusal.value)


@pytest.fixture
def copied(pretrained, tmp_path) -> Path:
    return Path(shutil.copytree(pretrained, tmp_path / "copied"))


def test_a_pretrained_encoder_is_the_one_that_was_saved(copied, tokenizer):
    kept = load_file(copied / "text_encoder/model.safetensors")
    found = PretrainedText(str(copied)).encoder(tokenizer).state_dict()
    assert {name.removeprefix("text_model.") for name in kept} <= {
        name.removeprefix("text_model.") for name in found
    }
    again = PretrainedText(str(copied)).encoder(tokenizer).state_dict()
    assert all(torch.equal(found[name], again[name]) for name in found)


@pytest.mark.parametrize("change", ["missing", "renamed"])
def test_bug_weights_that_were_not_there_were_left_at_random(change, copied, tokenizer):
    file = copied / "text_encoder/model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "fc1.weight" in name)
    tensor = weights.pop(name)
    if change == "renamed":
        weights[name.replace("fc1", "fc3")] = tensor
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"text\.path: the text encoder in .* is not whole: .*fc1"):
        PretrainedText(str(copied)).encoder(tokenizer)


def test_bug_another_models_folder_passed_as_clip_with_random_weights(copied, tokenizer):
    shutil.rmtree(copied / "text_encoder")
    config = T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(copied / "text_encoder")
    with pytest.raises(ValueError, match=r"holds a t5, and prompts are read by a CLIP text encod"):
        PretrainedText(str(copied)).encoder(tokenizer)


def test_the_text_half_of_a_whole_clip_serves(tokenizer, tmp_path):
    """Its image encoder is no weight too many."""
    encoder = TEXT.encoder(tokenizer)
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                              num_attention_heads=2, image_size=8, patch_size=4)  # fmt: skip
    whole = CLIPModel(CLIPConfig(text_config=encoder.config.to_dict(),
                                 vision_config=vision.to_dict(), projection_dim=16))  # fmt: skip
    whole.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = PretrainedText(str(tmp_path)).encoder(tokenizer)
    tokens = tokenize(tokenizer, PROMPTS)
    expected = whole.text_model(tokens).last_hidden_state
    torch.testing.assert_close(found(tokens).last_hidden_state, expected)
