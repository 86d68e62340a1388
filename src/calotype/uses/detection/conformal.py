"""Thresholds with a stated rate of false alarms (split conformal prediction; Vovk et al. 2005).

Whatever a score is: if a new normal picture could as well have been one of n held-out ones, it is
above their k-th smallest score, k = ceil((n + 1)(1 - rate)), with a probability of `rate` at most.
That is a promise about all draws of held-out pictures; what one such draw gives, `spread` says.
"""

import math

import numpy as np
from jaxtyping import Float

from calotype.lazy import scipy

Scores = Float[np.ndarray, " _"]


def needed(rate: float) -> int:
    """Held-out normals that a rate of false alarms takes: 19 for 0.05, 99 for 0.01.

    Raises:
        ValueError: it is no rate.
    """
    if not 0 < rate < 1:
        raise ValueError(f"false_alarm_rate is {rate}: it must lie between 0 and 1")
    return math.ceil(round(1 / rate, 9)) - 1


def threshold(held: Scores, rate: float) -> float:
    """What a score has to be above for an alarm.

    Args:
        held: Scores of normals that nothing was fitted to, the higher the more unusual.
        rate: Of false alarms.

    Raises:
        ValueError: these are too few.
    """
    check_enough(len(held), rate)
    return float(np.sort(held)[_rank(len(held), rate) - 1])


def check_enough(held: int, rate: float) -> None:
    """Refuse a rate that so many held-out normals cannot promise.

    Raises:
        ValueError: they cannot.
    """
    if held < (least := needed(rate)):
        raise ValueError(
            f"a false-alarm rate of {rate:g} takes {least} held-out normals, and there are {held}: "
            f"hold out more, or allow a rate of {1 / (held + 1):.3g} or more"
        )


def spread(held: int, rate: float, part: float = 0.9) -> tuple[float, float]:
    """Between what false-alarm rates the threshold of one draw of held-out normals lies, in so
    large a part of draws, where no two scores are equal: the quantiles of a beta distribution.
    """
    above = held + 1 - _rank(held, rate)
    beta = scipy.stats.beta(above, held + 1 - above)
    return float(beta.ppf((1 - part) / 2)), float(beta.ppf((1 + part) / 2))


def p_values(held: Scores, scores: Scores) -> Scores:
    """Of each score the part of held-out normals, itself counted among them, that are as unusual
    or more so: 0.05 or less with a probability of 0.05 at most, if it is normal.
    """
    below = np.searchsorted(np.sort(held), scores, side="left")
    return (1 + len(held) - below) / (len(held) + 1)


def _rank(held: int, rate: float) -> int:
    return math.ceil(round((held + 1) * (1 - rate), 9))
