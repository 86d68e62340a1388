"""What can be given away: it says nothing of the machine that made it, and anybody may read it."""

import json
import math
import re
from pathlib import Path
from typing import Any

ORIGIN = "_name_or_path"
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
    """Leave out of a config where it came from, and infinities: those are defaults of diffusers'
    schedulers, which take them for what is left out.
    """
    said = json.loads(file.read_text())
    if not isinstance(said, dict):
        return
    kept = {name: value for name, value in said.items() if name != ORIGIN and not _is_odd(value)}
    if len(kept) < len(said):
        file.write_text(json.dumps(kept, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _is_odd(value: Any) -> bool:
    """Whether it is a number that JSON has no word for."""
    return isinstance(value, float) and not math.isfinite(value)
