"""Each measure against a closed form."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from calotype.data.reading.transforms import eight_bits
from calotype.evaluation.distances import (
    Memorisation,
    Nearest,
    diversity,
    frechet,
    precision_recall,
    too_few,
)
from calotype.evaluation.distortion import distortion
from calotype.evaluation.features import EfficientNetLite0
from calotype.evaluation.glossary import glossed
from calotype.evaluation.health import divergence, power
from calotype.evaluation.protocol import Digest, Protocol, ProtocolError
from calotype.evaluation.speed import speed
from calotype.tokenizers import psnr


def exactly(mean: list[float], deviations: list[float], n: int = 64) -> torch.Tensor:
    """Features of exactly this mean and these uncorrelated deviations, as `np.cov` counts."""
    noise = np.random.default_rng(0).normal(size=(n, len(mean)))
    white = np.linalg.qr(noise - noise.mean(0))[0]
    white -= white.mean(0)
    return torch.from_numpy(white * math.sqrt(n - 1) * deviations + mean)


def test_frechet_of_gaussians():
    a, b = exactly([0, 0, 0], [1, 2, 3]), exactly([1, 0, 2], [2, 2, 1])
    expected = (1 + 4) + ((1 - 2) ** 2 + 0 + (3 - 1) ** 2)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet(a, a.flip(0)) == pytest.approx(0, abs=1e-6)


def test_frechet_of_fewer_images_than_features():
    a, b = torch.randn(8, 32), torch.randn(8, 32)
    assert frechet(a, a) == pytest.approx(0, abs=1e-4)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-6)
    assert frechet(a, b) > 1


def test_precision_falls_with_what_is_not_real_and_recall_with_what_is_missing():
    torch.manual_seed(0)
    home, away = torch.randn(64, 4), torch.randn(64, 4) + 100
    both = torch.cat([home, away])
    assert precision_recall(home, home) == (1, 1)
    precision, recall = precision_recall(real=both, fake=home)
    assert (precision, recall) == (1, 0.5)
    precision, recall = precision_recall(real=home, fake=both)
    assert (precision, recall) == (0.5, 1)


@pytest.mark.parametrize(
    "measure, least", [(frechet, "2 of each"), (precision_recall, "more than")]
)
def test_too_few_images_are_refused(measure, least):
    with pytest.raises(ValueError, match=least):
        measure(torch.randn(1, 4), torch.randn(1, 4))


def test_nearest_neighbours_do_not_depend_on_batches():
    a, b = torch.randn(10, 4), torch.randn(33, 4)
    expected = torch.stack([(b - x).norm(dim=1).min() for x in a])
    for block in (1, 7, 100):
        found = Nearest(a)
        for part in b.split(block):
            found.add(part)
        torch.testing.assert_close(found.distances, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(found.places, torch.cdist(a.double(), b.double()).argmin(1))


def test_copies_are_seen():
    real = torch.linspace(1, 2, 1000)
    assert Memorisation(real, real).ratio == 1
    assert Memorisation(real, real).copies == pytest.approx(0.01)
    copied = torch.cat([real[:500], torch.zeros(500)])
    assert Memorisation(copied, real).copies == pytest.approx(0.51)
    assert Memorisation(real / 4, real).ratio == pytest.approx(0.25)


def test_diversity_is_of_images_of_one_prompt():
    features = torch.tensor([[0.0, 0], [0, 1], [10, 0], [10, 1]])
    prompts = ["a", "a", "b", "b"]
    between = (10 + 10 + 2 * math.sqrt(101)) / 4
    assert diversity(features, prompts) == pytest.approx(1 / between)
    assert diversity(features, ["a", "b", "c", "d"]) is None
    assert diversity(features, ["a"] * 4) is None


def test_psnr_and_ssim():
    real = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
    fake = real.clone()
    fake[1] += 20
    found = distortion(real, fake, {})
    assert found["psnr_db"][0] == math.inf
    assert found["psnr_db"][1].item() == pytest.approx(20 * math.log10(255 / 20), abs=1e-4)
    # Without variance SSIM is its luminance term (Wang et al. 2004, eq. 6).
    a, b, c = 100 / 255, 120 / 255, 0.01**2
    expected = (2 * a * b + c) / (a * a + b * b + c)
    assert found["ssim"].tolist() == pytest.approx([1, expected], abs=1e-5)


def test_ssim_is_its_formula_in_a_window():
    """Wang et al. 2004, eq. 13, in the one window that lies within the picture: 11 pixels a side,
    deviation 1.5."""
    torch.manual_seed(0)
    real, fake = torch.randint(0, 256, (2, 1, 3, 21, 21), dtype=torch.uint8)
    fake = (fake // 4 + 3 * (real // 4)).to(torch.uint8)
    line = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2)).double()
    weight = (line[:, None] * line) / line.sum() ** 2

    def at(y: int, x: int, channel: int) -> float:
        a, b = (each[0, channel].double() / 255 for each in (real, fake))
        a, b = (each[y - 5 : y + 6, x - 5 : x + 6] for each in (a, b))
        mean_a, mean_b = (weight * a).sum(), (weight * b).sum()
        var_a, var_b = (weight * (a - mean_a) ** 2).sum(), (weight * (b - mean_b) ** 2).sum()
        both = (weight * (a - mean_a) * (b - mean_b)).sum()
        light = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
        return (light * (2 * both + 9e-4) / (var_a + var_b + 9e-4)).item()

    # Borders are over the reflected picture, so windows are those of a picture that is reflected.
    pad = torch.nn.ReflectionPad2d(5)
    real, fake = (pad(each.float()) for each in (real, fake))
    places = [(y, x, c) for y in range(5, 26) for x in range(5, 26) for c in range(3)]
    expected = sum(at(*place) for place in places) / len(places)
    inner = [each[..., 5:-5, 5:-5].to(torch.uint8) for each in (real, fake)]
    assert distortion(*inner, {})["ssim"].item() == pytest.approx(expected, abs=1e-4)


def test_an_exact_copy_is_at_distance_nothing():
    """Bug: float32 distances of more than 25 rows are the difference of squares."""
    features = torch.randn(64, 1280) + 10
    nearest = Nearest(features[:32])
    nearest.add(features)
    assert nearest.distances.max() < 1e-3


def test_psnr_is_the_one_that_training_logs():
    a, b = (eight_bits(2 * torch.rand(3, 3, 16, 16) - 1) for _ in range(2))
    scaled = [each.float() / 127.5 - 1 for each in (a, b)]
    found = distortion(a, b, {})["psnr_db"]
    torch.testing.assert_close(found.float(), psnr(*scaled))


def test_eight_bits_are_those_of_a_saved_picture():
    assert eight_bits(torch.tensor([-9.0, -1, 0.0, 1, 9]).view(1, 1, 1, 5).expand(1, 3, 1, 5))[
        0, 0, 0
    ].tolist() == [0, 0, 128, 255, 255]


def test_divergence_is_that_of_torch():
    moments = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    mean, logvar = moments.chunk(2, 1)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(mean, (logvar / 2).exp()), normal(torch.zeros_like(mean), 1.0)
    )
    torch.testing.assert_close(divergence(mean, logvar), expected)


@pytest.mark.parametrize("cycles, band", [(1, 0), (3, 1), (6, 2), (12, 3)])
def test_a_wave_lies_in_its_octave(cycles, band):
    """Of 32 sites: 1/32, 3/32, 6/32 and 12/32 cycles a site."""
    wave = torch.sin(2 * math.pi * cycles * torch.arange(32) / 32)
    z = wave.expand(1, 2, 32, 32) + 5  # the mean is no variation
    found = power(z)[0]
    assert (found / found.sum()).argmax() == band
    assert found[band] / found.sum() == pytest.approx(1, abs=1e-6)


def test_power_is_the_variance():
    z = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    total = power(z).sum().item() / (16 * 16) ** 2
    assert total == pytest.approx(z.var((2, 3), correction=0).mean().item())


def test_the_digest_does_not_depend_on_batches():
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    one, parts = Digest(), Digest()
    one.add(images)
    for part in images.split(2):
        parts.add(part)
    assert str(one) == str(parts)
    other = Digest()
    other.add(images.flip(0))
    assert str(other) != str(one)


def test_unlike_protocols_are_refused():
    one = Protocol(8, 32, "abc", "inception 1", {"vgg": "2"})
    one.check(Protocol(8, 32, "abc", "inception 1", {"vgg": "2"}, sampling={"steps": 3}))
    with pytest.raises(ProtocolError, match=r"features is inception 1 and efficientnet"):
        one.check(Protocol(8, 32, "abc", "efficientnet-lite0 1", {"vgg": "2"}))
    with pytest.raises(ProtocolError, match="digest is abc and abd"):
        one.check(Protocol(8, 32, "abd", "inception 1", {"vgg": "2"}))


def test_figures_of_several_precisions_are_not_compared_and_those_of_several_devices_are():
    one = Protocol(8, 32, "abc", None, device="cpu")
    one.check(Protocol(8, 32, "abc", None, device="cuda"))
    with pytest.raises(ProtocolError, match="precision is fp32 and bf16"):
        one.check(Protocol(8, 32, "abc", None, precision="bf16", device="cpu"))


def test_a_protocol_of_before_is_read():
    """Before precision and device were noted."""
    written = {
        "images": 8, "size": 32, "digest": "abc", "features": "inception 1", "lpips": {"vgg": "2"},
        "seed": 0, "sampling": None, "repeats": 1, "clip": None, "training": None, "version": 1,
    }  # fmt: skip
    old = Protocol(**written)
    assert (old.precision, old.device) == ("fp32", None)
    old.check(Protocol(8, 32, "abc", "inception 1", {"vgg": "2"}, device="cpu"))


@pytest.mark.parametrize(("images", "features", "enough"), [
    (24, 1280, False), (2047, 1280, False), (2048, 1280, True), (3000, 4096, False),
])  # fmt: skip
def test_a_frechet_distance_of_few_pictures_is_too_large(images, features, enough):
    said = too_few(images, features)
    assert (said is None) == enough
    assert enough or said.startswith(f"{images} pictures are too few: with fewer than ")


def test_names_have_units_and_directions():
    assert glossed("psnr_db") == "psnr_db, dB ↑"
    assert glossed("frechet") == "frechet ↓"
    assert (
        glossed("factors_right: first shape")
        == "factors_right: first shape, fraction of 1, by factor ↑"
    )
    assert glossed("latent") == "latent, channels, height, width"
    assert glossed("guidance") == "guidance"


def test_speed_sees_memory_and_time():
    def work() -> None:
        torch.ones(8 * 2**20).sum().item()  # 32 MiB

    found = speed(work, torch.device("cpu"), repeats=3)
    assert 0 < found.seconds < 5
    assert found.peak_mib > 16


def test_features_read_what_they_were_trained_on():
    """Levels of 127 become 0, and whatever the size, the network sees 224 pixels."""

    class Network(nn.Module):
        def extract_features(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[2:] == (224, 224)
            return x[:, :1].expand(-1, 1280, -1, -1)

    found = EfficientNetLite0("fake", Network())(torch.full((2, 3, 17, 17), 127, dtype=torch.uint8))
    torch.testing.assert_close(found, torch.zeros(2, 1280))
