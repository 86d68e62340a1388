"""What a page of a tokenizer's latents shows, computed: pictures and the figures that say how far
each may be believed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.lazy import sklearn
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks.causal import CausalBottleneck
from calotype.training.images import Pixels, in_colour, sent_images
from calotype.uses import paths
from calotype.uses.attributes import Edited, PixelJudge, direction, random_like

GRID = 8
"""Pictures a side of the grid of latents."""
AMOUNTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""Of a direction that are added."""
SET_TO = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
"""What a factor is set to, in standard deviations."""
JUDGED = 64
"""Pictures without an attribute that are edited, to judge of it."""


class Decoder:
    """Pictures of latents, some at a time, with gradients to the latents alone."""

    def __init__(self, tokenizer: ImageTokenizer, batch_size: int = 32) -> None:
        self.tokenizer, self.batch_size = tokenizer.eval().requires_grad_(False), batch_size

    def __call__(self, z: Float[Tensor, "n z h w"]) -> Float[Tensor, "n c H W"]:
        """Images near [-1, 1], float32, on the CPU."""
        device = self.tokenizer.weight.device
        parts = [self.tokenizer.decode(some.to(device)).float().cpu()
                 for some in z.split(self.batch_size)]  # fmt: skip
        return torch.cat(parts)

    @torch.no_grad()
    def latents(self, images: Pixels) -> Float[Tensor, "n z h w"]:
        """The likeliest ones, float32, on the CPU."""
        device = self.tokenizer.weight.device
        return torch.cat([self.tokenizer.latents(sent_images(some, device)).float().cpu()
                          for some in images.split(self.batch_size)])  # fmt: skip


@dataclass(frozen=True)
class Ways:
    """Between one pair of pictures."""

    pictures: dict[str, Float[Tensor, "t c H W"]]
    """On the `linear`, the `spherical` and the `geodesic` way, and mixed of the ends' pixels."""
    energies: dict[str, float]
    """Of each way in latents."""


def ways(
    decode: paths.Decode, first: Float[Tensor, "b z h w"], last: Float[Tensor, "b z h w"],
    points: int = 9, steps: int = 100,
) -> list[Ways]:  # fmt: skip
    """All ways between pairs of latents."""
    found = {
        "linear": paths.linear(first, last, points),
        "spherical": paths.spherical(first, last, points),
        "geodesic": paths.geodesic(decode, first, last, points, steps),
    }
    with torch.no_grad():
        energies = {name: paths.energy(decode, way) for name, way in found.items()}
        seen = {name: decode(way.flatten(0, 1)).unflatten(0, way.shape[:2])
                for name, way in found.items()}  # fmt: skip
    mixed = paths.linear(seen["linear"][0], seen["linear"][-1], points)
    seen["mixed pixels"] = mixed
    return [
        Ways({name: each[:, pair] for name, each in seen.items()},
             {name: each[pair].item() for name, each in energies.items()})
        for pair in range(first.shape[0])
    ]  # fmt: skip


@torch.no_grad()
def grid(decode: paths.Decode, latents: Float[Tensor, "n z h w"]) -> Float[Tensor, "g c H W"]:
    """What lies on the plane of the two principal directions of some latents, around their mean:
    rows and columns at quantiles of a normal distribution of their deviations (Kingma & Welling
    2014, appendix A, for latents of two numbers).
    """
    flat = latents.flatten(1)
    found = sklearn.decomposition.PCA(2, random_state=0).fit(flat.numpy())
    parts = torch.linspace(0.05, 0.95, GRID)
    steps = torch.distributions.Normal(0.0, 1.0).icdf(parts)
    spread = torch.from_numpy(np.sqrt(found.explained_variance_)).float()
    axes = torch.from_numpy(found.components_).float() * spread[:, None]
    rows, columns = steps.flip(0).repeat_interleave(GRID), steps.repeat(GRID)
    z = flat.mean(0) + columns[:, None] * axes[0] + rows[:, None] * axes[1]
    return decode(z.unflatten(1, latents.shape[1:]))


@dataclass(frozen=True)
class Attribute:
    """What is known of one, by half of the pictures; the other half is there to be judged."""

    way: Float[Tensor, "z h w"]
    """Its direction."""
    judge: PixelJudge
    """A classifier of pixels that tells it."""
    without: Float[Tensor, "n z h w"]
    """Latents of the other half's pictures that have it not."""


def attribute(
    images: Pixels, latents: Float[Tensor, "n z h w"], has: Bool[Tensor, " n"]
) -> Attribute:  # fmt: skip
    """Learn it of every second picture.

    Raises:
        ValueError: in one half all have it, or none.
    """
    learnt = torch.arange(len(has)) % 2 == 0
    way = direction(latents[learnt], has[learnt])
    judge = PixelJudge(in_colour(sent_images(images[learnt], torch.device("cpu"))), has[learnt])
    without = latents[~learnt & ~has]
    if not len(without):
        raise ValueError(f"{int(has.sum())} of {len(has)} have it: both kinds are needed")
    return Attribute(way, judge, without)


@torch.no_grad()
def edited(
    decode: paths.Decode, known: Attribute, shown: int = 3
) -> tuple[Float[Tensor, "k a c H W"], Edited]:  # fmt: skip
    """Some pictures without an attribute to which it is added by parts, and how far a classifier of
    pixels sees it.
    """
    some, way = known.without[:JUDGED], known.way
    told = Edited(*(known.judge.part(in_colour(decode(some + added)))
                    for added in (torch.zeros_like(way), way, random_like(way))))  # fmt: skip
    frames = torch.stack(
        [decode(known.without[:shown] + amount * way) for amount in AMOUNTS], 1
    )  # fmt: skip
    return frames, told


@torch.no_grad()
def effects(
    decode: paths.Decode, attributes: Mapping[str, Attribute]
) -> dict[str, dict[str, float]]:  # fmt: skip
    """What one unit of each direction does to every attribute: of the pictures without the one that
    is added, how many more are seen to have each, as parts of 1; by what is added, and then by what
    is seen.
    """
    found = dict[str, dict[str, float]]()
    for name, added in attributes.items():
        some = added.without[:JUDGED]
        before, after = (in_colour(decode(each)) for each in (some, some + added.way))
        found[name] = {seen: each.judge.part(after) - each.judge.part(before)
                       for seen, each in attributes.items()}  # fmt: skip
    return found


@torch.no_grad()
def interventions(
    decode: Decoder, latents: Float[Tensor, "n z 1 1"], factor: int
) -> Float[Tensor, "n s c H W"]:
    """Pictures in which one factor of a causal bottleneck is set, and its effects follow."""
    bottleneck = decode.tokenizer.bottleneck
    assert isinstance(bottleneck, CausalBottleneck)
    there = latents.to(decode.tokenizer.weight.device)
    found = [decode(bottleneck.do(there, factor, value)) for value in SET_TO]
    return torch.stack(found, 1)


def pairs(captions: Sequence[str], count: int, seed: int) -> list[tuple[int, int]]:
    """Places of pictures to go between: by chance, of different captions where there are."""
    order = np.random.default_rng(seed).permutation(len(captions)).tolist()
    found: list[tuple[int, int]] = []
    while len(order) > 1 and len(found) < count:
        one = order.pop()
        other = next((n for n in order if captions[n] != captions[one]), order[0])
        order.remove(other)
        found.append((one, other))
    return found
