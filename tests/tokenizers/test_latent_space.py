"""Folded latents are normal for stock pipelines; a tokenizer is known by what it does."""

import pickle
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

import tiny
from calotype.tokenizers import (
    Gaussian,
    ImageTokenizer,
    LatentStatistics,
    fingerprint,
    fold,
    measure,
)


def batches(seed: int) -> list[dict]:
    """1024 images, of noise: what many different pictures tell, a few of these tell."""
    generator = torch.Generator().manual_seed(seed)
    images = 2 * torch.rand(1024, 3, tiny.SIZE, tiny.SIZE, generator=generator) - 1
    keys = list(range(1024 * seed, 1024 * (seed + 1)))
    return [{"image": images[i : i + 256], "key": keys[i : i + 256]} for i in range(0, 1024, 256)]


def decoded(autoencoder: AutoencoderKL, image: torch.Tensor) -> torch.Tensor:
    """By the stock class alone."""
    (posterior,) = autoencoder.encode(image, return_dict=False)
    return autoencoder.decode(posterior.mode(), return_dict=False)[0]  # type: ignore[arg-type]


def far_from_normal(scaling_factor: float = 1.0) -> ImageTokenizer:
    """Means of +-3 to 8, deviations far below and above 1, and posteriors narrower than those."""
    tokenizer = tiny.tokenizer()
    conv = tokenizer.autoencoder.quant_conv
    assert conv is not None and conv.bias is not None
    with torch.no_grad():
        conv.weight[:2] *= torch.tensor([0.5, 30.0])[:, None, None, None]
        conv.bias[:2] += torch.tensor([3.0, -8.0])
        conv.bias[2:] += torch.tensor([-3.0, 1.0])
    tokenizer.autoencoder.register_to_config(scaling_factor=scaling_factor)
    return tokenizer.eval()


@torch.no_grad()
@pytest.mark.parametrize("scaling_factor", [1.0, 0.18215])
def test_folded_latents_are_normal_and_images_stay(scaling_factor):
    tokenizer = far_from_normal(scaling_factor)
    autoencoder, image = tokenizer.autoencoder, tiny.images(8)
    before = decoded(autoencoder, image)
    statistics = measure(tokenizer, batches(0))
    assert statistics.worst() > 0.2
    fold(tokenizer, statistics)
    assert autoencoder.config["scaling_factor"] == 1.0
    fresh = measure(tokenizer, batches(1))
    assert fresh.images == 1024 and fresh.worst() < 0.02
    after = decoded(autoencoder, image)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)


@torch.no_grad()
def test_drawn_latents_decode_alike_too():
    """The posterior's deviation is folded, not only its mean."""
    tokenizer, image = far_from_normal(), tiny.images(4)
    before = tokenizer.decode(tokenizer.encode(image, tiny_generators()).z)
    fold(tokenizer, LatentStatistics(torch.tensor([3.0, -8]), torch.tensor([0.2, 5]), 1))
    after = tokenizer.decode(tokenizer.encode(image, tiny_generators()).z)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)


def tiny_generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(4)]


def test_measured_statistics_do_not_depend_on_the_batches():
    tokenizer = far_from_normal()
    whole = {"image": tiny.images(8), "key": list(range(8))}
    parts = [{k: v[i : i + 2] for k, v in whole.items()} for i in range(0, 8, 2)]
    one, four = measure(tokenizer, [whole]), measure(tokenizer, parts)
    torch.testing.assert_close(one.mean, four.mean)
    torch.testing.assert_close(one.std, four.std)


def test_a_constant_channel_is_refused():
    statistics = LatentStatistics(torch.zeros(2), torch.tensor([1.0, 0.0]), 8)
    with pytest.raises(ValueError, match="latent channel 1 is constant: lower the KL weight"):
        fold(tiny.tokenizer(), statistics)


def test_an_autoencoder_without_quant_conv_is_refused():
    autoencoder = AutoencoderKL(
        block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, use_quant_conv=False
    )
    with pytest.raises(ValueError, match="use_quant_conv"):
        fold(
            ImageTokenizer(autoencoder, Gaussian(4).build()),
            LatentStatistics(torch.zeros(4), torch.ones(4), 8),
        )


def test_no_images_to_measure_are_refused():
    with pytest.raises(ValueError, match="no images"):
        measure(tiny.tokenizer(), [])


def test_fingerprint_names_what_makes_latents_and_nothing_else(tmp_path):
    autoencoder = tiny.tokenizer().autoencoder
    mark = fingerprint(autoencoder)
    assert len(mark) == 16
    autoencoder.save_pretrained(tmp_path)
    reloaded = AutoencoderKL.from_pretrained(tmp_path)
    assert fingerprint(reloaded) == mark  # though its configuration now names the folder
    with torch.no_grad():
        reloaded.decoder.conv_out.weight[0] += 1e-6
        reloaded.post_quant_conv.bias[0] += 1e-6
    assert fingerprint(reloaded) == mark  # a decoder trained further serves the same latents

    autoencoder.register_to_config(scaling_factor=0.5)
    with torch.no_grad():
        reloaded.quant_conv.bias[0] += 1e-6
    assert len({mark, fingerprint(autoencoder), fingerprint(reloaded)}) == 3


class Planted:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_only_safetensors_are_read(tmp_path):
    tiny.tokenizer().autoencoder.save_pretrained(tmp_path / "model")
    (tmp_path / "model/diffusion_pytorch_model.safetensors").unlink()
    pickled = tmp_path / "model/diffusion_pytorch_model.bin"
    for plant in (
        lambda: None,
        lambda: pickled.write_bytes(pickle.dumps(Planted(tmp_path / "ran"))),
    ):
        plant()
        with pytest.raises(
            ValueError, match=r"no AutoencoderKL, VQModel, .* in .*safetensors"
        ) as refusal:
            ImageTokenizer.load(tmp_path / "model")
        assert "\n" not in str(refusal.value)
    assert not (tmp_path / "ran").exists()


def test_an_absent_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*absent"):
        ImageTokenizer.load(tmp_path / "absent")
