"""Work on a folder that several processes share: who does which part, and what came of it."""

import json
import shutil
from pathlib import Path
from typing import Any

from calotype.training.claims import Claims
from calotype.training.files import write_text


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

    @staticmethod
    def forget(folder: Path) -> None:
        """Begin anew: nothing was done. By one process, before any takes a part."""
        shutil.rmtree(folder, ignore_errors=True)

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
