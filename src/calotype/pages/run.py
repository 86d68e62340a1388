"""The page of a run, index.html in its folder: made of the files there, at any time, in one step.

It is one file, and nothing in it is fetched from anywhere; that is also said to the browser.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from calotype.pages.charts import all_charts
from calotype.pages.curves import Curves
from calotype.pages.render import render
from calotype.pages.slides import Slides, shrunk
from calotype.training import history
from calotype.training.files import write_text
from calotype.training.portable import public
from calotype.training.progress import clock

INDEX = "index.html"
HISTOGRAM = "samples/codebook.png"
"""In a run's folder, if it trained codes and has ended: how often each is chosen."""
MOST_WARNINGS = 20
"""That are shown, the last ones."""
RENEWED = 15
"""Seconds after which an unfinished page is loaded again."""


@dataclass(frozen=True)
class Override:
    """A field of a recipe that is not as the named recipe has it."""

    name: str
    was: str
    now: str


@dataclass(frozen=True)
class About:
    """What the files of a run do not say in words."""

    found: str
    """What is trained, on what."""
    recipe: str = ""
    """The named recipe that it is nearest to, if any."""
    command: str = ""
    """What is typed for it."""
    overrides: Sequence[Override] = ()


class RunPage:
    """Writes the page of a run again and again.

    Args:
        out: The run's folder.
        about: What the page says besides.
    """

    def __init__(self, out: Path, about: About) -> None:
        self.out, self.about = out, about
        self.curves, self.slides = Curves(out / "metrics.jsonl"), Slides(out / "samples")

    def write(self, finished: bool, cost: str = "") -> None:
        """Write it as things stand.

        Args:
            finished: Whether all is done, the export too.
            cost: What pages have taken so far, in words.
        """
        starts = history.read(self.out)
        # It is sent to people, who are to learn nothing of the machine.
        settings = public(json.loads((self.out / "recipe.json").read_text()))
        step = starts[-1]["last"] if starts else 0
        histogram = self.out / HISTOGRAM
        page = render(
            "run.html", title=self.out.resolve().name, about=self.about, finished=finished,
            state=_state(starts, settings["run"]["steps"], finished, self.out),
            part=step / settings["run"]["steps"], now=_now(), written=round(time.time()),
            cost=cost, renewed=RENEWED, starts=[_told(start) for start in starts],
            warnings=_warnings(starts), most_warnings=MOST_WARNINGS,
            skipped=sum(start["skipped"] for start in starts),
            slides=self.slides.look(step), charts=all_charts(self.curves.look()),
            histogram=shrunk(histogram) if finished and histogram.exists() else None,
            recipe=json.dumps(settings, indent=1, ensure_ascii=False),
        )  # fmt: skip
        write_text(self.out / INDEX, page)


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def _state(starts: list[dict[str, Any]], steps: int, finished: bool, out: Path) -> str:
    """How far it is and what is left, in words."""
    if not starts:
        return f"{steps} steps to come"
    last = starts[-1]
    done = last["last"] - last["first"]
    where = f"Step {last['last']} of {steps}"
    if last["last"] >= steps:
        what = (
            f"the model is in {public(str(out / 'model'))}"
            if finished
            else "the model is being exported"
        )
        return f"{where}: training is done, {what}."
    if not done:
        return f"{where}: how much time is left is being measured."
    left = clock(last["seconds"] / done * (steps - last["last"]))
    return f"{where}, {last['images_per_second']:.3g} images a second, about {left} left."


def _warnings(starts: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """All that was warned of, newest first."""
    return [
        (step, said) for start in reversed(starts) for step, said in reversed(start["warnings"])
    ]


def _told(start: dict[str, Any]) -> dict[str, Any]:
    """A start in words."""
    energy = start["energy_joules"]
    return {
        **start,
        "began": start["began"].replace("T", " ").replace("+00:00", " UTC"),
        "took": clock(start["seconds"]),
        "energy": "unknown" if energy is None else f"{energy / 3600:.3g} Wh",
        "with": ", ".join(f"{name} {version}" for name, version in start["versions"].items()),
    }
