"""Prompts as people give them: arguments, a file, or standard input."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

STDIN = Path("-")


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a text file in UTF-8, one a line; `-` is standard input. Empty lines are none.

    Raises:
        ValueError: it is not UTF-8, or has no prompts.
        OSError: it cannot be read.
    """
    name = "standard input" if path == STDIN else str(path)
    data = sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{name} is not UTF-8, at the latest in line {line}: convert it") from None
    # Not splitlines, to which some characters within a prompt end a line.
    lines = [line.strip() for line in re.split(r"\r\n|\n|\r", text)]
    if not any(lines):
        raise ValueError(f"{name} has no prompts: write one a line")
    return tuple(line for line in lines if line)


def check_prompts(prompts: Sequence[str]) -> None:
    """Refuse prompts that are no text.

    Raises:
        ValueError: one has half a character: a surrogate, as arguments that are not UTF-8 become.
    """
    for number, prompt in enumerate(prompts, 1):
        if broken := re.search("[\ud800-\udfff]", prompt):
            raise ValueError(
                f"prompt {number} of {len(prompts)} is no text: its character "
                f"{broken.start() + 1} is {broken[0]!a}, half of one; write it in UTF-8"
            )
