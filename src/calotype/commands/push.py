"""Publish what was trained: a repository on the Hub, with a card of what was measured."""

import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import tyro

from calotype.commands.nearest import nearest
from calotype.commands.quiet import quiet
from calotype.data import CenterCrop, Folder, Source, Transform, once
from calotype.data.pictures import spread
from calotype.hub import Part, parts_of, places, write_folder
from calotype.hub.card import Rights
from calotype.hub.figures import check_evaluations
from calotype.hub.folder import Told, check_free, sizes
from calotype.hub.history import UNKNOWN, origin
from calotype.hub.licences import IDENTIFIERS, meant
from calotype.pages.sheet import write_sheet
from calotype.pipelines import Pipeline, load, reads_prompts, recommended, sample, size_of
from calotype.training.description import restore
from calotype.training.progress import say
from calotype.training.upload import Destination, check_name, check_token, upload

PUBLISHED = Path("published")
COMPARED = 8
"""Drawings that are put beside training pictures."""


@dataclass(frozen=True)
class Push:
    """Publish trained models on the Hugging Face Hub, with a card of what was measured."""

    what: tyro.conf.Positional[tuple[str, ...]]
    """Folders of tokenizers, of pipelines, of runs, or of a whole demo, and last the repository's
    name, user/name."""
    revision: str | None = None
    """Branch, which is made if it is not there; None: the main one."""
    private: bool = False
    """Let nobody else see it; a repository that is there must be private already."""
    message: str | None = None
    """Of the commit."""
    into: str = ""
    """Folder of the repository that one model goes into; with nothing, all of it."""
    licence: str | None = None
    """Of the model, as the Hub calls it, such as apache-2.0 or cc-by-4.0; None: unknown."""
    data_licence: str | None = None
    """Of the pictures that were trained on, in words; None: unknown."""
    evaluation: tuple[Path, ...] = ()
    """Files of `calotype evaluate` whose figures the card shows, besides those in the folders of
    runs."""
    nearest: bool = False
    """Show drawings beside the training pictures nearest to them, which publishes those
    pictures."""
    training_pictures: bool = False
    """Show the samples of tokenizers, which are training pictures beside what is made of them, and
    captions of training pictures under drawings; without it only those that a program drew."""
    dry_run: bool = False
    """Write the folder and say what would be sent; ask nobody for anything."""
    out: Path | None = None
    """Folder in which all of it is written first; None: published/NAME."""

    def __post_init__(self) -> None:
        if len(self.what) < 2:
            raise ValueError(
                "say what to push and where to: calotype push runs/small-diffusion user/lighthouses"
            )
        check_name(self.what[-1])
        if any(part in ("..", "") for part in Path(self.into).parts) or self.into.startswith("/"):
            raise ValueError(f"--into is {self.into}: name a folder of the repository, such as vae")

    @property
    def to(self) -> Destination:
        """Where to."""
        message = self.message or f"Push {', '.join(Path(each).name for each in self.what[:-1])}"
        return Destination(self.what[-1], self.revision, self.private or None, message)

    @property
    def folder(self) -> Path:
        """Where all of it is written."""
        return self.out or PUBLISHED / self.what[-1].rpartition("/")[2]

    @property
    def again(self) -> str:
        """What to do where it stops."""
        return f"run `{spelled(self)}` again, which sends only what is missing"


def spelled(options: Push) -> str:
    """The command line of options."""
    words = ["calotype", "push", *options.what]
    for field in fields(options):
        value, flag = getattr(options, field.name), f"--{field.name.replace('_', '-')}"
        if field.name == "what" or value == field.default:
            continue
        values = value if isinstance(value, tuple) else () if value is True else (value,)
        words += [flag, *map(str, values)]
    return shlex.join(words)


def push(options: Push) -> str | None:
    """Write the folder, run its card's lines, and send it; returns the repository's address.

    Raises:
        ValueError, FileNotFoundError, OSError: something is not there, is not whole, or the Hub
            does not take it; what can be known before any work is said before it.
    """
    parts = [part for name in options.what[:-1] for part in parts_of(Path(name))]
    placed = places(parts, options.into.strip("/"))
    if options.nearest:
        _check_nearest(parts)
    evaluations = check_evaluations(parts, options.evaluation)
    check_free(options.folder)
    if not options.dry_run:
        check_token(options.to.repo, options.again)
    quiet()
    rights = Rights(options.licence or UNKNOWN, options.data_licence or UNKNOWN)
    with tempfile.TemporaryDirectory() as sheets:
        drawn = _nearest(parts, Path(sheets)) if options.nearest else {}
        told = Told(rights, evaluations, drawn, options.training_pictures)
        write_folder(placed, options.to, told, options.folder)
    _say_what_is_unknown(options, parts)
    files = sizes(options.folder)
    total = _spelled_size(sum(size for _, size in files))
    if options.dry_run:
        for name, size in files:
            print(f"{_spelled_size(size):>10}  {name}")
        print(
            f"{len(files)} files of {total} would go to {options.to.repo}; they are in "
            f"{options.folder}"
        )
        return None
    say(f"sending what {options.to.repo} lacks of {len(files)} files of {total}")
    return upload(options.folder, options.to, options.again)


def _spelled_size(count: int) -> str:
    """Bytes, as the Hub spells them."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _say_what_is_unknown(options: Push, parts: Sequence[Part]) -> None:
    """What the card had to leave open, and what would say it."""
    for flag, value in (("licence", options.licence), ("data-licence", options.data_licence)):
        if value is None:
            say(f"the card says that the {flag.replace('-', ' ')} is unknown: --{flag} says which")
    if options.licence and options.licence not in IDENTIFIERS:
        near = meant(options.licence)
        say(
            f"--licence: the Hub has no {options.licence}, and the card says other, of that name"
            f"{f'; perhaps you mean {near}' if near else ''}"
        )
    for part in parts:
        if not options.nearest and part.kind != "tokenizer" and _pictures(part):
            say(
                f"the training pictures of {part.folder} are at hand: --nearest shows drawings "
                "beside the nearest of them, and publishes those"
            )


def _check_nearest(parts: Sequence[Part]) -> None:
    """Refuse to look for pictures where there are none.

    Raises:
        ValueError: nothing draws, or what it learnt from is not here or nobody's.
    """
    drawing = [part for part in parts if part.kind != "tokenizer"]
    if not drawing:
        raise ValueError("--nearest is for what draws, and a tokenizer alone does not")
    for part in (part for part in drawing if _pictures(part) is None):
        why = "are not here"
        if origin(part).is_drawn_by_a_program:
            why = "were drawn by a program, and are nobody's: leave it out"
        raise ValueError(f"--nearest: the pictures that {part.folder} learnt from {why}")


def _nearest(parts: Sequence[Part], sheets: Path) -> dict[Path, Path]:
    """Sheets of drawings beside the training pictures nearest to them."""
    found = {}
    for number, part in enumerate(part for part in parts if part.kind != "tokenizer"):
        pictures = _pictures(part)
        assert pictures is not None
        say(f"drawing {COMPARED} pictures by {part.folder}, for those nearest to them")
        pipeline = load(part.folder)
        prompts = _prompts(pictures, pipeline)
        drawn = torch.cat(
            [*sample(pipeline, prompts, range(len(prompts)), recommended(part.folder))]
        )
        beside = nearest(drawn, pictures, size_of(pipeline))
        pairs = torch.stack([drawn, beside], 1).flatten(0, 1)
        found[part.folder] = sheets / f"{number}.png"
        write_sheet(found[part.folder], pairs, ("drawn", "nearest") * len(drawn))
    return found


def _pictures(part: Part) -> Folder | None:
    """Those that a generator learnt from, if they are in a folder that is here."""
    specs = [data.spec for data in origin(part).data if data.whose == "generator"]
    if not specs or specs[0].get("type") != Folder.__name__:
        return None
    found: Any = restore(Source, specs[0])
    return found if Path(found.path).is_dir() else None


def _prompts(pictures: Folder, pipeline: Pipeline) -> list[str]:
    """Captions of some of them, where prompts are read."""
    if not reads_prompts(pipeline):
        return [""] * COMPARED
    crop = Transform(CenterCrop(size_of(pipeline)))
    return next(once(spread(pictures.build(), COMPARED), COMPARED, crop))["caption"]
