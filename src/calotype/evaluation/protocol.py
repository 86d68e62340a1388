"""What a figure of an evaluation depends on, beside the artifact: printed with each, and frozen."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

VERSION = 1
"""Of the protocol: raised by whatever moves a figure. Resizing is antialiased and crops are
central; every measure reads images of 8 bits a channel, as they would be saved; networks compute in
float32, without TF32, but for those that are measured where `precision` says so; a picture that
comes back exactly counts 100 dB; SSIM has a Gaussian window of 11 pixels and deviation 1.5, at
borders over the reflected picture; Frechet distances are of features in float64; precision and
recall have 3 neighbours."""


class ProtocolError(ValueError):
    """Figures of unlike protocols were to be compared."""


@dataclass(frozen=True)
class Protocol:
    """How an artifact was measured."""

    images: int
    """Pictures of the data."""
    size: int
    """Pixels a side."""
    digest: str
    """SHA-256 of those pictures, and for a generator their captions, 16 hexadecimal digits:
    whatever the folder is called."""
    features: str | None
    """Network of the distances between distributions, and a digest of its weights."""
    lpips: dict[str, str] = field(default_factory=dict)
    """Backbones of LPIPS, and digests of their weights."""
    seed: int = 0
    """Of whatever is drawn: a generator's images, or the latents whose spread is measured."""
    sampling: dict[str, Any] | None = None
    """How a generator drew; None for a tokenizer."""
    repeats: int = 1
    """Images that it drew for each caption."""
    clip: str | None = None
    """The CLIP that scored them, and a digest of its weights."""
    training: str | None = None
    """How many training pictures they were looked for among, and a digest of those."""
    importance_samples: int | None = None
    """Latents drawn of each picture, to tell how likely that is; None: that was not measured."""
    precision: str = "fp32"
    """In which the artifact computed: fp32, bf16 or fp16."""
    device: str | None = None
    """Kind of device on which: cpu, cuda, ...; None: it was measured before this was noted."""
    version: int = VERSION

    def check(self, other: "Protocol") -> None:
        """Refuse to compare with figures of another protocol; how generators draw may differ,
        and the device, which moves the last digits. Where one has no likelihood, there is none to
        compare.

        Raises:
            ProtocolError: something else does.
        """
        own, theirs = asdict(self), asdict(other)
        free = {"sampling", "device"}
        if None in (self.importance_samples, other.importance_samples):
            free.add("importance_samples")
        for name in own.keys() - free:
            if own[name] != theirs[name]:
                raise ProtocolError(
                    f"figures of unlike protocols: {name} is {own[name]} and {theirs[name]}; "
                    "measure both again in the same way"
                )


class Digest:
    """Of images in the order in which they come, in whatever batches."""

    def __init__(self) -> None:
        self.sha = hashlib.sha256()

    def add(self, images: UInt8[Tensor, "b c H W"], captions: Sequence[str] | None = None) -> None:
        """Go on with these."""
        for i, image in enumerate(images.cpu()):
            self.sha.update(image.contiguous().numpy().tobytes())
            if captions is not None:
                self.sha.update(captions[i].encode() + b"\0")

    def __str__(self) -> str:
        return self.sha.hexdigest()[:16]


def rounded(value: Any) -> Any:
    """Numbers to the four places that are written, in lists and dictionaries too."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


def digest_of(weights: dict[str, Tensor]) -> str:
    """Of a network's weights, 8 hexadecimal digits."""
    sha = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        sha.update(name.encode() + weight.cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:8]
