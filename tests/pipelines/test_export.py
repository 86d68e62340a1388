"""What is trained here loads and draws where calotype is not: the whole way, small."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    LDMPipeline,
    StableDiffusionPipeline,
)
from PIL import Image
from safetensors.torch import load_file, save_file

import tiny
from calotype.commands.cache_latents import cache
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import CenterCrop, Folder, Transform
from calotype.diffusion import Epsilon, PretrainedText, UNet, Velocity
from calotype.pipelines import Choice, Sampling, load, picture, recommended, sample, text_to_image
from calotype.recipes.tokenizer import PretrainedDecoder
from calotype.tokenizers import Gaussian, ImageTokenizer, fingerprint
from calotype.tokenizers.stock import load_autoencoder
from calotype.tokenizers.terms import L2

PROMPT, SEED, STEPS = "a red circle", 11, 3
STRANGER = f"""
import sys
sys.modules["calotype"] = None
import numpy, torch
torch.set_num_threads(1)
from diffusers import DiffusionPipeline
for folder in sys.argv[1:]:
    pipe = DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    generator = [torch.Generator().manual_seed({SEED})]
    if "tokenizer" in pipe.components:
        image = pipe([{PROMPT!r}], num_inference_steps={STEPS}, guidance_scale=4.0,
                     generator=generator, output_type="np").images
    else:
        image = pipe(1, num_inference_steps={STEPS}, generator=generator, output_type="np").images
    numpy.save(folder + ".npy", image)
assert not any(name.startswith("calotype.") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def folders(artifacts, tmp_path_factory) -> list[Path]:
    """Both pipelines, moved to where calotype never was."""
    root = tmp_path_factory.mktemp("elsewhere")
    for name in ("generator", "unconditional"):
        shutil.copytree(artifacts / name / "model", root / name)
    return [root / "generator", root / "unconditional"]


def test_images_are_the_same_without_calotype(folders):
    """Bit for bit, in float32."""
    command = [sys.executable, "-I", "-c", STRANGER, *map(str, folders)]
    subprocess.run(command, check=True, cwd=folders[0].parent, capture_output=True, text=True)
    for folder in folders:
        (ours,) = sample(load(folder), [PROMPT], [SEED], Sampling(steps=STEPS, guidance=4.0))
        theirs = torch.from_numpy(np.load(f"{folder}.npy")).permute(0, 3, 1, 2)
        assert torch.equal(2 * theirs - 1, ours)
        assert ours.shape == (1, 3, tiny.SIZE, tiny.SIZE) and ours.std() > 0


def test_pipelines_are_stock_and_hold_no_pickle(folders):
    kinds = [type(load(folder)) for folder in folders]
    assert kinds == [StableDiffusionPipeline, LDMPipeline]
    suffixes = {file.suffix for folder in folders for file in folder.rglob("*") if file.is_file()}
    assert suffixes <= {".json", ".safetensors", ".txt", ".jinja", ".md"}
    # transformers 4 looks for these two, and all before 5.6 for these names.
    weights = load_file(folders[0] / "text_encoder/model.safetensors")
    assert all(name.startswith("text_model.") for name in weights)
    assert all((folders[0] / "tokenizer" / name).exists() for name in ("vocab.json", "merges.txt"))


def test_what_was_trained_is_what_was_saved(artifacts):
    """The exported network is the run's average, and the tokenizer is the one it was given."""
    *_, last = sorted((artifacts / "generator/checkpoints").iterdir())
    average, pipe = load_file(last / "ema.safetensors"), load(artifacts / "generator/model")
    saved = [*pipe.unet.parameters(), *pipe.text_encoder.parameters()]
    sums = sorted(round(p.double().sum().item(), 6) for p in saved)
    assert sums == sorted(round(t.double().sum().item(), 6) for t in average.values())
    mark = json.loads((artifacts / "generator/model/calotype.json").read_text())["tokenizer"]
    assert mark == fingerprint(load_autoencoder(artifacts / "tokenizer/model"))


def test_an_image_depends_on_its_own_prompt_and_seed(folders):
    for folder in folders:
        pipe, sampling = load(folder), Sampling(steps=STEPS, batch_size=2)
        prompts, seeds = [PROMPT, "a blue square", PROMPT], [1, 2, 1]
        images = torch.cat(list(sample(pipe, prompts, seeds, sampling)))
        torch.testing.assert_close(images[0], images[2], atol=1e-5, rtol=0)
        assert (images[0] - images[1]).abs().max() > 1e-2


def test_guidance_guides(folders):
    pipe = load(folders[0])
    images = [next(sample(pipe, [PROMPT], [1], Sampling(STEPS, guidance=g))) for g in (1.0, 30.0)]
    assert not torch.equal(*images)


def test_autopipeline_makes_img2img(folders):
    pipe = AutoPipelineForImage2Image.from_pipe(load(folders[0]))
    pipe.set_progress_bar_config(disable=True)
    image = tiny.images(1)
    made = pipe(PROMPT, (image + 1) / 2, strength=0.5, num_inference_steps=4, output_type="pt")
    assert made.images.shape == image.shape and made.images.isfinite().all()


def test_autopipeline_makes_inpainting_of_four_channels(folders):
    """The stock class insists on four; ours says so."""
    text = load(folders[0])
    unet = UNet((8, 16), (True, True), layers=1, head_width=4, groups=4)
    with_four = unet.conditional(8, 4, tiny.TEXT.width)
    vae = tiny.BACKBONE.autoencoder(Gaussian(channels=4), tiny.SIZE)
    made = text_to_image(vae, with_four, text.scheduler, text.text_encoder, text.tokenizer)
    pipe = AutoPipelineForInpainting.from_pipe(made)
    pipe.set_progress_bar_config(disable=True)
    image, mask = tiny.images(1), torch.zeros(1, 1, tiny.SIZE, tiny.SIZE)
    mask[..., : tiny.SIZE // 2] = 1
    filled = pipe(PROMPT, (image + 1) / 2, mask, height=tiny.SIZE, width=tiny.SIZE,
                  num_inference_steps=4, output_type="pt").images  # fmt: skip
    assert filled.shape == image.shape and filled.isfinite().all()


CHECKPOINT = "torch.utils.checkpoint.checkpoint"


def test_bug_gradient_checkpointing_was_a_field_that_nobody_read(tmp_path):
    recipe = tiny.tokenizer_recipe(tmp_path, gradient_checkpointing=True)
    name = "calotype.tokenizers.tokenizer.checkpoint"
    with patch(name, wraps=torch.utils.checkpoint.checkpoint) as checkpointed:
        train_tokenizer(replace(recipe, run=replace(recipe.run, steps=1)))
    assert checkpointed.called


@pytest.mark.parametrize(
    ("process", "prediction"), [(Epsilon(snr_gamma=5.0), "epsilon"), (Velocity(), "v_prediction")]
)
def test_other_processes_end_in_pipelines(process, prediction, artifacts, tmp_path):
    recipe = tiny.generator_recipe(
        artifacts, process=process, gradient_checkpointing=True,
        run=replace(tiny.run(tmp_path), steps=1),
    )  # fmt: skip
    with patch(CHECKPOINT, wraps=torch.utils.checkpoint.checkpoint) as checkpointed:
        pipe = load(train_generator(recipe))
    assert checkpointed.called
    assert pipe.scheduler.config["prediction_type"] == prediction
    (image,) = sample(pipe, [PROMPT], [SEED], Sampling(steps=STEPS))
    assert image.isfinite().all() and image.std() > 0


def test_a_frozen_text_encoder_is_exported_as_it_was(artifacts, tmp_path):
    source = artifacts / "generator/model"
    text = PretrainedText(str(source))
    cached = tiny.cache_recipe(artifacts, out=tmp_path / "latents", text=text)
    run = replace(tiny.run(tmp_path / "run"), steps=2)
    recipe = tiny.generator_recipe(artifacts, cache=cache(cached), text=text, run=run)
    made = train_generator(recipe)
    was, now = (load_file(f / "text_encoder/model.safetensors") for f in (source, made))
    assert was.keys() == now.keys() and all(torch.equal(was[name], now[name]) for name in was)
    assert load(made).tokenizer.get_vocab() == load(source).tokenizer.get_vocab()


@pytest.mark.parametrize("width", [48, 200, 224, 250, 768])
def test_prompts_of_any_width_are_pooled(width):
    unet = UNet((8, 16), (True, True), layers=1, head_width=4, groups=4, pooled_text=True)
    made = unet.conditional(4, 2, width)
    hidden = torch.zeros(1, 5, width)
    assert made(torch.zeros(1, 2, 4, 4), 1, hidden).sample.shape == (1, 2, 4, 4)


def test_a_prompt_that_is_not_there_is_not_pooled():
    with pytest.raises(ValueError, match=r"unet\.pooled_text: without a text"):
        UNet((8, 16), (True, True), head_width=4, groups=4, pooled_text=True).unconditional(4, 2)


def test_a_swapped_tokenizer_is_refused(folders, tmp_path):
    for folder, part in zip(folders, ("vae", "vqvae"), strict=True):
        shutil.copytree(folder, tmp_path / part)
        tiny.tokenizer(seed=9).autoencoder.save_pretrained(tmp_path / part / part)
        with pytest.raises(ValueError, match=r"has tokenizer .*put that tokenizer back") as refusal:
            load(tmp_path / part)
        assert "\n" not in str(refusal.value)


def test_no_pipeline_and_foreign_ones_are_refused(artifacts, tmp_path):
    with pytest.raises(ValueError, match=r"no pipeline in .*model_index\.json"):
        load(tmp_path)
    with pytest.raises(ValueError, match="no pipeline in"):
        load(artifacts / "tokenizer/model")


def test_too_few_images_to_measure_are_told(tmp_path):
    """The latent contract is checked on what was saved, and a breach of it is said."""
    recipe = tiny.tokenizer_recipe(tmp_path, measure=4)
    loose = replace(recipe.model, bottleneck=tiny.BOTTLENECK)
    with pytest.warns(UserWarning, match=r"departs by 0\.\d+ from .* --measure more than 4 images"):
        train_tokenizer(replace(recipe, model=loose))


def test_recipes_normalise_latents_and_say_so(artifacts):
    report = json.loads((artifacts / "tokenizer/model/latent_statistics.json").read_text())
    assert report["tokenizer"] == fingerprint(load_autoencoder(artifacts / "tokenizer/model"))
    assert report["images"] == 64 and report["breach"] is None
    assert report["of_them_not_measured_before"] == 0, "there are 32 scenes"
    assert max(abs(mean) for mean in report["latent_mean"]) < 0.02
    assert max(abs(std - 1) for std in report["latent_std"]) < 0.02
    assert report["reconstruction_moved"] < 1e-4


def test_a_finetuned_decoder_keeps_its_latent_space(artifacts, tmp_path):
    """Encoder and scaling factor stay bit for bit; the decoder moves."""
    stock = ImageTokenizer.load(artifacts / "tokenizer/model").autoencoder
    stock.register_to_config(scaling_factor=0.5)
    stock.save_pretrained(tmp_path / "stock")
    recipe = tiny.tokenizer_recipe(
        tmp_path, model=PretrainedDecoder(str(tmp_path / "stock")), pixel=L2()
    )
    tuned = ImageTokenizer.load(train_tokenizer(recipe)).autoencoder
    assert tuned.config["scaling_factor"] == 0.5
    before, after = stock.state_dict(), tuned.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in moved)
    assert moved >= {name for name in before if name.startswith("decoder.conv")}


def test_a_pretrained_decoder_serves_its_pipelines(artifacts, tmp_path):
    """It can be taken right from a pipeline's folder."""
    model = PretrainedDecoder(str(artifacts / "generator/model"))
    run = replace(tiny.run(tmp_path), steps=1)
    tuned = train_tokenizer(tiny.tokenizer_recipe(tmp_path, model=model, run=run))
    assert ImageTokenizer.load(tuned).bottleneck.z_channels == 2


def test_weights_of_another_class_are_refused(artifacts, tmp_path):
    """Bug: diffusers leaves at random what a file lacks, and only logs it."""
    AutoencoderTiny(encoder_block_out_channels=(8, 8),
                    decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
                    num_decoder_blocks=(1, 1)).save_pretrained(tmp_path / "tiny")  # fmt: skip
    shutil.copytree(artifacts / "tokenizer/model", tmp_path / "cut")
    file = tmp_path / "cut/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["quant_conv.bias"]
    save_file(weights, file)
    for name in ("tiny", "cut"):
        with pytest.raises(ValueError, match=rf"no AutoencoderKL or VQModel in .*{name}"):
            load_autoencoder(tmp_path / name)


def test_an_unconditional_pipelines_tokenizer_is_found(artifacts):
    found = load_autoencoder(artifacts / "unconditional/model")
    assert fingerprint(found) == fingerprint(load_autoencoder(artifacts / "tokenizer/model"))


def test_sizes_that_do_not_come_back_are_refused(artifacts, tmp_path):
    model = PretrainedDecoder(str(artifacts / "tokenizer/model"))
    recipe = tiny.tokenizer_recipe(tmp_path, model=model, data=replace(tiny.SCENES, size=17))
    with pytest.raises(ValueError, match="17 pixels cannot be encoded by a factor of 2"):
        train_tokenizer(recipe)
    assert list(tmp_path.iterdir()) == []


def test_another_latent_space_does_not_resume_a_finetuning(artifacts, tmp_path):
    """The frozen encoder is in no checkpoint, so it must be the one that began."""
    shutil.copytree(artifacts / "tokenizer/model", tmp_path / "source")
    model = PretrainedDecoder(str(tmp_path / "source"))
    run = replace(tiny.run(tmp_path / "tuned"), resume=True)
    recipe = tiny.tokenizer_recipe(tmp_path, model=model, run=run)
    train_tokenizer(recipe)
    tiny.tokenizer(seed=9).autoencoder.save_pretrained(tmp_path / "source")
    with pytest.raises(ValueError, match="begun with latent space"):
        train_tokenizer(recipe)


def test_a_pipeline_is_called_as_its_recipe_drew(artifacts, tmp_path):
    assert recommended(artifacts / "generator/model") == Sampling(steps=2)
    assert Choice(guidance=2.0).over(Sampling(steps=2)) == Sampling(steps=2, guidance=2.0)
    as_its_author = Sampling(steps=None, guidance=None)
    assert recommended(tmp_path) == recommended("a/name") == as_its_author


def test_an_adversary_that_begins_too_late_is_told(tmp_path):
    recipe = tiny.tokenizer_recipe(tmp_path, adversary=tiny.adversary(start=2, effect_start=3))
    with pytest.warns(UserWarning, match="effect_start is 3 and run.steps 3: it will never be"):
        train_tokenizer(recipe)


def test_skipped_pictures_are_counted_at_the_end(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(8):
        picture(tiny.images(1, seed=i)[0]).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes(b"nothing")
    recipe = tiny.tokenizer_recipe(
        tmp_path, data=Folder(folder), transform=Transform(CenterCrop(tiny.SIZE)), examples=1
    )
    with pytest.warns(UserWarning) as told:
        train_tokenizer(recipe)
    said = [str(warning.message) for warning in told]
    assert sum("broken.png" in line for line in said) == 1
    assert sum(line.startswith("broken pictures skipped: 1") for line in said) == 1


@pytest.mark.parametrize("name", ["generator", "unconditional"])
def test_a_saved_pipeline_says_how_anybody_loads_it(name, artifacts, tmp_path, monkeypatch):
    folder = shutil.copytree(artifacts / name / "model", tmp_path / "model")
    monkeypatch.chdir(folder)
    text = (folder / "README.md").read_text()
    code = text.split("```python")[1].split("```")[0]
    assert "calotype" not in code
    exec(code, {})
    with Image.open(folder / "drawn.png") as drawn:
        assert drawn.size == (tiny.SIZE, tiny.SIZE)


def test_a_saved_tokenizer_says_how_anybody_loads_it(artifacts, tmp_path, monkeypatch):
    folder = shutil.copytree(artifacts / "tokenizer/model", tmp_path / "model")
    monkeypatch.chdir(folder)
    picture(tiny.images(1)[0]).save("picture.png")
    text = (folder / "README.md").read_text()
    assert text.startswith("---\nlicense: unknown\n")
    code = text.split("```python")[1].split("```")[0]
    assert "calotype" not in code
    exec(code, {})
    with Image.open("rebuilt.png") as rebuilt:
        assert rebuilt.size == (tiny.SIZE, tiny.SIZE)


def test_an_unconditional_pipeline_says_that_it_wants_float32(artifacts):
    """Its stock class casts no noise."""
    folder = artifacts / "unconditional/model"
    said = " ".join((folder / "README.md").read_text().split())
    assert "with `torch_dtype=torch.float16` its first step fails" in said
    half = LDMPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match=r"dtype|type"):
        half(num_inference_steps=1)


@pytest.mark.parametrize("text", [True, False])
def test_bug_previews_in_bf16(text, artifacts, tmp_path):
    """LDMPipeline gives NumPy what the decoder gives it, which under autocast was bf16."""
    run = replace(tiny.run(tmp_path / "run"), precision="bf16", steps=1, sample_every=1)
    recipe = tiny.generator_recipe(artifacts, run=run)
    if not text:
        unet = replace(recipe.unet, pooled_text=False)
        recipe = replace(recipe, text=None, unet=unet)
    train_generator(recipe)
    assert (tmp_path / "run/samples/0000001.png").exists()
