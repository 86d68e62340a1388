"""What is published: trained models in their stock folders, and the runs that they came from."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from calotype.lazy import diffusers
from calotype.pipelines.token_parts import MARK
from calotype.recipes.cache import CacheRecipe
from calotype.tokenizers.continuing import KEPT
from calotype.tokenizers.tokenizer import OWN_CONFIG
from calotype.training.holds import instead
from calotype.training.network import located
from calotype.training.progress import say

Kind = Literal["pipeline", "tokens", "lora", "tokenizer"]
WAYS: dict[str, tuple[Kind, str]] = {
    "pipeline": ("pipeline", "GeneratorRecipe"),
    "token-pipeline": ("tokens", "TransformerRecipe"),
}
"""What a demo or a quickstart ends in, by its folder there: what it is, and whose recipe's run has
made it."""
WAY = "journey.json"
"""What says that a folder is a demo's or a quickstart's."""
MAIN: tuple[Kind, ...] = ("pipeline", "tokens", "lora")
"""Which of several has the top of a repository, the likeliest first."""
NAMES: dict[Kind, str] = {"pipeline": "pipeline", "tokens": "token-pipeline", "lora": "lora",
                          "tokenizer": "vae"}  # fmt: skip
"""Folders of a repository of several."""


@dataclass(frozen=True)
class Part:
    """A trained model."""

    folder: Path
    """Of stock classes, or of those that calotype alone reads."""
    kind: Kind
    """pipeline: of diffusers; tokens: a transformer with what reads and draws its tokens; lora:
    what is added to a pipeline of diffusers."""
    run: Path | None = None
    """Folder of the run that trained it; None: it is not at hand."""
    way: Path | None = None
    """Folder of the demo or the quickstart that the run is a part of."""

    @property
    def name(self) -> str:
        """What its folder is called beside others in a repository."""
        codes = self.kind == "tokenizer" and "Autoencoder" not in _class_of(self.folder)
        return "vqvae" if codes else NAMES[self.kind]


def parts_of(path: Path) -> list[Part]:
    """The models of a folder: of one, of a run, or of a whole way.

    Raises:
        FileNotFoundError: there is no such folder, or its run has not ended.
        ValueError: there is no model in it.
    """
    if not path.is_dir():
        located(path if path.is_absolute() else f"./{path}")  # says what there is instead
        raise FileNotFoundError(f"{path} is no folder: name the folder of a model or a run")
    if (path / WAY).exists():
        made = [name for name in WAYS if (path / name).is_dir()]
        if not made:
            raise FileNotFoundError(f"{path} has no pipeline yet: run its command again to the end")
        return [_of_way(path / name, path) for name in made]
    if (path / "recipe.json").exists():
        if (found := read_json(path / "recipe.json")).get("type") == CacheRecipe.__name__:
            raise ValueError(
                f"{path} is a cache, which nobody publishes: push what was trained on it, or "
                f"{found['tokenizer']}"
            )
        if not (path / "model").is_dir():
            raise FileNotFoundError(
                f"{path} has no model/ yet: train it to the end, by its command with --run.resume"
            )
        return [_of_run(path / "model", path)]
    if (path.parent / "recipe.json").exists() and path.name == "model":
        return [_of_run(path, path.parent)]
    if (path.parent / WAY).exists() and path.name in WAYS:
        return [_of_way(path, path.parent)]
    return [Part(path, _kind(path))]


def _of_run(model: Path, run: Path) -> Part:
    way = run.parent if (run.parent / WAY).exists() else None
    return Part(model, _kind(model), run, way)


def _of_way(folder: Path, way: Path) -> Part:
    kind, recipe = WAYS[folder.name]
    runs = [file.parent for file in sorted(way.glob("*/recipe.json"))
            if json.loads(file.read_text()).get("type") == recipe]  # fmt: skip
    return Part(folder, kind, runs[0] if len(runs) == 1 else None, way)


def _weights(folder: Path) -> list[bytes]:
    """What tells those of a folder from others; a run alone keeps what training goes on with."""
    return [hashlib.sha256(file.read_bytes()).digest()
            for file in sorted(folder.glob("*.safetensors")) if file.name != KEPT]  # fmt: skip


def _kind(folder: Path) -> Kind:
    if (folder / diffusers.DiffusionPipeline.config_name).exists():
        return "pipeline"
    if (mark := read_json(folder / MARK)) and mark.keys() & {"base", "layout"}:
        return "lora" if "base" in mark else "tokens"
    name = _class_of(folder)
    if (folder / OWN_CONFIG).exists() or name == "VQModel" or "Autoencoder" in name:
        return "tokenizer"
    raise ValueError(
        f"no tokenizer and no pipeline in {folder}{instead(folder)}: expected a folder with "
        "model_index.json, calotype.json or config.json, as the model/ of a run, or the folder of "
        "a run or a demo"
    )


def _class_of(folder: Path) -> str:
    """Diffusers' class of a model; with nothing, it has none."""
    return str(read_json(folder / "config.json").get("_class_name", ""))


def read_json(file: Path) -> dict[str, Any]:
    """What a file says; {}: there is none."""
    return json.loads(file.read_text()) if file.is_file() else {}


def places(parts: Sequence[Part], into: str = "") -> dict[str, Part]:
    """The folder of each in a repository, that at its top first. One alone is there, and of several
    a diffusion pipeline, which diffusers finds nowhere else, or else a transformer; either has its
    own tokenizer with it. `into` names another folder for one alone.

    Raises:
        ValueError: two would lie in one folder.
    """
    if len(parts) == 1:
        return {into: parts[0]}
    if into:
        raise ValueError(
            f"--into is for one model, and here are {len(parts)}: push them one after the other"
        )
    main = next((part for kind in MAIN for part in parts if part.kind == kind), None)
    found: dict[str, Part] = {}
    for part in sorted(parts, key=lambda part: part is not main):
        place = "" if part is main else part.name
        own = part.kind == "tokenizer" and main and _weights(main.folder / place)
        if main and own and own == _weights(part.folder):
            say(f"{part.folder} goes with {main.folder}, whose {place}/ it is")
            continue
        if place in found or (main and place and (main.folder / place).exists()):
            raise ValueError(
                f"{part.folder} would lie in {place}/, which another is in already: push it by "
                "itself, with --into and a name of your choice"
            )
        found[place] = part
    return found
