"""What is done with a tokenizer that has been trained: normalise, save, and measure the result."""

import json
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch.utils.data import Dataset, IterableDataset

from calotype.data import Loader, Transform, once
from calotype.evaluation.codebook import CodebookHealth, codebook_health, draw_histogram
from calotype.tokenizers import (
    Critic,
    ImageTokenizer,
    LatentStatistics,
    fingerprint,
    fold,
    kept_of,
    measure,
)
from calotype.tokenizers.bottlenecks import Discrete
from calotype.tokenizers.bottlenecks.discrete import WELL_USED
from calotype.tokenizers.likelihood import LikelihoodSpec, keep_likelihood
from calotype.training import Batch, Run
from calotype.training.agreement import by_main
from calotype.training.distributed import processes
from calotype.training.division import Division
from calotype.training.files import publish
from calotype.training.hosts import hand_out
from calotype.training.images import sent_images
from calotype.training.portable import make_portable
from calotype.training.products import exact_products
from calotype.training.progress import say, track

REPORT = "latent_statistics.json"
"""In model/: what was measured on the saved tokenizer, and whether it keeps the latent contract."""
HISTOGRAM = "samples/codebook.png"
"""In the run's folder: how often each code is chosen."""


@dataclass(frozen=True)
class Export:
    """How a run of a tokenizer ends."""

    run: Run
    loader: Loader
    total: int | None
    """Training images; None: a stream."""
    measure: int
    """Training images on which latents are measured."""
    latents_may_move: bool
    validation: Dataset | None = None
    """Pictures on which the codes' use is counted; None: the training images again."""
    transform: Transform | None = None
    """Of those pictures."""
    critic: Critic | None = None
    """The adversary, which is kept for a run that goes on from this one."""
    likelihood: LikelihoodSpec | None = None
    """Of pixels, where the tokenizer is a model of pictures whose likelihood can be measured."""

    @property
    def division(self) -> Division:
        """How ranks share what is measured."""
        return Division.of(self.run, processes().num_processes)

    @property
    def each(self) -> int:
        """Training images that all ranks take at once."""
        return self.division.measured * self.division.processes

    @property
    def count(self) -> int:
        """Batches of each rank that are measured."""
        wanted = self.measure if self.total is None else min(self.measure, 4 * self.total)
        return -(-wanted // self.each)

    @property
    def fresh(self) -> int:
        """Images measured after the folding and not before; there may be too few."""
        images = self.count * self.each
        return images if self.total is None else max(0, min(self.total - images, images))

    @property
    def passes(self) -> float | None:
        """How often each training image is measured; None: a stream."""
        return None if self.total is None else self.count * self.each / self.total

    def batches(self, position: int) -> Iterator[Batch]:
        """Training images of this rank, from a sample on; as many as are measured."""
        state = processes()
        endless = self.loader.batches(
            position, state.process_index, state.num_processes, self.division.measured
        )
        yield from track(islice(endless, self.count), "measuring latents", self.count, self.each)

    def validation_batches(self) -> Iterator[Batch]:
        """Every validation picture once, shared by the ranks."""
        assert self.validation is not None
        state, size = processes(), self.division.measured
        if isinstance(self.validation, IterableDataset):
            every = once(self.validation, size, self.transform, self.run.workers)
            yield from islice(every, state.process_index, None, state.num_processes)
            return
        total: int = len(self.validation)  # type: ignore[arg-type]
        bounds = [total * rank // state.num_processes for rank in range(state.num_processes + 1)]
        rows = range(*bounds[state.process_index :][:2])
        batches = once(self.validation, size, self.transform, self.run.workers, rows)
        each = size * state.num_processes
        yield from track(batches, "counting codes", -(-len(rows) // size), each)


@exact_products()
def finish(tokenizer: ImageTokenizer, export: Export) -> None:
    """Normalise the latents if they may move, save, and measure what was saved.

    Of a source of few images there may be too few to measure as many again that are fresh; then
    the report says how many were.
    """
    state, tokenizer = processes(), tokenizer.float()
    first = next(export.loader.batches(0, state.process_index, state.num_processes))
    examples = sent_images(first["image"], tokenizer.last_layer.weight.device)
    before = tokenizer.reconstruct(examples)
    if (passes := export.passes) and passes > 1:
        say(
            f"measuring latents on {export.count * export.each} images: each of {export.total} "
            f"pictures about {passes:.0f} times, cropped and flipped anew if training does"
        )
    folded = None
    if export.latents_may_move and tokenizer.bottleneck.may_scale:
        folded = fold(tokenizer, measure(tokenizer, export.batches(0)))
    model = export.run.model
    beside = model.with_name(".model.partial")

    def save() -> None:
        tokenizer.save(beside)
        kept_of(tokenizer, export.run.steps, folded, export.critic).write(beside)
        if export.likelihood is not None:
            keep_likelihood(beside, export.likelihood)

    by_main(save)
    hand_out(beside)
    saved = ImageTokenizer.load(beside).to(before.device)
    moved = (saved.reconstruct(examples) - before).abs().max().item()
    statistics = measure(saved, export.batches(export.count * export.each))
    health = _health(saved, export)
    breach = _breach(saved, statistics, moved, export)

    def write() -> None:
        report = _report(saved, statistics, moved, export, breach) | _of_codes(health)
        (beside / REPORT).write_text(json.dumps(report, indent=1) + "\n")
        make_portable(beside)
        publish(beside, model)
        if health:
            _show(health, tokenizer, export)

    by_main(write)
    if breach and state.is_main_process:
        warnings.warn(f"{model / REPORT}: {breach}", stacklevel=3)  # past exact_products
    hand_out(model)
    if not state.is_main_process:  # of a host with a disk of its own
        shutil.rmtree(beside, ignore_errors=True)


def _health(tokenizer: ImageTokenizer, export: Export) -> CodebookHealth | None:
    if not isinstance(tokenizer.bottleneck, Discrete):
        return None
    position = export.count * export.each
    batches = export.batches(position) if export.validation is None else export.validation_batches()
    return codebook_health(tokenizer, batches)


def _show(health: CodebookHealth, tokenizer: ImageTokenizer, export: Export) -> None:
    histogram = export.run.out / HISTOGRAM
    histogram.parent.mkdir(exist_ok=True)
    draw_histogram(health, histogram)
    if health.use >= WELL_USED:
        return
    bottleneck = tokenizer.bottleneck
    assert isinstance(bottleneck, Discrete)
    few = health.sites < 2 * bottleneck.codes
    larger = "" if export.validation else " or a larger --measure"
    more = f"count on more, by --run.resume with validation:folder --validation.path DIR{larger}"
    mend = more if few else bottleneck.remedy
    warnings.warn(
        f"{health.use:.0%} of {bottleneck.codes} codes are in use over {health.sites} sites "
        f"({histogram}): {mend}",
        stacklevel=4,  # past finish and exact_products
    )


def _report(
    tokenizer: ImageTokenizer, statistics: LatentStatistics, moved: float, export: Export,
    breach: str | None,
) -> dict[str, Any]:  # fmt: skip
    return {
        "tokenizer": fingerprint(tokenizer), "images": statistics.images,
        "of_pictures": export.total, "times_each": export.passes,
        "of_them_not_measured_before": export.fresh,
        "latent_mean": statistics.mean.tolist(), "latent_std": statistics.std.tolist(),
        "reconstruction_moved": moved, "breach": breach,
    }  # fmt: skip


def _of_codes(health: CodebookHealth | None) -> dict[str, Any]:
    if health is None:
        return {}
    return {"codes_used": health.use, "perplexity": health.perplexity, "sites": health.sites}


def _breach(
    tokenizer: ImageTokenizer, statistics: LatentStatistics, moved: float, export: Export
) -> str | None:
    """What of the latent contract is broken; None: nothing."""
    if moved > 1e-4:
        return f"what is decoded moved by {moved:.1e} in the saving"
    # Codes share one deviation, which keeps the nearest the nearest.
    discrete = isinstance(tokenizer.bottleneck, Discrete)
    worst = (statistics.isotropic() if discrete else statistics).worst()
    moves = export.latents_may_move and tokenizer.bottleneck.may_scale
    if moves and worst > 0.02:
        fresh = export.fresh
        mend = f"--measure more than {export.measure} images" if fresh else "there are few images"
        return (
            f"on {'fresh' if fresh else 'the same'} images a latent channel departs by "
            f"{worst:.3f} from mean 0 or deviation 1: {mend}"
        )
    return None
