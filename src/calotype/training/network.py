"""What is a folder here or fetched from the Hub; where there may be no network, it is missed in
seconds, not in minutes.
"""

import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

from calotype.lazy import datasets, huggingface_hub

PATIENCE = 5.0
"""Seconds that the Hub is given to answer."""
LET_BE = 60.0
"""Seconds after which a Hub that did not answer is asked again."""
_SILENT: list[float] = []
"""When it last did not, by the monotonic clock."""


def ask_hub() -> None:
    """Ask whether the Hub answers; if not, its libraries look for the next minute only into what
    they have fetched before, rather than try again for half a minute each.
    """
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        if not _SILENT or time.monotonic() - _SILENT[-1] < LET_BE:
            return
        _go_offline(False)
    _SILENT.clear()
    answers: list[bool] = []
    # Beside, because nothing bounds how long a name server may be silent.
    asking = Thread(target=lambda: answers.append(_answers(PATIENCE)), daemon=True)
    asking.start()
    asking.join(PATIENCE + 0.5)
    if answers != [True]:
        _SILENT.append(time.monotonic())
        _go_offline(True)


def _go_offline(offline: bool) -> None:
    huggingface_hub.constants.HF_HUB_OFFLINE = offline
    if "datasets" in sys.modules:  # it has a copy
        datasets.config.HF_HUB_OFFLINE = offline


def _answers(seconds: float) -> bool:
    # By the client that will fetch, with its certificates and proxies.
    try:
        client = huggingface_hub.utils.get_session()
        client.head(huggingface_hub.constants.ENDPOINT, timeout=seconds)
    except Exception:  # of whichever library that is; also of an address that is none
        return False
    return True


SHOWN = 6
"""Folders that are named in place of one that is not there."""
STOCK = ("config.json", "model_index.json")
"""What says that a folder is itself a model or a pipeline."""


NAME = re.compile(
    r"(?P<root>[^/@]+(?:/[^/@]+)?)"
    r"(?:@(?P<revision>refs/pr/\d+|refs/convert/[^/]+|[^/@]+))?"
    r"(?:/(?P<inside>[^@]+?))?/?"
)
"""A name on the Hub as huggingface_hub's own file system writes it: `user/name`,
`user/name/folder`, `user/name@revision/folder`."""


@dataclass(frozen=True)
class Place:
    """A folder here, or one in a repository on the Hub; or a file."""

    root: str
    """The folder, or the repository's name."""
    inside: str = ""
    """Of a repository, the folder or file in it."""
    revision: str | None = None
    """Of a repository, a branch, tag or commit; None: main."""

    @property
    def is_here(self) -> bool:
        """Whether it is no repository."""
        return Path(self.root).exists()

    @property
    def options(self) -> dict[str, Any]:
        """What `from_pretrained` of diffusers and transformers takes beside `root`."""
        return {"subfolder": self.inside, "revision": self.revision}

    def __truediv__(self, name: str) -> "Place":
        """What is called so in it."""
        if self.is_here:
            return Place(str(Path(self.root, name)))
        return replace(self, inside=f"{self.inside}/{name}".strip("/"))

    def fetched(self) -> Path | None:
        """A small file, of a repository on the Hub as it was fetched; None: there is none."""
        if self.is_here:
            return Path(self.root)
        if not self.inside:
            return None
        errors = huggingface_hub.errors
        try:
            file = huggingface_hub.hf_hub_download(self.root, self.inside, revision=self.revision)
        except (errors.HfHubHTTPError, errors.HFValidationError, errors.LocalEntryNotFoundError):
            return None
        return Path(file)

    def whole(self) -> "Place":
        """For what reads a folder or a whole repository: of a folder in one, what was fetched of
        it.
        """
        if self.is_here or not self.inside:
            return self
        root = huggingface_hub.snapshot_download(
            self.root, revision=self.revision, allow_patterns=f"{self.inside}/*"
        )
        return Place(str(Path(root, self.inside)))


def place(path: str | Path, *kept_in: str) -> Place:
    """Where a model is, as `located` finds it. Of a name on the Hub it is asked first whether that
    answers at all.

    Raises:
        FileNotFoundError: no name on the Hub is written so, and there is no such folder.
    """
    found = located(path, *kept_in)
    if Path(found).exists():
        return Place(found)
    ask_hub()
    return named(found)


def named(name: str) -> Place:
    """The parts of a name on the Hub.

    Raises:
        FileNotFoundError: no name on the Hub is written so.
    """
    parts = NAME.fullmatch(name)
    if parts is None:
        raise FileNotFoundError(
            f"there is no folder {name}, and on the Hub one is called user/name, user/name/folder "
            "or user/name@revision/folder"
        )
    revision = parts["revision"]
    return Place(parts["root"], parts["inside"] or "", revision and unquote(revision))


def located(path: str | Path, *kept_in: str) -> str:
    """Where a model is: a folder that is here, or, as it stands, a name on the Hub.

    Args:
        path: The folder or name; also the folder of a run or of a whole way that made the model.
        kept_in: Places within such a folder, the likeliest first.

    Raises:
        FileNotFoundError: no name on the Hub is written so, and there is no such folder.
    """
    folder = Path(path).expanduser()
    if folder.exists():
        inner = [] if any((folder / name).exists() for name in STOCK) else kept_in
        return str(next((folder / name for name in inner if (folder / name).is_dir()), folder))
    first, *others = folder.parts
    deep = len(others) > 2 and "@" not in str(path)
    mistyped = deep or (len(others) > 1 and Path(first).is_dir())
    if mistyped or str(path).startswith((".", "/", "~")) or (others and _has_runs(Path(first))):
        raise FileNotFoundError(f"there is no folder {path}{_there(folder)}")
    return str(path)


def _has_runs(folder: Path) -> bool:
    return any(next(folder.glob(f"*/{name}"), None) for name in ("recipe.json", "journey.json"))


def missed(path: str | Path) -> str:
    """What to say of a name that the Hub does not know either: that no folder is called so, and
    that the Hub was not asked.
    """
    if Path(path).exists():
        return ""
    silent = huggingface_hub.constants.HF_HUB_OFFLINE
    why = (
        f"; {huggingface_hub.constants.ENDPOINT} does not answer, or is not asked" if silent else ""
    )
    return f"{why}; nor is there a folder {path}{_there(Path(path))}"


ADVICE = re.compile("local_files_only|outgoing traffic|offline mode|couldn't connect", re.I)
"""In what libraries say of a Hub that is not asked, as if their caller had wished it so."""


def reason(path: str | Path, error: Exception) -> str:
    """Why nothing could be read: a library's word in brackets, and what `missed` says."""
    unknown = missed(path) if isinstance(error, OSError) else ""
    said = " ".join(str(error).split())
    return unknown if unknown and ADVICE.search(said) else f" ({said}){unknown}"


def _there(missing: Path) -> str:
    """What there is in place of a folder that is not."""
    near = next(parent for parent in (*missing.parents, Path()) if parent.is_dir())
    try:
        folders = [each.name for each in near.iterdir() if each.is_dir()]
    except OSError:
        return ""
    seen = sorted(name for name in folders if not name.startswith("."))
    listed = ", ".join(seen[:SHOWN]) + (", ..." if len(seen) > SHOWN else "")
    return f": in {near} there is {listed}" if seen else ""


@contextmanager
def patience(seconds: float = 10.0) -> Iterator[None]:
    """While it is entered, a server that says nothing for so long counts as absent."""
    was = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(was)
