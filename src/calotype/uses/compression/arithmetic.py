"""Arithmetic whose results are the same bits on any machine, in float64.

A product of matrices adds up in an order that differs between processors, libraries and numbers of
threads, and a range coder cannot decode by probabilities that differ in one bit. Here whatever is
multiplied as a matrix lies on a grid, a multiple of a power of two, and is bounded so that no sum
needs more than the 53 bits of a float64: then each order gives the exact result. All else is
elementwise addition, multiplication, division, square root and rounding, which IEEE 754 defines to
the last bit, one operation at a time; exponentials and angles are tables by Python's `decimal`,
which is exact on any machine too.
"""

import math
from decimal import Context, Decimal, localcontext
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

VERSION = 1
"""Of this arithmetic: what was coded by another cannot be decoded."""
FRACTION = 14
"""Bits behind the point of what a matrix multiplies."""
WHOLE = 8
"""Bits before it: what is larger is cut there."""
WEIGHT = 17
"""Bits of a weight, of the largest of its matrix."""
MASS = 18
"""Bits of the largest weight of an attention."""
EXACT = 53
"""Bits of a float64."""
FINE = 12
"""Bits behind the point of what an exponential is taken of."""
RANGE = 32
"""How far below 0 exponentials are told apart."""


def on_grid(x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Round to what a matrix may multiply."""
    bound = 2.0**WHOLE
    return (x * 2.0**FRACTION).round_().mul_(2.0**-FRACTION).clamp_(-bound, bound)


class ExactLinear:
    """Linear maps of one input, side by side as one, with weights rounded to a grid.

    Raises:
        ValueError: a weight is not finite, or the input is so wide that sums are not exact.
    """

    def __init__(self, *weights: Float[Tensor, "_ in"]) -> None:
        self.weight = torch.cat([_rounded(each) for each in weights]).T.contiguous()
        check_width(len(self.weight), WEIGHT)

    def __call__(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """Map the last axis, of numbers on the grid."""
        return x @ self.weight


def check_width(terms: int, bits: int) -> None:
    """Refuse sums that may not be exact.

    Args:
        terms: Of a sum, each a product of a number on the grid and one of `bits` bits.
        bits: Without the sign.

    Raises:
        ValueError: they may not.
    """
    if WHOLE + FRACTION + bits + math.ceil(math.log2(terms)) > EXACT:
        raise ValueError(f"sums of {terms} products are not exact in float64: a smaller network is")


def _rounded(weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    found = weight.detach().cpu().double()
    largest = found.abs().max().item()
    if not math.isfinite(largest):
        raise ValueError("some of the network's weights are not finite")
    bits = WEIGHT - math.frexp(largest)[1]
    return (found * 2.0**bits).round() * 2.0**-bits


def summed(x: Float[Tensor, "*s n"]) -> Float[Tensor, "*s 1"]:
    """The sum along the last axis, of any numbers, in an order that is always the same."""
    x = torch.nn.functional.pad(x, (0, 2 ** math.ceil(math.log2(x.shape[-1])) - x.shape[-1]))
    while x.shape[-1] > 1:
        first, second = x.chunk(2, dim=-1)
        x = first + second
    return x


def normed(
    x: Float[Tensor, "*s c"], weight: Float[Tensor, " c"], eps: float
) -> Float[Tensor, "*s c"]:
    """RMSNorm (Zhang & Sennrich 2019), on the grid."""
    mean = summed(x * x) / x.shape[-1]
    return on_grid(x / (mean + eps).sqrt() * weight)


def silu(x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """The sigmoid of x times x."""
    middle = RANGE * 2**FINE
    places = (x * 2.0**FINE).round_().add_(middle).clamp_(0, 2 * middle)
    return sigmoids()[places.int()].mul_(x)


def masses(x: Float[Tensor, "*s n"], bits: int) -> Float[Tensor, "*s n"]:
    """Whole numbers of up to `bits` bits in proportion to exp(x), the largest of each row."""
    table = scaled_exponentials(bits)
    places = (x.amax(-1, keepdim=True) - x).mul_(2.0**FINE).round_().clamp_(max=len(table) - 1)
    return table[places.int()]


@cache
def sigmoids() -> Float[Tensor, " n"]:
    """The sigmoid of all that is told apart, from -RANGE to RANGE."""
    falling = exponentials()
    right = 1 / (1 + falling)
    left = falling / (1 + falling)
    return torch.cat([left.flip(0), right[1:]])


@cache
def scaled_exponentials(bits: int) -> Float[Tensor, " n"]:
    """Exponentials in whole numbers of `bits` bits."""
    return (exponentials() * 2.0**bits).round()


@cache
def exponentials() -> Float[Tensor, " n"]:
    """The exponential of 0, of -1 / 2**FINE, and so on, down to that of -RANGE."""
    half = 2 ** (FINE // 2)
    with localcontext(Context(prec=30)):
        small = [float((Decimal(-i) / 2**FINE).exp()) for i in range(half)]
        large = [float((Decimal(-i * half) / 2**FINE).exp()) for i in range(RANGE * half + 1)]
    fine, coarse = (torch.tensor(each, dtype=torch.float64) for each in (small, large))
    return (coarse[:, None] * fine).flatten()[: RANGE * 2**FINE + 1]


def angles(
    frequencies: list[Decimal], places: int
) -> tuple[Float[Tensor, "places n"], Float[Tensor, "places n"]]:
    """Cosines and sines of each place times each frequency, in radians."""
    cosines, sines = [], []
    with localcontext(Context(prec=40)):
        steps = [_turn(each) for each in frequencies]
        now = [(Decimal(1), Decimal(0))] * len(steps)
        for _ in range(places):
            cosines.append([float(c) for c, _ in now])
            sines.append([float(s) for _, s in now])
            now = [(c * a - s * b, s * a + c * b)
                   for (c, s), (a, b) in zip(now, steps, strict=True)]  # fmt: skip
    return torch.tensor(cosines, dtype=torch.float64), torch.tensor(sines, dtype=torch.float64)


def _turn(angle: Decimal) -> tuple[Decimal, Decimal]:
    """Cosine and sine of an angle of a few radians, by their series."""
    cosine, sine, term, n = Decimal(0), Decimal(0), Decimal(1), 0
    while abs(term) > Decimal("1e-40"):
        cosine, sine = (cosine + term, sine) if n % 2 == 0 else (cosine, sine + term)
        n += 1
        term = term * angle / n * (1 if n % 2 else -1)
    return cosine, sine
