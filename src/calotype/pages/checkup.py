"""What `calotype doctor` shows in a terminal: sections of lines, each with mark and mend."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

Mark = Literal["ok", "note", "warning", "missing"]
"""Missing: nothing works without it; warning: something will not, or not well."""
COLOURS: dict[Mark, str] = {
    "ok": "green",
    "note": "dim",
    "warning": "yellow",
    "missing": "bold red",
}


@dataclass(frozen=True)
class Line:
    """One thing."""

    mark: Mark
    what: str
    said: str
    mend: str = ""
    """What to do about it."""


@dataclass(frozen=True)
class Section:
    """Things that belong together."""

    title: str
    lines: tuple[Line, ...]
    note: str = ""
    """How to read them."""


def show(sections: Iterable[Section], console: Console) -> None:
    """Print sections; without colours the marks are words."""
    for section in sections:
        show_title(section.title, section.note, console)
        for line in section.lines:
            show_line(line, max(len(each.what) for each in section.lines), console)


def show_title(title: str, note: str, console: Console) -> None:
    """Print what stands over a section."""
    console.print(Text(f"\n{title}", style="bold"))
    if note:
        console.print(Text(note, style="dim"))


def show_line(line: Line, width: int, console: Console) -> None:
    """Print one thing, named in a column so wide, and its mend below."""
    table = Table.grid(padding=(0, 1))
    table.add_column()
    table.add_column(width=width)
    table.add_column(overflow="fold")
    said = Text(line.said)
    if line.mend:
        said.append(f"\n-> {line.mend}", style="italic")
    table.add_row(Text(f"{line.mark:7}", COLOURS[line.mark]), Text(line.what), said)
    console.print(table)


def verdict(sections: Iterable[Section]) -> Line:
    """All of it in one line."""
    marks = [line.mark for section in sections for line in section.lines]
    missing, warnings = marks.count("missing"), marks.count("warning")
    if missing:
        return Line("missing", "verdict", f"{missing} necessary things are missing: see above")
    if warnings:
        return Line("ok", "verdict", f"all that is necessary is here; {warnings} warnings above")
    return Line("ok", "verdict", "all is well")
