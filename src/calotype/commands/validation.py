"""Small evaluations while training runs, on what is not trained on."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from calotype.data import Transform, some_of
from calotype.data.aspect.bucketed import in_buckets
from calotype.data.cache.latents import LatentRows
from calotype.data.loading.batches import draw_keys
from calotype.data.pictures import spread
from calotype.data.reading.transforms import eight_bits
from calotype.evaluation.distortion import distortion
from calotype.evaluation.reconstructions import EXACT_DB
from calotype.tokenizers import Reconstruction, psnr
from calotype.tokenizers.gradients import Images
from calotype.tokenizers.terms import Term
from calotype.training import Objective
from calotype.training.devices import computing
from calotype.training.images import sent_images
from calotype.training.noise import generators, sent
from calotype.training.precision import autocast
from calotype.training.products import exact_products

Figures = dict[str, float]


def of_tokenizer(
    objective: Reconstruction, dataset: Dataset, transform: Transform | None, count: int,
    lpips: Mapping[str, Term], each: int,
) -> Callable[[], Figures]:  # fmt: skip
    """PSNR, SSIM and LPIPS by what is given, of `count` pictures from all over the data,
    `each` at a time; encoder and decoder compute in the run's precision, the measures exactly.
    With a corruption also the PSNR of what that makes of them, `corrupted`, and of what becomes of
    this, `restored`, by the same chance each time.
    """
    some = spread(dataset, count)
    return partial(_distortion, objective, some, transform, count, lpips, each)


@exact_products()
def _distortion(
    objective: Reconstruction, dataset: Dataset, transform: Transform | None, count: int,
    lpips: Mapping[str, Term], each: int,
) -> Figures:  # fmt: skip
    tokenizer = objective.tokenizer
    device = tokenizer.last_layer.weight.device
    values: dict[str, list[Tensor]] = {}
    seen = 0
    for batch in some_of(dataset, count, transform, each):
        real = sent_images(batch["image"], device)
        with computing(objective.precision, device, *tokenizer.networks):
            fake = tokenizer.reconstruct(real)
        measured = distortion(eight_bits(real), eight_bits(fake), lpips)
        if objective.corruption:
            measured |= _restored(objective, real, draw_keys(0, seen, len(real)))
        for name, found in measured.items():
            values.setdefault(name, []).append(found.clamp(max=EXACT_DB))
        seen += len(real)
    return {name: torch.cat(parts).mean().item() for name, parts in values.items()}


@torch.no_grad()
def _restored(objective: Reconstruction, real: Images, keys: Sequence[int]) -> dict[str, Tensor]:
    assert objective.corruption
    tokenizer = objective.tokenizer
    corrupted = objective.corruption(real, generators(keys)).images
    with computing(objective.precision, real.device, *tokenizer.networks):
        restored = tokenizer.reconstruct(corrupted)
    return {"corrupted": psnr(corrupted, real), "restored": psnr(restored, real)}


def of_generator(objective: Objective, rows: LatentRows, each: int) -> Callable[[], Figures]:
    """The loss, its parts and its metrics in latents that are held out, `each` at a time and in the
    run's precision, every prompt and noise the same each time.
    """
    return partial(_losses, objective, rows, each)


@torch.no_grad()
def _losses(objective: Objective, rows: LatentRows, each: int) -> Figures:
    values: dict[str, list[Tensor]] = {}
    counts: list[int] = []
    device = next(objective.parameters()).device
    every = rows.buckets() or [np.arange(len(rows))]
    for draws in in_buckets(every, range(len(rows)), each):
        places, keys = (list(column) for column in zip(*draws, strict=True))
        batch = {name: sent(value, device) if isinstance(value, Tensor) else value
                 for name, value in rows.batch(places, keys).items()}  # fmt: skip
        # As late as can be: random orders and the like have faded.
        with autocast(objective.precision, device):
            losses = objective({**batch, "key": keys}, sys.maxsize)
        found = {"loss": sum(losses.values()), **losses, **objective.metrics}
        for name, value in found.items():
            values.setdefault(name, []).append(torch.as_tensor(value))
        counts.append(len(keys))
    # Read at the end: the device is not waited for at each batch.
    weights = torch.tensor(counts, dtype=torch.float64) / len(rows)
    return {name: (torch.stack(each).cpu().double() @ weights).item()
            for name, each in values.items()}  # fmt: skip
