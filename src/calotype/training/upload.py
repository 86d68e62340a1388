"""A folder here to a repository on the Hub, and in one line what is to be done where it stops."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calotype.lazy import huggingface_hub
from calotype.mistakes import note
from calotype.training.network import ask_hub
from calotype.training.progress import say

MARKED = ".calotype"
"""A file that says whose a folder is; it stays here, as all that is hidden does."""
NETWORK = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "hf_xet")
"""Libraries whose errors are the network's."""


@dataclass(frozen=True)
class Destination:
    """Where on the Hub a folder goes, and how."""

    repo: str
    """`user/name`."""
    revision: str | None = None
    """Branch, which is made if it is not there; None: the main one."""
    private: bool | None = None
    """Whether others may not see the repository; None: as its owner has it by default."""
    message: str | None = None
    """Of the commit."""


def check_name(repo: str, owned: bool = True) -> None:
    """Refuse what can be no repository's name.

    Args:
        repo: The name.
        owned: Whether it says whose it is, too.

    Raises:
        ValueError: it is none.
    """
    try:
        huggingface_hub.utils.validate_repo_id(repo)
    except huggingface_hub.errors.HFValidationError as error:
        reason = str(error).partition(":")[0].rstrip(".")
        raise ValueError(f"{repo!r} names no repository: write user/name ({reason})") from error
    if owned and "/" not in repo:
        raise ValueError(f"{repo!r} does not say whose repository it is: write user/name")


def check_token(repo: str, again: str, token: str | None = None) -> None:
    """Ask the Hub whose the token is, and refuse one that cannot write to a repository.

    Raises:
        OSError: the Hub is not there, or does not know the token.
        ValueError: the token is for reading, or somebody else's.
    """
    _reach(again)
    with told(repo, again, token):
        found = huggingface_hub.HfApi(token=token).whoami()
    role = found.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise ValueError(f"the token of {found['name']} is for reading: {_take_another()}")
    owner, _, _ = repo.rpartition("/")
    owners = [found["name"], *(each["name"] for each in found.get("orgs", []))]
    if owner and owner.lower() not in map(str.lower, owners):
        raise ValueError(
            f"{repo} is {owner}'s, and the token is of {found['name']}: choose a name of "
            f"{' or '.join(owners)}, or log in as another by `hf auth login`"
        )


def _reach(again: str) -> None:
    """Ask whether there is a Hub, whose client would wait for it for ever.

    Raises:
        OSError: there is none.
    """
    constants = huggingface_hub.constants
    if constants.HF_HUB_OFFLINE:
        return  # of which the client says so itself
    ask_hub()
    if constants.HF_HUB_OFFLINE:
        constants.HF_HUB_OFFLINE = False  # another time it may be there
        raise OSError(
            f"{constants.ENDPOINT} does not answer: see that there is a network, and {again}"
        )


def upload(folder: Path, to: Destination, again: str, token: str | None = None) -> str:
    """Make the repository if it is not there, and send what it lacks of a folder. What went wrong
    midway is sent again in the library's own manner; what was sent before is not.

    Args:
        folder: As the repository is to be; all of it but what is hidden is sent, and what else is
            in the repository stays.
        to: Where to.
        again: What to do where it stops, such as a command to run again.
        token: With which; None: that of the environment or of `hf auth login`.

    Returns:
        The address of what was sent.

    Raises:
        OSError: the Hub is not there, refused, or was cut off.
        ValueError: it does not take the card, or the repository is open and was to be private.
    """
    api = huggingface_hub.HfApi(token=token)
    with told(to.repo, again, token):
        repo = api.create_repo(to.repo, private=to.private, exist_ok=True).repo_id
        is_open = bool(to.private) and not api.repo_info(repo).private
        if to.revision and not is_open:
            api.create_branch(repo, branch=to.revision, exist_ok=True)
    if is_open:
        raise ValueError(
            f"{repo} is there and open to all: choose a new name for what is private, or make it "
            f"private at {api.endpoint}/{repo}/settings"
        )
    with told(repo, again, token):
        api.upload_folder(
            repo_id=repo, folder_path=folder, revision=to.revision,
            commit_message=to.message or "Upload by calotype", ignore_patterns=[".*", "**/.*"],
        )  # fmt: skip
    return f"{api.endpoint}/{repo}" + (f"/tree/{to.revision}" if to.revision else "")


def push_saved(save: Callable[[Path], None], to: Destination, token: str | None = None) -> str:
    """What `push_to_hub` of a model does: save it in a folder, and send that; returns the address
    of the repository.

    Raises:
        OSError: the Hub is not there, refused, or was cut off.
        ValueError: that is no name, or the repository is open and was to be private.
    """
    check_name(to.repo, owned=False)
    again = "call push_to_hub again, which sends only what is missing"
    check_token(to.repo, again, token)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        return upload(Path(folder), to, again, token)


@contextlib.contextmanager
def told(repo: str, again: str, token: str | None = None) -> Iterator[None]:
    """Make one line of whatever the Hub refuses or the network cuts off, with what to do then.

    Raises:
        OSError, ValueError: something did.
    """
    try:
        yield
    except KeyboardInterrupt:
        say(f"stopped: what {repo} has by now stays there; {again}")
        raise
    except Exception as error:
        if any(_quotes(each, token) for each in _causes(error)):
            why = "the token is none: set HF_TOKEN anew, or run `hf auth login`"
            raise OSError(f"{why}; {again}") from None
        why = _why(error, repo)
        if why is None:
            note(error, f"{repo} may have a part of it; {again}")
            raise
        kind = ValueError if isinstance(error, ValueError) else OSError
        raise kind(f"{why}; {again}") from error


def _quotes(error: BaseException, token: str | None) -> bool:
    """Whether a library's own words have the token in them, as those about a header that cannot be
    sent do; they are not shown then.
    """
    known = [each for each in (token, huggingface_hub.get_token()) if each]
    return "Bearer" in str(error) or any(each in str(error) for each in known)


def _why(error: BaseException, repo: str) -> str | None:
    """What went wrong, in words; None: it is neither the Hub's doing nor the network's."""
    if isinstance(error, ValueError) and "metadata in README.md" in str(error):
        return f"the Hub does not take the card: {_line(str(error))}"
    chain = list(_causes(error))
    errors = huggingface_hub.errors
    for each in chain:
        if isinstance(each, errors.LocalTokenNotFoundError):
            return "nobody is logged in to the Hub: run `hf auth login`, or set HF_TOKEN"
        if isinstance(each, errors.OfflineModeIsEnabled):
            return "the Hub may not be asked: unset HF_HUB_OFFLINE"
        if isinstance(each, errors.HfHubHTTPError):
            return _refusal(each, repo)
    endpoint = huggingface_hub.constants.ENDPOINT
    cut = next((each for each in chain if _is_of_the_network(each)), None)
    return cut and f"the connection to {endpoint} failed ({_line(str(cut)) or type(cut).__name__})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_of_the_network(error: BaseException) -> bool:
    of_a_file = isinstance(error, OSError) and error.filename is not None
    library = type(error).__module__.partition(".")[0]
    return library in NETWORK or (
        isinstance(error, ConnectionError | TimeoutError) and not of_a_file
    )


def _refusal(error: Any, repo: str) -> str:
    """What the Hub's status says."""
    status = error.response.status_code
    said = _line(error.server_message or "") or "no reason given"
    if status == 401:
        return "the Hub does not know the token (401): run `hf auth login`, or set HF_TOKEN anew"
    if status == 403:
        return f"the token may not write to {repo} (403, {said}): {_take_another()}"
    if status == 409:
        return f"{repo} was changed by somebody else at the same time (409, {said})"
    if status == 429:
        wait = error.response.headers.get("Retry-After")
        return f"the Hub asks to wait {f'{wait} seconds' if wait else 'a while'} (429, {said})"
    if status >= 500:
        return f"the Hub failed ({status}, {said})"
    return f"the Hub refused {repo} ({status}, {said})"


def _take_another() -> str:
    endpoint = huggingface_hub.constants.ENDPOINT
    return f"make one that may write at {endpoint}/settings/tokens and run `hf auth login`"


def _line(text: str) -> str:
    return " ".join(text.split())
