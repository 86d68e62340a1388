"""Work on a folder that several processes share: who does which part, and what came of it."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from calotype.training.claims import Claims
from calotype.training.files import write_text
from calotype.training.progress import track


class Work:
    """Parts, by number, that any process may do, and that are done once; while it is entered.

    Args:
        folder: Where it is noted what was done; all processes see it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._file = (folder / "claims").open("ab+")
        self._claims = Claims(self._file)

    def take(self, part: int, wait: bool = False) -> bool:
        """Whether a part is for this process to do: no other does it, or has done it.

        Args:
            part: Its number.
            wait: For a process that does it now, lest that one dies.
        """
        if not self._claims.take(part, wait):
            return False
        if self.result(part) is None:
            return True
        self._claims.let_go(part)
        return False

    def done(self, part: int, result: Any) -> None:
        """Say what came of a part that was taken, as JSON."""
        write_text(self.folder / f"{part}.json", json.dumps(result))
        self._claims.let_go(part)

    def result(self, part: int) -> Any:
        """What came of a part; None: it is not done."""
        try:
            return json.loads((self.folder / f"{part}.json").read_text())
        except FileNotFoundError:
            return None

    def __enter__(self) -> "Work":
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of all parts."""
        self._file.close()


def each_once(folder: Path, count: int, act: Callable[[int], Any], what: str = "") -> list[Any]:
    """Do so many parts, each by one of the processes that come here; returns what came of all.
    None waits for another longer than that takes for a part, and a part of one that died is done by
    another.

    Args:
        folder: Of this work alone.
        count: Of the parts.
        act: What to do, of a part's number; gives what JSON has, and not None.
        what: How the person who watches is told of it; nothing is said without.
    """
    with Work(folder) as work:
        for wait in (False, True):
            own = (part for part in range(count) if work.take(part, wait))
            for part in track(own, what, count) if what and not wait else own:
                work.done(part, act(part))
        return [work.result(part) for part in range(count)]


def once_by_any(folder: Path, act: Callable[[], Any]) -> Any:
    """What came of something that one of the processes does, whichever comes first; the others wait
    for it.
    """
    return each_once(folder, 1, lambda part: [act()])[0][0]


PRESENT, MUTEX = 0, 1
"""Bytes of the file of who is there."""


class Together:
    """While it is entered, this process works on a folder together with others: those that came
    before it and are there. Who finds nobody there forgets what earlier ones noted, and who leaves
    last takes the notes away.

    Args:
        folder: Of all notes about the work.
        what: What is being done, by name; the same of all.
    """

    def __init__(self, folder: Path, what: Mapping[str, Any]) -> None:
        self.folder, self.what = folder, json.loads(json.dumps(what))

    def __enter__(self) -> "Together":
        """Come in.

        Raises:
            ValueError: others are there who do something else.
        """
        self._file = self._opened()
        self._claims = Claims(self._file)
        if self._claims.take(PRESENT):
            for path in self.folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
            write_text(self.folder / "what.json", json.dumps(self.what))
        else:
            self._check(json.loads((self.folder / "what.json").read_text()))
        self._claims.share(PRESENT)
        self._claims.let_go(MUTEX)
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._claims.take(MUTEX, wait=True)
            if self._claims.take(PRESENT):
                # Whoever comes meanwhile makes it anew, and must not lose what is in it by this.
                gone = self.folder.with_name(f"{self.folder.name}.{os.getpid()}.gone")
                self.folder.rename(gone)
                for each in gone.parent.glob(f"{self.folder.name}.*.gone"):  # others' too, killed
                    shutil.rmtree(each, ignore_errors=True)

    def _opened(self) -> IO[bytes]:
        """The file of who is there, its mutex taken."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "present"
        try:
            file = path.open("ab+")
        except FileNotFoundError:  # who left last took the folder away
            return self._opened()
        Claims(file).take(MUTEX, wait=True)
        try:
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file
        except FileNotFoundError:
            pass
        file.close()
        return self._opened()

    def _check(self, theirs: Mapping[str, Any]) -> None:
        for name, own in self.what.items():
            if theirs.get(name) != own:
                self._file.close()
                raise ValueError(
                    f"{self.folder.parent} is being made by another process, whose {name} is "
                    f"{theirs.get(name)} and not {own}: wait for its end, or choose another folder"
                )
