"""Tokenizers of one and of four channels: trained, exported and judged as those of three."""

from dataclasses import replace
from functools import partial

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from calotype.data.reading.transforms import levels, pixels
from calotype.pipelines import picture
from calotype.recipes.tokenizer import Continued, NewTokenizer, PretrainedDecoder
from calotype.tokenizers import Critic, ImageTokenizer, Reconstruction, Tiling, psnr
from calotype.tokenizers.bottlenecks import FSQ
from calotype.tokenizers.distillation import NewTiny, TrainedTiny
from calotype.tokenizers.preprocessing import Trim, Within
from calotype.tokenizers.terms import L1, LogitLaplace, PerceptualTerm
from calotype.training.images import CHANNELS, Mode, in_colour

MODES: list[Mode] = ["L", "RGBA"]
BOTTLENECKS = {"kl": tiny.BOTTLENECK, **{name: tiny.BOTTLENECKS[name] for name in ("vq", "dvae")}}
modes = pytest.mark.parametrize("mode", MODES)


def sticker(seed: int = 0, side: int = tiny.SIZE) -> Image.Image:
    """Noise in a soft disc, with colours beside it that nobody sees."""
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    rows, columns = np.indices((side, side)) - (side - 1) / 2
    alpha = (255 * np.clip(side / 2 - 1 - np.hypot(rows, columns), 0, 2) / 2).astype(np.uint8)
    return Image.fromarray(np.dstack([noise, alpha]))


def images(mode: Mode, count: int = 2) -> torch.Tensor:
    shown = [sticker(seed).convert(mode) for seed in range(count)]
    return torch.stack([pixels(each) for each in shown])


def tokenizer(mode: Mode, name: str = "kl") -> ImageTokenizer:
    maps = LogitLaplace.maps if name == "dvae" else 1
    return tiny.tokenizer(0, BOTTLENECKS[name], maps, CHANNELS[mode]).eval()


@torch.no_grad()
@pytest.mark.parametrize("name", BOTTLENECKS)
@modes
def test_stock_classes_hold_them_and_decode_the_same(mode, name, tmp_path):
    made, real, count = tokenizer(mode, name), images(mode), CHANNELS[mode]
    assert (made.mode, made.channels) == (mode, count)
    made.save(tmp_path)
    kind = diffusers.AutoencoderKL if name == "kl" else diffusers.VQModel
    stock = kind.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    assert stock.config["in_channels"] == stock.config["out_channels"] == count
    encoded = stock.encode(real)
    latents = encoded.latent_dist.mode() if name == "kl" else encoded.latents
    fake = made.reconstruct(real)
    assert fake.shape == real.shape
    torch.testing.assert_close(stock.decode(latents).sample, fake, atol=1e-5, rtol=0)
    loaded = ImageTokenizer.load(tmp_path)
    torch.testing.assert_close(loaded.reconstruct(real), fake, atol=1e-5, rtol=0)


@modes
def test_what_has_no_stock_class_is_read_back_too(mode, tmp_path):
    made = tiny.tokenizer(0, FSQ((5, 4, 3)), channels=CHANNELS[mode]).eval()
    made.save(tmp_path)
    found, real = ImageTokenizer.load(tmp_path), images(mode)
    assert found.mode == mode and torch.equal(found.encode_ids(real), made.encode_ids(real))


@modes
def test_they_go_on_as_what_they_are_and_as_nothing_else(mode, tmp_path):
    tokenizer(mode).save(tmp_path)
    ways = [PretrainedDecoder(str(tmp_path)), Continued(str(tmp_path)),
            NewTokenizer(tiny.BACKBONE, tiny.BOTTLENECK, str(tmp_path))]  # fmt: skip
    for way in ways:
        assert way.build(tiny.SIZE, mode).mode == mode
        with pytest.raises(ValueError, match=rf"mode is RGB|takes {mode}, and") as error:
            way.build(tiny.SIZE)
        assert "\n" not in str(error.value) and "--transform.mode" in str(error.value).replace(
            "transform.mode is", "--transform.mode"
        )


@modes
def test_a_small_decoder_is_of_its_teachers_mode(mode, tmp_path):
    student = NewTiny(width=8, blocks=1).build(2, 2, mode)
    real = images(mode)
    assert student.decode(student.encode(real).latents).sample.shape == real.shape
    student.save_pretrained(tmp_path)
    assert ImageTokenizer.load(tmp_path).mode == mode
    with pytest.raises(ValueError, match=rf"takes {mode}, and the teacher RGB: choose student:new"):
        TrainedTiny(str(tmp_path)).build(2, 2, "RGB")


def test_lpips_repeats_grey_and_sees_alpha_on_white_and_on_black():
    term = PerceptualTerm(tiny.backbone())
    grey, other = images("L").split(1)
    torch.testing.assert_close(term(grey, other), term(in_colour(grey), in_colour(other)))
    opaque = [torch.cat([in_colour(x), torch.ones_like(x)], 1) for x in (grey, other)]
    torch.testing.assert_close(term(*opaque), term(in_colour(grey), in_colour(other)))
    seen = images("RGBA")[:1]
    fake = seen.clone()
    fake[:, 3] = 1  # on white it is the same
    fake.requires_grad_()
    value = term(fake, seen)
    assert value.item() > 0.01
    (gradient,) = torch.autograd.grad(value.sum(), fake)
    assert gradient[:, 3].abs().max() > 0 and gradient[:, :3].abs().max() > 0


@pytest.mark.parametrize("pixel", [L1(), LogitLaplace()], ids=["l1", "likelihood"])
@modes
def test_every_channel_is_learnt_from_every_term(mode, pixel):
    count, real = CHANNELS[mode], images(mode)
    made = tiny.tokenizer(0, tiny.BOTTLENECK, pixel.maps, count)
    alone = {"pixel": {"pixel": (1.0, pixel.build())},
             "lpips": {"lpips": (1.0, PerceptualTerm(tiny.backbone()))}}  # fmt: skip
    for terms in (*alone.values(), {}):
        objective = Reconstruction(made, terms, tiny.adam(1e-3))
        if not terms:
            balance = tiny.adversary(balance=tiny.FIXED)
            Critic(balance, objective, tiny.adam(1e-3))
            assert objective.opponent and objective.opponent[1][0].in_channels == count
        made.zero_grad()
        losses = objective({"image": real, "key": [1, 2]}, 1)
        sum(losses[name] for name in losses if name not in ("kl",)).backward()
        assert (made.last_layer.weight.grad[:count].abs().amax((1, 2, 3)) > 0).all(), terms
        assert ("psnr_alpha" in objective.metrics) == (mode == "RGBA")


def test_what_nobody_sees_costs_nothing():
    shown = np.asarray(sticker()).copy()
    hidden = shown.copy()
    hidden[hidden[..., 3] == 0, :3] = 7
    assert (hidden != shown).any()
    assert torch.equal(*(levels(Image.fromarray(each)) for each in (shown, hidden)))


def test_colours_over_white_are_those_of_rgb_and_go_back_into_files():
    shown = sticker()
    over = levels(shown)
    on_white = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)
    assert torch.equal(over[:3], levels(on_white.convert("RGB")))
    back = picture(pixels(shown))
    assert back.mode == "RGBA"
    assert (levels(back).int() - over.int()).abs().max() <= 1
    before, after = np.asarray(shown).astype(int), np.asarray(back).astype(int)
    assert (before[..., 3] == after[..., 3]).all()
    opaque = before[..., 3] == 255
    assert opaque.any() and (before[opaque] == after[opaque]).all()
    assert (after[before[..., 3] == 0, :3] == 255).all()
    assert picture(images("L")[0]).mode == "L"


@modes
def test_pictures_of_every_kind_are_read_in_its_mode(mode, tmp_path):
    made, shown = tokenizer(mode), sticker()
    shown.save(tmp_path / "sticker.png")
    array = np.asarray(shown)
    floats = torch.from_numpy(array.astype(np.float32) / 255).movedim(-1, 0)
    kinds = [shown, tmp_path / "sticker.png", array, floats, array.astype(np.uint16) * 257]
    found = made.preprocess(kinds, Trim())
    assert found.shape == (5, CHANNELS[mode], tiny.SIZE, tiny.SIZE)
    assert (found - found[:1]).abs().max() < 0.02
    white = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")
    expected = pixels(white.convert("L")) if mode == "L" else pixels(white)
    assert (found[0, :3] - expected).abs().max() < 0.01
    plain = made.preprocess([white, np.asarray(white.convert("L"))], Trim())
    if mode == "RGBA":
        assert (plain[:, 3] == 1).all()
    else:
        assert torch.equal(plain[0], plain[1])


def test_beside_a_picture_with_alpha_there_is_nothing():
    wide = sticker().crop((0, 4, 16, 12))
    floats = np.asarray(wide).astype(np.float32) / 255
    for padded in tokenizer("RGBA").preprocess([wide, floats], Within(16)):
        assert (padded[3, :4] == -1).all() and (padded[:3, :4] == 1).all()
        assert padded[3, 8].max() == 1


@torch.no_grad()
@modes
def test_they_are_tiled(mode):
    made = tokenizer(mode)
    real = images(mode)[:1].repeat(1, 1, 4, 4)
    whole, tiled = made.reconstruct(real), made.reconstruct(real, Tiling(size=16, margin=8))
    assert tiled.shape == whole.shape and psnr(tiled, whole).item() > 20


def test_channels_that_are_no_pictures_are_named(tmp_path):
    odd = tiny.tokenizer(channels=2)
    with pytest.raises(ValueError, match="of 2 channels takes no pictures"):
        partial(odd.preprocess, sticker())()
    assert replace(tiny.adversary(), layers=2).build(2)(torch.zeros(1, 2, 32, 32)).shape[1] == 1
