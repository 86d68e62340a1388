"""Continuous latents in whole steps from what a hyperprior expects, coded exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from calotype.training.weights import digest
from calotype.uses.compression import arithmetic
from calotype.uses.compression.arithmetic import ExactLinear, on_grid
from calotype.uses.compression.coding import PART, RangeDecoder, RangeEncoder, Rows, Symbols
from calotype.uses.compression.hyperprior import LARGEST_HYPER, LOG_SCALES, HyperNetwork

PARTS = 4
"""Steps, and deviations in steps, are told apart in so many parts of an octave."""
STEPS = range(-6 * PARTS, 3 * PARTS)
"""Logarithms of steps in parts of an octave."""
SCALES = range(-4 * PARTS, 5 * PARTS + 1)
"""Of deviations in steps; narrower and wider ones are taken for the last."""
SYMBOLS = 128
"""Steps from the mean; farther ones are coded as numbers of 16 bits."""
FAR = 2**15
EVEN = np.ones((1, 256))
"""Of a byte, all alike likely."""
METHOD = 128
"""Of the first of the steps; from there on a method says the step."""


class Synthesis:
    """The hyperprior's synthesis in exact arithmetic: what is known of latents before they are."""

    def __init__(self, network: HyperNetwork) -> None:
        layers = list[Any](network.synthesis)
        self.weights = [ExactLinear(layer.weight.flatten(1)) for layer in layers]
        self.biases = [layer.bias.detach().double() for layer in layers]

    def __call__(
        self, hyper: Float[Tensor, "b m y x"], shape: tuple[int, int]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Means, and logarithms to base 2 of deviations, of whole numbers."""
        for i in range(2):
            hyper = functional.interpolate(hyper, scale_factor=2, mode="nearest")
            hyper = on_grid(self._convolved(hyper, i).clamp_min(0))
        out = self._convolved(hyper, 2)[:, :, : shape[0], : shape[1]]
        mean, log_scale = out.chunk(2, dim=1)
        return on_grid(mean), log_scale.clamp(*LOG_SCALES)

    def _convolved(self, x: Float[Tensor, "b m y x"], layer: int) -> Float[Tensor, "b n y x"]:
        most = max(1, PART // (9 * x[0].numel()))
        return torch.cat([self._some(each, layer) for each in x.split(most)])

    def _some(self, x: Float[Tensor, "b m y x"], layer: int) -> Float[Tensor, "b n y x"]:
        columns = functional.unfold(x, 3, padding=1).mT
        found = self.weights[layer](columns) + self.biases[layer]
        return found.mT.unflatten(2, (x.shape[2], x.shape[3])).contiguous()


@dataclass(frozen=True)
class QuantisedLatents:
    """Latents as they are sent."""

    symbols: Int[Tensor, "b c h w"]
    """Steps from the means."""
    hyper: Int[Tensor, "b m y x"]
    values: Float[Tensor, "b c h w"]
    """What the decoder reads."""

    def contents(self, row: int) -> bytes:
        """Of one image, what a checksum is of."""
        return (self.hyper[row].numpy().astype("<i4").tobytes()
                + self.symbols[row].numpy().astype("<i4").tobytes())  # fmt: skip


class LatentModel:
    """A fitted hyperprior: latents to bytes and back.

    Args:
        network: The hyperprior.
        hyper: How likely each hyper-latent is in each channel, from -LARGEST_HYPER on.
        tables: How likely each number of steps from the mean is, from -SYMBOLS on and at last any
            other, of each deviation of `SCALES`.
    """

    def __init__(
        self, network: HyperNetwork, hyper: Float[Tensor, "m _"], tables: Float[Tensor, "scales _"]
    ) -> None:
        self.network, self.hyper, self.tables = network, hyper.double(), tables.double()
        self.synthesis = Synthesis(network)

    @classmethod
    def of(cls, network: HyperNetwork) -> "LatentModel":
        """Of a network that was just fitted: probabilities become whole numbers, which are kept, as
        another machine might round them otherwise.
        """
        places = torch.arange(-LARGEST_HYPER, LARGEST_HYPER + 1).float()
        channels = network.density.shape[1]
        with torch.no_grad():
            likely = network.hyper_likely(places.repeat(1, channels, 1, 1))[0, :, 0]
        return cls(network, _whole(likely), _whole(_gaussians()))

    @cached_property
    def fingerprint(self) -> str:
        """What tells it from others."""
        parts = self.synthesis
        named = [(f"weight {i}", each.weight) for i, each in enumerate(parts.weights)]
        named += [(f"bias {i}", each) for i, each in enumerate(parts.biases)]
        named += [("hyper", self.hyper), ("tables", self.tables)]
        return digest(named, f"{arithmetic.VERSION}")

    @torch.no_grad()
    def quantise(self, z: Float[Tensor, "b c h w"], method: int) -> QuantisedLatents:
        """Latents in whole steps."""
        hyper = self.network.analysis(z.float()).round().clamp(-LARGEST_HYPER, LARGEST_HYPER)
        mean, _ = self.synthesis(hyper.double(), (z.shape[2], z.shape[3]))
        symbols = ((z.double() - mean) / step_of(method)).round().clamp(-FAR, FAR - 1)
        return QuantisedLatents(symbols.long(), hyper.long(), self._values(symbols, mean, method))

    def encode(self, latents: QuantisedLatents, method: int) -> list[bytes]:
        """What each image is decoded from."""
        shape = (latents.symbols.shape[2], latents.symbols.shape[3])
        _, log_scale = self.synthesis(latents.hyper.double(), shape)
        rows, before = self._rows(log_scale, method), self._hyper_rows(latents.hyper.shape[1:])
        found = zip(latents.hyper.flatten(1).numpy(), latents.symbols.flatten(1).numpy(),
                    rows, strict=True)  # fmt: skip
        return [self._encoded(hyper, before, symbols, each) for hyper, symbols, each in found]

    def _encoded(self, hyper: Symbols, before: Rows, symbols: Symbols, rows: Rows) -> bytes:
        coder = RangeEncoder()
        coder(hyper + LARGEST_HYPER, self.hyper.numpy(), before)
        far = np.abs(symbols) > SYMBOLS
        coder(np.where(far, 2 * SYMBOLS + 1, symbols + SYMBOLS), self.tables.numpy(), rows)
        if far.any():
            # Two bytes each.
            halves = np.stack(divmod(symbols[far] + FAR, 256), 1).reshape(-1)
            coder(halves, EVEN, np.zeros_like(halves))
        return bytes(coder)

    def decode(
        self, data: Sequence[bytes], shape: tuple[int, int], method: int
    ) -> QuantisedLatents:
        """Latents of so many rows and columns."""
        channels, (height, width) = len(self.hyper), (-(-side // 4) for side in shape)
        decoders = [RangeDecoder(each) for each in data]
        before, likely = self._hyper_rows((channels, height, width)), self.hyper.numpy()
        read = np.stack([decoder(likely, before) for decoder in decoders]) - LARGEST_HYPER
        hyper = torch.from_numpy(read).unflatten(1, (channels, height, width))
        mean, log_scale = self.synthesis(hyper.double(), shape)
        rows = self._rows(log_scale, method)
        found = [self._steps(decoder, each) for decoder, each in zip(decoders, rows, strict=True)]
        symbols = torch.from_numpy(np.stack(found)).view_as(mean)
        return QuantisedLatents(symbols, hyper, self._values(symbols, mean, method))

    def _values(self, symbols: Tensor, mean: Tensor, method: int) -> Float[Tensor, "b c h w"]:
        return (mean + symbols.double() * step_of(method)).float()

    def _rows(self, log_scale: Float[Tensor, "b c h w"], method: int) -> Int[np.ndarray, "b n"]:
        """Of the tables, which is each number's."""
        scale = (log_scale * PARTS).round() - STEPS[method - METHOD]
        rows = scale.clamp(SCALES[0], SCALES[-1]).long() - SCALES[0]
        return rows.flatten(1).numpy()

    def _hyper_rows(self, shape: Sequence[int]) -> Rows:
        """Of channels, rows and columns, the channel of each place."""
        channels, height, width = shape
        return np.arange(channels).repeat(height * width)

    def _steps(self, decoder: RangeDecoder, rows: Rows) -> Symbols:
        symbols = decoder(self.tables.numpy(), rows) - SYMBOLS
        far = symbols > SYMBOLS
        if far.any():
            read = decoder(EVEN, np.zeros(2 * far.sum(), int)).reshape(-1, 2)
            symbols[far] = read[:, 0] * 256 + read[:, 1] - FAR
        return symbols


def step_of(method: int) -> float:
    """The step that a method says, by a table: a power might be rounded otherwise elsewhere."""
    octave, part = divmod(STEPS[method - METHOD], PARTS)
    return ROOTS[part] * 2.0**octave


ROOTS = (1.0, 1.189207115002721, 1.4142135623730951, 1.681792830507429)
"""Of 2, in parts of an octave."""


def method_of(step: float) -> int:
    """What says the nearest step.

    Raises:
        ValueError: it is too small or too large.
    """
    least, most = step_of(METHOD), step_of(METHOD + len(STEPS) - 1)
    if not least <= step <= most:
        raise ValueError(f"a step of {step}: choose one from {least:.3g} to {most:.3g}")
    return METHOD + round(float(np.log2(step)) * PARTS) - STEPS[0]


def is_step(method: int) -> bool:
    """Whether a method says one."""
    return METHOD <= method < METHOD + len(STEPS)


def _gaussians() -> Float[Tensor, "scales k"]:
    """How likely each number of steps is, and at last any other, of each deviation."""
    scales = 2 ** (torch.tensor(list(SCALES), dtype=torch.float64) / PARTS)
    edges = torch.arange(-SYMBOLS, SYMBOLS + 2).double() - 0.5
    below = torch.special.erfc(-edges / scales[:, None] / 2**0.5) / 2
    inside = below.diff(dim=1)
    return torch.cat([inside, 1 - inside.sum(1, keepdim=True)], dim=1)


def _whole(likely: Float[Tensor, "rows k"]) -> Float[Tensor, "rows k"]:
    return (likely.double() * 2**24).round().clamp_min(1)
