"""`calotype reconstruct` takes any tokenizer, ours or a stock one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import VQModel
from PIL import Image

import contract
import tiny
from calotype.commands.reconstruct import Reconstruct, reconstruct, write_pairs
from calotype.data import CenterCrop, Folder, Transform, once
from calotype.pipelines import picture
from calotype.tokenizers import ImageTokenizer, psnr
from calotype.tokenizers.bottlenecks import FSQ, LFQ, RVQ, Gumbel

OURS: dict[str, Any] = {
    "vq": tiny.VQ_BOTTLENECK,
    "gumbel": Gumbel(codes=32, channels=4),
    "lfq": LFQ(bits=15),
    "fsq": FSQ((5, 4, 3)),
    "rvq": RVQ(2, tiny.VQ_BOTTLENECK.codebook),
}
STOCK: dict[str, dict[str, Any]] = {
    "plain": {},
    "narrow codes": {"vq_embed_dim": 2},
    "spatial norm": {"norm_type": "spatial", "block_out_channels": (32, 32)},
}
COUNT = 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Pictures twice as wide as what the tokenizers here were made for."""
    folder = tmp_path_factory.mktemp("photos")
    for i, image in enumerate(tiny.images(COUNT)):
        picture(image.repeat_interleave(2, 1).repeat_interleave(2, 2)).save(folder / f"{i}.png")
    return folder


def images(photos: Path) -> torch.Tensor:
    """The photos at the size of the tokenizers."""
    transform = Transform(CenterCrop(tiny.SIZE), None)
    return next(once(Folder(photos).build(), COUNT, transform))["image"]


def vqmodel(**settings: Any) -> VQModel:
    """A stock one with weights at random, and codes about as wide apart as features."""
    torch.manual_seed(0)
    small = {"block_out_channels": (8, 16), "norm_num_groups": 4, "latent_channels": 4}
    made = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        num_vq_embeddings=32, sample_size=tiny.SIZE, **{**small, **settings},
    )  # fmt: skip
    torch.nn.init.normal_(made.quantize.embedding.weight, std=0.3)
    return made.eval()


def check(model: Path, photos: Path, decoded: torch.Tensor, said: pytest.CaptureFixture) -> None:
    """Reconstruct by the command; its picture and its figure are those of `decoded`."""
    out, real, fake = model.parent / "pairs.png", images(photos), decoded.clamp(-1, 1)
    assert (fake.amax((0, 2, 3)) - fake.amin((0, 2, 3))).min() > 0.1, "it shows something"
    how: Any = {"count": COUNT, "out": out, "precision": "fp32", "device": "cpu"}
    assert reconstruct(Reconstruct(str(model), Folder(photos), **how)) == out
    told = (f"PSNR {psnr(fake, real).mean():.2f} dB over {COUNT} pictures of {tiny.SIZE} pixels, "
            "in fp32 on cpu")  # fmt: skip
    assert told in said.readouterr().out
    expected = model.parent / "expected.png"
    write_pairs(expected, real, fake)
    with Image.open(out) as ours, Image.open(expected) as theirs:
        levels = [np.asarray(pairs, dtype=int) for pairs in (ours, theirs)]
    assert abs(levels[0] - levels[1]).max() <= 1, "but for the rounding of a level"


@torch.no_grad()
@pytest.mark.parametrize("name", OURS)
def test_ours_are_reconstructed_at_their_own_size(name, photos, tmp_path, capsys):
    made = contract.tokenizer(OURS[name])
    made.save(tmp_path / "model")
    check(tmp_path / "model", photos, made.reconstruct(images(photos)), capsys)


@torch.no_grad()
@pytest.mark.parametrize("name", STOCK)
def test_a_stock_vqmodel_is_reconstructed_as_by_itself(name, photos, tmp_path, capsys):
    stock = vqmodel(**STOCK[name])
    stock.save_pretrained(tmp_path / "model")
    real = images(photos)
    by_itself = stock(real).sample
    ours = ImageTokenizer.load(tmp_path / "model")
    assert len(ours.pack(real).unique()) > 4
    # By itself it decodes h + (code - h), which rounds the code.
    torch.testing.assert_close(ours.reconstruct(real), by_itself, atol=1e-5, rtol=0)
    check(tmp_path / "model", photos, by_itself, capsys)


def test_small_pictures_are_enlarged_and_labelled(tmp_path):
    real, fake = tiny.images(2), -tiny.images(2)
    write_pairs(tmp_path / "pairs.png", real, fake)
    with Image.open(tmp_path / "pairs.png") as written:
        levels = np.asarray(written)
    shown = levels[8 : 8 + 256 : 16, 8 : 8 + 256 : 16]
    assert (shown == np.asarray(picture(real[0]))).all()
    label = levels[8 + 256 :, 8 : 8 + 256]
    assert label.min() < 128 < label.max()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_it_computes_in_the_precision_that_it_says(precision, photos, tmp_path, capsys):
    made = contract.tokenizer(OURS["fsq"])
    made.save(tmp_path / "model")

    def levels(name: str) -> np.ndarray:
        how: Any = {"count": COUNT, "out": tmp_path / f"{name}.png", "precision": name}
        written = reconstruct(Reconstruct(str(tmp_path / "model"), Folder(photos), **how))
        assert f"in {name} on cpu" in capsys.readouterr().out
        with Image.open(written) as pairs:
            return np.asarray(pairs, dtype=int)

    exact, rounded = levels("fp32"), levels(precision)
    assert 0 < abs(exact - rounded)[:264].mean() < 4, "but for rounding the same"
