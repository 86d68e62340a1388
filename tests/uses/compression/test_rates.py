"""Bits beside distortion: what counts, and what is compared."""

import json

import pytest
import torch

import coded
import tiny
from calotype import cli
from calotype.evaluation.rates import Rate, measure, saved
from calotype.pipelines import picture
from calotype.uses.compression import Codec
from calotype.uses.compression.classical import at_hand


def rate(codec: str, bits: float, figure: float) -> Rate:
    """Of one picture of 64 pixels."""
    return Rate(codec, "", 1, 64, round(8 * bits), {"lpips_alex": figure})


def test_bits_are_compared_at_the_same_figure():
    """On a line of their logarithm between JPEG's qualities, and never beyond these."""
    jpeg = [rate("JPEG", 4, 0.1), rate("JPEG", 1, 0.3)]
    assert saved(rate("x", 1, 0.2), jpeg, "lpips_alex") == pytest.approx(0.5)
    assert saved(rate("x", 2, 0.3), jpeg, "lpips_alex") == pytest.approx(-1)
    assert saved(rate("x", 4, 0.1), jpeg, "lpips_alex") == pytest.approx(0)
    for beyond in (0.05, 0.4):
        assert saved(rate("x", 0.5, beyond), jpeg, "lpips_alex") is None


def test_classical_codecs_lose_less_by_more_bytes():
    images = torch.nn.functional.interpolate(tiny.images(4), scale_factor=4, mode="bilinear")
    images = ((images + 1) * 127.5).round().byte()
    codecs, _ = at_hand()
    assert {"JPEG", "WebP"} <= {each.name for each in codecs}
    for codec in codecs:
        found = []
        for quality in (5, 50, 95):
            there = Rate(codec.name, str(quality))
            files = codec.compress(images, quality)
            back = codec.decompress(files)
            assert back.shape == images.shape
            sizes = [len(file) for file in files]
            measure([there], [lambda _, told=(sizes, back): told], images, {})
            found.append(there)
        assert [each.bytes for each in found] == sorted(each.bytes for each in found)
        quality = [each.figures["psnr_db"] for each in found]
        assert quality == sorted(quality) and quality[2] > quality[0] + 5


def test_bug_alpha_was_dropped_and_compared():
    """By all codecs; now by none, and JPEG, which has none, is left out and said."""
    colours = torch.nn.functional.interpolate(tiny.images(2), scale_factor=4, mode="bilinear")
    images = ((torch.cat([colours, colours[:, :1]], 1) + 1) * 127.5).round().byte()
    codecs, missing = at_hand("RGBA")
    assert missing["JPEG"] == "it keeps no alpha" and "WebP" in {each.name for each in codecs}
    for codec in codecs:
        back = codec.decompress(codec.compress(images, 95), "RGBA")
        assert (back[:, 3].float() - images[:, 3].float()).abs().mean() < 5


def test_the_page_counts_whole_files(tmp_path, capsys):
    model, photos, out = coded.save(tmp_path / "model"), tmp_path / "photos", tmp_path / "rates"
    photos.mkdir()
    images = tiny.images(3)
    for i, image in enumerate(images):
        picture(image).save(photos / f"{i}.png")
    cli.main(["rate-distortion", str(model), "--data.path", str(photos), "--size", "16",
              "--out", str(out), "--lpips"])  # fmt: skip
    rates = json.loads((out / "rates.json").read_text())
    own = next(each for each in rates if each["codec"] == str(model))
    files = Codec.load(model).compress(((images + 1) * 127.5).round().byte())
    assert own["bytes"] == sum(map(len, files)) and own["pictures"] == 3
    assert own["bits_per_pixel"] == pytest.approx(8 * own["bytes"] / (3 * 256))
    assert {"JPEG", "WebP"} <= {each["codec"] for each in rates}
    page = (out / "rates.html").read_text()
    assert "bits a pixel" in page and "data:image/png;base64" in page
    assert "http:" not in page and "https:" not in page
    assert "| JPEG | 50 |" in (out / "rates.md").read_text()
    for size, answer in (("0", "at least 1"), ("24", "24x24 pixels, and the transformer codes 16")):
        with pytest.raises(SystemExit):  # before it looks for pictures, of which there are none
            cli.main(["rate-distortion", str(model), "--size", size])
        assert answer in capsys.readouterr().err
