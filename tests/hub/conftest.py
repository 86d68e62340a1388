"""A Hub of the tests' own, and a client that knows no other."""

from collections.abc import Iterator

import huggingface_hub
import pytest

from hub.server import TOKEN, State, serving


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    """What a Hub at a port of this machine holds; the client has its token and asks it alone."""
    with serving() as (address, state):
        constants = huggingface_hub.constants
        for name, value in (("ENDPOINT", address), ("HF_HUB_OFFLINE", False),
                            ("HF_HUB_DISABLE_XET", True)):  # fmt: skip
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        yield state
        huggingface_hub.close_session()
