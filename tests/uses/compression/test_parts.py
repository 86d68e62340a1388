"""Tables of likelihoods are made in parts of a bounded size, and files are those of one part."""

import numpy as np
import pytest
import torch

import coded
import tiny
from calotype.tokenizers.bottlenecks import RVQ
from calotype.uses.compression import Codec, Size, coding, exact_transformer, latents
from calotype.uses.compression.exact_transformer import ExactTransformer

SMALL = 300
"""Numbers of a part: less than a row of the table of steps, of codes some rows."""


def codes() -> tuple[Codec, list[tuple[torch.Tensor, Size]]]:
    """Two codebooks, by the transformer and by frequencies."""
    codec = coded.codec(RVQ(2, tiny.VQ_BOTTLENECK.codebook))
    chance = torch.Generator().manual_seed(0)
    ids = [torch.randint(16, (5, 2, *grid), generator=chance) for grid in ((8, 8), (9, 5))]
    return codec, [(ids[0], Size(16, 16, 2)), (ids[1], Size(10, 18, 2))]


def numbers() -> tuple[Codec, list[tuple[torch.Tensor, Size]]]:
    """Also some that are far from what is expected."""
    codec = coded.continuous()
    chance = torch.Generator().manual_seed(0)
    z = torch.randn(5, codec.models.network.latent, 8, 8, generator=chance)
    z[:, 0, 0] *= 200
    return codec, [(z, Size(16, 16, 2))]


def in_parts(monkeypatch, most: int) -> None:
    for module in (coding, exact_transformer, latents):
        monkeypatch.setattr(module, "PART", most)


@pytest.mark.parametrize("some", [codes, numbers])
def test_small_parts_give_the_bytes_of_one(some, monkeypatch):
    codec, batches = some()
    in_parts(monkeypatch, 2**40)
    whole = [codec.pack(*each) for each in batches]
    made, real = list[tuple[int, int]](), coding._parts

    def watched(weights, rows):
        for part, each in real(weights, rows):
            made.append(each.shape)
            yield part, each

    monkeypatch.setattr(coding, "_parts", watched)
    in_parts(monkeypatch, SMALL)
    monkeypatch.setattr(exact_transformer, "MEMORY", 30_000)
    assert [codec.pack(*each) for each in batches] == whole
    for files, (wanted, _) in zip(whole, batches, strict=True):
        found = codec.unpack([codec.read(file) for file in files])
        assert torch.equal(found, wanted) if some is codes else len(found) == len(wanted)
    assert max(rows * width for rows, width in made if rows > 1) <= SMALL < 16 * 8 * 8 * 2


def test_bug_a_row_of_codes_was_held_for_each_place_of_each_picture(monkeypatch):
    """What the transformer answers at once, and keeps of images, is bounded however many there
    are, both ways.
    """
    codec, ((ids, size), _) = codes()
    read, memory, answers, kept = ExactTransformer.read, ExactTransformer.memory, [], []

    def reading(self, tokens, held):
        answers.append(read(self, tokens, held))
        return answers[-1]

    def keeping(self, rows):
        kept.append(rows)
        return memory(self, rows)

    monkeypatch.setattr(ExactTransformer, "read", reading)
    monkeypatch.setattr(ExactTransformer, "memory", keeping)
    in_parts(monkeypatch, 2**40)
    files = codec.pack(ids, size)
    assert max(each.numel() for each in answers) == 5 * 51 * 16 and kept == [5]
    for most, memory_of in ((SMALL, 2), (40, 2), (10, 1)):
        in_parts(monkeypatch, most)
        exact = codec.models[0].exact
        row = 2 * len(exact.layers) * exact.places * exact.width
        monkeypatch.setattr(exact_transformer, "MEMORY", 2 * row + 1)
        answers.clear(), kept.clear()
        assert codec.pack(ids, size) == files
        assert torch.equal(codec.unpack([codec.read(file) for file in files]), ids)
        assert max(each.numel() for each in answers) <= max(most, 16)
        assert max(kept) == memory_of and sum(kept) == 2 * len(ids)


def test_a_part_is_of_some_million_numbers():
    assert 10**6 <= coding.PART <= 10**7 and coding.PART is exact_transformer.PART
    weights, rows = np.ones((3, 2**20)), np.arange(9) % 3
    assert [len(each) for _, each in coding._parts(weights, rows)] == [4, 4, 1]
