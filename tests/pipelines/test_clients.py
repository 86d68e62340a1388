"""Clients that nobody here wrote, where calotype is not: the quick ones of benchmarks/clients.py;
and what others call the weights of Stable Diffusion's layout."""

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from safetensors.torch import load_file, save_file

import tiny
from calotype.commands.cache_latents import cache
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data.drawn.scenes import Scenes
from calotype.diffusion import Epsilon, Flow, UNet, is_of_stable_diffusion
from calotype.pipelines import load
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.generators import GENERATORS
from calotype.recipes.tokenizer import NewTokenizer
from calotype.tokenizers import Backbone, Gaussian

CLIENTS = Path(__file__).parents[2] / "benchmarks/stock_clients.py"
SCENES = Scenes(size=64, count=16)
LATENTS = Gaussian(4, kl_weight=1e-3, initial_std=1e-3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A pipeline of each kind, where no run ever was."""
    root, found = tmp_path_factory.mktemp("kinds"), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few steps and few pictures
        for kind, made in (("stable", stable), ("flow", flow), ("tokens", tokens)):
            found[kind] = shutil.move(made(root / kind), root / f"{kind}-elsewhere")
    return {kind: Path(folder) for kind, folder in found.items()}


def stable(root: Path) -> Path:
    """Of Stable Diffusion's layout."""
    backbone = Backbone((8, 8, 8, 8), layers=2, groups=4)
    train_tokenizer(tiny.tokenizer_recipe(
        root, data=SCENES, model=NewTokenizer(backbone, LATENTS), run=quick(root / "tokenizer")
    ))  # fmt: skip
    cache(tiny.cache_recipe(root, data=SCENES))
    layout = UNet((8, 16, 16, 16), (True, True, True, False), layers=2, heads=8, groups=4)
    return train_generator(tiny.generator_recipe(
        root, unet=layout, process=Epsilon(), run=quick(root / "generator")
    ))  # fmt: skip


def flow(root: Path) -> Path:
    """Of the layout of most recipes."""
    train_tokenizer(tiny.tokenizer_recipe(
        root, model=NewTokenizer(tiny.BACKBONE, LATENTS), run=quick(root / "tokenizer")
    ))  # fmt: skip
    cache(tiny.cache_recipe(root))
    return train_generator(tiny.generator_recipe(
        root, process=Flow(shift=3.0), run=quick(root / "generator")
    ))  # fmt: skip


def tokens(root: Path) -> Path:
    """A transformer's."""
    tokenizer, cached, recipe = tiny.token_recipes(root)
    train_tokenizer(tokenizer)
    cache(cached)
    return train_generator(recipe)


def quick(out: Path):
    return replace(tiny.run(out), steps=2)


@pytest.mark.slow
def test_clients_do_with_them_what_they_do(folders):
    """But for those that need what is not installed: diffusers' scripts, ONNX."""
    kinds = [f"{kind}={folder}" for kind, folder in folders.items()]
    command = [sys.executable, "-I", str(CLIENTS), *kinds]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert not [each for each in found if each["state"] == "fails"]
    worked = [each["kind"] for each in found if each["state"] == "works"]
    assert min(worked.count(kind) for kind in folders) >= 7


def original(unet: bool) -> dict[str, str]:
    """Of each weight the name that Stable Diffusion's own code, and so ComfyUI, has for it, under
    ours: what diffusers' loader makes of all names there are, each with its name for a weight.
    """
    names = {name: Name(name) for name in (unet_names() if unet else vae_names())}
    if unet:
        config = {"layers_per_block": 2}
        return {
            ours: str(theirs) for ours, theirs in convert_ldm_unet_checkpoint(names, config).items()
        }
    config = {"down_block_types": 4 * [""], "up_block_types": 4 * [""]}
    return {ours: str(theirs) for ours, theirs in convert_ldm_vae_checkpoint(names, config).items()}


class Name(str):
    """A weight that is nothing but its name."""

    ndim, shape = 1, (1,)
    """So that the loader makes no matrix of a convolution."""


def unet_names() -> Iterator[str]:
    """Of the UNet, as its architecture gives them: blocks in, in the middle, and out."""
    root, sides = "model.diffusion_model", ("weight", "bias")
    resnet = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3")
    block = "transformer_blocks.0"
    attention = [f"norm.{side}" for side in sides] + [
        f"{place}.{side}" for place in ("proj_in", "proj_out") for side in sides
    ] + [
        f"{block}.attn{i}.to_{part}.weight" for i in (1, 2) for part in "qkv"
    ] + [
        f"{block}.{place}.{side}"
        for place in ("attn1.to_out.0", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2",
                      "norm1", "norm2", "norm3") for side in sides
    ]  # fmt: skip

    def residual(place: str, skips: bool) -> Iterator[str]:
        for part in (*resnet, *(["skip_connection"] if skips else [])):
            yield from (f"{root}.{place}.{part}.{side}" for side in sides)

    for part in ("time_embed.0", "time_embed.2", "input_blocks.0.0", "out.0", "out.2"):
        yield from (f"{root}.{part}.{side}" for side in sides)
    for i in range(1, 12):
        if i % 3 == 0:
            yield from (f"{root}.input_blocks.{i}.0.op.{side}" for side in sides)
            continue
        yield from residual(f"input_blocks.{i}.0", skips=i == 4)  # where widths of `stable` grow
        if i < 9:
            yield from (f"{root}.input_blocks.{i}.1.{part}" for part in attention)
    for i in (0, 2):
        yield from residual(f"middle_block.{i}", skips=False)
    yield from (f"{root}.middle_block.1.{part}" for part in attention)
    for i in range(12):
        yield from residual(f"output_blocks.{i}.0", skips=True)
        if i > 2:
            yield from (f"{root}.output_blocks.{i}.1.{part}" for part in attention)
        if i in (2, 5, 8):
            place = f"output_blocks.{i}.{1 if i == 2 else 2}.conv"
            yield from (f"{root}.{place}.{side}" for side in sides)


def vae_names() -> Iterator[str]:
    """Of the autoencoder: levels down and, counted from the same end, up."""
    root, sides = "first_stage_model", ("weight", "bias")
    resnet = ("norm1", "conv1", "norm2", "conv2")
    parts = ["quant_conv", "post_quant_conv"]
    for half, count, way in (("encoder", 2, "down"), ("decoder", 3, "up")):
        parts += [f"{half}.{part}" for part in ("conv_in", "norm_out", "conv_out")]
        parts += [f"{half}.mid.block_{i}.{part}" for i in (1, 2) for part in resnet]
        parts += [f"{half}.mid.attn_1.{part}" for part in ("norm", "q", "k", "v", "proj_out")]
        parts += [f"{half}.{way}.{level}.block.{i}.{part}"
                  for level in range(4) for i in range(count) for part in resnet]  # fmt: skip
        moved = [f"{half}.down.{i}.downsample.conv" for i in range(3)]
        parts += moved if way == "down" else [f"{half}.up.{i}.upsample.conv" for i in (1, 2, 3)]
    for part in parts:
        yield from (f"{root}.{part}.{side}" for side in sides)


def test_every_weight_has_stable_diffusions_own_name(folders, tmp_path):
    """All of both networks and no more; and a single file of those names draws the same."""
    pipe = load(folders["stable"])
    single = {}
    for network, unet in ((pipe.unet, True), (pipe.vae, False)):
        names, weights = original(unet), network.state_dict()
        assert names.keys() == weights.keys()
        assert set(names.values()) == set(unet_names() if unet else vae_names())
        single |= {names[ours]: weight for ours, weight in weights.items()}
    text = load_file(folders["stable"] / "text_encoder/model.safetensors")
    single |= {f"cond_stage_model.transformer.{name}": weight for name, weight in text.items()}
    for name in [name for name in single if ".attn_1." in name and single[name].ndim == 2]:
        single[name] = single[name][..., None, None]  # where they were convolutions
    file = tmp_path / "one.safetensors"
    save_file({name: weight.contiguous() for name, weight in single.items()}, file)
    again = diffusers.StableDiffusionPipeline.from_single_file(
        str(file), config=str(folders["stable"])
    )
    drawn = []
    for each in (pipe, again):
        each.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        drawn.append(each("a red circle", num_inference_steps=3, generator=generator,
                          output_type="pt").images)  # fmt: skip
    torch.testing.assert_close(*drawn, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", GENERATORS)
def test_recipes_say_which_layout_is_theirs(name):
    recipe = GENERATORS[name]()
    if not isinstance(recipe, GeneratorRecipe) or recipe.text is None:
        return
    with torch.device("meta"):
        unet = recipe.unet.conditional(16, 4, 768)
    is_stable = name.endswith("stable-diffusion")
    assert is_of_stable_diffusion(unet) == is_stable
    doc = " ".join((GENERATORS[name].__doc__ or "").lower().split())
    said = "stable diffusion" if is_stable else "layout of its own"
    assert said in doc


def test_the_card_says_what_the_layout_permits(folders):
    said = {kind: (folder / "README.md").read_text() for kind, folder in folders.items()}
    assert "the layout of Stable Diffusion 1" in said["stable"] and "a flow" not in said["stable"]
    assert "a layout of their own" in said["flow"] and "another `prediction_type`" in said["flow"]
    for card in said.values():
        assert card.startswith("---\nlicense: unknown\n")
