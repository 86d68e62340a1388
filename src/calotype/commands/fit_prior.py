"""Fitting a prior to a trained tokenizer's latents."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import tyro
from torch.utils.data import Dataset

from calotype.commands.flags import check_counts
from calotype.commands.quiet import quiet
from calotype.data import CenterCrop, Folder, Source, Transform, some_of
from calotype.data.loading.batches import draw_keys
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.priors import Mixture, PriorSpec, fit_prior
from calotype.training import Batch
from calotype.training.agreement import by_main
from calotype.training.devices import Computation, computing


@dataclass(frozen=True)
class FitPrior(Computation):
    """Fit a prior to the latents of pictures, so that `calotype generate --pipeline FOLDER` draws
    from a tokenizer alone. It is kept beside the tokenizer.
    """

    tokenizer: tyro.conf.Positional[Path]
    """Folder of a continuous tokenizer."""
    data: Source = field(default_factory=lambda: Folder(Path("images")))
    """Those it was trained on; they are resized and centre-cropped to its size."""
    prior: PriorSpec = field(default_factory=lambda: Mixture(10))
    count: int | None = None
    """Pictures, from all over the data; of a stream the first. None: all."""
    seed: int = 0
    """Of the latents that are drawn from posteriors."""
    batch_size: int = 64
    """Pictures at a time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "count", "batch_size")


def fit(options: FitPrior) -> Path:
    """Fit and write; returns the file. Of several processes the main one does, once.

    Raises:
        ValueError, FileNotFoundError: there is no such tokenizer, it has codes, or there are no
            pictures.
    """
    quiet()
    return by_main(lambda: _fit(options))


def _fit(options: FitPrior) -> Path:
    options.warn_of_emulation()
    folder = options.tokenizer
    for inside in ("model", "tokenizer/model"):
        if not (folder / "README.md").is_file() and (folder / inside).is_dir():
            folder = folder / inside
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: give one of a tokenizer on this machine")
    tokenizer = ImageTokenizer.load(folder).to(options.place)
    size = tokenizer.sample_size
    transform = Transform(CenterCrop(size), mode=tokenizer.mode)
    data = options.data.build()
    with computing(options.precision, options.place, *tokenizer.networks):
        prior = fit_prior(tokenizer, _keyed(options, data, transform), options.prior)
    return prior.save(folder)


def _keyed(options: FitPrior, data: Dataset, transform: Transform) -> Iterator[Batch]:
    seen = 0
    for batch in some_of(data, options.count, transform, options.batch_size):
        images = batch["image"]
        yield {"image": images, "key": draw_keys(options.seed, seen, len(images))}
        seen += len(images)
