"""A tokenizer in other people's models: an ordinary module, whatever is given to it."""

import copy
import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader

import calotype
import other_process
import tiny
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.preprocessing import Center, Stretch, Trim, Within
from calotype.tokenizers.stock import OTHERS
from other_process import Encoded

KINDS = {"kl": tiny.BOTTLENECK, **tiny.BOTTLENECKS}
IMAGES = tiny.images(2)


def stock(name: str, **changes) -> ImageTokenizer:
    """Around a class of diffusers."""
    torch.manual_seed(0)
    blocks = {"block_out_channels": (8, 8), "down_block_types": ("DownEncoderBlock2D",) * 2,
              "up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 4,
              "sample_size": tiny.SIZE}  # fmt: skip
    made = AutoencoderKL(**blocks, **changes) if name == "kl" else VQModel(
        **{**blocks, "num_vq_embeddings": 16, "latent_channels": 3, **changes})  # fmt: skip
    return ImageTokenizer.around(made).eval()


def every() -> dict[str, ImageTokenizer]:
    made = {name: tiny.tokenizer(bottleneck=spec).eval() for name, spec in KINDS.items()}
    return made | {"stock-kl": stock("kl"), "stock-vq": stock("vq")}


@pytest.fixture(params=[*KINDS, "stock-kl", "stock-vq"])
def tokenizer(request) -> ImageTokenizer:
    return every()[request.param]


def test_latents_and_ids_there_and_back(tokenizer):
    """Whole, by parts, and as codes it is the same picture."""
    whole = tokenizer.reconstruct(IMAGES)
    assert torch.equal(tokenizer.decode(tokenizer.latents(IMAGES)), whole)
    assert torch.equal(tokenizer(IMAGES), whole)
    try:
        ids = tokenizer.encode_ids(IMAGES)
    except ValueError as error:
        assert "continuous and has no codes" in str(error)
        return
    assert ids.dtype == torch.int32 and len(ids) == len(IMAGES)
    assert torch.equal(tokenizer.decode_ids(ids), whole)


def test_gradients_reach_latents_and_leave_frozen_weights(tokenizer):
    tokenizer.requires_grad_(False)
    z = tokenizer.latents(IMAGES).clone().requires_grad_()
    tokenizer.decode(z).square().sum().backward()
    assert z.grad is not None and z.grad.abs().min(1).values.sum() > 0
    assert all(weight.grad is None for weight in tokenizer.parameters())


class Model(nn.Module):
    """Someone's, with a tokenizer in it."""

    def __init__(self, tokenizer: ImageTokenizer) -> None:
        super().__init__()
        self.tokenizer, self.head = tokenizer, nn.Linear(3, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.tokenizer(images).mean((2, 3)))


@torch.no_grad()
def test_it_lives_in_another_module(tokenizer, tmp_path):
    """Bug: codes of a stock VQModel stayed where they were when weights were loaded."""
    model = Model(tokenizer)
    other = copy.deepcopy(model)
    for weight in other.parameters():
        weight.mul_(0.5)
    assert not torch.allclose(other(IMAGES), model(IMAGES))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(other(IMAGES), model(IMAGES))
    assert torch.equal(pickle.loads(pickle.dumps(model))(IMAGES), model(IMAGES))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_in_half_precision_it_takes_and_gives_what_there_is(tokenizer, dtype):
    exact, codes = tokenizer.reconstruct(IMAGES), tokenizer.bottleneck.state_dict()
    half = copy.deepcopy(tokenizer).to(dtype)
    assert half.weight.dtype == dtype
    found = half(IMAGES)
    assert found.dtype == dtype and found.isfinite().all()
    if not codes:  # a code that another is near to may be that one
        torch.testing.assert_close(found.float(), exact, atol=0.1, rtol=0.1)
    for name, value in half.bottleneck.state_dict().items():
        assert torch.equal(value, codes[name])


@pytest.mark.slow
def test_it_compiles():
    script = "import other_process; other_process.compile_tokenizers()"
    tests = Path(other_process.__file__).parent
    done = subprocess.run([sys.executable, "-c", script], cwd=tests, capture_output=True, text=True)
    assert done.stdout.split() == ["GaussianBottleneck", "VectorQuantizer"], done.stderr


def test_a_worker_of_a_data_loader_has_it():
    """Sent to a process of its own, as where there is no fork."""
    tokenizer = stock("kl")
    elsewhere = multiprocessing.get_context("spawn")
    loader = DataLoader(
        Encoded(tokenizer, IMAGES), 2, num_workers=1, multiprocessing_context=elsewhere
    )
    torch.testing.assert_close(next(iter(loader)), tokenizer.latents(IMAGES))


def test_latents_as_stored_and_as_pipelines_scale_them():
    told = stock("kl", scaling_factor=0.25, shift_factor=0.5)
    z = told.latents(IMAGES)
    assert torch.equal(told.normalised(z), (z - 0.5) * 0.25)
    assert torch.allclose(told.stored(told.normalised(z)), z, atol=1e-6)
    mean, std = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]
    channels = stock("kl", scaling_factor=0.5, latents_mean=mean, latents_std=std)
    expected = (z - torch.tensor(mean)[:, None, None]) * 0.5 / torch.tensor(std)[:, None, None]
    assert torch.allclose(channels.normalised(z), expected)
    assert torch.allclose(channels.stored(expected), z, atol=1e-6)
    ours = tiny.tokenizer()
    assert torch.equal(ours.normalised(z), z)


@pytest.fixture
def picture(tmp_path) -> Image.Image:
    """Wider than high, of three colours."""
    pixels = np.zeros((20, 32, 3), np.uint8)
    pixels[:, :10], pixels[:, 10:20], pixels[:, 20:] = (255, 0, 0), (0, 128, 0), (0, 0, 64)
    return Image.fromarray(pixels)


def test_pictures_of_every_kind_become_the_same_images(picture, tmp_path):
    tokenizer, array = tiny.tokenizer(), np.asarray(picture)
    floats = array.astype(np.float32) / 255
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned back
    turned.save(tmp_path / "turned.png", exif=exif)
    deep = array.astype(np.uint16) * 257
    kinds = [
        picture, picture.convert("RGBA"), tmp_path / "turned.png", str(tmp_path / "turned.png"),
        (tmp_path / "turned.png").read_bytes(), array, floats, floats.astype(np.float64), deep,
        np.moveaxis(array, -1, 0), torch.from_numpy(floats).movedim(-1, 0),
        torch.from_numpy(array.copy()), torch.from_numpy(floats).movedim(-1, 0).bfloat16().float(),
    ]  # fmt: skip
    images = tokenizer.preprocess(kinds, Trim())
    assert images.shape == (len(kinds), 3, 20, 32) and images.dtype == torch.float32
    expected = torch.from_numpy(floats).movedim(-1, 0) * 2 - 1
    assert (images - expected).abs().max() < 0.01
    assert torch.equal(tokenizer.preprocess(picture, Trim())[0], images[0])
    batch = torch.stack([torch.from_numpy(floats).movedim(-1, 0)] * 2)
    assert tokenizer.preprocess(batch, Trim()).shape == (2, 3, 20, 32)


def test_greys_and_what_is_transparent(picture):
    tokenizer, grey = tiny.tokenizer(), np.asarray(picture.convert("L"))
    clear = np.dstack([np.asarray(picture), np.zeros((20, 32), np.uint8)])
    images = tokenizer.preprocess(
        [picture.convert("L"), grey, grey[..., None], grey.astype(np.float32)[None] / 255], Trim()
    )
    assert torch.allclose(images, images[:1].expand(4, -1, -1, -1), atol=0.005)
    assert torch.equal(images[0, 0], images[0, 2])
    whites = tokenizer.preprocess([clear, clear.astype(np.float32) / 255,
                                   np.dstack([grey, 0 * grey])], Trim())  # fmt: skip
    assert torch.equal(whites, torch.ones_like(whites))


@pytest.mark.parametrize("fit", [Center(16), Stretch(16), Within(16)])
def test_pictures_of_mixed_sizes_become_one_batch(picture, fit):
    tall = picture.resize((12, 40))
    floats = np.asarray(tall).astype(np.float32) / 255
    images = tiny.tokenizer().preprocess([picture, tall, floats], fit)
    assert images.shape == (3, 3, 16, 16)
    assert (images[1] - images[2]).abs().max() < 0.02  # in 8 bits, and not rounded to them
    assert images.min() >= -1 and images.max() <= 1


def test_how_pictures_are_fitted(picture):
    tokenizer = tiny.tokenizer()
    center, stretched, within, trimmed = (
        tokenizer.preprocess(picture, fit)[0]
        for fit in (Center(20), Stretch(20), Within(32), Trim())
    )
    assert torch.equal(center, trimmed[:, :, 6:26])
    assert stretched[0, 10].argmin() > 4 and stretched[2, 10].max() > -0.6  # all three colours
    assert torch.equal(within[:, 6:26], trimmed)
    assert within[:, :6].min() == 1
    odd = picture.crop((0, 0, 31, 19))
    assert tokenizer.preprocess(odd, Trim()).shape == (1, 3, 18, 30)
    assert tokenizer.preprocess(picture).shape == (1, 3, tiny.SIZE, tiny.SIZE)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.full((3, 8, 8), -0.5), r"values from -0.5 to -0.5.*give \(x \+ 1\) / 2"),
        (np.full((8, 8, 3), np.nan, np.float32), "values from nan"),
        (np.zeros((8, 8, 3), np.int64), "is of int64: give uint8"),
        (np.zeros((8, 8, 7), np.uint8), r"has the shape \(8, 8, 7\)"),
        ("absent.png", "absent.png"),
        ([np.zeros((8, 8), np.uint8), np.zeros((8, 4), np.uint8)], "of 4x8, 8x8 pixels: choose"),
        ([], "these are none"),
        (np.zeros((1, 1), np.uint8), "has no 2 pixels a side"),
    ],
)
def test_what_is_no_picture_is_told(given, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        tiny.tokenizer().preprocess(given, Trim())


def test_load_finds_what_is_there(artifacts, tmp_path):
    assert isinstance(calotype.load(artifacts / "tokenizer"), ImageTokenizer)
    assert type(calotype.load(artifacts / "generator")).__name__ == "StableDiffusionPipeline"
    with pytest.raises(ValueError, match=f"no AutoencoderKL, .*{OTHERS[0]}, .* or {OTHERS[-1]} in"):
        calotype.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        calotype.load(tmp_path / "absent")


def test_a_variant_is_read_by_its_name(tmp_path):
    made = stock("kl")
    made.autoencoder.save_pretrained(tmp_path, variant="fp16")
    found = calotype.load(tmp_path, variant="fp16")
    assert torch.equal(found.latents(IMAGES), made.latents(IMAGES))
    with pytest.raises(ValueError, match="no AutoencoderKL"):
        calotype.load(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.fp16.safetensors"
    assert torch.equal(calotype.load(file).latents(IMAGES), made.latents(IMAGES))


def to_first_names(name: str, levels: int = 2) -> str:
    """What the first latent diffusion called a weight."""
    name = name.replace("mid_block.resnets.0", "mid.block_1").replace(
        "conv_shortcut", "nin_shortcut"
    )
    name = name.replace("mid_block.resnets.1", "mid.block_2").replace("conv_norm_out", "norm_out")
    name = name.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
    for new, old in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
        name = name.replace(f"mid_block.attentions.0.{new}", f"mid.attn_1.{old}")
    for i in range(levels):
        name = name.replace(f"down_blocks.{i}.resnets", f"down.{i}.block")
        name = name.replace(f"down_blocks.{i}.downsamplers.0", f"down.{i}.downsample")
        name = name.replace(f"up_blocks.{i}.resnets", f"up.{levels - 1 - i}.block")
        name = name.replace(f"up_blocks.{i}.upsamplers.0", f"up.{levels - 1 - i}.upsample")
    return name


def single_file(folder: Path, made: AutoencoderKL) -> Path:
    """As it is passed around in a single file."""
    weights = {}
    for name, weight in made.state_dict().items():
        flat = "attentions" in name and weight.ndim == 2
        weights[to_first_names(name)] = weight[..., None, None] if flat else weight
    folder.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "vae.safetensors")
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL", **made.config}))
    return folder / "vae.safetensors"


def test_a_single_file_of_the_first_names(tmp_path):
    made: AutoencoderKL = stock("kl").autoencoder
    file = single_file(tmp_path / "one", made)
    found = calotype.load(file)
    assert torch.equal(found.latents(IMAGES), ImageTokenizer.around(made).latents(IMAGES))
    weights = load_file(file)
    extra = "decoder.up.0.block.7.conv1.bias"
    for names in (weights, made.state_dict()):
        save_file({**names, extra: torch.zeros(1)}, file)
        with pytest.raises(ValueError, match=rf"it has {extra}, which is no weight of such an A"):
            calotype.load(file)
    others = {"first_stage_model.loss.logvar": torch.zeros(()), "model.extra": torch.zeros(1)}
    whole = {f"first_stage_model.{name}": weight for name, weight in weights.items()}
    save_file({**whole, **others}, file)
    assert torch.equal(calotype.load(file).last_layer.weight, made.decoder.conv_out.weight)
    for names in (weights, made.state_dict()):
        less = {name: weight for name, weight in names.items() if name != "decoder.conv_in.weight"}
        save_file(less, file)
        with pytest.raises(ValueError, match=r"no AutoencoderKL, .* \(it lacks decoder\.conv_in"):
            calotype.load(file)


@pytest.mark.filterwarnings("ignore:.*local_dir_use_symlinks")
def test_a_single_file_without_a_config_asks_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    file = single_file(tmp_path / "one", stock("kl").autoencoder)
    (file.parent / "config.json").unlink()
    with pytest.raises(ValueError, match=r"vae\.safetensors.*config\.json"):
        calotype.load(file)


def test_what_calotype_trains_is_asked_for_by_training(tmp_path):
    from diffusers import AutoencoderTiny

    from calotype.recipes.tokenizer import PretrainedDecoder

    small = partial(AutoencoderTiny, encoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1))
    small(decoder_block_out_channels=(8, 8), num_decoder_blocks=(1, 1)).save_pretrained(tmp_path)
    found = calotype.load(tmp_path)
    assert found.latents(IMAGES).shape == (2, 4, 8, 8) and found.factor == 2
    with pytest.raises(
        ValueError, match=r"no AutoencoderKL or VQModel in .*it is a AutoencoderTiny"
    ):
        PretrainedDecoder(str(tmp_path)).build(tiny.SIZE)
    shutil.rmtree(tmp_path)
