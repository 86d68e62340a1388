"""A data set by what a tokenizer does worst: the ranking of all, and a page of the first of it.

Whatever there is to read, in memory are the pictures that are shown, and sixteen bytes of each.
"""

import json
from array import array
from collections.abc import Callable, Iterable
from functools import partial
from heapq import heappush, heappushpop
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from jaxtyping import Float
from torch import Tensor

from calotype.data.loading.passes import Turn
from calotype.data.reading.transforms import eight_bits
from calotype.pages.worst import Rebuilt, write_worst
from calotype.tokenizers import psnr
from calotype.training.distributed import processes
from calotype.training.files import written
from calotype.training.images import scaled, visible
from calotype.training.progress import Told
from calotype.training.sharing import in_turn

Rebuild = Callable[[Float[Tensor, "b c H W"]], Float[Tensor, "b c H W"]]


class Ranking:
    """All pictures by PSNR, worst first, as lines of JSON.

    Args:
        file: Where they are written in the end.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.values, self.starts = file, array("d"), array("q")
        self._lines = TemporaryFile(dir=file.parent)

    def add(self, name: str, value: float) -> None:
        """Take a picture's figure."""
        self.values.append(value)
        self.starts.append(self._lines.tell())
        self._lines.write(f"{json.dumps(name)}\n".encode())

    def save(self) -> None:
        """Write it, in one step."""
        order = np.argsort(np.asarray(self.values), kind="stable").tolist()
        with written(self.file) as out, self._lines as lines:
            for rank, place in enumerate(order, 1):
                lines.seek(self.starts[place])
                name, value = json.loads(lines.readline()), round(self.values[place], 4)
                out.write(json.dumps({"rank": rank, "psnr_db": value, "picture": name}) + "\n")

    def said(self) -> str:
        """How they are distributed, in words."""
        worst, tenth, middle, best = np.quantile(np.asarray(self.values), (0, 0.1, 0.5, 1))
        return (f"PSNR {np.mean(self.values):.2f} dB over {len(self.values)} pictures: the worst "
                f"has {worst:.2f} dB, a tenth less than {tenth:.2f}, half less than {middle:.2f}, "
                f"the best {best:.2f}")  # fmt: skip


class Worst:
    """The worst of the pictures that were added, so many at most."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._heap: list[tuple[float, int, Rebuilt]] = []
        self._added = 0

    def wants(self, value: float) -> bool:
        """Whether a picture of this PSNR would be among them."""
        return len(self._heap) < self.count or -value > self._heap[0][0]

    def add(self, each: Rebuilt) -> None:
        """Take a picture; the best gives way to it."""
        self._added += 1
        entry = (-each.psnr, -self._added, each)  # of equals the first stay
        if len(self._heap) < self.count:
            heappush(self._heap, entry)
        else:
            heappushpop(self._heap, entry)

    def ranked(self) -> list[Rebuilt]:
        """Worst first."""
        return [each for *_, each in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]


def rank(
    rebuild: Rebuild, turns: Iterable[Turn], total: int | None, worst: int, page: Path, of: str
) -> str:
    """Rank pictures and write the page and, beside it, the ranking, on the main process; returns
    what was found in words. Ranks share the pictures.

    Args:
        rebuild: What the tokenizer makes of images in [-1, 1].
        turns: Of `{"image", "name"}`, names where there are any.
        total: Pictures; None: it is not known.
        worst: How many the page shows.
        page: The page.
        of: What is ranked by what, in words.
    """
    every = in_turn(turns, partial(_rebuilt, rebuild))
    if not processes().is_main_process:
        list(every)
        return ""
    page.parent.mkdir(parents=True, exist_ok=True)
    ranking, kept = Ranking(page.with_suffix(".jsonl")), Worst(worst)
    with Told("reconstructing", total, images=1) as told:
        for some in every:
            for each in some:
                ranking.add(each.name, each.psnr)
                if kept.wants(each.psnr):
                    kept.add(each)
            told.advance(len(some))
    ranking.save()
    lines = [f"{ranking.said()}.", of, f"All of them, worst first: {ranking.file.name}."]
    write_worst(page, f"The {len(kept.ranked())} worst", lines, kept.ranked())
    return ranking.said()


def _rebuilt(rebuild: Rebuild, turn: Turn) -> list[Rebuilt]:
    """What became of each picture of a batch."""
    if not turn.batch:
        return []
    real = scaled(turn.batch["image"])
    fake = rebuild(real)
    names = turn.batch.get("name") or [f"picture {row}" for row in turn.batch["row"]]
    each = zip(names, psnr(fake, real).tolist(), visible(real), visible(fake), strict=True)
    return [Rebuilt(name, value, eight_bits(a), eight_bits(b)) for name, value, a, b in each]
