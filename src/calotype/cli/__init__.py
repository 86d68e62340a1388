"""The `calotype` command: parse, call, print.

A mistake is answered with one line and exit code 2 before any work; set CALOTYPE_TRACEBACK to see
where such a line came from. Any other error shows its traceback, and exits with 1.
"""

import os
import sys
from collections.abc import Sequence

from calotype import __version__
from calotype.cli.commands import COMMANDS
from calotype.cli.parsing import fail, perhaps
from calotype.commands.quiet import ignore_warnings
from calotype.mistakes import is_told
from calotype.training.lost import among_ranks


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
        with among_ranks():
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


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: calotype COMMAND ...", "", *lines, "",
                      "calotype COMMAND --help says more."])  # fmt: skip
