"""How far single numbers of a latent stand for single factors of the pictures."""

import numpy as np
from jaxtyping import Float, Int

BINS = 20


def mutual_information_gap(
    latents: Float[np.ndarray, "n z"], factors: Int[np.ndarray, "n f"], bins: int = BINS
) -> Float[np.ndarray, " f"]:
    """MIG (Chen et al. 2018, section 4.1), of each factor; their mean is what is published.

    By how much the number that says most of a factor says more than the next one, as a share of the
    factor's entropy: 1 where one number says all and the others nothing, 0 where two say as much.

    Args:
        latents: One row for each picture, such as posterior means; each number is put into `bins`
            equal ones from its least value to its largest, as Locatello et al. 2019 do.
        factors: Whole numbers, independent of one another, each of at least two values.
        bins: How many.

    Raises:
        ValueError: there are fewer than two numbers, or a factor has one value.
    """
    if latents.shape[1] < 2:
        raise ValueError(f"latents have {latents.shape[1]} numbers: a gap is between two")
    if still := [i for i, factor in enumerate(factors.T) if (factor == factor[0]).all()]:
        raise ValueError(f"factor {still[0]} has one value: leave it out")
    information = np.stack([
        [_information(_binned(z, bins), factor) for z in latents.T] for factor in factors.T
    ])  # fmt: skip
    entropy = np.array([_information(factor, factor) for factor in factors.T])
    second, first = np.sort(information, axis=1)[:, -2:].T
    return (first - second) / entropy


def _binned(z: Float[np.ndarray, " n"], bins: int) -> Int[np.ndarray, " n"]:
    edges = np.linspace(z.min(), z.max(), bins + 1)[1:-1]
    return np.digitize(z, edges)


def _information(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " n"]) -> float:
    """Mutual information of two columns of whole numbers, in nats."""
    _, a = np.unique(a, return_inverse=True)
    _, b = np.unique(b, return_inverse=True)
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1 / len(a))
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    some = joint > 0
    return float((joint[some] * np.log(joint[some] / apart[some])).sum())
