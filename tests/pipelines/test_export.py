"""What is trained here loads and draws where calotype is not: the whole way, small."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    LDMPipeline,
    StableDiffusionPipeline,
)
from safetensors.torch import load_file

import tiny
from calotype.diffusion import UNet
from calotype.pipelines import Sampling, load, sample, text_to_image
from calotype.recipes.tokenizer import PretrainedDecoder, train_tokenizer
from calotype.tokenizers import Gaussian, ImageTokenizer, fingerprint
from calotype.tokenizers.terms import L2
from calotype.tokenizers.tokenizer import load_autoencoder

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
    assert suffixes <= {".json", ".safetensors", ".txt", ".jinja"}
    # transformers 4 looks for these two.
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
    with pytest.warns(UserWarning, match=r"departs by 0\.\d+ from .* measure more than 4 images"):
        train_tokenizer(replace(recipe, model=loose))


def test_recipes_normalise_latents_and_say_so(artifacts):
    report = json.loads((artifacts / "tokenizer/model/latents.json").read_text())
    assert report["tokenizer"] == fingerprint(load_autoencoder(artifacts / "tokenizer/model"))
    assert report["images"] == 64
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
