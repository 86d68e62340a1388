"""Which versions of what calotype stands on are there, beside those it is tested with.

Imports nothing of all that, so that it can say what is missing.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

CONSTRAINTS = "constraints.txt"
"""In the package where it was built, at the repository's root where it is run from there."""
LEAST_PYTHON = (3, 10)


@dataclass(frozen=True)
class Package:
    """One that calotype needs, or can use."""

    name: str
    needs: str
    """Versions that do, such as ">=2.6"; empty: any."""
    extra: str | None
    """The extra that brings it; None: it is always needed."""
    found: str | None
    """The version that is there; None: there is none."""
    tested: str | None
    """The version that calotype is tested with; None: it is not said."""

    @property
    def does(self) -> bool:
        """Whether what is there will do."""
        return self.found is not None and Requirement(f"x{self.needs}").specifier.contains(
            self.found, prereleases=True
        )


def packages() -> list[Package]:
    """What calotype declares to need or use, but for its own development."""
    try:
        declared = requires("calotype") or []
    except PackageNotFoundError:  # run from its sources
        declared = []
    return list(_packages(declared, pinned_versions()))


def pinned_versions() -> dict[str, str]:
    """The versions of constraints.txt for this Python; none where there is no such file."""
    package = Path(__file__).parents[1]
    for file in (package / CONSTRAINTS, package.parents[1] / CONSTRAINTS):
        if file.exists():
            return _pinned(file.read_text().splitlines())
    return {}


def python_does() -> bool:
    """Whether this Python is new enough."""
    return sys.version_info >= LEAST_PYTHON


def _packages(declared: Iterable[str], tested: dict[str, str]) -> Iterator[Package]:
    for text in declared:
        need = Requirement(text)
        extra = next((e for e in ("offline", "openmoji") if _asked_for_by(need, e)), None)
        if extra or _asked_for_by(need, ""):
            yield Package(need.name, str(need.specifier), extra, _version(need.name),
                          tested.get(_plain(need.name)))  # fmt: skip


def _asked_for_by(need: Requirement, extra: str) -> bool:
    marker = need.marker
    if not extra:
        return marker is None or marker.evaluate({"extra": ""})
    return (
        marker is not None
        and marker.evaluate({"extra": extra})
        and not marker.evaluate({"extra": ""})
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _pinned(lines: Iterable[str]) -> dict[str, str]:
    found = {}
    for line in lines:
        if text := line.partition("#")[0].strip():
            pin = Requirement(text)
            if pin.marker is None or pin.marker.evaluate():
                found[_plain(pin.name)] = str(pin.specifier).removeprefix("==")
    return found


def _plain(name: str) -> str:
    """resvg_py is resvg-py."""
    return name.lower().replace("_", "-")
