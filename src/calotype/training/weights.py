"""What tells weights from other weights."""

import hashlib
from collections.abc import Iterable

from torch import Tensor, nn


def digest(weights: Iterable[tuple[str, Tensor]], first: str = "") -> str:
    """The SHA-256 of named weights, in their order and in float32, as 16 hexadecimal digits.

    Args:
        weights: Names and tensors.
        first: What else counts, before all of them.
    """
    found = hashlib.sha256(first.encode())
    for name, weight in weights:
        found.update(f"{name} {tuple(weight.shape)}".encode())
        found.update(weight.detach().float().contiguous().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def weights_of(network: nn.Module) -> str:
    """The digest of all that a network holds."""
    return digest(sorted(network.state_dict().items()))
