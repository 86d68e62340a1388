"""Scores learnt from normal pictures, with a threshold from others: a verdict on any picture."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from calotype.tokenizers import ImageTokenizer
from calotype.training.progress import track
from calotype.uses.detection.conformal import check_enough, p_values, threshold
from calotype.uses.detection.encoded import Encoded, Images
from calotype.uses.detection.maps import Rule
from calotype.uses.detection.score import Looked, Score

Values = Float[np.ndarray, " _"]


def read(
    tokenizer: ImageTokenizer, scores: Mapping[Any, Score], images: Images, each: int = 32
) -> dict[Any, Looked]:
    """What scores read off images, in one pass, `each` at a time."""
    parts: dict[Any, list[Tensor]] = {name: [] for name in scores}
    batches = images.split(each)
    for batch in track(batches, "batches of pictures", len(batches), each):
        pictures = Encoded(tokenizer.eval(), batch)
        for name, score in scores.items():
            parts[name].append(score.look(pictures).float().cpu())
    return {name: torch.cat(some) for name, some in parts.items()}


class Learnt:
    """A score that has learnt what is normal, and its threshold.

    Args:
        score: Which.
        rule: From maps to verdicts.
        size: Height and width of images.
        normal: What it read off normal pictures.
        held: What it read off others, which are normal too.
    """

    def __init__(
        self, score: Score, rule: Rule, size: tuple[int, int], normal: Looked, held: Looked
    ) -> None:
        self.score, self.rule, self.size = score, rule, size
        score.learn(normal)
        self.held: Values = rule.pooled(self.maps(held))

    @property
    def threshold(self) -> float:
        """Of pictures' scores: above it is an alarm.

        Raises:
            ValueError: too few were held out for the rate of false alarms.
        """
        return threshold(self.held, self.rule.false_alarm_rate)

    def maps(self, looked: Looked) -> Float[Tensor, "n H W"]:
        """Heat maps of pictures' size: the higher, the more unusual."""
        parts = looked.split(64)
        return torch.cat([self.rule.heat(self.score.judge(part), self.size) for part in parts])

    def p_values(self, values: Values) -> Values:
        """As `conformal.p_values`, of scores that were pooled from maps."""
        return p_values(self.held, values)


class Detector:
    """One score on images, called as scikit-learn's detectors of novelties are.

    `score_samples` and `decision_function` are the lower the more unusual, as there; heat maps are
    the higher.

    Args:
        tokenizer: Trained on normal pictures.
        score: What is looked at.
        rule: From heat maps to verdicts.
        held_out: Part of the pictures that `fit` is given that nothing is fitted to, for the
            threshold, where it is given no others.
        batch_size: Pictures at a time.
        seed: Of which are held out.
    """

    def __init__(
        self, tokenizer: ImageTokenizer, score: Score, rule: Rule | None = None,
        held_out: float = 0.25, batch_size: int = 32, seed: int = 0,
    ) -> None:  # fmt: skip
        if not 0 < held_out < 1:
            raise ValueError(f"held_out is {held_out}: it must lie between 0 and 1")
        self.tokenizer, self.score, self.rule = tokenizer, score, rule or Rule()
        self.held_out, self.batch_size, self.seed = held_out, batch_size, seed
        self._learnt: Learnt | None = None

    def fit(self, images: Images, held: Images | None = None) -> "Detector":
        """Learn from normal images.

        Args:
            images: Of 8 bits, or in [-1, 1].
            held: Normal ones that the tokenizer was not trained on either, for the threshold, whose
                promise holds for such alone; None: a part of `images`.

        Raises:
            ValueError: there are too few for the rate of false alarms.
        """
        if held is None:
            kept, out = parted(len(images), self.held_out, self.seed)
            images, held = images[kept], images[out]
        check_enough(len(held), self.rule.false_alarm_rate)
        size = images.shape[-2], images.shape[-1]
        self._learnt = Learnt(self.score, self.rule, size, self._look(images), self._look(held))
        return self

    @property
    def learnt(self) -> Learnt:
        """What was learnt: threshold, held-out scores.

        Raises:
            ValueError: nothing was.
        """
        if self._learnt is None:
            raise ValueError("this detector has learnt nothing: call fit with normal images first")
        return self._learnt

    def maps(self, images: Images) -> Float[Tensor, "n H W"]:
        """Heat maps of the images' size: the higher, the more unusual."""
        return self.learnt.maps(self._look(images))

    def score_samples(self, images: Images) -> Values:
        """How usual each image is: the lower, the more unusual."""
        return -self.rule.pooled(self.maps(images))

    def decision_function(self, images: Images) -> Values:
        """The same, below 0 where it is an alarm."""
        return self.score_samples(images) + self.learnt.threshold

    def predict(self, images: Images) -> Int64[np.ndarray, " n"]:
        """-1 where it is an alarm, else 1."""
        return np.where(self.decision_function(images) < 0, -1, 1)

    def p_values(self, images: Images) -> Values:
        """As `conformal.p_values`."""
        return self.learnt.p_values(-self.score_samples(images))

    def _look(self, images: Images) -> Looked:
        return read(self.tokenizer, {"": self.score}, images, self.batch_size)[""]


def parted(count: int, part: float, seed: int) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " m"]]:
    """Places to learn from, and a part to hold out, of so many."""
    places = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held = min(max(1, round(part * count)), count - 1)
    return places[held:].sort().values, places[:held].sort().values
