"""What a folder holds that is not what was looked for in it, told by its files."""

import json
import os
from pathlib import Path
from typing import Any, Literal

Kind = Literal["pipeline", "lora", "tokens", "tokenizer", "network", "cache", "run", "runs"]
SHOWN = 6
"""Runs that are named."""


def instead(path: str | Path, *fitting: Kind) -> str:
    """`, which holds a cache of latents`; nothing of what fits, or of a folder that is not here.

    Args:
        path: A folder, or that of a run.
        fitting: The kinds that were looked for.
    """
    folder = Path(path)
    if not folder.is_dir():
        return ""
    kind, words = _held(folder / "model" if (folder / "model").is_dir() else folder)
    return "" if kind is None or kind in fitting else f", which holds {words}"


def _held(folder: Path) -> tuple[Kind | None, str]:
    if found := _read(folder / "model_index.json").get("_class_name"):
        return "pipeline", f"a pipeline ({found})"
    if "base" in (mark := _read(folder / "calotype.json")):
        return "lora", f"LoRA weights alone; they were trained on {_reached(folder, mark['base'])}"
    if "layout" in mark:
        return "tokens", "a transformer over the tokens of images"
    name = str(_read(folder / "config.json").get("_class_name", ""))
    if name == "VQModel" or "Autoencoder" in name or (folder / "calotype_tokenizer.json").exists():
        return "tokenizer", f"a tokenizer ({name})" if name else "a tokenizer"
    if name:
        return "network", f"a {name}"
    recipe = _read(folder / "recipe.json")
    if recipe.get("type") == "CacheRecipe" or (folder / "latents.json").exists():
        return "cache", "a cache of latents or tokens"
    if "run" in recipe:
        return "run", "a run that has not ended"
    return _runs(folder)


def _runs(folder: Path) -> tuple[Kind | None, str]:
    found = sorted(file.parent.name for name in ("recipe.json", "journey.json")
                   for file in folder.glob(f"*/{name}"))  # fmt: skip
    more = ", ..." if len(found) > SHOWN else ""
    return ("runs", f"{', '.join(found[:SHOWN])}{more}") if found else (None, "")


def _reached(folder: Path, base: str) -> str:
    """A pipeline that is noted by its way from a folder, by its way from here."""
    near = folder.resolve() / base
    return os.path.relpath(near) if near.exists() else base


def _read(file: Path) -> dict[str, Any]:
    try:
        said = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
