"""A trained pipeline is trained on, whole or by LoRA, ours or stock, and stays what it was."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from diffusers import (
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file

import tiny
from calotype.autoregressive import Classes, TokenSampling, Transformer
from calotype.commands import cached
from calotype.commands.cache_latents import cache
from calotype.commands.finetune import assemble_finetuned
from calotype.commands.train_generator import train_generator
from calotype.data import LatentCache
from calotype.data.loading.batches import draw_keys
from calotype.diffusion import (
    Denoising,
    Epsilon,
    Flow,
    LogitNormal,
    LoRA,
    PretrainedText,
    Uniform,
    Whole,
)
from calotype.pipelines import (
    Sampling,
    TokenPipeline,
    layout_of,
    load,
    recommended,
    sample,
    save,
    trained_by,
)
from calotype.recipes.finetune import FinetuneRecipe
from calotype.tokenizers import Gaussian
from calotype.tokenizers.bottlenecks import FSQ
from calotype.tokenizers.latent_space import fingerprint
from calotype.training import AdamW

PROMPT, SEED, STEPS = "a red circle", 11, 3
WEIGHTS = "pytorch_lora_weights.safetensors"


def recipe(pipeline: Path, latents: Path, out: Path, **changes: Any) -> FinetuneRecipe:
    run = tiny.run(out, **changes.pop("run", {}))
    base = FinetuneRecipe(str(pipeline), latents, optimizer=AdamW(1e-2), run=run)
    return replace(base, **changes)


def loss(objective: Denoising, latents: Path) -> float:
    """Of the same rows, noise and prompts each time."""
    found, keys = LatentCache(latents), draw_keys(0, 0, 8)
    rows = {**found.batch(list(range(8)), keys), "key": keys}
    with torch.no_grad():
        return objective.eval()(rows, 0)["denoising"].item()


def begun(recipe: FinetuneRecipe) -> Denoising:
    return assemble_finetuned(recipe, LatentCache(recipe.cache), load(recipe.pipeline))


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> Path:
    """A folder with a stock Stable Diffusion pipeline in `pipeline/`, of the kind that everybody
    shares, and a cache of its latents and tokens in `latents/`."""
    root = tmp_path_factory.mktemp("stock")
    torch.manual_seed(5)
    vae = tiny.BACKBONE.autoencoder(Gaussian(channels=4), tiny.SIZE)
    vae.register_to_config(scaling_factor=0.5)
    scenes = tiny.SCENES.build()
    prompts = tiny.TEXT.tokenizer([scenes[i]["caption"] for i in range(32)])
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), norm_num_groups=4,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=2,
    )  # fmt: skip
    scheduler = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                              skip_prk_steps=True, steps_offset=1)  # fmt: skip
    StableDiffusionPipeline(
        vae=vae, text_encoder=tiny.TEXT.encoder(prompts), tokenizer=prompts, unet=unet,
        scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(root / "pipeline")  # fmt: skip
    folder = str(root / "pipeline")
    cache(tiny.cache_recipe(root, tokenizer=folder, text=PretrainedText(folder)))
    return root


def test_the_first_loss_is_the_last_ones(artifacts, tmp_path):
    """Of the weights that the run exported, by the process that it was trained by."""
    ended: list[Denoising] = []

    def fit(objectives: Any, *rest: Any) -> None:
        training_fit(objectives, *rest)
        ended.extend(objectives)

    training_fit = cached.fit
    process = Flow(Uniform(), shift=3.0)
    trained = tiny.generator_recipe(artifacts, process=process, run=tiny.run(tmp_path / "first"))
    with patch("calotype.commands.cached.fit", fit):
        folder = train_generator(trained)
    assert trained_by(folder) == process
    for path in (folder, folder.parent):
        again = recipe(path, artifacts / "latents", tmp_path / "again")
        assert loss(begun(again), again.cache) == loss(ended[0], again.cache)
    other = replace(again, times=LogitNormal())
    assert loss(begun(other), again.cache) != loss(ended[0], again.cache)


def test_a_stock_pipeline_is_trained_on_as_it_is(stock, tmp_path):
    """By the noise that its scheduler expects, in its own latents; scheduler and text stay."""
    source = stock / "pipeline"
    settings = recipe(source, stock / "latents", tmp_path, run={"steps": 4}, drop=0.0,
                      times=LogitNormal(), snr_gamma=5.0)  # fmt: skip
    objective = begun(settings)
    pipeline = load(source)
    found, keys = LatentCache(settings.cache), draw_keys(0, 0, 4)
    seen: list[Any] = []
    objective.unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    with torch.no_grad():
        objective({**found.batch([0, 1, 2, 3], keys), "key": keys}, 0)
    noisy, timestep, hidden = seen[0]
    x0 = objective.source.draw(found.batch([0, 1, 2, 3], keys)["packed"],
                               [torch.Generator().manual_seed(0)] * 4)  # fmt: skip
    assert hidden.shape == (4, tiny.TEXT.length, 16) and timestep.dtype == torch.long
    assert noisy.shape == x0.shape == (4, 4, 8, 8)
    before = loss(begun(settings), settings.cache)
    made = train_generator(settings)
    assert loss(begun(replace(settings, pipeline=str(made))), settings.cache) < before
    assert trained_by(source) is None and trained_by(made) == Epsilon(LogitNormal(), 5.0)
    now = load(made)
    assert type(now.scheduler) is PNDMScheduler
    assert dict(now.scheduler.config) == dict(pipeline.scheduler.config)
    was, text = (load_file(f / "text_encoder/model.safetensors") for f in (source, made))
    names = {name.removeprefix("text_model."): name for name in was}
    assert all(torch.equal(text[f"text_model.{name}"], was[names[name]]) for name in names)
    assert fingerprint(now.vae) == fingerprint(pipeline.vae)
    moved = [n for n, p in now.unet.named_parameters() if not torch.equal(p, unet(pipeline)[n])]
    assert len(moved) == len(unet(pipeline))
    (image,) = sample(now, [PROMPT], [SEED], replace(recommended(made), steps=2))
    assert image.isfinite().all()


def unet(pipeline: Any) -> dict[str, torch.Tensor]:
    return dict(pipeline.unet.named_parameters())


@pytest.mark.parametrize(("learn", "learn_text"), [(Whole(), True), (LoRA(rank=2), False)])
def test_what_moves_is_what_was_asked(learn, learn_text, stock, tmp_path):
    """Of LoRA what was added alone; of a frozen text encoder nothing."""
    settings = recipe(stock / "pipeline", stock / "latents", tmp_path, learn=learn,
                      learn_text=learn_text)  # fmt: skip
    kept: list[Any] = []

    def fit(objectives: Any, *rest: Any) -> None:
        first = {n: p.detach().clone() for n, p in objectives[0].named_parameters()}
        training_fit(objectives, *rest)
        kept.append((first, dict(objectives[0].named_parameters())))

    training_fit = cached.fit
    with patch("calotype.commands.cached.fit", fit):
        train_generator(settings)
    first, last = kept[0]
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    text = {name for name in moved if name.startswith("text_encoder.")}
    assert bool(text) == learn_text
    if isinstance(learn, LoRA):
        assert moved == {n for n in first if "lora_" in n}
    else:
        assert {name for name in first if name.startswith("unet.")} <= moved


STRANGER = f"""
import sys
sys.modules["calotype"] = None
import numpy, torch
torch.set_num_threads(1)
from diffusers import DiffusionPipeline
base, *folders = sys.argv[1:]
for folder in [None, *folders]:
    pipe = DiffusionPipeline.from_pretrained(base, use_safetensors=True)
    if folder:
        pipe.load_lora_weights(folder)
    pipe.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed({SEED})]
    image = pipe([{PROMPT!r}], num_inference_steps={STEPS}, guidance_scale=4.0,
                 generator=generator, output_type="np").images
    numpy.save((folder or base) + ".npy", image)
assert not any(name.startswith("calotype.") for name in sys.modules)
"""


@pytest.mark.slow
def test_lora_weights_load_in_stock_diffusers_and_draw_the_same(stock, tmp_path):
    """As we draw with them, and as the pipeline did that was trained; of the text encoder too."""
    source = shutil.copytree(stock / "pipeline", tmp_path / "base")
    settings = recipe(source, stock / "latents", tmp_path / "lora", learn=LoRA(rank=4),
                      learn_text=True, sampling=Sampling(STEPS, 4.0),
                      optimizer=AdamW(0.1))  # fmt: skip
    made = train_generator(settings)
    files = ["README.md", "calotype.json", WEIGHTS]
    assert sorted(file.name for file in made.iterdir()) == files
    assert any(name.startswith("text_encoder.text_model.") for name in load_file(made / WEIGHTS))
    assert recommended(made) == settings.sampling
    ours = next(sample(load(made), [PROMPT], [SEED], settings.sampling))
    command = [sys.executable, "-I", "-c", STRANGER, str(source), str(made)]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True)
    base, theirs = (
        2 * torch.from_numpy(np.load(f"{folder}.npy")).permute(0, 3, 1, 2) - 1
        for folder in (source, made)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert (ours - base).abs().max() > 0.02, "what was added does something"
    tiny.tokenizer(9).autoencoder.save_pretrained(source / "vae")
    with pytest.raises(ValueError, match=r"holds LoRA weights of pipeline \w+, and what is now"):
        load(made)


@pytest.fixture(scope="module")
def lora(stock, tmp_path_factory) -> Path:
    """What a run added to a pipeline that was named by its run's folder, here by a way from here;
    both in `runs/`."""
    root = tmp_path_factory.mktemp("lora")
    shutil.copytree(stock / "pipeline", root / "runs/base/model")
    settings = recipe(Path("runs/base"), stock / "latents", Path("runs/lora"), learn=LoRA(rank=2),
                      sampling=Sampling(STEPS, 4.0), run={"steps": 1})  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(root)
        return train_generator(settings).resolve()


def test_a_lora_says_how_anybody_loads_it(lora, monkeypatch):
    """From its own folder, which may be moved with its pipeline's; of this machine it says
    nothing."""
    monkeypatch.chdir(lora)
    text = (lora / "README.md").read_text()
    card = ModelCard(text).data.to_dict()
    assert card["license"] == "unknown" and card["library_name"] == "diffusers"
    assert card["tags"] == ["calotype", "lora", "text-to-image"]
    code = text.split("```python")[1].split("```")[0]
    assert "calotype" not in code and "Paths in these lines begin in this folder" in text
    exec(code, {})
    with Image.open("drawn.png") as drawn:
        assert drawn.size == (tiny.SIZE, tiny.SIZE)
    Path("drawn.png").unlink()
    base = json.loads(Path("calotype.json").read_text())["base"]
    assert base == "../../base/model" and f'("{base}")' in text
    assert trained_by(".") == Epsilon()


def test_lora_weights_find_their_pipeline_from_anywhere(lora, tmp_path, monkeypatch):
    """And where an older version noted it as it was given."""
    monkeypatch.chdir(tmp_path)
    base = lora.parents[1] / "base/model"
    moved = Path(shutil.copytree(lora.parents[1], tmp_path / "elsewhere"))
    mark = json.loads((lora / "calotype.json").read_text())
    first = unet(load(lora))
    for said in ("../../base/model", str(base), "elsewhere/base"):
        (moved / "lora/model/calotype.json").write_text(json.dumps({**mark, "base": said}))
        again = unet(load(moved / "lora"))
        assert all(torch.equal(first[name], again[name]) for name in first)
    shutil.rmtree(moved / "base")
    with pytest.raises(ValueError, match=r"holds LoRA weights of elsewhere/base, which is not th"):
        load(moved / "lora")


def test_nothing_begins_with_lora_weights_alone(lora, stock, tmp_path, monkeypatch):
    monkeypatch.chdir(lora.parents[2])
    with pytest.raises(ValueError, match=r"runs/lora holds .*: give runs/base/model, .* or merge"):
        train_generator(recipe(Path("runs/lora"), stock / "latents", tmp_path / "run"))
    with pytest.raises(ValueError, match=r"runs/lora holds LoRA .*: give runs/base/model, which"):
        cache(tiny.cache_recipe(tmp_path, tokenizer="runs/lora"))
    assert list(tmp_path.iterdir()) == []


def test_lora_resumed_is_lora_uninterrupted(stock, tmp_path):
    """Bit for bit; and the base may have moved."""

    def trained(base: Path, name: str, **run: Any) -> dict[str, torch.Tensor]:
        settings = recipe(base, stock / "latents", tmp_path / name, learn=LoRA(rank=2),
                          learn_text=True, run=run)  # fmt: skip
        return load_file(train_generator(settings) / WEIGHTS)

    whole = trained(stock / "pipeline", "whole", steps=3)
    shutil.copytree(tmp_path / "whole", tmp_path / "halves")
    for gone in ("model", "checkpoints/step-3"):
        shutil.rmtree(tmp_path / "halves" / gone)
    moved = Path(shutil.copytree(stock / "pipeline", tmp_path / "moved"))
    again = trained(moved, "halves", steps=3, resume=True)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    inputs = json.loads((tmp_path / "halves/recipe.json").read_text())["inputs"]
    assert len(inputs["start"]) == 16 and inputs["latents"]
    weights = load_file(moved / "unet/diffusion_pytorch_model.safetensors")
    weights["conv_in.bias"] += 1
    save_file(weights, moved / "unet/diffusion_pytorch_model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="was begun with start"):
        trained(moved, "halves", steps=4, resume=True)


def test_one_without_prompts_goes_on_too(artifacts, tmp_path):
    settings = recipe(artifacts / "unconditional", artifacts / "latents", tmp_path)
    made = train_generator(settings)
    assert type(load(made)).__name__ == "LDMPipeline"
    with pytest.raises(ValueError, match="LoRA weights into no UNet2DModel: choose learn:whole"):
        begun(replace(settings, learn=LoRA()))
    with pytest.raises(ValueError, match=r"learn_text is on, and .* has no text encoder"):
        train_generator(replace(settings, learn_text=True))


def test_what_does_not_belong_together_is_refused_in_one_line(artifacts, stock, tmp_path):
    ours = artifacts / "generator/model"
    with pytest.raises(ValueError, match=r"was encoded by tokenizer \w+, but .* is \w+: give"):
        begun(recipe(ours, stock / "latents", tmp_path))
    with pytest.raises(ValueError, match=r"snr_gamma is 5\.0, and of a flow all errors"):
        begun(recipe(ours, artifacts / "latents", tmp_path, snr_gamma=5.0))
    folder = str(stock / "pipeline")
    for text, answer in ((Classes(), "are tokens of another tokenizer"), (None, "has no prompts")):
        made = cache(tiny.cache_recipe(stock, tokenizer=folder, text=text,
                                       out=tmp_path / str(text)))  # fmt: skip
        with pytest.raises(ValueError, match=rf"{answer}.*: run cache-latents again with text:pre"):
            begun(recipe(stock / "pipeline", made, tmp_path))
    weights = load_file(stock / "pipeline/unet/diffusion_pytorch_model.safetensors")
    other = Path(shutil.copytree(stock / "pipeline", tmp_path / "other"))
    for change, answer in (
        (lambda w: w.pop("conv_in.bias"), r"unet lacks conv_in\.bias, a weight of a UNet2DCond"),
        (lambda w: w.update(extra=torch.zeros(1)), r"unet has extra, which is no weight of a"),
    ):
        change(changed := dict(weights))
        save_file(changed, other / "unet/diffusion_pytorch_model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match=answer):
            begun(recipe(other, stock / "latents", tmp_path))


def test_bug_pictures_of_another_size_than_is_drawn_were_learnt_without_a_word(stock, tmp_path):
    folder = str(stock / "pipeline")
    larger = cache(tiny.cache_recipe(
        stock, tokenizer=folder, text=PretrainedText(folder), out=tmp_path / "larger",
        data=replace(tiny.SCENES, size=32, count=8),
    ))  # fmt: skip
    with pytest.warns(UserWarning, match=r"has pictures of 32 .* draws 16, .*\.crop\.size 16,"):
        begun(recipe(stock / "pipeline", larger, tmp_path))


def test_other_kinds_of_pipelines_are_refused(stock, tmp_path, monkeypatch):
    sdxl = StableDiffusionXLPipeline.__new__(StableDiffusionXLPipeline)
    monkeypatch.setattr("calotype.commands.finetune.load", lambda path: sdxl)
    with pytest.raises(ValueError, match="holds a StableDiffusionXLPipeline: give a StableDif"):
        train_generator(recipe(stock / "pipeline", stock / "latents", tmp_path))


def test_bug_a_transformer_was_refused_by_an_assertion(stock, tmp_path):
    """It is called by other options."""
    tokenizer = tiny.tokenizer(0, FSQ((4, 4)))
    layout = layout_of(0, tokenizer, [(2, 2)])
    drawn = TokenPipeline(Transformer(16, 2, 2).build(layout, 0), None, tokenizer, layout)
    save(drawn, tmp_path / "ar/model", TokenSampling())
    with pytest.raises(ValueError, match=r"holds a TokenPipeline: give .*; a transformer goes on"):
        train_generator(recipe(tmp_path / "ar", stock / "latents", tmp_path / "run"))


def test_without_peft_lora_is_refused(stock, tmp_path, monkeypatch):
    monkeypatch.setattr("calotype.diffusion.adapters.find_spec", lambda name: None)
    settings = recipe(stock / "pipeline", stock / "latents", tmp_path, learn=LoRA())
    with pytest.raises(ImportError, match=r"peft, which is not installed: pip install 'calotype"):
        begun(settings)
