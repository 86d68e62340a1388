"""What can be given away: it says nothing of the machine that made it, and anybody may read it."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ORIGINS = frozenset({"_name_or_path", "name_or_path"})
"""Under which diffusers and transformers keep from where a part was loaded."""


def public(value: Any) -> Any:
    """A description without what is of this machine: of a path of its own only the last name stays,
    of an address neither who asks nor by what right. Lists and dictionaries as their values.
    """
    if isinstance(value, dict):
        return {name: public(each) for name, each in value.items()}
    if isinstance(value, list):
        return [public(each) for each in value]
    if not isinstance(value, str):
        return value
    if "://" in value:
        return re.sub(r"://[^/@]*@", "://", value).partition("?")[0]
    if value.startswith(("/", "~", "..")) or re.match(r"[A-Za-z]:[\\/]", value):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return value


def flat(said: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A description's values by their field, those inside others behind a dot:
    `model.bottleneck.channels`.
    """
    for name, value in said.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def make_portable(folder: Path) -> None:
    """Mend what libraries leave in a folder of models that they have saved: paths of this machine,
    numbers that are no JSON, and weights that nobody else may read. Files become as readable as the
    folder is, for which the umask has been asked.
    """
    for file in (path for path in folder.rglob("*") if path.is_file()):
        if file.suffix == ".json":
            _clean(file)
        file.chmod(folder.stat().st_mode & 0o666)


def _clean(file: Path) -> None:
    said = json.loads(file.read_text())
    if isinstance(said, dict) and len(kept := portable(said)) < len(said):
        file.write_text(written(kept))


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without where it came from, and without infinities: those are defaults of diffusers'
    schedulers, which take them for what is left out.
    """
    return {name: value for name, value in config.items()
            if name not in ORIGINS and not _is_odd(value)}  # fmt: skip


def written(config: Mapping[str, Any]) -> str:
    """A config as strict JSON."""
    return json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _is_odd(value: Any) -> bool:
    """Whether it is a number that JSON has no word for."""
    return isinstance(value, float) and not math.isfinite(value)
