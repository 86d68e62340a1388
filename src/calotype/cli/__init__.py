"""The `calotype` command: parse, call, print.

A mistake is answered with one line and exit code 2 before any work; set CALOTYPE_TRACEBACK to see
where such a line came from. Any other error shows its traceback, and exits with 1.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pkgutil import resolve_name

from calotype import __version__
from calotype.cli.commands import ALONE, COMMANDS
from calotype.cli.parsing import fail, perhaps
from calotype.commands.quiet import ignore_warnings
from calotype.mistakes import is_told


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; exits with 0, with 2 for a mistake, with 128 + signal when stopped."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return
    if arguments[0] == "--version":
        print(f"calotype {__version__}")
        return
    name, *rest = arguments
    if name not in COMMANDS:
        fail(f"no command {name!r}{perhaps(name, COMMANDS)}: choose from {', '.join(COMMANDS)}")
    ignore_warnings()
    try:
        with _among_ranks(name, rest):
            COMMANDS[name].run(name, rest)
    except KeyboardInterrupt:
        # Training saves first, and says so; whatever else was under way is begun again.
        print("calotype: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        notes: Sequence[str] = getattr(error, "__notes__", ())
        if is_told(error) and not os.environ.get("CALOTYPE_TRACEBACK"):
            fail(str(error), notes)
        if sys.version_info < (3, 11):  # whose tracebacks leave notes out
            print(*notes, sep="\n", file=sys.stderr)
        raise


def _among_ranks(name: str, arguments: Sequence[str]) -> AbstractContextManager[None]:
    """What a verb is done in by a process of several, if a launcher has started several."""
    if os.environ.get("WORLD_SIZE", "1") in ("", "0", "1"):
        return nullcontext()
    if name in ALONE:
        if {"-h", "--help"} & {*arguments}:
            return nullcontext()
        fail(f"{name} is done by one process: start it without a launcher, whose WORLD_SIZE is "
             f"{os.environ['WORLD_SIZE']}")  # fmt: skip
    # Named, for it brings torch, and one process alone may have nothing to do but to answer.
    return resolve_name("calotype.training.lost:among_ranks")()


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: calotype COMMAND ...", "", *lines, "",
                      "calotype COMMAND --help says more."])  # fmt: skip
