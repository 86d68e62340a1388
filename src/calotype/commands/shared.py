"""A folder that several processes fill with pictures: who draws which, so that none is twice.

Every picture has a number, noted before it is drawn, and whoever draws it holds a lock on that
number. A lock is the operating system's: it ends with its process, however that ends.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from calotype.training.claims import Claims
from calotype.training.files import write_text

DRAWN = "drawn.jsonl"
PLANNED = ".planned.jsonl"
"""Numbers of pictures that are still to be drawn; gone when all of them are."""
FIRST = 2**40
"""Locks are on bytes of drawn.jsonl, far behind its end: on this one by whoever changes the list of
pictures, on each next one by whoever draws the picture of that number."""


class Shared:
    """What is drawn in a folder and what is planned there.

    Args:
        folder: Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._file = (folder / DRAWN).open("ab+")
        self._claims = Claims(self._file, FIRST + 1)

    def close(self) -> None:
        """Let go of all that is claimed."""
        self._file.close()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While it is entered, no other process changes the list of pictures."""
        self._claims.take(-1, wait=True)
        try:
            yield
        finally:
            self._claims.let_go(-1)

    def claim(self, number: int) -> bool:
        """Whether this process draws a picture: no other one does."""
        return self._claims.take(number)

    def release(self, number: int) -> None:
        """Let others have it, who then find it drawn."""
        self._claims.let_go(number)

    def drawn(self) -> list[dict[str, Any]]:
        """Lines of what is drawn, without one that a kill cut in two."""
        self._file.seek(0)
        return list(_whole(self._file.read().decode(errors="replace").split("\n")))

    def note(self, entry: Mapping[str, Any]) -> None:
        """Add a line of JSON to what is drawn, in one write; behind one that a kill cut in two, on
        a line of its own.
        """
        line = json.dumps(entry, ensure_ascii=False) + "\n"
        if self._file.seek(0, 2):
            self._file.seek(-1, 2)
            line = line if self._file.read() == b"\n" else "\n" + line
        self._file.write(line.encode())
        self._file.flush()

    def plan(self, keys: Sequence[str], taken: int) -> list[int]:
        """Numbers of pictures by their keys: those that they have, and for what is new those from
        `taken` on. To be called alone.
        """
        planned, first = self._planned(), self.free(taken)
        known = {**self._numbers(), **planned}
        new = [key for key in keys if key not in known]
        known |= {key: first + i for i, key in enumerate(new)}
        self._write({**planned, **{key: known[key] for key in keys}})
        return [known[key] for key in keys]

    def free(self, taken: int) -> int:
        """The first number from `taken` on behind all that are planned. To be called alone."""
        return max([taken, *(number + 1 for number in self._planned().values())])

    def settle(self) -> None:
        """Forget the plans of what is drawn. To be called alone."""
        drawn = self._numbers()
        self._write({key: n for key, n in self._planned().items() if key not in drawn})

    def _numbers(self) -> dict[str, int]:
        lines = self.drawn()
        return {line["key"]: int(line["file"].split("-")[0]) for line in lines if "key" in line}

    def _planned(self) -> dict[str, int]:
        file = self.folder / PLANNED
        return dict(json.loads(file.read_text())) if file.exists() else {}

    def _write(self, planned: Mapping[str, int]) -> None:
        file = self.folder / PLANNED
        if planned:
            write_text(file, json.dumps([*planned.items()]))
        else:
            file.unlink(missing_ok=True)


def _whole(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found
