"""What was compressed comes back exactly, or is refused by name."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

import coded
import tiny
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import FSQ, LFQ, RVQ
from calotype.uses.compression import (
    Codec,
    Compressed,
    DamagedError,
    Hyperprior,
    OtherModelError,
    Size,
    fit_entropy_model,
)
from calotype.uses.compression.coding import RangeDecoder
from calotype.uses.compression.container import checksum
from calotype.uses.compression.kept import read_latents
from calotype.uses.compression.latents import FAR, SYMBOLS, method_of, step_of

KINDS = {
    "vq": tiny.VQ_BOTTLENECK,
    "rvq": RVQ(2, tiny.VQ_BOTTLENECK.codebook),
    "lfq": LFQ(bits=5),
    "fsq": FSQ((5, 4, 3)),
}


@pytest.fixture(scope="module")
def codec() -> Codec:
    return coded.codec(tiny.VQ_BOTTLENECK)


@pytest.fixture(scope="module")
def smooth() -> Codec:
    return coded.continuous()


def drawn(codec: Codec, count: int) -> list[bytes]:
    """Files of random codes: an untrained tokenizer finds hardly two in pictures."""
    ids = torch.randint(16, (count, 8, 8), generator=torch.Generator().manual_seed(count))
    return codec.pack(ids, Size(16, 16, 2))


def read(codec: Codec, files: list[bytes]) -> torch.Tensor:
    return codec.unpack([codec.read(file) for file in files])


@pytest.mark.parametrize("kind", KINDS)
def test_codes_come_back_from_files_of_few_bytes(kind):
    codec = coded.codec(KINDS[kind])
    images = tiny.images(5)
    ids, files = codec.latents(images), codec.compress(images)
    assert torch.equal(read(codec, files), ids.long())
    raw = ids[0].numel() * codec.tokenizer.bottleneck.codes.bit_length() / 8
    assert all(18 < len(file) < 3 * raw + 18 for file in files)
    rebuilt = codec.tokenizer.reconstruct(images)
    for one, other in zip(codec.decompress(files), rebuilt, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_each_picture_is_its_own_whatever_others_are_with_it(codec):
    files = drawn(codec, 6)
    ids = read(codec, files)
    assert codec.pack(ids[3:4], Size(16, 16, 2)) == files[3:4] and len({*files}) == 6
    assert torch.equal(read(codec, files[::-1]), ids.flip(0))


def test_ten_thousand_codes_of_any_kind_come_back(codec):
    """Also those that the transformer finds least likely."""
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(16, (160, 8, 8), generator=chance)
    ids[:8] = torch.arange(8)[:, None, None]
    files = codec.pack(ids, Size(16, 16, 2))
    assert torch.equal(read(codec, files), ids)


def test_pictures_of_other_sizes_are_coded_by_frequencies_and_come_back_as_large(codec):
    for width, height in ((16, 16), (21, 7), (1, 1), (300, 2)):
        image = torch.rand(1, 3, height, width) * 2 - 1
        (file,) = codec.compress(image)
        assert Compressed.read(file).method == ((width, height) == (16, 16))
        (back,) = codec.decompress([file])
        assert back.shape == (3, height, width)
    alone = Codec(codec.tokenizer, codec.models[:1])
    with pytest.raises(
        ValueError, match=r"a picture of 18x16 pixels.*codes 16x16: resize by --size"
    ):
        alone.compress(torch.zeros(1, 3, 16, 18))


def test_a_transformer_of_several_shapes_codes_each():
    codec = coded.codec(tiny.VQ_BOTTLENECK, (8, 8), (4, 10))
    for height, width in ((16, 16), (8, 20)):
        images = torch.rand(2, 3, height, width) * 2 - 1
        files = codec.compress(images)
        assert Compressed.read(files[0]).method == 1
        assert torch.equal(read(codec, files), codec.latents(images).long())


@pytest.mark.parametrize("step", [1 / 32, 0.3, 2.0])
def test_continuous_latents_come_back_to_within_half_a_step(smooth, step):
    images = tiny.images(5)
    z, files = smooth.latents(images), smooth.compress(images, step)
    values = read(smooth, files)
    assert (values - z).abs().max() <= step_of(method_of(step)) / 2 * (1 + 1e-5)
    assert torch.equal(values, smooth.models.quantise(z, method_of(step)).values)
    assert smooth.decompress(files)[0].shape == (3, 16, 16)


def test_latents_far_from_all_that_was_seen_come_back_too(smooth):
    z = smooth.latents(tiny.images(2))
    z[0, 0, 0, 0], z[1, 1, 2, 2], z[1, 0, 0, 0] = 700.0, -650.0, 1e9
    files = smooth.pack(z, Size(16, 16, 2), 1.0)
    values = read(smooth, files)
    assert (values - z).abs()[:, :, 1:].max() < 1 and abs(values[0, 0, 0, 0] - 700) <= 0.5
    assert abs(values[1, 0, 0, 0]) < FAR + SYMBOLS  # cut, and not lost


def test_larger_steps_take_fewer_bytes(smooth):
    sizes = [len(b"".join(smooth.compress(tiny.images(4), step))) for step in (0.05, 0.3, 2.0)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 1.3 * sizes[2]


@pytest.mark.parametrize("step", [0.0, -1.0, 1e3, float("nan")])
def test_impossible_steps_are_refused(smooth, step):
    with pytest.raises(ValueError, match="a step of"):
        smooth.compress(tiny.images(1), step)


def test_fitted_frequencies_take_fewer_bits_than_even_ones():
    tokenizer = tiny.tokenizer(bottleneck=tiny.VQ_BOTTLENECK).eval()
    images = tiny.images(32)
    fitted = fit_entropy_model(tokenizer, tokenizer.encode_ids(images), Hyperprior())
    even = replace(fitted, counts=torch.ones_like(fitted.counts))
    sizes = [len(b"".join(Codec(tokenizer, [model]).compress(images))) for model in (fitted, even)]
    assert sizes[0] < 0.9 * sizes[1]


def test_files_of_other_models_are_refused_by_name(codec, smooth):
    (file,) = codec.compress(tiny.images(1))
    others = [
        coded.codec(tiny.VQ_BOTTLENECK, seed=1),  # another transformer
        Codec(tiny.tokenizer(1, tiny.VQ_BOTTLENECK), codec.models),  # another tokenizer
        smooth,
    ]
    for other in others:
        with pytest.raises(OtherModelError, match=Compressed.read(file).name):
            other.read(file)
    with pytest.raises(OtherModelError, match="another kind"):
        codec.read(smooth.compress(tiny.images(1))[0])


def test_other_arithmetic_is_another_model(codec, monkeypatch):
    """What a later calotype computes otherwise, it must not decode."""
    (file,) = codec.compress(tiny.images(1))
    monkeypatch.setattr("calotype.uses.compression.arithmetic.VERSION", 2)
    with pytest.raises(OtherModelError):
        coded.codec(tiny.VQ_BOTTLENECK).read(file)


def test_a_wrong_decoding_is_found(codec, monkeypatch):
    """As by a machine whose probabilities were others."""
    files = [codec.read(file) for file in drawn(codec, 3)]
    codec.unpack(files)
    model = codec.models[0].exact
    monkeypatch.setattr(model, "norm", model.norm * 3)
    with pytest.raises(DamagedError):
        codec.unpack(files)


def test_bug_a_coder_that_gave_up_ended_everything(monkeypatch):
    """What it read was none of its symbols: that is a damaged file, and others are not."""

    class GivesUp:
        def decode(self, family, weights):
            raise AssertionError("invalid")

    decoder = RangeDecoder(b"1234")
    monkeypatch.setattr(decoder, "_coder", GivesUp())
    with pytest.raises(DamagedError, match="no symbols can be decoded"):
        decoder(np.ones((1, 2)))


def test_bug_steps_were_of_latents_as_they_are_stored():
    """Those of Stable Diffusion have a deviation of 5, and a step is of such as have 1."""
    own = coded.continuous().tokenizer
    stock = own.export()
    scaled = type(stock).from_config({**stock.config, "scaling_factor": 0.1})
    scaled.load_state_dict(stock.state_dict())
    tokenizer = ImageTokenizer.around(scaled.eval())
    images = tiny.images(4)
    latents = read_latents(tokenizer, [images])
    torch.testing.assert_close(latents, 0.1 * tokenizer.latents(images))
    made = Codec(tokenizer, fit_entropy_model(tokenizer, latents, coded.FAST))
    torch.testing.assert_close(made.latents(images), latents)
    files = [made.read(file) for file in made.compress(images, step=0.5)]
    assert (made.unpack(files) - latents).abs().max() <= 0.25 + 1e-3
    shown = made.pictures(latents, made.size(files[0]))
    torch.testing.assert_close(shown, tokenizer.reconstruct(images), atol=1e-3, rtol=0)


def damaged(files: list[bytes], count: int) -> list[bytes]:
    """Files with flipped bits and bytes, cut, lengthened, and with others' heads."""
    chance, found = random.Random(0), list[bytes]()
    while len(found) < count:
        file, other = bytearray(chance.choice(files)), chance.choice(files)
        place = chance.randrange(len(file))
        match len(found) % 5:
            case 0:
                file[place] ^= 1 << chance.randrange(8)
            case 1:
                for _ in range(chance.randint(2, 9)):
                    file[chance.randrange(len(file))] ^= chance.randint(1, 255)
            case 2:
                del file[place:]
            case 3:
                file += chance.randbytes(chance.randint(1, 9))
            case _:
                cut = chance.randrange(1, min(len(file), len(other)))
                file[:cut] = other[:cut]
        if bytes(file) not in files:
            found.append(bytes(file))
    return found


def test_each_of_a_thousand_damaged_files_is_found(codec):
    files = drawn(codec, 16)
    for file in damaged(files, 1000):
        with pytest.raises(DamagedError):
            codec.read(file)


def test_a_file_says_what_it_is():
    made = Compressed(1, "0123456789ab", 640, 1, b"symbols", checksum(b"symbols"))
    assert Compressed.read(bytes(made)) == made
    assert len(bytes(Compressed(1, "0" * 12, 64, 64, b"", 0))) == 18
    with pytest.raises(ValueError, match="pixels a side"):
        bytes(replace(made, width=2**21))
    for foreign in (b"", b"\x89PNG\r\n\x1a\n" + bytes(40)):
        with pytest.raises(DamagedError, match="no picture that calotype compressed"):
            Compressed.read(foreign)


def test_without_a_range_coder_it_says_what_to_install(codec, monkeypatch):
    monkeypatch.setattr("calotype.uses.compression.codec.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"calotype\[uses\]"):
        Codec(codec.tokenizer, codec.models)
