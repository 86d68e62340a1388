"""More of what there is little of, made of vectors or maps of one class: repeated, or mixed."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Few = Float[Tensor, "n ..."]
"""All that there is of a class; whatever they are, one to a row."""
TAKEN = 3**-0.5
"""Deviation that is missing where two are mixed, of theirs: by parts that are drawn evenly a third
of the variance."""
Made = Float[Tensor, "k ..."]


@dataclass(frozen=True)
class Repetition:
    """What there is again, by chance: oversampling."""

    def more(self, few: Few, count: int, chance: torch.Generator) -> Made:
        """So many."""
        return few[torch.randint(len(few), (count,), generator=chance)]


@dataclass(frozen=True)
class Interpolation:
    """Between one and one of its nearest neighbours, as far as chance says (SMOTE, Chawla et al.
    2002, section 4.2), and noise around that.
    """

    neighbours: int = 5
    """Of each, by the Euclidean distance; of fewer all."""
    noise: float | None = None
    """Deviation of normal noise that is added, in parts of each number's own deviation in the
    class; of codes there is none. None: in latents that are vectors as much as mixing takes away,
    else none, for noise at each site by itself is in no picture's latents."""

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ValueError(f"--way.neighbours is {self.neighbours}: it must be at least 1")
        if self.noise is not None and not self.noise >= 0:
            raise ValueError(f"--way.noise is {self.noise}: it must be 0 or more")

    def more(self, few: Few, count: int, chance: torch.Generator) -> Made:
        """So many; of one alone it is that, with no noise: nothing says how such things differ."""
        one, other = self._pairs(few, count, chance)
        part = torch.rand(count, generator=chance).to(few)
        part = part.view(-1, *[1] * (few.ndim - 1))
        found = few[one] + part * (few[other] - few[one])
        if self.noise and len(few) > 1:
            drawn = torch.randn(found.shape, generator=chance).to(few)
            found = found + self.noise * few.std(0) * drawn
        return found

    def crossed(
        self, few: Float[Tensor, "n z h w"], count: int, chance: torch.Generator
    ) -> Float[Tensor, "k z h w"]:
        """The same of maps whose sites are codes, which have nothing between them: each site is the
        one's or the other's.
        """
        one, other = self._pairs(few, count, chance)
        part = torch.rand(count, 1, 1, 1, generator=chance)
        sites = torch.rand(count, 1, *few.shape[2:], generator=chance)
        taken: Bool[Tensor, "k 1 h w"] = (sites < part).to(few.device)
        return torch.where(taken, few[other], few[one])

    def _pairs(
        self, few: Few, count: int, chance: torch.Generator
    ) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " k"]]:
        one = torch.randint(len(few), (count,), generator=chance)
        if len(few) == 1:
            return one, one
        flat = few.flatten(1).float().cpu()
        apart = torch.cdist(flat, flat).fill_diagonal_(torch.inf)
        near = apart.topk(min(self.neighbours, len(few) - 1), largest=False).indices
        which = torch.randint(near.shape[1], (count,), generator=chance)
        return one, near[one, which]


Way = Interpolation | Repetition
