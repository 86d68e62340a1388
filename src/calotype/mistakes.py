"""Which errors tell a user what to mend, and which are for whoever mends the code."""

import dis
import errno
from types import TracebackType

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


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
