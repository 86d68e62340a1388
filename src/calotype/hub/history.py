"""How a model came to be, as the files of its runs say: data, recipe, machine, first weights."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from calotype.data.latents import Index
from calotype.hub.parts import Part, read_json
from calotype.lazy import huggingface_hub
from calotype.recipes.generators import GENERATORS
from calotype.recipes.tokenizers import TOKENIZERS
from calotype.training import history
from calotype.training.network import NAME
from calotype.training.run import describe

UNKNOWN = "unknown"
MANNERS = ("out", "resume", "overwrite", "workers", "trackers", "keep", "log_every", "save_every",
           "sample_every", "evaluate_every", "patience")  # fmt: skip
"""Fields of a run that say nothing of what it learns."""
BEGUN_FROM = (
    "model.start",
    "model.path",
    "transformer.path",
    "pipeline",
    "teacher",
    "student.path",
)
"""Fields of recipes that name trained weights."""


@dataclass(frozen=True)
class Recipe:
    """Of a run, as its recipe.json has it."""

    said: dict[str, Any]

    @cached_property
    def fields(self) -> dict[str, Any]:
        """By name, those inside others behind a dot; without what is of no consequence, or of the
        machine alone.
        """
        manners = {f"run.{name}" for name in MANNERS}
        found = {name: value for name, value in _flat(self.said) if name not in manners}
        return {name: public(value) for name, value in found.items()}

    @staticmethod
    def named(name: str) -> "Recipe":
        """A recipe of calotype's."""
        return Recipe(describe({**TOKENIZERS, **GENERATORS}[name]()))

    @cached_property
    def nearest(self) -> tuple[str, dict[str, Any], bool] | None:
        """The recipe of calotype's that it most resembles, the fields of which it has others, and
        whether it is surely that one, because its folder is called so; None: there is none of its
        type.
        """
        every = {name: self.named(name) for name in (*TOKENIZERS, *GENERATORS)}
        others = {name: self._other(recipe) for name, recipe in every.items()
                  if recipe.said["type"] == self.said["type"]}  # fmt: skip
        if not others:
            return None
        out = Path(self.said.get("run", {}).get("out", "")).name
        name = out if out in others else min(others, key=lambda each: len(others[each]))
        return name, others[name], name == out

    def _other(self, named: "Recipe") -> dict[str, Any]:
        theirs = named.fields
        kept = ("data", "validation", "tokenizer", "cache", "prompts", "run.precision", "inputs")
        return {name: value for name, value in self.fields.items()
                if not name.startswith(kept) and theirs.get(name) != value}  # fmt: skip

    @property
    def begun_from(self) -> Iterator[tuple[str, str]]:
        """Trained weights that it began with, and their fingerprint."""
        marks = self.said.get("inputs", {})
        known = next((marks[name] for name in ("start", "latent space") if name in marks), None)
        for name in BEGUN_FROM:
            if isinstance(value := self.fields.get(name), str):
                yield value, marks.get(name, known) or UNKNOWN


def public(value: Any) -> Any:
    """A value that says nothing of the machine: of a path of its own only the last name, of an
    address neither who asks nor by what right.
    """
    if isinstance(value, list):
        return [public(each) for each in value]
    if not isinstance(value, str):
        return value
    if "://" in value:
        return re.sub(r"://[^/@]*@", "://", value).partition("?")[0]
    if value.startswith(("/", "~", "..")) or re.match(r"[A-Za-z]:[\\/]", value):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return value


def known_on_hub(name: str, run: Path | None) -> bool:
    """Whether weights were surely fetched from a repository that is called so: what was asked of it
    is still here, and no folder has the name, neither here nor beside the run.
    """
    found = NAME.fullmatch(name)
    owner, _, alone = found["root"].partition("/") if found else ("", "", "")
    if not alone or Path(owner).exists() or (run and _at(run, name)):
        return False
    kept = huggingface_hub.file_download.repo_folder_name(
        repo_id=f"{owner}/{alone}", repo_type="model"
    )
    return Path(huggingface_hub.constants.HF_HUB_CACHE, kept).is_dir()


def _flat(said: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in said.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@dataclass(frozen=True)
class Data:
    """What was trained on."""

    whose: str
    """tokenizer, or generator."""
    source: str
    """As the recipe names it."""
    count: str
    """Pictures."""
    spec: dict[str, Any]
    """Of the source, as recipes describe it."""


@dataclass(frozen=True)
class Origin:
    """Where a part comes from."""

    recipes: dict[str, Recipe]
    """Of its run, and of the run of its tokenizer, by `generator` and `tokenizer`."""
    runs: dict[str, Path]
    """Their folders."""
    data: list[Data]

    @property
    def prompts(self) -> list[str]:
        """Those that it drew while it was trained."""
        generator = self.recipes.get("generator")
        return generator.said.get("prompts", []) if generator else []


def origin(part: Part) -> Origin:
    """All that is at hand of how a part was trained."""
    if part.run is None:
        return Origin({}, {}, [])
    said = read_json(part.run / "recipe.json")
    if part.kind == "tokenizer":
        count = read_json(part.folder / "latent_statistics.json").get("of_pictures")
        return Origin({"tokenizer": Recipe(said)}, {"tokenizer": part.run},
                      [_data("tokenizer", said.get("data", {}), said, count)])  # fmt: skip
    found = Origin({"generator": Recipe(said)}, {"generator": part.run}, [])
    cache = _at(part.run, str(said.get("cache", said.get("latents", ""))))
    cached = read_json(cache / "recipe.json") if cache else {}
    if cache and cached:
        rows = sum(Index.read(cache).rows)
        found.data.append(_data("generator", cached.get("data", {}), cached, rows))
    tokenizer = _at(part.run, str(said.get("tokenizer", "")))
    if tokenizer and (tokenizer.parent / "recipe.json").exists():
        theirs = origin(Part(tokenizer, "tokenizer", tokenizer.parent))
        found.recipes.update(theirs.recipes)
        found.runs.update(theirs.runs)
        found.data.extend(theirs.data)
    return found


def _at(run: Path, path: str) -> Path | None:
    """A folder that a recipe names: beside the run, with which it may have moved, or from here."""
    names = Path(path).parts
    near = [run.parent.joinpath(*names[-n:]) for n in (2, 1) if len(names) >= n] + [Path(path)]
    return next((each for each in near if path and each.is_dir()), None)


def _data(whose: str, spec: dict[str, Any], recipe: dict[str, Any], count: int | None) -> Data:
    told = recipe.get("inputs", {}).get("data", "")
    plain = {name: value for name, value in spec.items() if isinstance(value, str | int)}
    shown = [f"{name} {public(value)}" for name, value in plain.items() if name != "type"]
    number = f"{count:,}" if count else told.partition(",")[0] or UNKNOWN
    return Data(whose, f"{spec.get('type', UNKNOWN)}: {', '.join(shown)}", number, spec)


@dataclass(frozen=True)
class Machine:
    """What a run was trained on, and what it took."""

    whose: str
    devices: str
    precision: str
    hours: str
    speed: str
    energy: str
    versions: str


def machine(whose: str, run: Path) -> Machine:
    """Of all starts of a run, as its history has them."""
    if not (starts := history.read(run)):
        precision = read_json(run / "recipe.json").get("run", {}).get("precision", UNKNOWN)
        return Machine(whose, UNKNOWN, precision, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
    devices = {f"{each['processes']} x {each['device']}": None for each in starts}
    known = [joules for each in starts if (joules := each["energy_joules"]) is not None]
    seconds = sum(each["seconds"] for each in starts)
    return Machine(
        whose, "; ".join(devices), ", ".join({each["precision"]: None for each in starts}),
        f"{seconds / 3600:.2f} h",
        f"{starts[-1]['images_per_second']:.3g} images/s",
        UNKNOWN if len(known) < len(starts) else f"{sum(known) / 3.6e6:.3g} kWh",
        ", ".join(f"{name} {version}" for name, version in starts[-1]["versions"].items()),
    )  # fmt: skip
