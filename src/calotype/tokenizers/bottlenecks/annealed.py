"""What bottlenecks have in common that train on relaxed samples, and later draw hard ones."""

from abc import ABC
from typing import Any

from torch import Tensor

from calotype.tokenizers.bottlenecks.base import Bottleneck, check_weight
from calotype.training.schedules import Schedule


class Annealed(Bottleneck, ABC):
    """Its samples are relaxed at a temperature that follows the optimiser steps."""

    exported = may_scale = False
    has_prior = True
    temperature: float
    """At this step."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.spec, self.z_channels = spec, spec.channels

    def step_begin(self, step: int) -> None:
        """Follow the schedule."""
        self.temperature = self.spec.temperature.at(step)
        self.metrics = {"temperature": self._number(self.temperature)}

    def _number(self, value: float) -> Tensor:
        # Filled there: a number that is copied to a device waits for it.
        return next(self.parameters()).new_full((), value)


def check_annealed(channels: int, temperature: Schedule, kl_weight: float) -> None:
    """Refuse numbers of a spec that are not possible.

    Raises:
        ValueError: there is no channel, the temperature falls to 0, or the weight is below 0.
    """
    if channels < 1:
        raise ValueError(f"bottleneck.channels is {channels}: it must be at least 1")
    check_weight("bottleneck.kl_weight", kl_weight)
    check_temperature(temperature)


def check_temperature(schedule: Schedule) -> None:
    """Refuse one that nothing can be divided by.

    Raises:
        ValueError: it falls to 0 or below.
    """
    if not schedule.least > 0:
        raise ValueError(f"bottleneck.temperature reaches {schedule.least}: it must stay positive")
