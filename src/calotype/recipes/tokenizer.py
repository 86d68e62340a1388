"""Training a tokenizer: the recipe's fields and the run they make."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import torch
from rich.progress import track
from torch.utils.data import Dataset, IterableDataset

from calotype.data import Loader, OpenMoji, Scenes, Source, Transform, once
from calotype.tokenizers import (
    Backbone,
    Critic,
    Gaussian,
    ImageTokenizer,
    LatentStatistics,
    Reconstruction,
    fingerprint,
    fold,
    measure,
)
from calotype.tokenizers.bottlenecks import BottleneckSpec
from calotype.tokenizers.terms import L1, LPIPS, Adversary, Pixel
from calotype.training import AdamW, Batch, Objective, Run, begin, fit
from calotype.training.checkpoint import publish
from calotype.training.distributed import processes


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Without TF32, which keeps ten bits of each factor: less than the latent contract."""
    was = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = was


@dataclass(frozen=True)
class NewTokenizer:
    """A tokenizer with fresh weights, whose latents are normalised when it is trained."""

    backbone: Backbone = field(default_factory=Backbone)
    bottleneck: BottleneckSpec = field(default_factory=Gaussian)

    latents_may_move = True

    def build(self, size: int, maps: int = 3) -> ImageTokenizer:
        """Make it, for images of `size` pixels a side; its decoder emits `maps` channels."""
        autoencoder = self.backbone.autoencoder(self.bottleneck, size, maps)
        return ImageTokenizer(autoencoder, self.bottleneck.build())

    def inputs(self, tokenizer: ImageTokenizer) -> dict[str, str]:
        """Fingerprints of what it was made from: nothing."""
        return {}


@dataclass(frozen=True)
class PretrainedDecoder:
    """A stock AutoencoderKL or VQModel of which only the decoder is trained: latents stay what they
    are, and every generator that lives in them gets the better decoder.
    """

    path: str = "stabilityai/sd-vae-ft-mse"
    """Folder of one or of a pipeline, or a name on the Hub."""

    latents_may_move = False

    def build(self, size: int, maps: int = 3) -> ImageTokenizer:
        """Load it and freeze its encoder; its decoder emits three maps, whatever is asked."""
        tokenizer = ImageTokenizer.load(self.path)
        model = tokenizer.autoencoder.requires_grad_(False)
        for part in (model.decoder, model.post_quant_conv):
            if part is not None:
                part.requires_grad_(True)
        return tokenizer

    def inputs(self, tokenizer: ImageTokenizer) -> dict[str, str]:
        """Fingerprint of the latent space that is kept."""
        return {"latent space": fingerprint(tokenizer)}


@dataclass(frozen=True)
class TokenizerRecipe:
    """Train an image tokenizer."""

    data: Source = field(default_factory=Scenes)
    transform: Transform | None = None
    """How pictures become square images; None: they are already."""
    model: NewTokenizer | PretrainedDecoder = field(default_factory=NewTokenizer)
    pixel: Pixel = field(default_factory=L1)
    perceptual: LPIPS | None = field(default_factory=LPIPS)
    adversary: Adversary | None = field(default_factory=Adversary)
    optimizer: AdamW = field(default_factory=AdamW)
    gradient_checkpointing: bool = False
    """Compute activations twice to hold fewer of them."""
    measure: int = 10_000
    """Training images on which the latents' mean and deviation are measured; at most four passes
    over the source."""
    examples: int = 8
    """Pictures reconstructed in samples/: the first of the source."""
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        for name in ("measure", "examples"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")
        if self.pixel.maps != 3 and isinstance(self.model, PretrainedDecoder):
            raise ValueError(
                f"pixel is {type(self.pixel).__name__}, which reads {self.pixel.maps} maps, and a "
                "pretrained decoder emits 3: choose pixel:l1, pixel:l2 or pixel:huber"
            )

    @property
    def size(self) -> int:
        """Pixels a side of the images."""
        return image_size(self.data, self.transform)


def image_size(data: Source, transform: Transform | None) -> int:
    """Pixels a side of the images that a source and a transform make.

    Raises:
        ValueError: the source's pictures come in any size and nothing makes them equal.
    """
    if transform is not None:
        return transform.crop.size
    if isinstance(data, Scenes | OpenMoji):
        return data.size
    raise ValueError(
        f"{type(data).__name__} pictures come in any size: choose transform:transform and "
        "--transform.crop.size PIXELS"
    )


def train_tokenizer(recipe: TokenizerRecipe) -> Path:
    """Train, normalise and save a stock AutoencoderKL; returns its folder, `run.out/model`.

    Raises:
        ValueError, FileNotFoundError: something in the recipe cannot be; before any training.
    """
    size = recipe.size
    dataset = recipe.data.build()
    torch.manual_seed(recipe.run.seed)
    if recipe.adversary:
        recipe.adversary.check(size)
        _warn_of_idle(recipe.adversary, recipe.run)
    reconstruction = _reconstruction(recipe, size, dataset)
    objectives: list[Objective] = [reconstruction]
    if recipe.adversary:
        settings = replace(recipe.optimizer, lr=recipe.adversary.lr, warmup=0)
        objectives.append(Critic(recipe.adversary, reconstruction, settings))
    state = processes()
    if state.is_main_process:
        begin(recipe.run, recipe, recipe.model.inputs(reconstruction.tokenizer))
    state.wait_for_everyone()
    run = recipe.run
    loader = Loader(dataset, run.batch_size, seed=run.seed, transform=recipe.transform,
                    workers=run.workers)  # fmt: skip
    fit(objectives, loader, run)
    if loader.skipped:
        warnings.warn(f"broken pictures skipped: {loader.skipped}", stacklevel=2)
    total = None if isinstance(dataset, IterableDataset) else len(dataset)  # type: ignore[arg-type]
    _finish(recipe, reconstruction.tokenizer, loader, total)
    return run.model


def _warn_of_idle(adversary: Adversary, run: Run) -> None:
    if adversary.effect_start >= run.steps:
        warnings.warn(
            f"adversary.effect_start is {adversary.effect_start} and run.steps {run.steps}: it "
            "will never be felt, unless --adversary.start and --adversary.effect-start are earlier",
            stacklevel=3,
        )


def _reconstruction(recipe: TokenizerRecipe, size: int, dataset: Dataset) -> Reconstruction:
    terms = {"pixel": (recipe.pixel.weight, recipe.pixel.build())}
    if recipe.perceptual:
        recipe.perceptual.check(size)
        terms["lpips"] = (recipe.perceptual.weight, recipe.perceptual.build())
    tokenizer = recipe.model.build(size, recipe.pixel.maps)
    tokenizer.check(size)
    if recipe.gradient_checkpointing:
        tokenizer.enable_gradient_checkpointing()
    examples = next(once(dataset, recipe.examples, recipe.transform))["image"]
    return Reconstruction(tokenizer, terms, recipe.optimizer, examples)


@exact_convolutions()
def _finish(
    recipe: TokenizerRecipe, tokenizer: ImageTokenizer, loader: Loader, total: int | None
) -> None:
    """Normalise the latents if they may move, save, and measure what was saved.

    Of a source of `total` images there may be too few to measure as many again that are fresh;
    then the report says how many were.
    """
    state, tokenizer = processes(), tokenizer.float()
    each = recipe.run.batch_size * state.num_processes
    wanted = recipe.measure if total is None else min(recipe.measure, 4 * total)
    count = -(-wanted // each)

    def batches(position: int) -> Iterator[Batch]:
        endless = loader.batches(position, state.process_index, state.num_processes)
        yield from track(islice(endless, count), "measuring latents", count,
                         disable=not state.is_main_process)  # fmt: skip

    first = next(loader.batches(0, state.process_index, state.num_processes))
    examples = first["image"].to(tokenizer.last_layer.weight.device)
    before = tokenizer.reconstruct(examples)
    if recipe.model.latents_may_move:
        fold(tokenizer, measure(tokenizer, batches(0)))
    beside = recipe.run.model.with_name(".model.partial")
    if state.is_main_process:
        tokenizer.save(beside)
    state.wait_for_everyone()
    saved = ImageTokenizer.load(beside).to(before.device)
    moved = (saved.reconstruct(examples) - before).abs().max().item()
    statistics = measure(saved, batches(count * each))
    if state.is_main_process:
        fresh = count * each if total is None else max(0, min(total - count * each, count * each))
        breach = _breach(recipe, statistics, moved, fresh)
        _write_report(beside, saved, statistics, moved, fresh, breach)
        publish(beside, recipe.run.model)
        if breach:
            warnings.warn(f"{recipe.run.model / REPORT}: {breach}", stacklevel=2)
    state.wait_for_everyone()


REPORT = "latent_statistics.json"
"""In model/: what was measured on the saved tokenizer, and whether it keeps the latent contract."""


def _write_report(
    folder: Path, tokenizer: ImageTokenizer, statistics: LatentStatistics, moved: float,
    fresh: int, breach: str | None,
) -> None:  # fmt: skip
    report = {
        "tokenizer": fingerprint(tokenizer), "images": statistics.images,
        "of_them_not_measured_before": fresh,
        "latent_mean": statistics.mean.tolist(), "latent_std": statistics.std.tolist(),
        "reconstruction_moved": moved, "breach": breach,
    }  # fmt: skip
    (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n")


def _breach(
    recipe: TokenizerRecipe, statistics: LatentStatistics, moved: float, fresh: int
) -> str | None:
    """What of the latent contract is broken; None: nothing."""
    if moved > 1e-4:
        return f"what is decoded moved by {moved:.1e} in the saving"
    if recipe.model.latents_may_move and statistics.worst() > 0.02:
        mend = f"measure more than {recipe.measure} images" if fresh else "there are few images"
        return (
            f"on {'fresh' if fresh else 'the same'} images a latent channel departs by "
            f"{statistics.worst():.3f} from mean 0 or deviation 1: {mend}"
        )
    return None
