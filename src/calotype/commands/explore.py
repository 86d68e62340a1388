"""One page of what is in a tokenizer's latents."""

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from calotype.commands.explored import Read, Wanted, sections
from calotype.commands.flags import check_counts
from calotype.commands.labelled import read_pictures
from calotype.commands.quiet import quiet
from calotype.data import CenterCrop, Folder, Source, Transform
from calotype.pages.exploration import Charted, write_exploration
from calotype.tokenizers import ImageTokenizer
from calotype.training.agreement import by_main
from calotype.training.devices import Computation, computing
from calotype.training.files import write_text
from calotype.uses.exploring import Decoder
from calotype.uses.maps import Map, Principal, Umap, trustworthiness
from calotype.uses.representations import of_pixels


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
    """Words of captions whose directions are shown; none: the commonest."""
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
        check_counts(self, "size", "path_steps", "codes", "batch_size", count=8, pairs=0, points=3)
        if self.out.suffix != ".html":
            raise ValueError(f"--out is {self.out}: name a page, such as exploration.html")
        if isinstance(self.map, Umap):
            self.map.check()


def explore(options: Explore) -> Path:
    """Read, compute, print figures and write the page; returns it. Of several processes the main
    one does.

    Raises:
        ValueError, FileNotFoundError: there is no such tokenizer, too few pictures, or no caption
            has a word that was asked for.
    """
    quiet()
    return by_main(partial(_explore, options))


def _explore(options: Explore) -> Path:
    options.warn_of_emulation()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = ImageTokenizer.load(options.tokenizer).to(options.place)
    size = options.size or tokenizer.sample_size
    tokenizer.check(size)
    decode = Decoder(tokenizer, options.batch_size)
    with computing(options.precision, options.place, *tokenizer.networks):
        read = _read(options, decode, Transform(CenterCrop(size), mode=tokenizer.mode))
        charted, figures = _map(options, read)
        wanted = Wanted(options.attributes, options.pairs, options.points, options.path_steps,
                        options.codes, options.seed)  # fmt: skip
        shown, told = sections(decode, read, wanted)
    figures |= told
    lines = [f"{options.tokenizer}, {len(read.images)} pictures of {size} pixels."]
    write_exploration(options.out, "What is in the latents", lines, charted, shown)
    said: dict[str, Any] = {"artifact": options.tokenizer, "pictures": len(read.images),
                            "size": size, **figures}  # fmt: skip
    write_text(options.out.with_suffix(".json"), json.dumps(said, indent=1) + "\n")
    return options.out


def _read(options: Explore, decode: Decoder, transform: Transform) -> Read:
    """Pictures, their captions and latents.

    Raises:
        ValueError: there are fewer than eight.
    """
    every, said = read_pictures(options.data.build(), transform, options.count, options.batch_size)
    if len(said) < 8:
        raise ValueError(f"data has {len(said)} pictures: a map wants 8 or more")
    return Read(every, said, decode.latents(every))


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
