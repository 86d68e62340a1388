"""What is fetched, where there may be no network: it is missed in seconds, not in minutes."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
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


@contextmanager
def patience(seconds: float = 10.0) -> Iterator[None]:
    """While it is entered, a server that says nothing for so long counts as absent."""
    was = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(was)
