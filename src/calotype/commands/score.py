"""How likely a transformer finds images under their captions."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import tyro
from torch.utils.data import Dataset, IterableDataset

from calotype.commands.flags import check_counts
from calotype.commands.quiet import quiet
from calotype.data import Folder, Source, Transform
from calotype.data.loading.passes import Turn, own_turns
from calotype.data.pictures import spread
from calotype.evaluation.glossary import glossed
from calotype.pipelines import TokenPipeline, load, score
from calotype.pipelines.folders import fingerprint
from calotype.training.agreement import agree_to_share, by_main
from calotype.training.devices import Computation, Precision
from calotype.training.distributed import processes
from calotype.training.files import written
from calotype.training.progress import Told
from calotype.training.sharing import in_turn

MEANS = ("bits_per_token", "bits_per_token_without_prompt", "bits_per_pixel")
"""What is printed of all images."""


@dataclass(frozen=True)
class Score(Computation):
    """Bits that a transformer needs for the tokens of images, under their captions and without;
    what the tokenizer leaves out is not among them. Processes of a launcher share the images.
    """

    pipeline: tyro.conf.Positional[str]
    """Folder of a transformer's pipeline, or a name on the Hub."""
    data: Source = field(default_factory=lambda: Folder(Path("images")))
    """The images; they are resized and centre-cropped to the pipeline's size, of several shapes
    each to the nearest, those of the commonest first."""
    prompt: str | None = None
    """Score all images under this one; None: under their captions."""
    count: int | None = None
    """Images to score; None: all."""
    precision: Precision = field(default="fp32", kw_only=True)
    """Of the transformer; the tokenizer computes in fp32."""
    batch_size: int = 32
    """Images at a time."""
    out: Path = Path("scores.jsonl")
    """The file to write: a line of JSON for each image, in the order of the data, with its name, or
    its number where it has none. Fewer bits: likelier."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "count", "batch_size")


def score_images(options: Score) -> Path:
    """Score and write; returns the file.

    Raises:
        ValueError, FileNotFoundError: there is no such pipeline, or there are no images.
    """
    if options.out.is_dir():
        raise ValueError(f"--out is {options.out}, a folder: name a file, such as scores.jsonl")
    quiet()
    options.warn_of_emulation()
    pipeline = load(options.pipeline).to(options.place)
    if not isinstance(pipeline, TokenPipeline):
        raise ValueError(f"{options.pipeline} is a diffusion pipeline: only a transformer scores")
    agree_to_share(pipeline=partial(fingerprint, pipeline))
    data = spread(options.data.build(), options.count)
    total, main = _total(data, options.count), processes().is_main_process
    scored = in_turn(_turns(options, data, pipeline), partial(_scored, options, pipeline))
    sums, count = dict.fromkeys(MEANS, 0.0), 0
    with (
        written(options.out) if main else nullcontext() as file,
        Told("scoring", total, images=1) as told,
    ):
        for lines in scored:
            for line in lines:
                print(json.dumps(line), file=file)
            sums = {name: total + sum(line[name] for line in lines) for name, total in sums.items()}
            count += len(lines)
            told.advance(len(lines))
        by_main(lambda: _check_some(count))
    if main:
        print(f"{count} images, in {options.exactness} on {options.place}:")
        for name, total in sums.items():
            print(f"{glossed(name)}: {total / count:.4f}")
    return options.out


def _check_some(count: int) -> None:
    if not count:
        raise ValueError("no images to score: the data source is empty")


def _turns(options: Score, data: Dataset, pipeline: TokenPipeline) -> Iterator[Turn]:
    transform = Transform(pipeline.crop, mode=pipeline.tokenizer.mode)
    return own_turns(data, options.batch_size, transform, count=options.count)


def _total(data: Dataset, count: int | None) -> int | None:
    """Of images, if it is known."""
    if isinstance(data, IterableDataset):
        return count
    there = len(data)  # type: ignore[arg-type]
    return there if count is None else min(count, there)


def _scored(options: Score, pipeline: TokenPipeline, turn: Turn) -> list[dict[str, Any]]:
    """A line of each image of a batch."""
    if not turn.batch:
        return []
    images, said = turn.batch["image"], turn.batch["caption"]
    prompts = said if options.prompt is None else [options.prompt] * len(said)
    height, width = images.shape[-2:]
    pipeline = pipeline.shaped(height, width)
    codes, tokens, pixels = pipeline.codes(images), pipeline.layout.length, height * width
    told, untold = (
        score(pipeline, codes, each, options.exactness) for each in (prompts, [""] * len(prompts))
    )
    names = turn.batch.get("name") or turn.batch["row"]
    return [
        {"image": name, "prompt": prompt, "bits_per_token": a / tokens,
         "bits_per_pixel": a / pixels, "bits_per_token_without_prompt": b / tokens}
        for name, prompt, a, b in zip(names, prompts, told.tolist(), untold.tolist(), strict=True)
    ]  # fmt: skip
