"""Codecs, learnt and classical, on the same pictures: bits beside distortion."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro

from calotype.commands.flags import check_counts
from calotype.commands.judging import Judging
from calotype.commands.quiet import quiet
from calotype.data import CenterCrop, Folder, Source, Transform, some_of
from calotype.data.reading.transforms import eight_bits
from calotype.evaluation.rates import Images, Rate, There, measure
from calotype.pages.rates import PAGE, write
from calotype.tokenizers.terms.base import Term
from calotype.training.agreement import by_main
from calotype.training.devices import computing
from calotype.training.progress import track
from calotype.uses.compression import Codec
from calotype.uses.compression.classical import Classical, at_hand
from calotype.uses.compression.latents import LatentModel, method_of


@dataclass(frozen=True, kw_only=True)
class RateDistortion(Judging):
    """Bits and distortion of pictures as models compress them, beside JPEG, WebP, AVIF and JPEG XL
    at several qualities; of all the whole files count.
    """

    models: tyro.conf.Positional[tuple[str, ...]]
    """Folders of transformers over tokens, or of tokenizers with an entropy model beside them."""
    data: Source = field(default_factory=lambda: Folder(Path("images")))
    """Pictures that nothing was trained on; they are resized and centre-cropped."""
    size: int | None = None
    """Pixels a side; None: as the first model's tokenizer was trained, or 256."""
    count: int | None = None
    """Pictures, from all over the data; of a stream the first. None: all."""
    steps: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0, 2.0)
    """Of continuous latents, a quality each."""
    batch_size: int = 32
    """Pictures at a time."""
    out: Path = Path("rates")
    """Folder of rates.html, rates.md, rates.png and rates.json."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "count", "size", "batch_size")
        if not self.steps:
            raise ValueError("--steps is empty: give one or more, such as 0.5")
        for step in self.steps:
            method_of(step)
        if not self.models:
            raise ValueError("give a model or more, such as runs/small-ar")
        if self.out.is_file():
            raise ValueError(f"--out is {self.out}, a file: name a folder")


def rate_distortion(options: RateDistortion) -> Path:
    """Measure, and write page, table and picture; returns the page. Of several processes the main
    one does.

    Raises:
        ValueError, FileNotFoundError: there is no such model, it takes no such pictures, or there
            are none.
    """
    quiet()
    return by_main(lambda: _measured(options))


def _measured(options: RateDistortion) -> Path:
    options.warn_of_emulation()
    codecs = {path: Codec.load(path) for path in options.models}
    first = next(iter(codecs.values())).tokenizer
    size = options.size or first.sample_size
    mode = first.mode
    for path, codec in codecs.items():
        codec.tokenizer.check_mode(mode, path)
        codec.check(size, size)
        codec.tokenizer.to(options.place)
    classical, missing = at_hand(mode)
    lpips = dict(options.perceptual(size, missing))
    for name, why in missing.items():
        print(f"left out: {name}, because {why}")
    ways = dict[tuple[str, str], There]()
    for path, codec in codecs.items():
        steps = options.steps if isinstance(codec.models, LatentModel) else (1.0,)
        told = [f"step {step:g}" for step in steps] if len(steps) > 1 else [""]
        ways |= {(path, name): _by_model(codec, step)
                 for name, step in zip(told, steps, strict=True)}  # fmt: skip
    for each in classical:
        ways |= {(each.name, str(q)): _by_classical(each, q, mode) for q in each.qualities}
    networks = [each for codec in codecs.values() for each in codec.tokenizer.networks]
    with computing(options.precision, options.place, *networks):
        rates = _rates(options, ways, lpips, Transform(CenterCrop(size), mode=mode))
    said = [f"{rates[0].pictures} pictures of {size} pixels; sizes are of whole files. LPIPS and "
            "PSNR are means over pictures. Latents come back exactly; a decoder's last bits depend "
            "on the machine."]  # fmt: skip
    said += [f"Left out: {name}, because {why}." for name, why in missing.items()]
    write(options.out, rates, said)
    return options.out / PAGE


def _rates(
    options: RateDistortion, ways: Mapping[tuple[str, str], There], lpips: Mapping[str, Term],
    transform: Transform,
) -> list[Rate]:  # fmt: skip
    rates = [Rate(*way) for way in ways]
    batches = some_of(options.data.build(), options.count, transform, options.batch_size)
    for batch in track(batches, "batches of pictures", None, options.batch_size):
        measure(rates, list(ways.values()), batch["image"], lpips)
    return rates


def _by_classical(codec: Classical, quality: int, mode: str) -> There:
    def there(images: Images) -> tuple[list[int], Images]:
        files = codec.compress(images, quality)
        return [len(file) for file in files], codec.decompress(files, mode)

    return there


def _by_model(codec: Codec, step: float) -> There:
    def there(images: Images) -> tuple[list[int], Images]:
        files = codec.compress(images, step)
        return [len(file) for file in files], eight_bits(torch.stack(codec.decompress(files)))

    return there
