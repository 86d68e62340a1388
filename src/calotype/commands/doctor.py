"""One page about the machine: what is there, what is missing, and which recipes fit."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from calotype.evaluation.installed import LEAST_PYTHON, Package, packages, python_does
from calotype.pages.checkup import Line, Section, show, verdict


@dataclass(frozen=True)
class Doctor:
    """Look at the machine and say what is there, what is missing, and which recipes fit; takes
    about half a minute. Exits with 1 if something necessary is missing.
    """

    runs: Path = Path("runs")
    """Where runs would be: its disk is looked at."""
    backbone_weights: Path | None = None
    """Folder of alexnet-features.safetensors and vgg16-features.safetensors, if LPIPS has its
    backbones from there."""
    json: bool = False
    """Print what was found as JSON, and nothing else."""


def doctor(options: Doctor) -> int:
    """Print the page; returns the exit code, 1 if something necessary is missing, else 0."""
    console = Console(highlight=False, quiet=options.json)
    there = packages()
    said, found = [_versions(there)], None
    show(said, console)
    if not _has_missing(said):
        # Only now: without what is missing it would not import.
        try:
            examination: Any = import_module("calotype.commands.examine")
        except (ImportError, OSError, RuntimeError) as error:
            parts = [Section("Machine", (Line(
                "missing", "import", f"installed packages do not work together: {error}",
                "make .venv anew, with pip's --constraint constraints.txt",
            ),))]  # fmt: skip
            show(parts, console)
        else:
            parts, found = examination.examine(options.runs, options.backbone_weights, console)
        said += parts
    show([Section("Verdict", (verdict(said),))], console)
    if options.json:
        print(json.dumps({"versions": [asdict(package) for package in there], "machine": found,
                          "sections": [asdict(section) for section in said]},
                         indent=1, default=str))  # fmt: skip
    return int(_has_missing(said))


def _has_missing(said: Sequence[Section]) -> bool:
    return any(line.mark == "missing" for section in said for line in section.lines)


def _versions(there: Sequence[Package]) -> Section:
    least = ".".join(map(str, LEAST_PYTHON))
    python = Line("ok", "Python", platform.python_version())
    if not python_does():
        python = Line("missing", "Python", platform.python_version(), f"install {least} or newer")
    lines = [_version(package) for package in there]
    if not there:
        lines = [Line("warning", "calotype", "is not installed, so its needs are not known",
                      "pip install -e .")]  # fmt: skip
    same = [f"{line.what} {line.said}" for line in lines if line.mark == "ok"]
    rest = [line for line in lines if line.mark != "ok"]
    return Section("Versions", (python, Line("ok", "as tested", ", ".join(same)), *rest))


def _version(package: Package) -> Line:
    """Ok: as tested, or of no tested version."""
    name, found, tested = package.name, package.found, package.tested
    if found is None and package.extra:
        return Line("note", name, "not installed", f"pip install 'calotype[{package.extra}]'")
    if found is None or not package.does:
        said = f"{found} is too old: it needs {package.needs}" if found else "not installed"
        pin = f"=={tested}" if tested else package.needs
        return Line("warning" if package.extra else "missing", name, said,
                    f"pip install '{name}{pin}'")  # fmt: skip
    if tested and found.partition("+")[0] != tested:
        return Line("warning", name, f"{found}; tested with {tested}",
                    f"if something is odd: pip install '{name}=={tested}'")  # fmt: skip
    return Line("ok", name, found)


def examine_or_fail(options: Doctor) -> None:
    """The verb: `doctor`, and its exit code.

    Raises:
        SystemExit: something necessary is missing; with code 1.
    """
    if code := doctor(options):
        raise SystemExit(code)
