"""What papers claim of the family of autoencoders, measured beside its controls (docs/family.md).

    python benchmarks/family.py                     all of it, some twenty minutes of one core
    python benchmarks/family.py denoising masking   some of it

Digits are scikit-learn's, all else is drawn; nothing is downloaded. Prints a table and exits with 1
where a bar is missed. Of total correlation and of MNIST's likelihood there are disentanglement.py
and mnist_likelihood.py; of sparse latents tests/tokenizers/test_sparse.py.
"""

import sys
import time
from collections.abc import Callable

from claims.contrastive import contrast
from claims.discrete import bits, causes, circle, counts
from claims.learning import Figure
from claims.masked import masking
from claims.plain import contractive, deep, denoising, linear
from claims.variational import capacity, divergence, drawing, weights

CLAIMS: dict[str, Callable[[], list[Figure]]] = {
    claim.__name__: claim
    for claim in (linear, deep, denoising, contractive, divergence, drawing, weights, capacity,
                  contrast, counts, bits, causes, circle, masking)
}  # fmt: skip


def main(names: list[str]) -> int:
    """Measure, print; how many bars were missed."""
    if unknown := set(names) - CLAIMS.keys():
        sys.exit(f"no claim {', '.join(unknown)}: choose from {', '.join(CLAIMS)}")
    print("| figure | measured | bar | control |\n|---|---|---|---|")
    missed = 0
    for name in names or CLAIMS:
        began = time.perf_counter()
        for figure in CLAIMS[name]():
            print(figure.row(), flush=True)
            missed += not figure.holds
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) > 0)
