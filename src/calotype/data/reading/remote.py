"""Reading a file whole, from a disk, a server or a bucket. What may pass is tried again, and is no
broken picture: it is the reading that failed.
"""

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.config import conf

from calotype.data.reading.images import BrokenImage

T = TypeVar("T")

STANDING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""What will not pass."""
LOST = (errno.ELOOP, errno.ENAMETOOLONG)
"""More of it: links that lead nowhere, and names that there cannot be."""
NETWORKS = frozenset({"aiohttp", "aiobotocore", "botocore", "asyncio", "fsspec", "gcsfs", "http",
                      "httpcore", "httpx", "huggingface_hub", "requests", "s3fs",
                      "urllib3"})  # fmt: skip
"""Libraries whose errors say that a network or a server failed."""
GONE, BUSY = (404, 410), (408, 425, 429)
"""A server's words for what is not there, and for what may be soon; from 500 on all may."""
SILENCE = 30.0
"""Seconds that a server may say nothing."""
BY_THE_EXTRA = ("http", "https", "s3", "s3a")
"""Where the libraries of the extra `remote` read from."""


class Unread(OSError):  # noqa: N818 (named for what the file is)
    """A file could not be read, whatever it holds."""


@dataclass(frozen=True)
class Patience:
    """How often what may pass is tried again."""

    pauses: tuple[float, ...] = (0.5, 2.0, 8.0, 30.0)
    """Seconds before each further try."""
    sleep: Callable[[float], None] = time.sleep


PATIENCE = Patience()


def tried(read: Callable[[], T], name: str) -> T:
    """Read, and again after growing pauses if what went wrong may pass.

    Args:
        read: Reads.
        name: What errors call it.

    Raises:
        OSError: it cannot be read, and nothing that it holds is to blame.
    """
    for number, pause in enumerate([*PATIENCE.pauses, None], start=1):
        try:
            return read()
        except Exception as error:
            if not _is_fault(error):
                raise
            if pause is None or not _may_pass(error):
                raise _fault(error, name, number) from error
            PATIENCE.sleep(pause)
    raise AssertionError("the last try returns or raises")


def contents(file: Path | str) -> bytes:
    """Read a file, or what is at a URL, whole.

    Raises:
        BrokenImage: the server says that there is nothing.
        ImportError: a library for such URLs is not installed.
        ValueError: there are no such URLs.
    """
    if isinstance(file, Path):
        return file.read_bytes()
    system, path = fsspec.url_to_fs(file, **options_of(check(file)))
    try:
        return system.cat_file(path)
    except Exception as error:
        if isinstance(error, FileNotFoundError) or getattr(error, "status", None) in GONE:
            raise BrokenImage(f"cannot read picture {file}: there is none") from error
        raise


def check(url: str) -> str:
    """See that a library for such URLs is installed; their protocol.

    Raises:
        ImportError: it is not.
        ValueError: there is none.
    """
    protocol = url.partition("://")[0].split("::")[-1]
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        mend = 'run pip install "calotype[remote]"' if protocol in BY_THE_EXTRA else str(error)
        raise ImportError(
            f"{url}: {protocol} needs a library that is not installed: {mend}"
        ) from error
    except ValueError:
        raise ValueError(
            f"{url}: no such protocol, {protocol}: give http, https, s3, ..."
        ) from None
    return protocol


def options_of(protocol: str) -> dict[str, Any]:
    """How its file system is opened: a server is not waited for without end."""
    if protocol not in ("http", "https"):
        return {}
    import aiohttp

    own = conf.get(protocol, {}).get("client_kwargs", {})
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
    return {"client_kwargs": {"timeout": timeout, **own}}


def _is_fault(error: Exception) -> bool:
    """Whether it was the reading that failed."""
    if isinstance(error, BrokenImage | ImportError):
        return False
    libraries = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError | MemoryError | TimeoutError) or bool(libraries & NETWORKS)


def _may_pass(error: Exception) -> bool:
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status in BUSY
    stays = isinstance(error, STANDING) or getattr(error, "errno", None) in LOST
    return not stays and "Credentials" not in type(error).__name__


def _fault(error: Exception, name: str, tries: int) -> OSError:
    kind = next((kind for kind in STANDING if isinstance(error, kind)), Unread)
    again = f", tried {tries} times" if tries > 1 else ""
    return kind(f"{name} cannot be read{again}: {_reason(error)}")


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    said = getattr(error, "strerror", None) or str(error)
    return said.splitlines()[0] if said else type(error).__name__
