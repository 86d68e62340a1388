"""Which errors tell a user what to mend, and which are for whoever mends the code."""

import dis
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from types import TracebackType

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Answered(SystemExit):
    """A mistake that was answered with one line; the exit code is 2."""

    def __init__(self, line: str) -> None:
        super().__init__(2)
        self.line = line


def is_told(error: BaseException) -> bool:
    """Whether an error's message is all that a user needs.

    That is a ValueError, OSError or ImportError that a `raise` of calotype's own code raised, and
    the operating system's word about a named file or a full disk. Whatever comes up inside a
    library, or in calotype's code without a `raise`, wants its traceback.
    """
    if not getattr(error.__cause__, "told", True):  # as the worker knew that met it
        return False
    if isinstance(error, OSError) and (error.filename is not None or error.errno in DISK_FULL):
        return True
    return isinstance(error, ValueError | OSError | ImportError) and _raised_here(error)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says so; safetensors' errors do in words alone."""
    if isinstance(error, OSError):
        return error.errno in DISK_FULL
    return any(f"(os error {number})" in str(error) for number in DISK_FULL)


def _raised_here(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and _is_ours(trace) and _at_raise(trace)


def _is_ours(trace: TracebackType) -> bool:
    return trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] == "calotype"


def _at_raise(trace: TracebackType) -> bool:
    """Whether the line raises; else it calls something written in C, which did."""
    code = trace.tb_frame.f_code.co_code
    return dis.opname[code[trace.tb_lasti]] == "RAISE_VARARGS"


class TracebackElsewhere(Exception):  # noqa: N818 (no error, but where one came from)
    """Stands in an error's traceback for the part that lies in another process."""

    def __init__(self, traceback: str, told: bool) -> None:
        super().__init__(f"\n{traceback}")
        self.told = told


def sendable(error: BaseException) -> BaseException:
    """An error that can be sent to another process: a queue drops what cannot, and its reader would
    wait.
    """
    try:
        # As the queue would.
        ForkingPickler.loads(ForkingPickler.dumps(error))  # pyright: ignore[reportAttributeAccessIssue]
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def note(error: BaseException, line: str) -> None:
    """What `add_note` does, which Python 3.10 has not."""
    error.__notes__ = [*getattr(error, "__notes__", []), line]


@contextmanager
def noted(say: Callable[[], str]) -> Iterator[None]:
    """Whatever goes wrong within this context has a note that says where things stand."""
    try:
        yield
    except Exception as error:
        note(error, say())
        raise
