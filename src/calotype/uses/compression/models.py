"""What says how likely the codes of a picture are, so that likely ones take few bits."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from calotype.training.weights import digest
from calotype.uses.compression import arithmetic
from calotype.uses.compression.coding import RangeDecoder, encoded
from calotype.uses.compression.exact_transformer import ExactTransformer

MEMORY = 2**26
"""Numbers of float64 that are held at once."""


class CodeModel(ABC):
    """Codes of images, in the order of a sequence, to bytes and back."""

    method: int
    """What a file calls it."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """What tells it from others."""

    @abstractmethod
    def knows(self, grid: tuple[int, int]) -> bool:
        """Whether it knows images of so many rows and columns of sites."""

    @abstractmethod
    def encode(self, codes: Int[Tensor, "b n"], grid: tuple[int, int]) -> list[bytes]:
        """What each image is decoded from."""

    @abstractmethod
    def decode(self, data: Sequence[bytes], grid: tuple[int, int]) -> Int[Tensor, "b n"]:
        """The codes of images."""


class Transformer(CodeModel):
    """An autoregressive transformer under the null prompt: each code by those before it."""

    method = 1

    def __init__(self, exact: ExactTransformer) -> None:
        self.exact, self._fingerprint = exact, _fingerprint(exact)

    @property
    def fingerprint(self) -> str:
        """What tells it from others."""
        return self._fingerprint

    def knows(self, grid: tuple[int, int]) -> bool:
        """Whether it was trained on images of so many rows and columns."""
        return grid in self.exact.layout.shapes

    def encode(self, codes: Int[Tensor, "b n"], grid: tuple[int, int]) -> list[bytes]:
        """What each image is decoded from; all of its places are read at once."""
        layout, found = self.exact.layout.of(*grid), []
        for some in codes.split(max(1, MEMORY // (layout.length * layout.codes * 2))):
            weights = torch.cat(list(self.exact.weights(layout, some)), dim=1)
            found += [encoded((row, each)) for row, each
                      in zip(some.numpy(), weights.numpy(), strict=True)]  # fmt: skip
        return found

    def decode(self, data: Sequence[bytes], grid: tuple[int, int]) -> Int[Tensor, "b n"]:
        """The codes of images, which are read a place after another, of all of them at once."""
        layout = self.exact.layout.of(*grid)
        decoders, memory = [RangeDecoder(each) for each in data], self.exact.memory(len(data))
        read, found = torch.full((len(data), 1), layout.begin), []
        for place in range(layout.length):
            weights = self.exact.read(read, memory).numpy()
            rows = [decoder(each) for decoder, each in zip(decoders, weights, strict=True)]
            code = torch.from_numpy(np.stack(rows))
            found.append(code)
            read = code + layout.first + place % layout.codebooks * layout.codes
        return torch.cat(found, dim=1)


@dataclass(frozen=True)
class Frequencies(CodeModel):
    """How often each code of each codebook stood in pictures, wherever: of pictures of any size."""

    counts: Float[Tensor, "codebooks k"]
    """Whole numbers of at least 1."""
    method = 0

    @classmethod
    def of(cls, ids: Iterable[Int[Tensor, "b ..."]], codebooks: int, codes: int) -> "Frequencies":
        """Count the codes of images; one more of each, so that a new one can be coded too."""
        counts = torch.ones(codebooks, codes, dtype=torch.float64)
        for some in ids:
            stacked = some.reshape(len(some), codebooks, -1).transpose(0, 1).flatten(1).long()
            counts.scatter_add_(1, stacked, torch.ones_like(stacked, dtype=torch.float64))
        # The coder's numbers have 24 bits.
        largest = counts.sum(1, keepdim=True)
        return cls((counts * (2**24 / largest).clamp(max=1)).round().clamp_min(1))

    @property
    def fingerprint(self) -> str:
        """What tells it from others."""
        return digest([("counts", self.counts)])

    def knows(self, grid: tuple[int, int]) -> bool:
        """Any."""
        return True

    def encode(self, codes: Int[Tensor, "b n"], grid: tuple[int, int]) -> list[bytes]:
        """What each image is decoded from."""
        weights = self._weights(codes.shape[1])
        return [encoded((row, weights)) for row in codes.numpy()]

    def decode(self, data: Sequence[bytes], grid: tuple[int, int]) -> Int[Tensor, "b n"]:
        """The codes of images."""
        weights = self._weights(grid[0] * grid[1] * len(self.counts))
        return torch.stack([torch.from_numpy(RangeDecoder(each)(weights)) for each in data])

    def _weights(self, n: int) -> Float[np.ndarray, "n k"]:
        return self.counts.repeat(n // len(self.counts), 1).numpy()


def _fingerprint(exact: ExactTransformer) -> str:
    """Of all that its answers follow from."""
    named = [(f"layer {i} {name}", weight) for i, layer in enumerate(exact.layers)
             for name, part in sorted(vars(layer).items())
             for weight in [getattr(part, "weight", part)]]  # fmt: skip
    named += [(f"head {i}", each.weight) for i, each in enumerate(exact.predictors)]
    named += [("embedding", exact.embedding), ("norm", exact.norm)]
    named += [("cosines", exact.cosines), ("sines", exact.sines)]
    return digest(named, f"{arithmetic.VERSION} {exact.layout} {exact.heads} {exact.eps}")
