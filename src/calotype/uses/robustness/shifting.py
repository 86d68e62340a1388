"""How far attacked pictures lead a tokenizer's latents, and how far chains lead them back."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.terms.likelihoods import Likelihood
from calotype.uses.robustness.attacks import PGD, Images, moved, noise, pgd
from calotype.uses.robustness.correcting import Normal, corrected, latents, unquantised
from calotype.uses.robustness.hmc import HMC


@dataclass(frozen=True)
class OfLatents:
    """Latents are to go as far as they can; of codes, what they are chosen by."""

    def made(self, tokenizer: ImageTokenizer, images: Images) -> Tensor:
        """What is to go far, of pictures in [-1, 1]."""
        return unquantised(tokenizer, images)


@dataclass(frozen=True)
class OfReconstructions:
    """Reconstructions are."""

    def made(self, tokenizer: ImageTokenizer, images: Images) -> Tensor:
        """What is to go far, of pictures in [-1, 1]."""
        return tokenizer.decode(unquantised(tokenizer, images)).float()


Goal = OfLatents | OfReconstructions


@dataclass(frozen=True)
class Moved:
    """Means over pictures."""

    shift: float
    """Euclidean distance of latents from the clean picture's, in parts of the mean distance of two
    pictures' latents."""
    error: float
    """Mean squared difference of what is decoded from the clean picture, black to white being 1."""
    apart: float
    """The same from the clean picture's reconstruction."""


@dataclass(frozen=True)
class Shifted:
    """What became of some pictures."""

    figures: dict[str, Moved]
    """`clean`, with `noise` within the bound, `attacked`; where latents can be corrected also
    `corrected`, and `clean, corrected`, which is what correcting costs."""
    seen: dict[str, Images]
    """What the encoder is shown, of the first three."""
    decoded: dict[str, Images]
    """Of each."""
    accepted: float | None
    """Part of the chains' proposals that was."""

    @property
    def restored(self) -> dict[str, float] | None:
        """Of what the attack added to each figure, the part that chains took away again; None:
        there are no chains.
        """
        if "corrected" not in self.figures:
            return None
        clean, attacked, mended = (vars(self.figures[name])
                                   for name in ("clean", "attacked", "corrected"))  # fmt: skip
        return {name: (attacked[name] - mended[name]) / max(attacked[name] - clean[name], 1e-12)
                for name in ("shift", "error", "apart")}  # fmt: skip


@dataclass(frozen=True)
class Chain:
    """How latents are corrected."""

    likelihood: Likelihood
    """Of pixels given latents."""
    prior: Normal
    """Of latents."""
    how: HMC = field(default_factory=HMC)


def shifted(
    tokenizer: ImageTokenizer, images: Images, eps: float, goal: Goal | None = None,
    how: PGD | None = None, chain: Chain | None = None, batch_size: int = 128,
) -> Shifted:  # fmt: skip
    """Attack pictures in [-1, 1], and correct what became of them where a chain is given.

    Raises:
        ValueError: eps is no bound, or such latents cannot be corrected.
    """
    goal, how = goal or OfLatents(), how or PGD()

    def attack(some: Images, place: int) -> Images:
        harm = moved(lambda asked: goal.made(tokenizer, asked), some)
        return pgd(harm, some, eps, replace(how, seed=how.seed + place))

    seen = {"clean": images, "noise": noise(images, eps, how.seed),
            "attacked": _each(attack, images, batch_size)}  # fmt: skip
    z = {name: _each(lambda some, _: _latents(tokenizer, some), each, batch_size)
         for name, each in seen.items()}  # fmt: skip
    accepted = None
    if chain is not None:
        taken = list[Tensor]()

        def mended(some: Images, place: int) -> Tensor:
            own = replace(chain.how, seed=chain.how.seed + place)
            found = corrected(tokenizer, some, chain.likelihood, chain.prior, own)
            taken.append(found.accepted)
            return found.mean

        z["corrected"] = _each(mended, seen["attacked"], batch_size)
        accepted = torch.cat(taken).mean().item()
        z["clean, corrected"] = _each(mended, images, batch_size)
    with torch.no_grad():
        decoded = {name: _each(lambda some, _: tokenizer.decode(some).float().clamp(-1, 1), each,
                               batch_size) for name, each in z.items()}  # fmt: skip
    wide = _spread(z["clean"])
    figures = {name: Moved((_far(z[name], z["clean"]).mean() / wide).item(),
                           _error(decoded[name], images), _error(decoded[name], decoded["clean"]))
               for name in z}  # fmt: skip
    return Shifted(figures, seen, decoded, accepted)


@torch.no_grad()
def _latents(tokenizer: ImageTokenizer, images: Images) -> Float[Tensor, "b z h w"]:
    return latents(tokenizer, images)


def _each(what: Callable[[Tensor, int], Tensor], every: Tensor, batch_size: int) -> Tensor:
    return torch.cat([what(some, place) for place, some in enumerate(every.split(batch_size))])


def _far(z: Tensor, other: Tensor) -> Float[Tensor, " b"]:
    return torch.linalg.vector_norm((z - other).flatten(1), dim=1)


def _spread(z: Tensor) -> Float[Tensor, ""]:
    """Mean distance of two pictures' latents; of one picture 1."""
    return torch.pdist(z.flatten(1)).mean() if len(z) > 1 else z.new_ones(())


def _error(fake: Images, real: Images) -> float:
    return ((fake - real) / 2).square().mean().item()
