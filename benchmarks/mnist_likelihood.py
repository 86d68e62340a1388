"""Likelihood of binarised MNIST under a variational autoencoder, beside the published one.

    python benchmarks/mnist_likelihood.py FOLDER    the four files of MNIST
    python benchmarks/mnist_likelihood.py digits.parquet    a table with a column `image`

Rezende & Mohamed 2015 (table 2) have 89.9 nats for a diagonal Gaussian posterior of 40 numbers and
200 samples of importance, between layers of 400 maxout units. benchmark_VAE reproduces 89.78 by one
layer of 400 rectified units each way, which is what is trained here. A pixel is white with the
probability of its brightness, drawn once where a digit is measured, and anew each time that one is
trained on; there once for all, of 50,000 digits, by 10,000 others of which the best epoch is
chosen. Of a folder the 60,000 are trained on and the 10,000 measured, and nothing is chosen; of a
table each ninth row is measured, and fewer digits to train on are a harder task. Exits with 1 where
the bound is more than 1.5 nats above what is published.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from claims.learning import Shuffled
from torch import Tensor

from calotype.evaluation.likelihood import importance_bound
from calotype.tokenizers import Gaussian, ImageTokenizer, Reconstruction
from calotype.tokenizers.terms import BinaryLikelihood
from calotype.tokenizers.vector import Dense
from calotype.training import AdamW, Batch, Run, fit

PUBLISHED, NEAR = 89.9, 1.5
SIZE = 28


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("digits", type=Path)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--measured", type=int, default=2000, help="digits measured, at most")
    parser.add_argument("--out", type=Path, default=Path("runs/mnist-likelihood"))
    options = parser.parse_args()
    levels, held_out = digits(options.digits)
    train, test = binarised(levels, seed=0), binarised(held_out, seed=1)
    torch.manual_seed(0)
    spec, pixel = Gaussian(40, kl_weight=1.0, keep_prior=True), BinaryLikelihood()
    autoencoder = Dense((400,)).autoencoder(spec, SIZE, 1)
    tokenizer = ImageTokenizer(autoencoder, spec.build())
    optimizer = AdamW(1e-3, schedule="cosine")
    objective = Reconstruction(tokenizer, {"pixel": (1.0, pixel.build())}, optimizer)
    run = Run(options.out, steps=options.steps, batch_size=100, clip=None, overwrite=True,
              log_every=1000, save_every=10**9, precision="fp32")  # fmt: skip
    began = time.perf_counter()
    fit([objective], DrawnAnew(levels, run.batch_size), run)
    minutes = (time.perf_counter() - began) / 60
    found = {}
    for name, images in (("trained on", train), ("held out", test)):
        some = images[: options.measured].split(50)
        batches = [{"image": part, "key": range(50 * i, 50 * i + len(part))}
                   for i, part in enumerate(some)]  # fmt: skip
        found[name] = importance_bound(tokenizer, objective.terms["pixel"], batches, 200)
    for name, bound in found.items():
        print(f"{name}: {bound.nll:.2f} +- {bound.error:.2f} nats, ELBO {-bound.elbo:.2f}, "
              f"{bound.images} digits, {bound.samples} samples")  # fmt: skip
    nll = found["held out"].nll
    print(f"published {PUBLISHED}: {nll - PUBLISHED:+.2f}; {len(train)} digits, "
          f"{options.steps} steps, {minutes:.1f} minutes")  # fmt: skip
    print(json.dumps({name: vars(bound) for name, bound in found.items()}))
    sys.exit(nll > PUBLISHED + NEAR)


def digits(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels of digits to train on and to measure, uint8 [n, 28, 28]."""
    if path.is_dir():
        return read_idx(path, "train"), read_idx(path, "t10k")
    import datasets

    table = datasets.load_dataset("parquet", data_files=str(path), split="train")
    pixels = np.stack([np.asarray(row["image"].convert("L")) for row in table])
    ninth = np.arange(len(pixels)) % 9 == 0
    return pixels[~ninth], pixels[ninth]


def read_idx(folder: Path, name: str) -> np.ndarray:
    """One of MNIST's files of images."""
    (file,) = folder.glob(f"{name}-images*ubyte")
    return np.fromfile(file, np.uint8, offset=16).reshape(-1, SIZE, SIZE)


class DrawnAnew(Shuffled):
    """Batches whose pixels are white by chance, another each time that a digit comes."""

    def __init__(self, pixels: np.ndarray, batch_size: int) -> None:
        super().__init__({"image": torch.from_numpy(pixels)}, batch_size)

    def batches(
        self, position: int = 0, rank: int = 0, world: int = 1, micro_batch: int | None = None
    ) -> Iterator[Batch]:
        """From a sample on, without end."""
        for batch in super().batches(position, rank, world, micro_batch):
            yield {**batch, "image": binarised(batch["image"].numpy(), seed=batch["key"][0])}


def binarised(pixels: np.ndarray, seed: int) -> Tensor:
    """White with the probability of their brightness: -1 and 1, float32 [n, 1, 28, 28]."""
    white = np.random.default_rng(seed).random(pixels.shape, np.float32) < pixels / 255
    return torch.from_numpy(np.where(white, 1, -1).astype(np.float32))[:, None]


if __name__ == "__main__":
    main()
