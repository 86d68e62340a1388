"""Fitting what a tokenizer's latents are compressed by."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from calotype.commands.flags import check_counts
from calotype.commands.quiet import quiet
from calotype.data import CenterCrop, Folder, Source, Transform, some_of
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.tokenizer import KEPT_IN
from calotype.training.agreement import by_main
from calotype.training.devices import Computation, computing
from calotype.training.images import Pixels
from calotype.training.network import located
from calotype.training.progress import track
from calotype.uses.compression import (
    Hyperprior,
    fit_entropy_model,
    read_latents,
    save_entropy_model,
)


@dataclass(frozen=True)
class FitEntropyModel(Computation):
    """Fit what `calotype compress` codes a tokenizer's latents by, and keep it beside the
    tokenizer: of codes how often each stands, for pictures of any size; of continuous latents a
    hyperprior.
    """

    tokenizer: tyro.conf.Positional[Path]
    """Folder of a tokenizer."""
    data: Source = field(default_factory=lambda: Folder(Path("images")))
    """Those it was trained on; they are resized and centre-cropped to its size."""
    count: int | None = None
    """Pictures, from all over the data; of a stream the first. None: all."""
    size: int | None = None
    """Pixels a side; None: as the tokenizer was trained, or 256 where it does not say."""
    batch_size: int = 32
    """Pictures at a time."""
    hyperprior: Hyperprior = field(default_factory=Hyperprior)
    """Of continuous latents."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "count", "size", "batch_size")


def fit(options: FitEntropyModel) -> Path:
    """Fit and write; returns the file. Of several processes the main one does, once.

    Raises:
        ValueError, FileNotFoundError: there is no such tokenizer here, or there are no pictures.
    """
    quiet()
    return by_main(lambda: _fit(options))


def _fit(options: FitEntropyModel) -> Path:
    options.warn_of_emulation()
    folder = Path(located(options.tokenizer, *KEPT_IN))
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: give one of a tokenizer on this machine")
    tokenizer = ImageTokenizer.load(folder).to(options.place)
    size = options.size or tokenizer.sample_size
    tokenizer.check(size)
    with computing(options.precision, options.place, *tokenizer.networks):
        latents = read_latents(tokenizer, _images(options, tokenizer, size))
    model = fit_entropy_model(tokenizer, latents, options.hyperprior)
    return save_entropy_model(model, tokenizer, len(latents), folder)


def _images(options: FitEntropyModel, tokenizer: ImageTokenizer, size: int) -> Iterator[Pixels]:
    transform = Transform(CenterCrop(size), mode=tokenizer.mode)
    batches = some_of(options.data.build(), options.count, transform, options.batch_size)
    for batch in track(batches, "batches of pictures", None, options.batch_size):
        yield batch["image"]
