"""What filters remove from streams: it is found out as they are read, by many processes, more than
once, and told as if it had been found before.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from textwrap import shorten
from typing import NamedTuple

NAMED = 3
"""Pictures that are named of those that a filter removes."""


@dataclass
class Tally:
    """What was found in the beginning of a part, or in all of it."""

    read: int = 0
    """Pictures that were looked at."""
    removed: Counter[str] = field(default_factory=Counter)
    """Of them, by the reason."""
    names: dict[str, list[str]] = field(default_factory=dict)
    """Of the first of these."""

    def add(self, name: str, why: str | None) -> None:
        """Count a picture, and why it is removed; None: it is left."""
        self.read += 1
        if why is not None:
            self.removed[why] += 1
            if len(named := self.names.setdefault(why, [])) < NAMED:
                named.append(name)

    def take(self, other: "Tally") -> None:
        """Add what was found elsewhere."""
        self.read += other.read
        self.removed.update(other.removed)
        for why, names in other.names.items():
            self.names[why] = [*self.names.get(why, ()), *names][:NAMED]

    def lines(self, source: str) -> Iterator[str]:
        """What was removed, in words."""
        left = self.read - self.removed.total()
        yield f"{source}: {left} of {self.read} pictures are left"
        for why, count in self.removed.items():
            yield f"  {line_of(why, self.names[why], count)}"


class News(NamedTuple):
    """What one process has found in a part."""

    source: str
    parts: int
    """Of the source."""
    part: int
    tally: Tally
    whole: bool
    """Whether that is all of it."""


@dataclass
class Removed:
    """What all processes found in the parts of one source. A part that is read again, or by two
    processes, counts once: each begins at its start, and who came further knows more.
    """

    parts: int
    whole: Tally = field(default_factory=Tally)
    """Of the parts that were read to their end."""
    done: set[int] = field(default_factory=set)
    """These."""
    begun: dict[int, Tally] = field(default_factory=dict)
    """Of the others."""
    told: int = 0
    """Pictures that had been looked at when it was told last."""

    def hear(self, news: News) -> None:
        """Take in what a process has found."""
        if news.part in self.done:
            return
        if news.whole:
            self.done.add(news.part)
            self.begun.pop(news.part, None)
            self.whole.take(news.tally)
        elif (known := self.begun.get(news.part)) is None or known.read < news.tally.read:
            self.begun[news.part] = news.tally

    def lines(self, source: str, *, ending: bool) -> list[str]:
        """What is to be told now: something when all parts are known, or reading ends before."""
        found = Tally()
        for each in (self.whole, *self.begun.values()) if ending or self._is_done else ():
            found.take(each)
        if found.read <= self.told:
            return []
        self.told = found.read
        return [*found.lines(source)]

    @property
    def _is_done(self) -> bool:
        return len(self.done) == self.parts


@dataclass
class Removals:
    """What the sources of one reader had removed."""

    found: dict[str, Removed] = field(default_factory=dict)
    """By the source."""
    fresh: dict[tuple[str, int], News] = field(default_factory=dict)
    """By source and part, since it was asked for."""

    def note(self, news: News) -> None:
        """Keep what this process has found."""
        self.fresh[news.source, news.part] = news

    def news(self) -> tuple[News, ...]:
        """What this process has found since it was asked last."""
        news, self.fresh = tuple(self.fresh.values()), {}
        return news

    def told(self, elsewhere: Iterable[News] = (), *, ending: bool = False) -> list[str]:
        """Take in what this and other processes found, and give what is to be told now.

        Args:
            elsewhere: What others found.
            ending: Whether reading ends, so that what is not known yet will not be.
        """
        for news in (*elsewhere, *self.news()):
            self.found.setdefault(news.source, Removed(news.parts)).hear(news)
        each = (found.lines(source, ending=ending) for source, found in self.found.items())
        return [*chain.from_iterable(each)]


def line_of(why: str, names: list[str], count: int) -> str:
    """Say what was removed for one reason, and name the first."""
    more = ", ..." if count > len(names) else ""
    return f"removed: {count}, {why} ({shorten(', '.join(names), 300)}{more})"
