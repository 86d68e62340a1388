"""Which samples a run takes where they come in buckets: each step from one of them."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Int16

from calotype.data.loading.batches import epoch_seed
from calotype.data.loading.order import Places, cut, ordered, shuffled


class Plan:
    """The order of a run over buckets, of which any part is had without those before it.

    A step takes its samples, of all ranks and micro-batches, from one bucket, so that it is the
    same however it is divided. A bucket's pictures come in a new order each time that all of them
    have come; what is left over of them when an epoch ends comes first in the next. So at the end
    of an epoch every picture has come as often as any other, or once less; where a bucket has
    fewer pictures than a step, they come several times in one of its steps, and as much more
    seldom.

    Args:
        buckets: Indices of each bucket's pictures, of one or more: an array, or what gives those at
            some places; it may say its order by a method `order(seed)`.
        step: Samples of a step.
        seed: Of the order; None: as the buckets, and the pictures in them, stand.
    """

    def __init__(self, buckets: Sequence[Any], step: int, seed: int | None) -> None:
        self.buckets = [places for places in buckets if len(places)]
        self.step, self.seed = step, seed
        self.total = sum(map(len, self.buckets))
        self._of_epoch = lru_cache(maxsize=2)(self._epoch)
        self._of_bucket = lru_cache(maxsize=2 * len(self.buckets))(self._order)

    def __call__(self, start: int, count: int) -> Places:
        """Indices of the samples [start, start + count) of a run.

        Raises:
            ValueError: they are not of one step.
        """
        step, within = divmod(start, self.step)
        if within + count > self.step:
            raise ValueError(
                f"{count} samples from {start} on are of two steps of {self.step}, which may be "
                "of two buckets: begin at a multiple of the batch size"
            )
        bucket, turn = self.place(step)
        places = self.buckets[bucket]
        chosen = cut(
            lambda epoch: self._of_bucket(bucket, epoch), len(places),
            turn * self.step + within, count,
        )  # fmt: skip
        return places[chosen]

    def place(self, step: int) -> tuple[int, int]:
        """The bucket of a step, and how many steps it had before."""
        # Buckets lag behind their share by less than a step each.
        last = (step + len(self.buckets) + 1) * self.step // self.total + 1
        epoch = bisect_right(range(last), step, key=self._steps)
        within, order = step - self._steps(epoch - 1), self._of_epoch(epoch)
        bucket = int(order[within])
        before = int((order[:within] == bucket).sum())
        return bucket, self._given(bucket, epoch - 1) + before

    def _given(self, bucket: int, epoch: int) -> int:
        """Steps that a bucket has had when an epoch ends."""
        return (epoch + 1) * len(self.buckets[bucket]) // self.step

    def _steps(self, epoch: int) -> int:
        """Steps that a run has had when an epoch ends."""
        return sum(self._given(bucket, epoch) for bucket in range(len(self.buckets)))

    def _epoch(self, epoch: int) -> Int16[np.ndarray, " steps"]:
        """The bucket of each step of an epoch."""
        buckets = range(len(self.buckets))
        steps = np.repeat(
            np.array(buckets, np.int16),
            [self._given(k, epoch) - self._given(k, epoch - 1) for k in buckets],
        )
        if self.seed is None:
            return steps
        return steps[shuffled(len(steps), epoch_seed(self.seed, epoch))]

    def _order(self, bucket: int, epoch: int) -> Any:
        """The order in which a bucket's pictures come for the nth time."""
        places = self.buckets[bucket]
        if self.seed is None:
            return range(len(places))
        seed = epoch_seed(self.seed, epoch, bucket)
        return ordered(len(places), seed, getattr(places, "order", None), self.total)
