"""A journey: several parts, one after the other or side by side, told of as one. What is done of
it, how long the rest takes, and the page that shows it from the first minute on.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console

from calotype.mistakes import is_told
from calotype.pages.gallery import Gallery, Grid, Stage, Training, write_gallery
from calotype.training import Run
from calotype.training.files import write_text
from calotype.training.progress import EVERY, Standing, heard_by

TICK = 5.0
"""Seconds between two writings of the page."""
STOPPED = "Stopped. The same command goes on from here."
"""Last on the page of a way that did not reach its end."""
RECORD = "journey.json"
"""Beside the page: how long each part has taken, over all starts, and how much of that was saved
because they went side by side."""


@dataclass
class Part:
    """A part of a journey."""

    name: str
    seconds: float | None = None
    """How long what is to do of it should take; None: not measured yet."""
    run: Run | None = None
    """A run that tells how far it is, if the part is one run."""
    resumes: bool = False
    """Whether it goes on where it was stopped, so that what it takes adds up over several starts;
    else it is done again, or is there already, and what it took last counts."""
    lane: str | None = None
    """Parts of one lane are done one after the other, beside those of the other lanes; None: it
    has the machine to itself."""
    undecided: bool = False
    """Whether it is not settled yet how many steps it takes."""
    began: float | None = None
    first: int = 0
    """The step at which its run began this time."""
    seen: tuple[int, float] = (0, 0.0)
    """The last step that its run has logged, and when that was seen."""
    done: bool = False
    failed: bool = False
    """Whether it was stopped or went wrong: then its lane goes no further."""

    def step(self) -> int:
        """The last step that its run has logged."""
        return last_step(self.run) if self.run else 0

    def left(self) -> float | None:
        """Seconds that it still takes; None: not known yet."""
        if self.done:
            return 0.0
        if self.began is None:
            return self.seconds
        now = time.monotonic()
        if self.run and (step := self.step()) > self.first:
            # Between two lines of its log the time goes on, and the step does not.
            if self.seen[0] != step:
                self.seen = step, now
            each = (self.seen[1] - self.began) / (step - self.first)
            return max(0.0, each * (self.run.steps - self.first) - (now - self.began))
        return None if self.seconds is None else max(0.0, self.seconds - (now - self.began))


class Journey:
    """Keeps the page and the record while it is entered, and says every so often where it stands.

    Args:
        page: The page; the record is written beside it.
        title: What the page and the lines are called.
        parts: All of it, in order.
        trainings: The runs whose charts and samples the page shows.
    """

    def __init__(
        self, page: Path, title: str, parts: Sequence[Part], trainings: Sequence[Training] = ()
    ) -> None:
        self.page, self.title, self.parts = page, title, {part.name: part for part in parts}
        self.trainings, self.grids = list(trainings), list[Grid]()
        self.lines: list[str] = []
        self.commands: list[str] = []
        self.console = Console(highlight=False, markup=False, soft_wrap=True)
        record = _recorded(page.with_name(RECORD))
        self.took: dict[str, float] = record.get("seconds", {})
        self._saved: float = record.get("saved", 0.0)
        self._changed, self._heard = time.monotonic(), dict[str, float]()
        self.finished = self.stopped = False
        self._current: list[Part] = []
        self._writing, self._changing = threading.Lock(), threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="journey", daemon=True)

    def __enter__(self) -> "Journey":
        self.write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._over.set()
        self._thread.join()
        if error is not None:
            self.lines.append(str(error) if is_told(error) else STOPPED)
        self.finished, self.stopped = True, error is not None
        self.write()

    @contextmanager
    def part(self, name: str) -> Iterator[Part]:
        """Do a part of it."""
        part = self.parts[name]
        part.began, part.first, part.seen = time.monotonic(), part.step(), (0, 0.0)
        self._change(self._current.append, part)
        self.say(self._where(part))
        try:
            with heard_by(partial(self._standing, part)):
                yield part
            part.done = True
        except BaseException:
            part.failed = True
            raise
        finally:
            self._change(self._end, part)
            self.write()

    def _change(self, change: Callable[[Part], None], part: Part) -> None:
        with self._changing:
            self._saved, self._changed = self._side_by_side(), time.monotonic()
            change(part)

    def _end(self, part: Part) -> None:
        self.took[part.name] = self._taken(part)
        self._current.remove(part)

    def _side_by_side(self) -> float:
        """Seconds that parts have been under way beside others, over all starts."""
        beside = max(0, len(self._current) - 1)
        return self._saved + beside * (time.monotonic() - self._changed)

    @property
    def gone(self) -> float:
        """Seconds that all parts have taken so far, over all starts."""
        return sum(self._taken(part) for part in self.parts.values()) - self._side_by_side()

    def left(self) -> float | None:
        """Seconds that it still takes; None: not known yet."""
        failed = {part.lane for part in self.parts.values() if part.failed}
        still = [part for part in self.parts.values() if part.lane not in failed]
        left = {part.name: part.left() for part in still}
        return None if None in left.values() else together(still, lambda part: left[part.name])

    def say(self, line: str) -> None:
        """Tell the person who watches."""
        self.console.print(line)

    def show(self, *grids: Grid) -> None:
        """Put images on the page, above those of the trainings."""
        self.grids += grids
        self.write()

    def write(self) -> None:
        """Write the page and the record as things stand."""
        left = self.left()
        gallery = Gallery(
            self.title, tuple(self.lines), [self._stage(part) for part in self.parts.values()],
            "" if self.finished else f"{spoken(self.gone)} gone, {_about(left)}.",
            tuple(self.trainings), tuple(self.grids), tuple(self.commands), self.finished,
            self.stopped,
        )  # fmt: skip
        with self._writing:
            write_gallery(self.page, gallery)
            with self._changing:
                took = self.took | {part.name: self._taken(part) for part in self._current}
                record = {"seconds": took, "saved": self._side_by_side()}
            write_text(self.page.with_name(RECORD), json.dumps(record, indent=1) + "\n")

    def _keep(self) -> None:
        said = ""
        while not self._over.wait(TICK):
            try:
                self.write()
            except Exception as error:  # told at once, and training goes on
                if (what := f"{self.page} could not be written: {error!r}") != said:
                    self.say(said := what)
            current = [*self._current]
            silent = [part for part in current if self._is_silent(part)]
            if self.console.is_terminal and len(silent) < len(current):
                continue  # a bar is there, and says how far all is
            for part in silent:
                self.say(self._where(part))

    def _is_silent(self, part: Part) -> bool:
        last = self._heard.get(part.name, part.began or 0.0)
        return time.monotonic() - last > EVERY - TICK

    def _standing(self, part: Part, standing: Standing) -> str:
        """What is said of how far a part is: the time left is the whole's."""
        self._heard[part.name] = time.monotonic()
        counted = (replace(standing, total=None) if part.undecided else standing).counted
        return f"[{self._place(*self._current)}] {_about(self.left())} of all: {counted}"

    def _place(self, *parts: Part) -> str:
        names = list(self.parts)
        at = sorted(names.index(part.name) + 1 for part in parts)
        return f"{'+'.join(map(str, at))}/{len(names)}"

    def _where(self, part: Part) -> str:
        steps = f", step {part.step()} of {part.run.steps}" if part.run else ""
        return (f"[{self._place(part)}] {part.name}{steps}; "
                f"{spoken(self.gone)} gone, {_about(self.left())}")  # fmt: skip

    def _taken(self, part: Part) -> float:
        """Seconds that a part has taken so far."""
        if part not in self._current or part.began is None:
            return self.took.get(part.name, 0.0)
        before = self.took.get(part.name, 0.0) if part.resumes else 0.0
        return before + time.monotonic() - part.began

    def _stage(self, part: Part) -> Stage:
        if part.done:
            return Stage(part.name, "done", f"took {spoken(self.took.get(part.name, 0.0))}")
        if part.failed:
            return Stage(part.name, "to come", "stopped")
        if part.began is None or self.finished:
            return Stage(part.name, "to come", _takes(part.seconds))
        steps = f"step {part.step()} of {part.run.steps}, " if part.run else ""
        return Stage(part.name, "now", f"{steps}{_about(part.left())}")


def together(parts: Iterable[Part], seconds: Callable[[Part], float | None]) -> float:
    """Of all parts; of lanes that are travelled side by side the longest counts."""
    lanes: dict[str | None, float] = {}
    for part in parts:
        lanes[part.lane] = lanes.get(part.lane, 0.0) + (seconds(part) or 0.0)
    return lanes.pop(None, 0.0) + max(lanes.values(), default=0.0)


def last_step(run: Run) -> int:
    """The last step in a run's metrics.jsonl; 0: there is none."""
    file = run.out / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    for line in reversed(lines):
        try:
            return json.loads(line)["step"]
        except ValueError:  # a line that is just being written
            continue
    return 0


def spoken(seconds: float) -> str:
    """A duration in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _about(left: float | None) -> str:
    return "how much is left is being measured" if left is None else f"about {spoken(left)} left"


def _takes(seconds: float | None) -> str:
    return "" if seconds is None else f"about {spoken(seconds)}"


def _recorded(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}
