"""A small fast decoder is distilled from a tokenizer, and takes its place in stock pipelines."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

import tiny
from calotype.commands.distil_decoder import REPORT, assemble_distillation, distil_decoder
from calotype.pipelines import picture
from calotype.recipes.distil import DistilRecipe
from calotype.tokenizers import Gaussian, ImageTokenizer, psnr
from calotype.tokenizers.distillation import Distillation, NewTiny, Teacher, TrainedTiny
from calotype.training import AdamW
from calotype.training.noise import generators

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """As Stable Diffusion's, its latents are scaled by whoever uses them."""
    folder = tmp_path_factory.mktemp("teacher")
    made = tiny.tokenizer(0, Gaussian(channels=4))
    made.autoencoder.register_to_config(scaling_factor=0.5)
    made.save(folder)
    return folder


def recipe(teacher: Path, out: Path, **changes: Any) -> DistilRecipe:
    run = tiny.run(out, **changes.pop("run", {}))
    base = DistilRecipe(
        str(teacher), tiny.SCENES, student=NewTiny(width=8, blocks=1), measure=16, examples=2,
        optimizer=AdamW(3e-3), run=run,
    )  # fmt: skip
    return replace(base, **changes)


def report(folder: Path) -> dict[str, float]:
    return json.loads((folder / REPORT).read_text())


@pytest.fixture(scope="module")
def distilled(teacher, tmp_path_factory) -> list[Path]:
    """After two steps, and after forty."""
    root = tmp_path_factory.mktemp("distilled")
    return [distil_decoder(recipe(teacher, root / str(n), run={"steps": n, "sample_every": n}))
            for n in (2, 40)]  # fmt: skip


def test_it_comes_nearer_to_its_teacher(distilled, teacher, tmp_path, capsys):
    early, late = map(report, distilled)
    assert late["psnr_to_teacher_db"] > early["psnr_to_teacher_db"] + 3
    assert late["pictures"] == 16 and late["times_as_fast"] > 0
    assert (distilled[1].parent / "samples/0000040.png").exists()
    distil_decoder(recipe(teacher, tmp_path, run={"steps": 1}))
    assert "dB to the teacher's pictures, " in capsys.readouterr().err


def test_it_says_how_anybody_loads_it(distilled, tmp_path, monkeypatch):
    """And its run has a page, with the command that it was."""
    folder = shutil.copytree(distilled[0], tmp_path / "model")
    monkeypatch.chdir(folder)
    text = (folder / "README.md").read_text()
    assert text.startswith("---\nlicense: unknown\nlibrary_name: diffusers\n")
    code = text.split("```python")[1].split("```")[0]
    assert "calotype" not in code
    picture(tiny.images(1)[0]).save("picture.png")
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["latents"].shape == (1, 4, tiny.SIZE // 2, tiny.SIZE // 2)
    with Image.open("rebuilt.png") as rebuilt:
        assert rebuilt.size == (tiny.SIZE, tiny.SIZE)
    page = (distilled[0].parent / "index.html").read_text()
    assert "training is done" in page and "calotype distil-decoder small-tiny" in page


@torch.no_grad()
def test_bug_stock_diffusers_warned_of_a_name_in_its_config(distilled):
    logger, said = logging.getLogger("diffusers.configuration_utils"), []
    logger.addFilter(hears := said.append)
    student = AutoencoderTiny.from_pretrained(distilled[0])
    logger.removeFilter(hears)
    assert said == [] and tuple(student.config["block_out_channels"]) == (8, 8)


def test_stock_diffusers_decodes_the_teachers_latents_with_it(distilled, teacher):
    """As pipelines call it, by z * scaling_factor; its encoder finds such latents."""
    student = AutoencoderTiny.from_pretrained(distilled[1])
    stock = ImageTokenizer.load(teacher).autoencoder
    images = tiny.images(16)
    latents = stock.config["scaling_factor"] * stock.encode(images).latent_dist.mode()
    theirs = stock.decode(latents / stock.config["scaling_factor"]).sample.clamp(-1, 1)
    ours = student.decode(latents / student.config["scaling_factor"]).sample
    assert psnr(ours, theirs).mean().item() == pytest.approx(
        report(distilled[1])["psnr_to_teacher_db"], abs=3
    )
    encoded = student.encode(images).latents
    assert (encoded - latents).square().mean() < 0.8 * latents.var()


def test_it_stands_in_for_the_tokenizer_of_a_pipeline(artifacts, tmp_path):
    folder = artifacts / "generator/model"
    student = distil_decoder(recipe(folder, tmp_path, run={"steps": 25}))
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    images = []
    for vae in (pipe.vae, AutoencoderTiny.from_pretrained(student), NewTiny(8, 1).build(2, 2)):
        pipe.vae = vae
        generator = torch.Generator().manual_seed(0)
        made = pipe("a red circle", num_inference_steps=2, generator=generator, output_type="np")
        images.append(torch.from_numpy(made.images))
    assert images[0].shape == images[1].shape == (1, tiny.SIZE, tiny.SIZE, 3)
    near, fresh = ((images[0] - other).square().mean() for other in images[1:])
    assert near < fresh / 2


def objective(teacher: Path, out: Path, **changes: Any) -> Distillation:
    settings = recipe(teacher, out, **changes)
    return assemble_distillation(settings, settings.data.build())


def test_gradients_reach_the_student_alone(teacher, tmp_path):
    made = objective(teacher, tmp_path)
    losses = made.train()(tiny.batch(4), 0)
    assert losses.keys() == {"pixel", "encoding"}
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None for p in made.student.parameters())
    assert not any(p.requires_grad for p in made.teacher.tokenizer.parameters())
    names = {name.split(".")[0] for name, _ in made.named_parameters()}
    assert names == {"student"}


@torch.no_grad()
def test_distances_are_to_the_teacher_the_originals_or_both(teacher, tmp_path):
    found = []
    for share in (0.0, 1.0, 0.25):
        torch.manual_seed(0)
        found.append(objective(teacher, tmp_path, originals=share)(tiny.batch(4), 0)["pixel"])
    torch.testing.assert_close(found[2], 0.75 * found[0] + 0.25 * found[1])
    assert found[0] != found[1]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_latents_are_those_that_pipelines_denoise(kind, teacher):
    tokenizer = (
        tiny.tokenizer(0, tiny.VQ_BOTTLENECK) if kind == "vq" else ImageTokenizer.load(teacher)
    )
    images, made = tiny.images(4), Teacher(tokenizer)
    drawn, likeliest = made.latents(images, generators(range(4)))
    scale = tokenizer.autoencoder.config["scaling_factor"]
    z = tokenizer.bottleneck.mode(tokenizer.features(images))
    torch.testing.assert_close(likeliest, scale * z)
    torch.testing.assert_close(made.pictures(likeliest), tokenizer.reconstruct(images).clamp(-1, 1))
    assert torch.equal(drawn, likeliest) == (kind == "vq")


def test_a_trained_student_learns_on(distilled, teacher, tmp_path):
    """And a run of it that goes on from another is refused; one that moved is not."""

    def trained(student: Path, **run: Any) -> Path:
        return distil_decoder(recipe(teacher, tmp_path / "run", student=TrainedTiny(str(student)),
                                     run=run))  # fmt: skip

    moved = shutil.copytree(distilled[1], tmp_path / "moved")
    made = trained(distilled[1], steps=2)
    assert report(made)["psnr_to_teacher_db"] > report(distilled[0])["psnr_to_teacher_db"] + 3
    trained(moved, steps=3, resume=True)
    with pytest.raises(ValueError, match="was begun with start"):
        trained(distilled[0], steps=4, resume=True)


def test_resumed_is_uninterrupted(teacher, tmp_path):
    whole = distil_decoder(recipe(teacher, tmp_path / "whole", run={"steps": 2}))
    distil_decoder(recipe(teacher, tmp_path / "halves", run={"steps": 1}))
    moved = shutil.copytree(teacher, tmp_path / "moved")
    again = distil_decoder(recipe(moved, tmp_path / "halves", run={"steps": 2, "resume": True}))
    one, other = (load_file(folder / WEIGHTS) for folder in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
    tiny.tokenizer(7, Gaussian(channels=4)).save(moved)
    with pytest.raises(ValueError, match="was begun with teacher"):
        distil_decoder(recipe(moved, tmp_path / "halves", run={"steps": 3, "resume": True}))


def test_a_student_of_other_latents_is_refused(teacher, tmp_path):
    NewTiny(8, 1).build(2, 4).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"latents of 2 channels at 1/4 .*teacher of 4 at 1/2"):
        objective(teacher, tmp_path, student=TrainedTiny(str(tmp_path / "other")))
    with pytest.raises(ValueError, match=r"originals is 1\.5: it is a fraction"):
        recipe(teacher, tmp_path, originals=1.5)


@pytest.mark.parametrize("factor", [2, 4, 8])
@torch.no_grad()
def test_it_has_the_factor_of_its_teacher(factor):
    made = NewTiny(8, 1).build(4, factor)
    z = made.encode(torch.zeros(1, 3, 32, 32)).latents
    assert z.shape == (1, 4, 32 // factor, 32 // factor)
    assert made.decode(z).sample.shape == (1, 3, 32, 32)
