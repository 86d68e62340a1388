"""What restores pictures without having seen any: scikit-image's classical methods.

A method that has a setting is given its best one where the truth is known, that of the highest mean
PSNR, which flatters it; else the one whose picture, seen again, is as far from what was seen as the
noise says (Morozov's discrepancy principle).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from calotype.lazy import skimage
from calotype.tokenizers import psnr
from calotype.tokenizers.corruptions.filling import filled
from calotype.uses.restoration.measurements import (
    Deblur,
    Denoise,
    Images,
    Measurement,
    Several,
    SuperResolve,
    Uncover,
)

Levels = Float[np.ndarray, "H W c"]
"""A picture in [0, 1]."""
Method = Callable[[Levels], Levels]
Deconvolution = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Of a channel, with a kernel."""


@dataclass(frozen=True)
class Classical:
    """What a method made of pictures."""

    name: str
    """Its own, and its setting where it has one."""
    images: Several
    """Each [1 c H W], about [-1, 1]."""


@dataclass(frozen=True)
class Family:
    """A method, and the settings that are tried."""

    name: str
    of: Callable[[Measurement, float], Method]
    """The method for what was measured, with a setting."""
    setting: str = ""
    """What the setting is called; empty: there is none."""
    values: tuple[float, ...] = (0.0,)


def classical(
    measurements: Sequence[Measurement], seen: Several, truth: Several | None = None
) -> list[Classical]:  # fmt: skip
    """Restore pictures of one task by each classical method for it.

    Args:
        measurements: Of each picture.
        seen: What was seen of each, [1 k h w].
        truth: The pictures, each [1 c H W], by which settings are chosen; None: they are not known.

    Raises:
        ImportError: scikit-image is not there.
    """
    shown, found = as_seen(measurements, seen).images, list[Classical]()
    for family in FAMILIES.get(type(measurements[0]), ()):
        tried = {value: [_applied(family.of(m, value), x)
                         for m, x in zip(measurements, shown, strict=True)]
                 for value in family.values}  # fmt: skip
        chosen = _best(tried, truth) if truth else _plausible(tried, measurements, seen)
        said = f"{family.name}, {family.setting} {chosen:g}" if family.setting else family.name
        found.append(Classical(said, tried[chosen]))
    return found


def as_seen(measurements: Sequence[Measurement], seen: Several) -> Classical:
    """Pictures as they were seen; small ones enlarged by the bicubic rule."""
    name = "bicubic" if isinstance(measurements[0], SuperResolve) else "seen"
    pairs = zip(measurements, seen, strict=True)
    return Classical(name, [y if isinstance(m, Uncover) else m.lifted(y) for m, y in pairs])


def _best(tried: Mapping[float, Several], truth: Several) -> float:
    """The setting of the highest mean PSNR."""

    def quality(value: float) -> float:
        pairs = zip(tried[value], truth, strict=True)
        return float(torch.cat([psnr(fake, real) for fake, real in pairs]).mean())

    return max(tried, key=quality)


def _plausible(
    tried: Mapping[float, Several], measurements: Sequence[Measurement],
    seen: Several,
) -> float:  # fmt: skip
    """The setting that explains what was seen as well as the noise lets it."""

    def away(value: float) -> float:
        each = zip(measurements, tried[value], seen, strict=True)
        apart = torch.stack([(m(x) - y).square().mean() for m, x, y in each]).mean().sqrt()
        return abs(float(apart) - measurements[0].noise)

    return min(tried, key=away)


def _applied(method: Method, shown: Images) -> Images:
    levels = shown[0].permute(1, 2, 0).float().cpu().numpy() / 2 + 0.5
    # Of one channel some methods leave that axis out.
    restored = np.reshape(method(levels), levels.shape)
    found = torch.from_numpy(np.ascontiguousarray(restored, np.float32))
    return found.permute(2, 0, 1)[None].to(shown.device) * 2 - 1


def _total_variation(measurement: Measurement, weight: float) -> Method:
    """Rudin et al. 1992 by Chambolle 2004; run until it stands, which its defaults do not."""
    return lambda x: skimage.restoration.denoise_tv_chambolle(
        x, weight, eps=1e-5, max_num_iter=1000, channel_axis=-1
    )


def _non_local_means(measurement: Measurement, strength: float) -> Method:
    """Buades et al. 2005, told the noise."""
    noise = measurement.noise / 2
    return lambda x: skimage.restoration.denoise_nl_means(
        x, 5, 6, h=strength * noise, sigma=noise, fast_mode=True, channel_axis=-1
    )


def _biharmonic(measurement: Measurement, _: float) -> Method:
    """Damelin & Hoang 2018, by what is seen around."""
    assert isinstance(measurement, Uncover)
    hidden: Bool[np.ndarray, "H W"] = measurement.hidden[0, 0].cpu().numpy() > 0
    return lambda x: skimage.restoration.inpaint_biharmonic(x, hidden, channel_axis=-1)


def _harmonic(measurement: Measurement, _: float) -> Method:
    """What an encoder is shown: how much of a restored picture that was already."""
    assert isinstance(measurement, Uncover)
    hidden = measurement.hidden.cpu()

    def applied(x: Levels) -> Levels:
        image = torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)[None]
        return filled(image, hidden.to(image), None)[0].permute(1, 2, 0).numpy()

    return applied


def _unsupervised_wiener(measurement: Measurement, _: float) -> Method:
    """Orieux et al. 2010, which finds its setting itself."""
    restored: Any = skimage.restoration.unsupervised_wiener
    return _going_round(lambda x, kernel: restored(x, kernel, rng=0, clip=False)[0], measurement)


def _wiener(measurement: Measurement, balance: float) -> Method:
    restored: Any = skimage.restoration.wiener
    return _going_round(lambda x, kernel: restored(x, kernel, balance, clip=False), measurement)


def _richardson_lucy(measurement: Measurement, steps: float) -> Method:
    restored: Any = skimage.restoration.richardson_lucy
    return _framed(
        lambda x, kernel: restored(x.clip(1e-3, 1), kernel, int(steps), clip=False), measurement
    )


def _going_round(method: Deconvolution, measurement: Measurement) -> Method:
    """A method whose convolutions go round, of one period, or of as many as the kernel takes, of
    the picture that mirrors at its sides: of that they are the blur itself.
    """

    def applied(x: Levels) -> Levels:
        kernel, (high, wide) = _kernel(measurement, x.shape[:2]), x.shape[:2]
        periods = [max(2 * side - 2, 1) for side in (high, wide)]
        more = [(0, period * -(-len(kernel) // period) - side)
                for period, side in zip(periods, (high, wide), strict=True)]  # fmt: skip
        return _each(lambda channel: method(channel, kernel), _mirrored(x, more))[:high, :wide]

    return applied


def _framed(method: Deconvolution, measurement: Measurement) -> Method:
    """A method to which there is black around a picture, of one that mirrors at its sides as far as
    the black reaches: each step brings it nearer by the kernel, and ever less of it.
    """

    def applied(x: Levels) -> Levels:
        kernel, (high, wide) = _kernel(measurement, x.shape[:2]), x.shape[:2]
        frame = 3 * (len(kernel) // 2)
        found = _each(lambda channel: method(channel, kernel), _mirrored(x, [(frame, frame)] * 2))
        return found[frame : frame + high, frame : frame + wide]

    return applied


def _mirrored(x: Levels, more: Sequence[tuple[int, int]]) -> Float[np.ndarray, "h w c"]:
    """Continued by so many pixels before and behind each side as the blur continues it."""
    return np.pad(x.astype(np.float64), (*more, (0, 0)), "reflect")


def _each(method: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """Of each channel by itself."""
    return np.stack([method(x[..., channel]) for channel in range(x.shape[-1])], -1)


def _kernel(measurement: Measurement, sides: Sequence[int]) -> Float[np.ndarray, "k k"]:
    """That of the blur of a picture of such sides, as `blurred` has it."""
    assert isinstance(measurement, Deblur)
    reach = min(round(3 * measurement.sigma), min(sides) - 1)
    line = np.exp(-((np.arange(-reach, reach + 1) / measurement.sigma) ** 2) / 2)
    return np.outer(line, line) / line.sum() ** 2


FAMILIES: dict[type[Measurement], tuple[Family, ...]] = {
    Denoise: (
        Family("total variation", _total_variation, "weight", (0.05, 0.1, 0.2, 0.3, 0.4, 0.6)),
        Family("non-local means", _non_local_means, "strength", (0.4, 0.6, 0.8)),
    ),
    Deblur: (
        Family("unsupervised Wiener", _unsupervised_wiener),
        Family("Wiener", _wiener, "balance", (0.001, 0.01, 0.1, 1.0)),
        Family("Richardson-Lucy", _richardson_lucy, "steps", (5.0, 15.0, 50.0)),
    ),
    Uncover: (Family("biharmonic", _biharmonic), Family("harmonic", _harmonic)),
}
"""Of super-resolution the bicubic rule is what an encoder is shown; for colours there is none."""
