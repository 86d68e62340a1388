"""Scores tried on pictures of which it is known whether they are normal: both directions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from calotype.tokenizers import ImageTokenizer
from calotype.training.progress import track
from calotype.uses.detection.detector import Learnt, Values, parted, read
from calotype.uses.detection.encoded import Images
from calotype.uses.detection.figures import Figures, figures
from calotype.uses.detection.maps import Rule
from calotype.uses.detection.score import Looked, Score

LEAST = 8
"""Anomalous pictures that the reverse is asked with: half of them are learnt."""


@dataclass(frozen=True)
class Pictures:
    """All pictures of a trial, of 8 bits or in [-1, 1] and of one size."""

    normal: Images
    """Scores learn from them."""
    held: Images
    """Normal too; thresholds are found by them."""
    test: Images
    anomalous: Bool[np.ndarray, " n"] | None = None
    """Of each of the test's; None: it is not known."""
    masks: Bool[np.ndarray, "n H W"] | None = None
    """Of each of the test's where it is; None: it is not known."""

    def reversed(self, seed: int = 0) -> "Pictures":
        """What was anomalous is normal, half of it to be learnt and half to be told from what was
        normal.

        Raises:
            ValueError: that is not known, or there are too few.
        """
        check_reverse(self.anomalous)
        assert self.anomalous is not None
        strange = torch.from_numpy(np.flatnonzero(self.anomalous))
        learnt, other = (strange[part] for part in parted(len(strange), 0.5, seed))
        usual = torch.from_numpy(np.flatnonzero(~self.anomalous))
        told = np.repeat([False, True], [len(other), len(usual)])
        test = torch.cat([self.test[other], self.test[usual]])
        return Pictures(self.test[learnt], self.test[other], test, told)


@dataclass(frozen=True)
class Tried:
    """What a score said of the test's pictures."""

    learnt: Learnt
    looked: Looked
    values: Values
    """Their scores, the higher the more unusual."""
    figures: Figures
    reverse: float | None = None
    """AUROC of the reverse; None: it was not asked, or not of this score."""

    def maps(self, places: Int64[Tensor, " k"]) -> Float[Tensor, "k H W"]:
        """Heat maps of some pictures."""
        return self.learnt.maps(self.looked[places])

    @property
    def alarms(self) -> Bool[np.ndarray, " n"]:
        """Whether each is above the threshold."""
        return self.values > self.learnt.threshold


def check_reverse(anomalous: Bool[np.ndarray, " n"] | Sequence[bool] | None) -> None:
    """Refuse to ask the reverse of such pictures.

    Args:
        anomalous: Of each of the test's whether it is; None: it is not known.

    Raises:
        ValueError: that is not known, or there are too few.
    """
    if anomalous is None:
        raise ValueError("which pictures are anomalous is not known")
    strange = int(np.sum(anomalous))
    if strange < LEAST or strange == len(anomalous):
        raise ValueError(
            f"{strange} anomalous and {len(anomalous) - strange} normal pictures are too few: it "
            f"takes {LEAST} and one"
        )


def tried(
    tokenizer: ImageTokenizer, scores: Mapping[str, Score], pictures: Pictures, rule: Rule,
    each: int = 32,
) -> dict[str, Tried]:  # fmt: skip
    """Try scores, which learn, on the test's pictures; `each` are encoded at a time."""
    parts = pictures.normal, pictures.held, pictures.test
    normal, held, test = (read(tokenizer, scores, part, each) for part in parts)
    size = pictures.test.shape[-2], pictures.test.shape[-1]
    found = {}
    for name, score in track(scores.items(), "scores", len(scores)):
        learnt = Learnt(score, rule, size, normal.pop(name), held.pop(name))
        found[name] = _told(learnt, test[name], pictures)
    return found


def with_reverse(forward: Mapping[str, Tried], backward: Mapping[str, Tried]) -> dict[str, Tried]:
    """Scores of the same names, with the reverse of each that was tried: by the same tokenizer try
    those alone that learn (`learning`).
    """
    return {name: replace(each, reverse=backward[name].figures.auroc) if name in backward else each
            for name, each in forward.items()}  # fmt: skip


def one_way(found: Mapping[str, Tried], works: float = 0.75, fails: float = 0.55) -> list[str]:
    """Names of scores that tell one of two sets from the other and not the other from it."""
    return [name for name, each in found.items()
            if each.reverse is not None and each.figures.auroc is not None
            and max(each.figures.auroc, each.reverse) >= works
            and min(each.figures.auroc, each.reverse) <= fails]  # fmt: skip


def _told(learnt: Learnt, looked: Looked, pictures: Pictures) -> Tried:
    maps = learnt.maps(looked)
    values = learnt.rule.pooled(maps)
    if pictures.anomalous is None:
        return Tried(learnt, looked, values, Figures(None, None, None, None))
    measured = figures(values, pictures.anomalous, maps.numpy(), pictures.masks)
    return Tried(learnt, looked, values, measured)
