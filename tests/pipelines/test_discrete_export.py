"""Tokenizers with codes, trained by their recipe: where there is a stock class, it does the same
where calotype is not; where there is none, no stock class takes the folder for its own."""

import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, LDMPipeline, VQModel
from diffusers.models.unets.unet_2d import UNet2DOutput
from safetensors.torch import load_file, save_file

import tiny
from calotype.commands import train_denoiser
from calotype.commands.cache_latents import cache
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import LatentCache
from calotype.diffusion import UNet
from calotype.pipelines import Sampling, load, sample
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.tokenizer import NewTokenizer
from calotype.tokenizers import ImageTokenizer, fingerprint
from calotype.tokenizers.bottlenecks import BSQ, FSQ, LFQ, RVQ, VQ, Discrete, Gumbel
from calotype.tokenizers.bottlenecks.codebook import CodebookLoss, Cosine
from calotype.tokenizers.bottlenecks.vector_quantizer import Rotation
from calotype.tokenizers.stock import load_autoencoder
from calotype.tokenizers.terms import LogitLaplace

BOOK = tiny.VQ_BOTTLENECK.codebook
STOCK: dict[str, Any] = {
    "averages": tiny.VQ_BOTTLENECK,
    "loss": VQ(replace(BOOK, learning=CodebookLoss())),
    "cosine": VQ(replace(BOOK, learning=CodebookLoss(), similarity=Cosine())),
    "rotation": VQ(BOOK, estimator=Rotation()),
    "wide": VQ(BOOK, features=12),
    "dvae": Gumbel(codes=32, channels=4),
    "lfq": LFQ(bits=6),
    "bsq": BSQ(bits=6),
}
OWN: dict[str, Any] = {
    "fsq": FSQ((5, 4, 3)),
    "rvq": RVQ(2, BOOK),
    "lfq": LFQ(bits=15),
    "bsq": BSQ(bits=15),
}
SEED, STEPS = 11, 3
STRANGER = f"""
import sys
sys.modules["calotype"] = None
from pathlib import Path
import numpy, torch
torch.set_num_threads(1)
from diffusers import DiffusionPipeline, VQModel
from safetensors.torch import load_file, save_file
root = Path(sys.argv[1])
images = load_file(root / "images.safetensors")["images"]
torch.set_grad_enabled(False)
for folder in (root / "models").iterdir():
    model = VQModel.from_pretrained(folder, use_safetensors=True)
    h = model.encode(images).latents
    ids = model.quantize(h)[2][2].reshape(len(h), *h.shape[2:])
    codes = model.quantize.get_codebook_entry(ids.flatten(), (*ids.shape, h.shape[1]))
    found = {{"ids": ids, "of_ids": model.decode(codes).sample, "of_images": model(images).sample}}
    save_file(found, root / f"{{folder.name}}.safetensors")
pipe = DiffusionPipeline.from_pretrained(root / "pipeline", use_safetensors=True)
generator = [torch.Generator().manual_seed({SEED})]
drawn = pipe(1, num_inference_steps={STEPS}, generator=generator, output_type="np").images
numpy.save(root / "drawn.npy", drawn)
assert not any(name.startswith("calotype.") for name in sys.modules)
"""


@dataclass(frozen=True)
class Trained:
    """What a recipe trained and what it saved."""

    tokenizer: ImageTokenizer
    """As it stood in memory, folded."""
    model: Path

    @property
    def bottleneck(self) -> Discrete:
        assert isinstance(self.tokenizer.bottleneck, Discrete)
        return self.tokenizer.bottleneck


def train(spec: Any, root: Path) -> Trained:
    recipe = tiny.tokenizer_recipe(
        root, model=NewTokenizer(tiny.BACKBONE, spec), optimizer=tiny.adam(3e-3)
    )
    if isinstance(spec, Gumbel):
        recipe = replace(recipe, pixel=LogitLaplace())
    saving = patch.object(ImageTokenizer, "save", autospec=True, side_effect=ImageTokenizer.save)
    with saving as save, warnings.catch_warnings():
        # Of what is tested elsewhere: few images, few codes in use, no stock class.
        warnings.simplefilter("ignore")
        model = train_tokenizer(recipe)
    return Trained(save.call_args.args[0], model)


def unconditional(root: Path, **changes: Any) -> GeneratorRecipe:
    unet = UNet((8, 16), (True, True), layers=1, head_width=4, groups=4)
    return replace(tiny.generator_recipe(root), text=None, unet=unet, **changes)


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> dict[str, Trained]:
    return {name: train(spec, tmp_path_factory.mktemp(name)) for name, spec in STOCK.items()}


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> dict[str, Trained]:
    return {name: train(spec, tmp_path_factory.mktemp(name)) for name, spec in OWN.items()}


@pytest.fixture(scope="module")
def codes(stock) -> Path:
    """The folder of a VQ tokenizer's run, with its cache and the pipeline trained in that."""
    root = stock["averages"].model.parents[1]
    cache(tiny.cache_recipe(root, text=None))
    train_generator(unconditional(root))
    return root


@pytest.fixture(scope="module")
def elsewhere(stock, codes, tmp_path_factory) -> Path:
    """What a process without calotype made of the folders, where no run ever was."""
    root = tmp_path_factory.mktemp("elsewhere")
    for name, trained in stock.items():
        shutil.copytree(trained.model, root / "models" / name)
    shutil.copytree(codes / "generator/model", root / "pipeline")
    save_file({"images": tiny.images(16, seed=1)}, root / "images.safetensors")
    command = [sys.executable, "-I", "-c", STRANGER, str(root)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root


@torch.no_grad()
@pytest.mark.parametrize("name", STOCK)
def test_a_stock_vqmodel_finds_the_same_ids_and_pictures(name, stock, elsewhere):
    """Bit for bit in float32, as the tokenizer that was trained and as the one that is loaded."""
    theirs, images = load_file(elsewhere / f"{name}.safetensors"), tiny.images(16, seed=1)
    for ours in (stock[name].tokenizer, ImageTokenizer.load(stock[name].model)):
        ids, h = ours.pack(images), ours.features(images)
        assert torch.equal(ids.long(), theirs["ids"]) and len(ids.unique()) > 4
        # In another order of memory a convolution adds in another order.
        z = ours.bottleneck.unpack(ids).contiguous()
        assert torch.equal(ours.decode(z), theirs["of_ids"])
        # VQModel decodes h + (z - h), which is z but for rounding.
        assert torch.equal(ours.decode(h + (z - h)), theirs["of_images"])
        close = {"atol": 2e-6, "rtol": 0}
        torch.testing.assert_close(ours.reconstruct(images), theirs["of_images"], **close)


@pytest.mark.parametrize("name", STOCK)
def test_a_stock_folder_is_one_and_names_its_latents(name, stock):
    """Nothing is pickled, and what is loaded back is known by the same fingerprint."""
    model = stock[name].model
    assert {file.suffix for file in model.iterdir()} == {".json", ".safetensors", ".md"}
    vqmodel = VQModel.from_pretrained(model, use_safetensors=True)
    assert vqmodel.config["out_channels"] == 3 and vqmodel.config["scaling_factor"] == 1
    report = json.loads((model / "latent_statistics.json").read_text())
    assert fingerprint(vqmodel) == fingerprint(ImageTokenizer.load(model)) == report["tokenizer"]
    with torch.no_grad():
        vqmodel.quantize.embedding.weight[0] += 1e-6
    assert fingerprint(vqmodel) != report["tokenizer"]


@torch.no_grad()
@pytest.mark.parametrize("name", OWN)
def test_without_a_stock_class_calotype_loads_the_same(name, own):
    trained, loaded = own[name], ImageTokenizer.load(own[name].model)
    images = tiny.images(16, seed=1)
    ids = trained.tokenizer.pack(images)
    assert torch.equal(loaded.pack(images), ids) and len(ids.unique()) > 4
    assert torch.equal(loaded.reconstruct(images), trained.tokenizer.reconstruct(images))
    report = json.loads((trained.model / "latent_statistics.json").read_text())
    assert fingerprint(loaded) == fingerprint(trained.tokenizer) == report["tokenizer"]
    assert {file.suffix for file in trained.model.iterdir()} == {".json", ".safetensors", ".md"}


@pytest.mark.parametrize("name", OWN)
def test_no_stock_class_takes_it_for_its_own(name, own):
    """None is left with weights at random in place of what it did not find."""
    for kind in (VQModel, AutoencoderKL, DiffusionPipeline):
        with pytest.raises(OSError, match=r"config\.json|model_index\.json"):
            kind.from_pretrained(own[name].model, use_safetensors=True)
    with pytest.raises(ValueError, match="no AutoencoderKL or VQModel in"):
        load_autoencoder(own[name].model)


@pytest.mark.parametrize("name", OWN)
def test_no_generator_is_trained_in_what_no_pipeline_decodes(name, own, tmp_path):
    """Not even a run's folder is made; ids for other generators are cached all the same."""
    root = own[name].model.parents[1]
    cache(tiny.cache_recipe(root, out=tmp_path / "latents", text=None, count=8))
    recipe = unconditional(root, cache=tmp_path / "latents", run=tiny.run(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"no stock pipeline decodes: choose .* VQ,") as refusal:
        train_generator(recipe)
    assert "\n" not in str(refusal.value) and not (tmp_path / "run").exists()


def test_a_text_is_refused_before_prompts_are_asked_for(codes, tmp_path):
    """Bug: who followed the first refusal, and cached again with a text, met the second."""
    recipe = tiny.generator_recipe(codes, run=tiny.run(tmp_path / "run"))
    with pytest.raises(ValueError, match="has codes, and StableDiffusionPipeline decodes none"):
        train_generator(recipe)
    assert not list(tmp_path.iterdir())


def test_a_generator_in_codes_is_a_stock_pipeline(codes, elsewhere):
    """It draws the same, bit for bit, where calotype is not."""
    pipe = load(elsewhere / "pipeline")
    assert isinstance(pipe, LDMPipeline) and isinstance(pipe.vqvae, VQModel)
    (ours,) = sample(pipe, [""], [SEED], Sampling(steps=STEPS))
    theirs = torch.from_numpy(np.load(elsewhere / "drawn.npy")).permute(0, 3, 1, 2)
    assert torch.equal(2 * theirs - 1, ours) and ours.std() > 0
    files = [file for file in (codes / "generator/model").rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".json", ".safetensors", ".md"}


def test_a_generator_in_codes_says_which(codes, stock, tmp_path):
    """Cache, run and pipeline name the tokenizer; a codebook that is another's is refused."""
    model = codes / "generator/model"
    mark = fingerprint(VQModel.from_pretrained(codes / "tokenizer/model"))
    recipe = json.loads((codes / "generator/recipe.json").read_text())
    told = [
        recipe["inputs"]["latents"],
        json.loads((model / "calotype.json").read_text())["tokenizer"],
    ]
    assert [LatentCache(codes / "latents").index.tokenizer, *told] == 3 * [mark]
    other = replace(tiny.generator_recipe(codes), text=None, tokenizer=str(stock["loss"].model))
    with pytest.raises(ValueError, match="was encoded by tokenizer"):
        train_generator(other)
    shutil.copytree(model, tmp_path / "pipeline")
    weights = tmp_path / "pipeline/vqvae/diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["quantize.embedding.weight"][0] += 1
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"has tokenizer .*put that tokenizer back"):
        load(tmp_path / "pipeline")


@pytest.fixture(params=[1.0, 0.18215])
def scaled(request, codes, tmp_path) -> tuple[ImageTokenizer, LatentCache]:
    """A VQ tokenizer and its cache, with the scaling factor of ours or of stock VQModels."""
    vqmodel = VQModel.from_pretrained(codes / "tokenizer/model")
    vqmodel.register_to_config(scaling_factor=request.param)
    vqmodel.save_pretrained(tmp_path / "tokenizer/model")
    cached = cache(tiny.cache_recipe(tmp_path, text=None))
    return ImageTokenizer.load(tmp_path / "tokenizer/model"), LatentCache(cached)


@torch.no_grad()
def test_latents_of_codes_are_normal_and_decoded_as_the_nearest(scaled, codes):
    """A denoiser that knows the latents but for a small error draws exactly their pictures."""
    tokenizer, latents = scaled
    factor = tokenizer.autoencoder.config["scaling_factor"]
    source = train_denoiser.latent_source(tokenizer)
    z = source.draw(latents.batch(list(range(32)), [0] * 32)["packed"], []) / factor
    assert z.mean((0, 2, 3)).abs().max() < 1e-3 and abs(z.square().mean() - 1) < 1e-3

    pipe = load(codes / "generator/model")
    pipe.register_modules(vqvae=tokenizer.autoencoder)
    table = pipe.vqvae.quantize.embedding.weight
    apart = torch.pdist(table).min().item()
    assert apart > 0.02, "else the error below is none"
    wrong = z[:4] + 0.4 * apart / z.shape[1] ** 0.5

    def knows(noisy: torch.Tensor, timestep: torch.Tensor) -> UNet2DOutput:
        return UNet2DOutput((noisy - factor * wrong) / (timestep / 1000))

    with patch.object(pipe.unet, "forward", knows):
        drawn = torch.cat(list(sample(pipe, [""] * 4, range(4), Sampling(steps=STEPS))))
    pictures = tokenizer.reconstruct(tiny.SCENES.build().batch(range(4))["image"]).clamp(-1, 1)
    torch.testing.assert_close(drawn, pictures, atol=1e-5, rtol=0)
    assert (tokenizer.decode(wrong).clamp(-1, 1) - pictures).abs().max() > 1e-3


def test_bug_ids_were_looked_up_in_a_table_left_behind(codes):
    """On a GPU ids came to the device of the run, and the codes stayed where they were loaded."""
    tokenizer, elsewhere = ImageTokenizer.load(codes / "tokenizer/model"), torch.device("meta")
    with patch.object(train_denoiser, "processes", lambda: SimpleNamespace(device=elsewhere)):
        source = train_denoiser.latent_source(tokenizer)
    assert source.draw(torch.zeros(1, 8, 8, dtype=torch.int32, device=elsewhere), []).is_meta
