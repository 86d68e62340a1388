"""A repository as a folder here: stock models, a card, its pictures."""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from calotype.hub import figures, pictures, use
from calotype.hub.card import Rights, Section, Shown, card
from calotype.hub.history import origin
from calotype.hub.parts import Part
from calotype.lazy import huggingface_hub
from calotype.pipelines.token_parts import MARK
from calotype.training.files import publish
from calotype.training.portable import portable, public, written
from calotype.training.progress import say
from calotype.training.upload import MARKED, Destination

CARD = "README.md"
PICTURES = "card"
"""Folder of the card's pictures."""


@dataclass(frozen=True)
class Told:
    """What the card is told besides what lies in folders."""

    rights: Rights = field(default_factory=Rights)
    evaluations: Mapping[Path, Part] = field(default_factory=dict)
    """Files of `calotype evaluate`, and whose they are."""
    nearest: Mapping[Path, Path] = field(default_factory=dict)
    """By folder of a part: drawings of it beside the training pictures nearest to them."""
    training_pictures: bool = False
    """Whether training pictures and their captions may be shown besides."""


def check_free(out: Path) -> None:
    """Refuse a folder that somebody else filled.

    Raises:
        ValueError: it is one.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / MARKED).exists()):
        raise ValueError(
            f"{out} is there and not of an earlier push: choose a new folder with --out"
        )


def write_folder(
    parts: Mapping[str, Part], to: Destination, told: Told, out: Path
) -> "huggingface_hub.ModelCard":  # fmt: skip
    """Write all that is published, whole or not at all, in place of what an earlier push left.

    Args:
        parts: By their folder in the repository; of one alone the card lies there too, so that what
            is at the top stays.
        to: Where it is to go.
        told: What the card is told.
        out: The folder.

    Returns:
        The card, all of whose Python has run.

    Raises:
        ValueError: a model is not whole, or the card's lines do not run.
    """
    check_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        home = beside / (next(iter(parts)) if len(parts) == 1 else "")
        (home / PICTURES).mkdir(parents=True)
        (beside / MARKED).write_text("written by calotype push, which replaces it\n")
        sections = [_section(place, part, to, told, beside, home) for place, part in parts.items()]
        made = card(to.repo, sections, told.rights)
        use.try_out([block for each in sections for block in use.blocks(each.use)], beside, to.repo)
        (home / CARD).write_text(str(made), encoding="utf-8")
        publish(beside, out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return made


def _section(
    place: str, part: Part, to: Destination, told: Told, root: Path, home: Path
) -> Section:  # fmt: skip
    """Copy a part and its pictures, and say what is to be said of it in the card of `home`."""
    say(f"reading {part.folder}")
    _copy(part.folder, root / place)
    whence, prefix = origin(part), f"{part.name}-"
    if not (told.training_pictures or whence.is_drawn_by_a_program):
        whence = whence.without_captions()
    shows = told.training_pictures or whence.own.is_drawn_by_a_program
    curves = {}
    for whose, run in whence.runs.items():
        file = f"{PICTURES}/{prefix}{whose}-curves.png"
        if pictures.draw_curves(run, home / file):
            curves[whose] = file
    samples = f"{PICTURES}/{prefix}samples.png"
    if drawn := pictures.samples(part, whence, shows):
        shutil.copyfile(drawn, home / samples)
    nearest = None
    if sheet := told.nearest.get(part.folder):
        nearest = f"{PICTURES}/{prefix}nearest.png"
        shutil.copyfile(sheet, home / nearest)
    own = [file for file, whose in told.evaluations.items() if whose == part]
    words = use.body(use.words(part), to, place)
    words = use.with_prompts(words, [prompt for prompt in whence.prompts if prompt])
    return Section(
        place, part, whence, words,
        Shown(samples if drawn else None, nearest, curves), figures.measured(part, own),
    )  # fmt: skip


def _copy(source: Path, target: Path) -> None:
    """Copy a model without what is hidden and README.md, which knows of no licence, in any folder;
    weights are not written twice where the disk allows it, because nobody changes them in place.
    """
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        names = file.relative_to(source).parts
        if names[-1] == CARD or any(name.startswith(".") for name in names):
            continue
        to = target.joinpath(*names)
        to.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".safetensors":
            with contextlib.suppress(OSError):  # another disk
                os.link(file, to)
                continue
        if file.suffix == ".json" and (said := _mended(file)):
            to.write_text(said, encoding="utf-8")
            continue
        shutil.copyfile(file, to)


def _mended(file: Path) -> str | None:
    """A config of which something is of this machine, without that; None: nothing is."""
    said = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(said, dict):
        return None
    kept = portable(said)
    if file.name == MARK and "base" in said:  # a pipeline, which is looked for by this name
        kept["base"] = public(said["base"])
    return None if kept == said else written(kept)


def sizes(out: Path) -> Sequence[tuple[str, int]]:
    """What would be sent of a folder: names and bytes."""
    files = sorted(path for path in out.rglob("*") if path.is_file())
    names = [(path.relative_to(out).as_posix(), path.stat().st_size) for path in files]
    return [(name, size) for name, size in names if not name.startswith(".")]
