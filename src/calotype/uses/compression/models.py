"""What says how likely the codes of a picture are, so that likely ones take few bits."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from calotype.autoregressive import Layout
from calotype.training.weights import digest
from calotype.uses.compression import arithmetic
from calotype.uses.compression.coding import RangeDecoder, RangeEncoder, Rows
from calotype.uses.compression.exact_transformer import ExactTransformer


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
        """What each image is decoded from; some of its places are read at once."""
        layout, found = self.exact.layout.of(*grid), []
        for some in codes.split(self.exact.most):
            coders, read = [RangeEncoder() for _ in some], 0
            for block in self.exact.weights(layout, some):
                symbols = some[:, read : read + block.shape[1]].numpy()
                for coder, row, each in zip(coders, symbols, block.numpy(), strict=True):
                    coder(row, each)
                read += block.shape[1]
            found += map(bytes, coders)
        return found

    def decode(self, data: Sequence[bytes], grid: tuple[int, int]) -> Int[Tensor, "b n"]:
        """The codes of images, which are read a place after another, of some of them at once."""
        layout, most = self.exact.layout.of(*grid), self.exact.most
        return torch.cat([self._decoded(data[first : first + most], layout)
                          for first in range(0, len(data), most)])  # fmt: skip

    def _decoded(self, data: Sequence[bytes], layout: Layout) -> Int[Tensor, "b n"]:
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
        coders, books = [RangeEncoder() for _ in codes], self._books(codes.shape[1])
        for coder, row in zip(coders, codes.numpy(), strict=True):
            coder(row, self.counts.numpy(), books)
        return [*map(bytes, coders)]

    def decode(self, data: Sequence[bytes], grid: tuple[int, int]) -> Int[Tensor, "b n"]:
        """The codes of images."""
        books = self._books(grid[0] * grid[1] * len(self.counts))
        found = [RangeDecoder(each)(self.counts.numpy(), books) for each in data]
        return torch.from_numpy(np.stack(found))

    def _books(self, n: int) -> Rows:
        """The codebook of each place."""
        return np.arange(n) % len(self.counts)


def _fingerprint(exact: ExactTransformer) -> str:
    """Of all that its answers follow from."""
    named = [(f"layer {i} {name}", weight) for i, layer in enumerate(exact.layers)
             for name, part in sorted(vars(layer).items())
             for weight in [getattr(part, "weight", part)]]  # fmt: skip
    named += [(f"head {i}", each.weight) for i, each in enumerate(exact.predictors)]
    named += [("embedding", exact.embedding), ("norm", exact.norm)]
    named += [("cosines", exact.cosines), ("sines", exact.sines)]
    return digest(named, f"{arithmetic.VERSION} {exact.layout} {exact.heads} {exact.eps}")
