"""How a model came to be, as the files of its runs say: data, recipe, machine, first weights."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from calotype.data.cache.index import Index
from calotype.hub.parts import WAY, Part, parts_of, read_json
from calotype.lazy import huggingface_hub
from calotype.recipes.named import fields, folder, nearest
from calotype.recipes.tokenizer import Continued
from calotype.training import history
from calotype.training.former import of_all_processes
from calotype.training.network import NAME
from calotype.training.portable import flat, public

UNKNOWN = "unknown"
MANNERS = ("out", "resume", "overwrite", "workers", "trackers", "keep", "log_every", "save_every",
           "save_minutes", "micro_batch", "requeue", "sample_every", "evaluate_every",
           "patience")  # fmt: skip
"""Fields of a run that say nothing of what it learns."""
BEGUN_FROM = (
    "model.start",
    "model.path",
    "transformer.path",
    "pipeline",
    "student.path",
)
"""Fields of recipes that name trained weights which go on to be trained."""
OF_ITS_USER = ("data", "validation", "tokenizer", "pipeline", "teacher", "cache", "prompts",
               "run.precision", "inputs")  # fmt: skip
"""With which the names of fields begin that everybody fills in for himself."""
BASE = "base-"
"""Before whose run it was, of what was begun from."""


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
        return {name: value for name, value in fields(self.said).items() if name not in manners}

    @cached_property
    def nearest(self) -> tuple[str, dict[str, tuple[Any, Any]], bool] | None:
        """The recipe of calotype's that it most resembles, the fields of which it has others (that
        one's value, its own), and whether it is surely that one, because its folder is called so;
        None: there is none of its type.
        """
        if (found := nearest(self.said)) is None:
            return None
        return found.name, self._others(found.differences), found.name == folder(self.said)

    def _others(self, differences: dict[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
        return {field: pair for field, pair in differences.items()
                if field in self.fields and not field.startswith(OF_ITS_USER)}  # fmt: skip

    @property
    def starts(self) -> list[str]:
        """Trained weights that it began with, as they were called there."""
        said = dict(flat(self.said))
        return [said[name] for name in BEGUN_FROM if isinstance(said.get(name), str)]

    @property
    def begun_from(self) -> list[tuple[str, str]]:
        """The same as others may read it, and their fingerprint."""
        marks = self.said.get("inputs", {})
        known = next((marks[name] for name in ("start", "latent space") if name in marks), UNKNOWN)
        if self.fields.get("model.type") == Continued.__name__:
            known += " of all its weights"  # others have that of what decides their latents
        return [(public(name), known) for name in self.starts]

    @property
    def learnt_from(self) -> tuple[str, str] | None:
        """The tokenizer that it imitates, and its fingerprint."""
        if (teacher := self.fields.get("teacher")) is None:
            return None
        return teacher, self.said.get("inputs", {}).get("teacher", UNKNOWN)


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


@dataclass(frozen=True)
class Data:
    """What was trained on."""

    whose: str
    """tokenizer, or generator, or of these what was begun from."""
    source: str
    """As the recipe names it."""
    count: str
    """Pictures, and how many of them training has come to, where it were not all."""
    spec: dict[str, Any]
    """Of the source, as recipes describe it."""


@dataclass(frozen=True)
class Origin:
    """Where a part comes from."""

    recipes: dict[str, Recipe]
    """Of its run, and of the run of its tokenizer, by `generator` and `tokenizer`; of what those
    began from, by `base-generator` and `base-tokenizer`."""
    runs: dict[str, Path]
    """Their folders."""
    data: list[Data]

    @property
    def prompts(self) -> list[str]:
        """Those that its recipe had it draw while it was trained; none: captions of its data."""
        generator = self.recipes.get("generator")
        return generator.said.get("prompts", []) if generator else []

    @property
    def is_drawn_by_a_program(self) -> bool:
        """Whether there is nobody's picture among those that it was trained on."""
        return bool(self.data) and all(data.spec.get("type") == "Scenes" for data in self.data)

    @property
    def own(self) -> "Origin":
        """The same without what was begun from."""
        return replace(self, data=[data for data in self.data if not data.whose.startswith(BASE)])

    def without_captions(self) -> "Origin":
        """The same without prompts that a quickstart took from pictures' captions."""
        recipes = {
            whose: Recipe({**recipe.said, "prompts": []})
            if "prompts" in recipe.said and (self.runs[whose].parent / WAY).exists() else recipe
            for whose, recipe in self.recipes.items()
        }  # fmt: skip
        return replace(self, recipes=recipes)


def origin(part: Part) -> Origin:
    """All that is at hand of how a part was trained, and what it began from."""
    found = _of_run(part)
    for whose, recipe in [*found.recipes.items()]:
        for name in recipe.starts:
            base = _base(found.runs[whose], name)
            theirs = _of_run(base) if base else Origin({}, {}, [])
            found.recipes.update({BASE + each: theirs.recipes[each] for each in theirs.recipes})
            found.runs.update({BASE + each: theirs.runs[each] for each in theirs.runs})
            unknown = Data("", f"unknown, see {public(name)}", UNKNOWN, {})
            found.data.extend(replace(data, whose=BASE + (data.whose or whose))
                              for data in theirs.data or [unknown])  # fmt: skip
    return found


def _base(run: Path, name: str) -> Part | None:
    """What a run began from, where the run that trained that is at hand too."""
    folder = _at(run, name)
    try:
        parts = parts_of(folder) if folder else []
    except (ValueError, FileNotFoundError):
        return None
    others = (part for part in parts if part.run and part.run.resolve() != run.resolve())
    return next(others, None)


def _of_run(part: Part) -> Origin:
    """What a part's own run says, and that of its tokenizer."""
    if part.run is None:
        return Origin({}, {}, [])
    said = read_json(part.run / "recipe.json")
    said |= {"run": of_all_processes(said["run"], part.run)} if "run" in said else {}
    if part.kind == "tokenizer":
        count = read_json(part.folder / "latent_statistics.json").get("of_pictures")
        data = _data("tokenizer", said.get("data", {}), said, count, _seen(part.run, said))
        return Origin({"tokenizer": Recipe(said)}, {"tokenizer": part.run}, [data])
    found = Origin({"generator": Recipe(said)}, {"generator": part.run}, [])
    cache = _at(part.run, str(said.get("cache", said.get("latents", ""))))
    cached = read_json(cache / "recipe.json") if cache else {}
    if cache and cached:
        rows = sum(Index.read(cache).rows)
        found.data.append(
            _data("generator", cached.get("data", {}), cached, rows, _seen(part.run, said))
        )
    tokenizer = _at(part.run, str(said.get("tokenizer", "")))
    if tokenizer and (tokenizer.parent / "recipe.json").exists():
        theirs = _of_run(Part(tokenizer, "tokenizer", tokenizer.parent))
        found.recipes.update(theirs.recipes)
        found.runs.update(theirs.runs)
        found.data.extend(theirs.data)
    return found


def _at(run: Path, path: str) -> Path | None:
    """A folder that a recipe names: beside the run, with which it may have moved, or from here."""
    names = Path(path).parts
    near = [run.parent.joinpath(*names[-n:]) for n in (2, 1) if len(names) >= n] + [Path(path)]
    return next((each for each in near if path and each.is_dir()), None)


def _seen(run: Path, said: dict[str, Any]) -> int | None:
    """Samples that a run has drawn; None: its recipe does not say."""
    own = said.get("run", {})
    if not {"steps", "batch_size"} <= own.keys():
        return None
    return own["steps"] * own["batch_size"]


def _data(
    whose: str, spec: dict[str, Any], recipe: dict[str, Any], count: int | None, seen: int | None
) -> Data:
    told = recipe.get("inputs", {}).get("data", "")
    plain = {name: value for name, value in spec.items() if isinstance(value, str | int)}
    shown = [f"{name} {public(value)}" for name, value in plain.items() if name != "type"]
    number = f"{count:,}" if count else told.partition(",")[0] or UNKNOWN
    if count and seen and seen < count:
        number = f"{number}, of which it saw {seen:,}"
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
