"""One page of what is in a tokenizer's latents."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from torch import Tensor

from calotype.commands.explored import Read, Wanted, attributes_of, sections
from calotype.commands.flags import check_counts
from calotype.commands.labelled import check_factors, listed, read_factors
from calotype.commands.quiet import quiet
from calotype.data import CenterCrop, Folder, Source, Transform
from calotype.pages.exploration import Charted, write_exploration
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Discrete
from calotype.training.agreement import by_main
from calotype.training.devices import Computation, computing
from calotype.training.files import write_text
from calotype.uses.exploring import Decoder
from calotype.uses.maps import Map, Principal, Umap, trustworthiness
from calotype.uses.representations import of_pixels

LEAST = 8
"""Pictures."""


@dataclass(frozen=True)
class Explore(Computation):
    """One page of what is in a tokenizer's latents: a map of a data set, a grid, ways between
    pictures, attributes with sliders, nearest pictures, codes, and factors that are set.
    """

    tokenizer: tyro.conf.Positional[str]
    """Folder of a tokenizer, ours or a stock one, or a name on the Hub."""
    data: Source = field(default_factory=lambda: Folder(Path("images")))
    """Pictures to read; attributes are words of their captions."""
    map: Map = field(default_factory=Principal)
    """How the map is made."""
    attributes: tuple[str, ...] = ()
    """Words of captions whose directions are shown; neither these nor factors: the commonest."""
    factor: tuple[int, ...] = ()
    """Which true factors of data that tells them, such as data:shapes, are attributes too, which
    pictures have in the upper half of its range."""
    count: int = 1000
    """Pictures, from all over the data; of a stream the first."""
    size: int | None = None
    """Pixels a side; None: as the tokenizer was trained, or 256 where it does not say."""
    pairs: int = 4
    """Of pictures between which ways are shown."""
    points: int = 9
    """Pictures of a way, ends and all."""
    path_steps: int = 100
    """Of the optimiser that finds geodesics."""
    codes: int = 64
    """Of each codebook that are shown, at most, where there are codes."""
    batch_size: int = 32
    """Pictures at a time."""
    seed: int = 0
    """Of the choice of pictures and of the map."""
    out: Path = Path("exploration.html")
    """The page; its figures are written beside it, as .json."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "size", "path_steps", "codes", "batch_size", count=LEAST, pairs=0,
                     points=3)  # fmt: skip
        if any(factor < 0 for factor in self.factor):
            raise ValueError(f"--factor is {self.factor}: factors are numbered from 0")
        if self.out.suffix != ".html":
            raise ValueError(f"--out is {self.out}: name a page, such as exploration.html")
        if isinstance(self.map, Umap):
            self.map.check()


def explore(options: Explore) -> Path:
    """Read, compute, print figures and write the page; returns it. Of several processes the main
    one does.

    Raises:
        ValueError, FileNotFoundError: there is no such tokenizer, too few pictures, or none has a
            word or a factor that was asked for.
    """
    quiet()
    return by_main(partial(_explore, options))


def _explore(options: Explore) -> Path:
    options.warn_of_emulation()
    dataset = options.data.build()
    _check_ahead(options, dataset)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = ImageTokenizer.load(options.tokenizer).to(options.place)
    size = options.size or tokenizer.sample_size
    tokenizer.check(size)
    if (options.attributes or options.factor) and isinstance(tokenizer.bottleneck, Discrete):
        raise ValueError(f"{options.tokenizer} has codes, between which there are no directions: "
                         "leave --attributes and --factor out")  # fmt: skip
    decode = Decoder(tokenizer, options.batch_size)
    with computing(options.precision, options.place, *tokenizer.networks):
        read = _read(options, dataset, decode, Transform(CenterCrop(size), mode=tokenizer.mode))
        charted, figures = _map(options, read)
        wanted = Wanted(options.pairs, options.points, options.path_steps, options.codes,
                        options.seed)  # fmt: skip
        shown, told = sections(decode, read, wanted)
    figures |= told
    lines = [f"{options.tokenizer}, {len(read.images)} pictures of {size} pixels."]
    write_exploration(options.out, "What is in the latents", lines, charted, shown)
    said: dict[str, Any] = {"artifact": options.tokenizer, "pictures": len(read.images),
                            "size": size, **figures}  # fmt: skip
    write_text(options.out.with_suffix(".json"), json.dumps(said, indent=1) + "\n")
    return options.out


def _check_ahead(options: Explore, dataset: Any) -> None:
    """Refuse what data tell to be wrong before a picture is decoded, as far as they can."""
    captions = listed(dataset, options.count)
    if captions is not None:
        _attributes(options, captions, None, ())
    elif options.factor and hasattr(dataset, "batch"):
        check_factors(options.factor, dataset.batch([0]).get("factors"), "data")


def _attributes(
    options: Explore, captions: list[str], told: Tensor | None, names: Sequence[str]
) -> dict[str, Tensor]:  # fmt: skip
    """Which pictures have each attribute.

    Raises:
        ValueError: there are fewer than eight, or all have one that was asked for, or none.
    """
    if len(captions) < LEAST:
        raise ValueError(f"data has {len(captions)} pictures: a map wants {LEAST} or more")
    return attributes_of(captions, told, options.attributes, options.factor, names)


def _read(options: Explore, dataset: Any, decode: Decoder, transform: Transform) -> Read:
    """Pictures, their captions and latents."""
    every, said, told = read_factors(dataset, transform, options.count, options.batch_size)
    attributes = _attributes(options, said, told, getattr(dataset, "names", ()))
    return Read(every, said, decode.latents(every), attributes)


def _map(options: Explore, read: Read) -> tuple[Charted, dict[str, Any]]:
    vectors, pixels = read.latents.flatten(1).numpy(), of_pixels()(read.images).numpy()
    plane = options.map.plane(vectors, options.seed)
    own = trustworthiness(vectors, plane)
    control = trustworthiness(pixels, Principal().plane(pixels, options.seed))
    name = type(options.map).__name__.upper() if isinstance(options.map, Umap) else "principal"
    line = (f"Latents on a plane, {name}. Trustworthiness {own:.3f}; of pixels and their principal "
            f"plane {control:.3f} (1: all that lie beside each other are neighbours).")  # fmt: skip
    print(line)
    figures = {"map": {"trustworthiness": own, "pixels": control}}
    return Charted("Map", line, np.asarray(plane), read.captions, read.as_floats()), figures
