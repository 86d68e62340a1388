"""The pictures of a card: curves of a run, and what it drew last."""

from pathlib import Path

from calotype.evaluation.glossary import glossed
from calotype.hub import shape
from calotype.hub.history import Origin
from calotype.hub.parts import Part
from calotype.lazy import matplotlib
from calotype.pages.charts import LOGARITHMIC, VALIDATION
from calotype.pages.curves import Curves, Point
from calotype.pages.tiles import newest
from calotype.training.progress import say

COLUMNS, WIDTH, HEIGHT = 3, 4.0, 2.6
"""Charts beside each other, and inches of each."""
SHEETS = {"pipeline": ("diffusion.png", "drawn.png"), "tokens": ("transformer.png", "drawn.png"),
          "lora": (),
          "tokenizer": ("rebuilt.png",)}  # fmt: skip
"""What a demo or a quickstart ends in."""


def draw_curves(run: Path, file: Path) -> bool:
    """Save a run's figures over its steps as a PNG; False: it has none of two steps or more."""
    found = _series(run / "metrics.jsonl")
    if not found:
        return False
    columns = min(COLUMNS, len(found))
    size = (columns * WIDTH, -(-len(found) // columns) * HEIGHT)
    figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
    for place, (name, points) in enumerate(found.items(), 1):
        axes = figure.add_subplot(-(-len(found) // columns), columns, place)
        axes.plot(*zip(*points, strict=True), color=(0.16, 0.35, 0.63), linewidth=1.2)
        axes.set_title(glossed(name.removeprefix(VALIDATION)), fontsize=9)
        axes.set_xlabel(_axis(name), fontsize=8)
        axes.tick_params(labelsize=8)
        if LOGARITHMIC.get(name) and min(value for _, value in points) > 0:
            axes.set_yscale("log")
        axes.spines[["top", "right"]].set_visible(False)
    # A date or a version in it would make another file of the same picture.
    figure.savefig(file, dpi=110, metadata={"Software": None})
    return True


def _axis(name: str) -> str:
    return "step, on what is not trained on" if name.startswith(VALIDATION) else "step"


def _series(metrics: Path) -> dict[str, list[Point]]:
    """Figures that there are two or more of: what pages draw, and what is not trained on."""
    return {name: curve.points for name, curve in Curves(metrics).look().items()
            if (name in LOGARITHMIC or name.startswith(VALIDATION))
            and len(curve.points) > 1}  # fmt: skip


def samples(part: Part, origin: Origin, shows: bool) -> Path | None:
    """What a part drew last, with nothing of training pictures unless it `shows` them, which is
    told; None: nothing is at hand, or to be shown.
    """
    found, ask = _newest(part, True), "left out of the card; --training-pictures publishes them"
    if found is None or shows:
        return found
    if part.kind == "tokenizer":
        say(f"the samples of {part.folder} show training pictures: {ask}")
        return None
    if origin.prompts or not shape.reads_prompts(part):
        return found
    say(f"the samples of {part.folder} have captions of training pictures: {ask}")
    return _newest(part, False)


def _newest(part: Part, captioned: bool) -> Path | None:
    sheets = [part.way / name for name in SHEETS[part.kind]] if part.way and captioned else []
    if part.run and (grid := newest(part.run / "samples")):
        sheets += [grid.with_name(f"{grid.stem}-sheet.png")] if captioned else []
        sheets.append(grid)
    return next((sheet for sheet in sheets if sheet.exists()), None)
