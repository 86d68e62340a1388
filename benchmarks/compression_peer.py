"""CompressAI's factorised prior (Ballé et al. 2018), trained for some minutes, for compression.py.

    benchmarks/.venv/bin/python benchmarks/compression_peer.py TRAINED.parquet HELD.parquet

Its files are coded for real and counted whole. `make peers` installs CompressAI.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from compression import Data
from torch import Tensor

from calotype.data.reading.transforms import eight_bits
from calotype.evaluation.rates import Rate, measure
from calotype.tokenizers.terms import LPIPS
from calotype.training.images import scaled


@dataclass(frozen=True)
class Peer:
    """A peer, and what it is trained on and measured on."""

    trained: tyro.conf.Positional[Path]
    held: tyro.conf.Positional[Path]
    size: int = 64
    minutes: float = 10.0
    weight: float = 0.01
    """Of the squared error, in 8 bits, beside bits a pixel: lambda of the paper."""
    width: int = 64
    latent: int = 96
    count: int = 10_000
    """Pictures that it is measured on."""
    weights: Path | None = None
    """Folder of LPIPS' backbones."""
    out: Path = Path("peer.json")
    """Where what is measured is added."""


def trained(peer: Peer) -> tuple[Any, int]:
    """A model, after so many minutes, and the steps that these were."""
    from compressai.models import FactorizedPrior  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    model, steps = FactorizedPrior(peer.width, peer.latent), 0
    tables = [p for name, p in model.named_parameters() if name.endswith(".quantiles")]
    rest = [p for name, p in model.named_parameters() if not name.endswith(".quantiles")]
    optimizers = torch.optim.Adam(rest, 1e-3), torch.optim.Adam(tables, 1e-3)
    every = torch.cat(list(Data(peer.trained, None, peer.size).batches()))
    until = time.monotonic() + 60 * peer.minutes
    while True:
        for some in torch.randperm(len(every)).split(16):
            x = (scaled(every[some]) + 1) / 2
            out = model(x)
            bits = -sum(each.log2().sum() for each in out["likelihoods"].values())
            error = 255**2 * (out["x_hat"] - x).square().mean()
            for optimizer in optimizers:
                optimizer.zero_grad()
            (bits / x[:, 0].numel() + peer.weight * error).backward()
            torch.nn.utils.clip_grad_norm_(rest, 1.0)
            model.aux_loss().backward()
            for optimizer in optimizers:
                optimizer.step()
            steps += 1
            if time.monotonic() > until:
                model.eval().update(force=True)
                return model, steps


def measured(peer: Peer, model: Any, steps: int) -> Rate:
    """Bits and distortion of pictures that it has not seen."""
    files = {"alex": "alexnet-features.safetensors", "vgg": "vgg16-features.safetensors"}
    lpips = {net: LPIPS(net=net, backbone_weights=peer.weights and peer.weights / file).build()
             for net, file in files.items()}  # fmt: skip
    rate = Rate("CompressAI factorised prior", f"lambda {peer.weight:g}, {steps} steps")

    @torch.no_grad()
    def there(images: Tensor) -> tuple[list[int], Tensor]:
        coded = model.compress((scaled(images) + 1) / 2)
        back = model.decompress(coded["strings"], coded["shape"])["x_hat"]
        # Two bytes each of width and height would do for a head.
        return [len(each) + 4 for each in coded["strings"][0]], eight_bits(2 * back - 1)

    for images in Data(peer.held, peer.count, peer.size).batches():
        measure([rate], [there], images, lpips)
    return rate


if __name__ == "__main__":
    asked = tyro.cli(Peer)
    found = measured(asked, *trained(asked))
    before = json.loads(asked.out.read_text()) if asked.out.exists() else []
    before.append({"codec": found.codec, "quality": found.quality, "pictures": found.pictures,
                   "bytes": found.bytes, "bits_per_pixel": found.bits_per_pixel,
                   **found.figures})  # fmt: skip
    asked.out.write_text(json.dumps(before, indent=1))
    print(before[-1])
