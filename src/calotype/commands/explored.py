"""What stands on the page of a tokenizer's latents below the map, and the figures of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.commands.labelled import check_factors
from calotype.pages.exploration import Shown, Strip, Tabled
from calotype.tokenizers.bottlenecks import Discrete
from calotype.tokenizers.bottlenecks.causal import CausalBottleneck
from calotype.training.images import Pixels, scaled
from calotype.uses.attributes import having, upper, words
from calotype.uses.codes import commonest
from calotype.uses.exploring import (
    GRID,
    SET_TO,
    Attribute,
    Decoder,
    attribute,
    edited,
    effects,
    grid,
    interventions,
    pairs,
    ways,
)
from calotype.uses.maps import nearest
from calotype.uses.representations import of_pixels

ATTRIBUTES = 6
"""Words that are shown where none is named."""
ASKED, NEAR = 6, 8
"""Pictures whose nearest are shown, and how many of these."""
Found = tuple[Shown | None, dict[str, Any]]


@dataclass(frozen=True)
class Wanted:
    """What sections show, as the command's options have it."""

    pairs: int
    points: int
    path_steps: int
    codes: int
    seed: int


@dataclass(frozen=True)
class Read:
    """Pictures, and what the tokenizer makes of them."""

    images: Pixels
    captions: list[str]
    latents: Float[Tensor, "n z h w"]
    attributes: Mapping[str, Bool[Tensor, " n"]]
    """Which pictures have each of those that are shown."""

    def as_floats(self) -> Float[Tensor, "n c H W"]:
        """The pictures in [-1, 1]."""
        return scaled(self.images)


def attributes_of(
    captions: Sequence[str], told: Float[Tensor, "n f"] | None, asked: Sequence[str],
    factors: Sequence[int], names: Sequence[str],
) -> dict[str, Bool[Tensor, " n"]]:  # fmt: skip
    """Which pictures have each attribute: words that were asked for, and true factors, which those
    have in the upper half of their range; where neither was, the commonest words.

    Raises:
        ValueError: a word or a factor is in all pictures or in none.
    """
    found = {word: having(captions, word) for word in asked}
    check_factors(factors, told, "data")
    for factor in factors:
        assert told is not None
        name = f"factor {factor}" + (f", {names[factor]}" if factor < len(names) else "")
        found[name] = upper(told[:, factor], factor)
    if asked or factors:
        return found
    return {word: having(captions, word) for word in words(captions, ATTRIBUTES)}


def sections(
    decode: Decoder, read: Read, wanted: Wanted
) -> tuple[list[Shown], dict[str, Any]]:  # fmt: skip
    """All that this tokenizer has."""
    bottleneck = decode.tokenizer.bottleneck
    coded = isinstance(bottleneck, Discrete)
    makers: list[Callable[[Decoder, Read, Wanted], Found]] = [_codes] if coded else [
        _grid, _ways, _attributes]  # fmt: skip
    if isinstance(bottleneck, CausalBottleneck):
        makers.append(_interventions)
    shown, figures = list[Shown](), dict[str, Any]()
    for maker in (*makers, _nearest):
        section, told = maker(decode, read, wanted)
        figures |= told
        if section is not None:
            shown.append(section)
    return shown, figures


def _grid(decode: Decoder, read: Read, wanted: Wanted) -> Found:
    line = ("The plane of the two principal directions of latents, from the 5th to the 95th "
            "percentile of each.")  # fmt: skip
    strip = Strip("", grid(decode, read.latents), columns=GRID)
    return Shown("Grid", [line], [strip]), {}


def _ways(decode: Decoder, read: Read, wanted: Wanted) -> Found:
    chosen = pairs(read.captions, wanted.pairs, wanted.seed)
    if not chosen:
        return None, {}
    ends = [read.latents[[pair[side] for pair in chosen]] for side in (0, 1)]
    found = ways(decode, ends[0], ends[1], wanted.points, wanted.path_steps)
    parts = [each.energies["geodesic"] / max(each.energies["linear"], 1e-12) for each in found]
    lines = [
        "Rows from above, each from one picture to the other. "
        "Energy: how many steps a way has, times the sum of squared distances of pictures that "
        "follow each other. The geodesic is the way of least energy that was found; mixed pixels "
        "ask for no latents.",
        f"Of the straight way's energy the geodesic's is {np.median(parts):.2f}, the median of "
        f"{len(parts)} pairs; from {min(parts):.2f} to {max(parts):.2f}.",
    ]
    print(f"geodesics: {lines[1]}")
    strips = [
        Strip("; ".join(name + (f", energy {each.energies[name]:.1f}" if name in each.energies
                                else "") for name in each.pictures),
              torch.cat(list(each.pictures.values())), slides=True, columns=wanted.points)
        for each in found
    ]  # fmt: skip
    told = {"ways": [each.energies for each in found], "geodesic_part": float(np.median(parts))}
    return Shown("Ways between pictures", lines, strips), told


def _attributes(decode: Decoder, read: Read, wanted: Wanted) -> Found:
    known = _known(read)
    strips, figures = [], {}
    for name, each in known.items():
        frames, told = edited(decode, each)
        figures[name] = asdict(told)
        said = (f"{name}: seen in {told.before:.0%} before, in {told.after:.0%} once it is added, "
                f"in {told.control:.0%} once a random direction is, as long")  # fmt: skip
        print(f"attribute {said}")
        strips.append(Strip(said, frames.flatten(0, 1), slides=True, columns=frames.shape[1]))
    if not strips:
        return None, {}
    changes = effects(decode, known)
    rows = [(name, *(f"{value:+.2f}" for value in row.values())) for name, row in changes.items()]
    lines = ["A direction from the mean latent of pictures that have a word not in their caption, "
             "or a factor not in its upper half, to that of those that do, added to pictures "
             "without: none of it on the left, one and a half on the right. What sees it is a "
             "classifier of small copies, which knows the half of the pictures that the direction "
             "is of; the others are judged.",
             "The table: a row is what is added, once; a column, of how many more of these "
             "pictures the classifier of that attribute then says that they have it, as parts of "
             "1. Beside the diagonal stands what comes with it."]  # fmt: skip
    table = Tabled(("added", *known), rows)
    told = {"attributes": figures, "effects": changes}
    return Shown("Attributes", lines, strips, table=table), told


def _known(read: Read) -> dict[str, Attribute]:
    """Those that both halves of the pictures have and have not; which are not is told."""
    found = dict[str, Attribute]()
    for name, has in read.attributes.items():
        try:
            found[name] = attribute(read.images, read.latents, has)
        except ValueError as error:
            print(f"attribute {name!r} is left out: {error}")
    return found


def _nearest(decode: Decoder, read: Read, wanted: Wanted) -> Found:
    order = np.random.default_rng(wanted.seed).permutation(len(read.images))[:ASKED]
    count = min(NEAR, len(read.images) - 1)
    images = read.as_floats()
    vectors = {"latents": read.latents.flatten(1).numpy(),
               "pixels": of_pixels()(read.images).numpy()}  # fmt: skip
    near = {name: nearest(each, order, count) for name, each in vectors.items()}
    strips = [
        Strip(f"{read.captions[own] or 'picture'}: nearest by {name}",
              torch.cat([images[own][None], images[torch.from_numpy(rows[place])]]))
        for place, own in enumerate(order.tolist()) for name, rows in near.items()
    ]  # fmt: skip
    line = "The first of each row, and those that are nearest to it by the cosine of its numbers."
    return Shown("Nearest pictures", [line], strips), {}


def _codes(decode: Decoder, read: Read, wanted: Wanted) -> Found:
    each = decode.batch_size
    found = torch.cat([decode.tokenizer.encode_ids(some.to(decode.tokenizer.weight.device)).cpu()
                       for some in read.images.split(each)])  # fmt: skip
    books = found if found.ndim == 4 else found[:, None]
    strips, used = [], []
    for book in range(books.shape[1]):
        ids = books[:, book]
        used.append(len(ids.unique()))
        for code in commonest(ids, read.images, wanted.codes):
            where = code.where / code.where.max()
            map_ = torch.nn.functional.interpolate(
                (where * 2 - 1)[None, None], code.mean.shape[-2:]
            ).expand(1, code.mean.shape[0], -1, -1)
            if map_.shape[1] == 4:
                map_ = torch.cat([map_[:, :3], torch.ones_like(map_[:, :1])], 1)
            name = f"{code.code}" if books.shape[1] == 1 else f"{book}: {code.code}"
            strips.append(Strip(f"{name}, {code.part:.2%}",
                                torch.cat([code.mean[None], code.examples, map_])))  # fmt: skip
    of_all = decode.tokenizer.bottleneck.codes
    line = (
        f"Of {of_all} codes {', '.join(map(str, used))} are at some site of these pictures. "
        "Of each: the mean of the pixels under it, some of these, and where it is."
    )
    print(f"codes: {line}")
    told = {"codes": {"codebook": of_all, "used": used}}
    return Shown("Codes", [line], strips, small=True), told


def _interventions(decode: Decoder, read: Read, wanted: Wanted) -> Found:
    make = partial(interventions, decode, read.latents[:2])
    strips = [
        Strip(f"do(factor {factor})", make(factor).flatten(0, 1), slides=True, columns=len(SET_TO))
        for factor in range(decode.tokenizer.bottleneck.z_channels)
    ]
    line = (f"One factor is set, from {SET_TO[0]:g} to {SET_TO[-1]:g} standard deviations, and its "
            "effects follow; what is no effect of it should not move.")  # fmt: skip
    return Shown("Interventions", [line], strips), {}
