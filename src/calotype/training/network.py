"""What is a folder here or fetched from the Hub; where there may be no network, it is missed in
seconds, not in minutes.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from calotype.lazy import huggingface_hub


def ask_hub(seconds: float = 5.0) -> None:
    """Ask whether the Hub answers; if not, its libraries look from now on only into what they have
    fetched before, rather than try again for half a minute each.
    """
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    try:
        with urlopen(Request(huggingface_hub.constants.ENDPOINT, method="HEAD"), timeout=seconds):
            pass
    except HTTPError:  # it answers
        pass
    except (OSError, HTTPException, ValueError):  # ValueError: of an address that is none
        huggingface_hub.constants.HF_HUB_OFFLINE = True


SHOWN = 6
"""Folders that are named in place of one that is not there."""
STOCK = ("config.json", "model_index.json")
"""What says that a folder is itself a model or a pipeline."""


def located(path: str | Path, *kept_in: str) -> str:
    """Where a model is: a folder that is here, or, as it stands, a name on the Hub.

    Args:
        path: The folder or name; also the folder of a run or of a whole way that made the model.
        kept_in: Places within such a folder, the likeliest first.

    Raises:
        FileNotFoundError: no name on the Hub is written so, and there is no such folder.
    """
    folder = Path(path)
    if folder.exists():
        inner = [] if any((folder / name).exists() for name in STOCK) else kept_in
        return str(next((folder / name for name in inner if (folder / name).is_dir()), folder))
    first, *others = folder.parts
    mistyped = len(others) > 2 or (len(others) > 1 and Path(first).is_dir())
    if mistyped or str(path).startswith((".", "/", "~")) or (others and _has_runs(Path(first))):
        raise FileNotFoundError(f"there is no folder {path}{_there(folder)}")
    return str(path)


def _has_runs(folder: Path) -> bool:
    return any(next(folder.glob(f"*/{name}"), None) for name in ("recipe.json", "journey.json"))


def missed(path: str | Path) -> str:
    """What to say of a name that the Hub does not know either: that no folder is called so."""
    return "" if Path(path).exists() else f"; nor is there a folder {path}{_there(Path(path))}"


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
