"""A repository's README.md: front matter that the Hub reads, and what was measured, for people."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from calotype.hub import figures, history, shape
from calotype.hub.history import UNKNOWN, Origin, Recipe
from calotype.hub.licences import IDENTIFIERS
from calotype.hub.parts import Part, read_json
from calotype.lazy import huggingface_hub
from calotype.pipelines.token_parts import MARK
from calotype.tokenizers import ImageTokenizer, fingerprint
from calotype.tokenizers.continuing import KEPT
from calotype.training.network import named
from calotype.training.portable import public

ENVIRONMENT = Environment(
    undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
)
ENVIRONMENT.filters["cell"] = lambda value: " ".join(str(value).split()).replace("|", "\\|")
"""Whatever was said, as it can stand in a table."""
LIBRARIES = {"pipeline": "diffusers", "tokens": "transformers", "lora": "diffusers",
             "tokenizer": "diffusers"}  # fmt: skip
TAGS = {"pipeline": ("latent-diffusion",), "tokens": ("autoregressive", "image-tokens"),
        "lora": ("lora", "text-to-image"), "tokenizer": ("image-tokenizer",)}  # fmt: skip
SIMILAR = 60
"""Differing fields of a recipe beyond which it resembles none."""


@dataclass(frozen=True)
class Rights:
    """Under which licences; nobody guesses them."""

    model: str = UNKNOWN
    data: str = UNKNOWN

    @property
    def identifier(self) -> str:
        """The model's, as the Hub writes it: `other`, where it is none of those with a name."""
        return self.model if self.model in IDENTIFIERS else "other"

    @property
    def slug(self) -> str:
        """The name of another one."""
        return re.sub(r"[^a-z0-9.]+", "-", self.model.lower()).strip("-")


@dataclass(frozen=True)
class Shown:
    """Pictures in the repository, by what they show; None: there is none."""

    samples: str | None = None
    nearest: str | None = None
    curves: Mapping[str, str] | None = None
    """By whose they are: generator, tokenizer."""


@dataclass(frozen=True)
class Section:
    """What a card says of one part."""

    place: str
    part: Part
    origin: Origin
    use: str
    shown: Shown
    measured: Sequence[figures.Measured]

    @property
    def kind(self) -> str:
        """Of the part."""
        return self.part.kind

    @property
    def what(self) -> str:
        """What it is, in a sentence."""
        return shape.described(self.part)

    @property
    def is_not(self) -> str:
        """What it is not."""
        return shape.is_not(self.part)

    @property
    def samples(self) -> str | None:
        """What it drew last."""
        return self.shown.samples

    @property
    def samples_show(self) -> str:
        """What those pictures show."""
        if self.kind == "tokenizer":
            return "Pictures, and what the tokenizer makes of them"
        return "What it draws"

    @property
    def nearest(self) -> str | None:
        """Drawings beside training pictures."""
        return self.shown.nearest

    @property
    def nearest_says(self) -> str:
        """Whether it repeats what it was trained on, as far as anybody looked."""
        if self.nearest:
            return ("It may repeat training pictures: here are drawings, each beside the training "
                    "picture nearest to it in its pixels at a coarse resolution.")  # fmt: skip
        if self.origin.is_drawn_by_a_program:
            return "Its training pictures were drawn by a program: there is nobody's among them."
        return ("Whether it repeats training pictures is unknown: nobody put its drawings beside "
                "those nearest to them.")  # fmt: skip

    @property
    def parameters(self) -> dict[str, int]:
        """Numbers of weights, by network."""
        return shape.parameters(self.part)

    @property
    def kept(self) -> str | None:
        """The file that training goes on with; None: it has none."""
        return self.within(KEPT) if (self.part.folder / KEPT).exists() else None

    def within(self, name: str) -> str:
        """A network's name in a repository of several parts."""
        return f"{self.place}/{name}" if self.place else name

    @property
    def begun_from(self) -> list[tuple[str, str, str]]:
        """Whose training began with which trained weights, and their fingerprints."""
        told = [(whose, *each) for whose, recipe in self.origin.recipes.items()
                for each in recipe.begun_from]  # fmt: skip
        if told or self.kind != "lora":
            return told
        mark = read_json(self.part.folder / MARK)
        return [("generator", public(mark["base"]), mark["start"])]

    @property
    def learnt_from(self) -> list[tuple[str, str, str]]:
        """The same of those that are imitated."""
        return [(whose, *recipe.learnt_from) for whose, recipe in self.origin.recipes.items()
                if recipe.learnt_from]  # fmt: skip

    @property
    def recipes(self) -> list[dict[str, Any]]:
        """Of its runs, with what is to be said of each."""
        curves = self.shown.curves or {}
        return [{"whose": whose, "curves": curves.get(whose), **_told(recipe)}
                for whose, recipe in self.origin.recipes.items()]  # fmt: skip

    @cached_property
    def fingerprint(self) -> str:
        """Of its tokenizer."""
        if self.kind == "tokenizer":
            return fingerprint(ImageTokenizer.load(self.part.folder))
        return read_json(self.part.folder / MARK).get("tokenizer", UNKNOWN)

    @property
    def latents(self) -> dict[str, Any] | None:
        """What was measured of them when their tokenizer was saved; None: it is not at hand."""
        runs = self.origin.runs
        run = runs.get("tokenizer") or runs.get(f"{history.BASE}tokenizer")
        folder = self.part.folder if self.kind == "tokenizer" else run and run / "model"
        found = read_json(folder / "latent_statistics.json") if folder else {}
        if not found or found["tokenizer"] != self.fingerprint:
            return None
        channels = list(zip(found["latent_mean"], found["latent_std"], strict=True))
        of_codes = {name: found.get(name) for name in ("codes_used", "perplexity")}
        return {"images": found["images"], "channels": channels, **of_codes}

    @property
    def task(self) -> str:
        """As the Hub calls it."""
        if self.kind == "tokenizer":
            return "image-to-image"
        prompted = self.kind == "tokens" or shape.reads_prompts(self.part)
        return "text-to-image" if prompted else "unconditional-image-generation"


def _told(recipe: Recipe) -> dict[str, Any]:
    """A recipe in words, beside the one of calotype's that it is or resembles."""
    said = json.dumps(recipe.fields, indent=1)
    if recipe.nearest is None or len(recipe.nearest[1]) > SIMILAR:
        return {"resembles": "it resembles no recipe of calotype's.", "others": [], "json": said}
    name, others, surely = recipe.nearest
    what = f"calotype's recipe `{name}`" + ("" if surely else ", or one that resembles it most")
    rows = [(field, here, "none" if theirs is None else theirs)
            for field, (theirs, here) in others.items()]  # fmt: skip
    end = ", with fields of its own:" if rows else ", as it stands."
    return {"resembles": what + end, "others": rows, "json": said}


def card(
    repo: str, sections: Sequence[Section], rights: Rights
) -> "huggingface_hub.ModelCard":  # fmt: skip
    """The whole card, whose front matter is as huggingface_hub writes it."""
    main = sections[0]
    body = ENVIRONMENT.from_string(_template()).render(
        title=repo.rpartition("/")[2], parts=sections,
        are_not=[*{each.is_not: None for each in sections}], data=list(_data(sections)),
        limits=_limits(sections), data_licence=rights.data, licence=rights.model,
        machines=list(_machines(sections)),
    )  # fmt: skip
    results = [
        result
        for each in sections
        for result in figures.results(each.measured, each.task, each.place)
    ]
    own = main.kind == "tokenizer" and shape.is_own(main.part)
    data = huggingface_hub.ModelCardData(
        license=rights.identifier,
        license_name=rights.slug if rights.identifier == "other" else None,
        library_name="calotype" if own else LIBRARIES[main.kind],
        # A tokenizer alone draws nothing that the Hub has a word for.
        pipeline_tag=None if main.kind == "tokenizer" else main.task,
        tags=["calotype", *TAGS[main.kind]],
        datasets=_datasets(sections), base_model=_base(sections),
        model_name=repo.rpartition("/")[2] if results else None, eval_results=results or None,
    )  # fmt: skip
    return huggingface_hub.ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")


def _template() -> str:
    return (files("calotype.hub") / "templates" / "card.md").read_text(encoding="utf-8")


def _limits(sections: Sequence[Section]) -> dict[str, list[Section]]:
    """What is to be said of whether drawings repeat training pictures, and of which parts it is."""
    found: dict[str, list[Section]] = {}
    for section in (each for each in sections if each.kind != "tokenizer"):
        found.setdefault(section.nearest_says, []).append(section)
    return found


def _data(sections: Sequence[Section]) -> Iterator[tuple[str, history.Data]]:
    for section in sections:
        for data in section.origin.data:
            yield section.within(data.whose), data


def _machines(sections: Sequence[Section]) -> Iterator[history.Machine]:
    for section in sections:
        for whose, run in section.origin.runs.items():
            yield history.machine(section.within(whose), run)


def _datasets(sections: Sequence[Section]) -> list[str] | None:
    """Data sets of the Hub that were trained on."""
    specs = [data.spec for section in sections for data in section.origin.data]
    names = [str(spec["name"]) for spec in specs if spec.get("type") == "Hub"]
    return [*{name: None for name in names if not Path(name).exists()}] or None


def _base(sections: Sequence[Section]) -> list[str] | None:
    """Models of the Hub that were begun from, as far as that is sure."""
    found = {named(name).root: None for section in sections
             for whose, name, _ in section.begun_from if not whose.startswith(history.BASE)
             and history.known_on_hub(name, section.part.run)}  # fmt: skip
    return [*found] or None
