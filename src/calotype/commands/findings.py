"""What was found in somebody's data, in words: rows of a table, and what to do about it."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from textwrap import shorten
from typing import NamedTuple

import numpy as np

from calotype.commands.own_pictures import FEW
from calotype.data.reading.inspection import Header, Inspected
from calotype.data.reading.looks import alike

APART = 4
"""Bits that the hashes of pictures that look alike differ in at most."""
LOST = 0.3
"""Part of a picture from which on a square crop loses much."""
LONG = 50
"""Words of a caption that are about the 77 tokens that CLIP reads."""
NAMED = 3
"""Pictures that a row names."""


class Passed(NamedTuple):
    """What is passed over for one reason."""

    line: str
    """How many, why, and the first of them."""
    what: str
    """What they are."""
    mend: str
    """What would have them read."""


@dataclass(frozen=True)
class Findings:
    """What was found."""

    source: str
    """What errors call it."""
    listed: int | None
    """Pictures in it; None: of a stream it is not known."""
    seen: Sequence[Inspected]
    """Those that were looked at."""
    decoded: int
    """So many of them were decoded."""
    passed: Sequence[Passed]
    """What is passed over, and why."""
    size: int
    """Pixels a side of the images that would be trained on."""
    notes: Sequence[str] = ()
    """What the source says of itself: what its filters removed."""

    @cached_property
    def whole(self) -> list[tuple[Inspected, Header]]:
        """Pictures that can be read, with their headers."""
        return [(each, each.header) for each in self.seen if each.header is not None]

    @cached_property
    def broken(self) -> list[Inspected]:
        """Pictures that cannot be read."""
        return [each for each in self.seen if each.broken]

    @cached_property
    def small(self) -> list[Inspected]:
        """Pictures that would be enlarged."""
        return [each for each, header in self.whole if min(header.size) < self.size]

    @cached_property
    def lost(self) -> list[float]:
        """The part of each picture that a square crop does not show."""
        return [1 - min(header.size) / max(header.size) for _, header in self.whole]

    @cached_property
    def alike(self) -> list[tuple[Inspected, Inspected]]:
        """Pictures that look alike: the earlier, and the later."""
        seen = [each for each in self.seen if each.look is not None]
        if not seen:
            return []
        looks = np.asarray([each.look for each in seen], np.int64)
        return [(seen[first], seen[later]) for later, first in alike(looks, APART).items()]

    @cached_property
    def captions(self) -> Counter[str]:
        """First captions, by how many pictures have them; without the empty one."""
        return Counter(each.texts[0].strip() for each in self.seen if each.texts[0].strip())

    @cached_property
    def lengths(self) -> list[int]:
        """Words of each caption, of every picture's all."""
        return [len(text.split()) for each in self.seen for text in each.texts if text.strip()]

    def counts(self, of: Callable[[Header], object]) -> Counter[str]:
        """How many pictures there are of each kind."""
        return Counter(str(of(header)) for _, header in self.whole)

    def rows(self) -> Iterator[tuple[str, str]]:
        """What was found: a word, and a line."""
        yield "source", self.source
        yield "pictures", self._looked_at()
        for note in self.notes:
            yield "filter", note.strip()
        if self.broken:
            yield (
                "cannot be read",
                f"{len(self.broken)}: "
                + named(f"{each.name} ({each.broken})" for each in self.broken),
            )
        for each in self.passed:
            yield "passed over", each.line
        if self.whole:
            yield from self._of_files()
            yield from self._of_sizes()
        yield from self._of_captions()
        if self.decoded:
            yield (
                "look alike",
                f"{len(self.alike)} of {self.decoded} decoded are like an earlier one",
            )

    def _looked_at(self) -> str:
        n = len(self.seen)
        if self.listed is None:
            return f"a stream, of which the first {n} were decoded"
        looked = "all were looked at" if n == self.listed else f"{n} from all over were looked at"
        decoded = "all" if self.decoded == n else f"{self.decoded} of these"
        return f"{self.listed}; {looked}, {decoded} decoded"

    def _of_files(self) -> Iterator[tuple[str, str]]:
        yield "formats", listing(self.counts(lambda header: header.kind))
        if known := [header.bytes for _, header in self.whole if header.bytes]:
            half, most = in_bytes(int(np.median(known))), in_bytes(max(known))
            yield "bytes", f"{in_bytes(sum(known))}; half have at most {half}, the largest {most}"
        yield "modes", listing(self.counts(lambda header: header.mode))
        turned = sum(header.turned for _, header in self.whole)
        transparent = sum(header.transparent for _, header in self.whole)
        moving = sum(header.frames > 1 for _, header in self.whole)
        yield "turned by EXIF", str(turned)
        yield "transparent", f"{transparent}" + (", composited on white" if transparent else "")
        if moving:
            yield "animated", f"{moving}, of which the first frame is read"
        yield "colour profiles", listing(self.counts(lambda header: header.profile or "none"))

    def _of_sizes(self) -> Iterator[tuple[str, str]]:
        least = min(self.whole, key=lambda each: min(each[1].size))
        most = max(self.whole, key=lambda each: min(each[1].size))
        middle = int(np.median([min(header.size) for _, header in self.whole]))
        if len({header.size for _, header in self.whole}) == 1:
            yield "sizes", f"all of {pixels(least[1])}"
        else:
            small, large = f"{pixels(least[1])} ({least[0].name})", pixels(most[1])
            yield "sizes", (f"from {small} to {large} ({most[0].name}); half have a shorter side "
                            f"of at most {middle}")  # fmt: skip
        yield f"smaller than {self.size}", f"{len(self.small)}"
        ratios = [header.size[0] / header.size[1] for _, header in self.whole]
        yield "width / height", f"from {min(ratios):.2f} to {max(ratios):.2f}"
        much = sum(lost > LOST for lost in self.lost)
        yield "square crop", (f"loses {100 * float(np.mean(self.lost)):.0f} % of a picture on "
                              f"average, more than {100 * LOST:.0f} % of {much}")  # fmt: skip

    def _of_captions(self) -> Iterator[tuple[str, str]]:
        n, have = len(self.seen), self.captions.total()
        yield "captions", f"{have} of {n} have one, {len(self.captions)} different ones"
        if several := sum(len(each.texts) > 1 for each in self.seen):
            yield "several captions", f"{several} pictures have more than one"
        if self.lengths:
            low, middle, high = np.quantile(self.lengths, (0, 0.5, 1))
            yield "words", f"from {low:.0f} to {high:.0f} a caption, half at most {middle:.0f}"
            yield "frequent words", ", ".join(f"{w} {k}" for w, k in self.words().most_common(12))
        if len(self.captions) < have:
            yield "frequent captions", listing(Counter(dict(self.captions.most_common(8))))

    def words(self) -> Counter[str]:
        """How often each word is said, in lower case; of those of one letter none."""
        said = Counter[str]()
        for caption, count in self.captions.items():
            for word in re.findall(r"[^\W\d_]{2,}", caption.lower()):
                said[word] += count
        return said

    def faults(self) -> Iterator[str]:
        """Every picture that cannot be read, and why."""
        return (f"{each.name}: {each.broken}" for each in self.broken)

    def warnings(self) -> Iterator[str]:
        """What may be wrong, and what would mend it."""
        if self.broken:
            yield (f"cannot be read: {len(self.broken)}; in training the next one takes the place "
                   "of each; fetch them again, or delete them")  # fmt: skip
        for what, mend in dict.fromkeys((each.what, each.mend) for each in self.passed):
            yield f"{what} are passed over: {mend}"
        if self.small and len(self.small) == len(self.whole):
            yield (f"every picture is smaller than {self.size} pixels and would be enlarged: train "
                   "on smaller images, and say by --size of how many pixels")  # fmt: skip
        elif self.small:
            yield (f"smaller than {self.size} pixels, and would be enlarged: {len(self.small)}; "
                   f"leave them out by data:filtered and --data.least-side {self.size}, or train "
                   "on smaller images")  # fmt: skip
        if much := sum(lost > LOST for lost in self.lost):
            shown = f"{100 * (1 - LOST):.0f} %"
            yield (f"of which a square crop shows less than {shown}: {much}; leave out the longest "
                   "by data:filtered and --data.greatest-ratio 2")  # fmt: skip
        if self.alike:
            yield (f"look like an earlier one, as the page shows: {len(self.alike)}; leave them "
                   f"out by data:filtered and --data.duplicates {APART}, or 0 for copies "
                   "alone")  # fmt: skip
        yield from self._of_what_is_said()
        if self.listed is not None and self.listed < FEW:
            few = "1 picture is" if self.listed == 1 else f"{self.listed} pictures are"
            yield (f"{few} few: what is drawn will be hardly more than these "
                   "again; from some thousands on it is new")  # fmt: skip

    def _of_what_is_said(self) -> Iterator[str]:
        n, have = len(self.seen), self.captions.total()
        if not have:
            yield "none of them has a caption: what is drawn is like them and asks for no prompt"
        elif have < n:
            yield (f"without a caption: {n - have}; leave them out by data:filtered and "
                   "--data.words 1 1000, or they are learnt without a prompt")  # fmt: skip
        if long := sum(words > LONG for words in self.lengths):
            yield (f"captions of more than {LONG} words, about the 77 tokens that CLIP reads: "
                   f"{long}; it will not see their ends")  # fmt: skip
        if any(len(each.texts) > 1 for each in self.seen):
            yield ("some pictures have several captions: the first is taken, or with "
                   "--transform.caption random another each epoch")  # fmt: skip
        if {"left", "right"} & self.words().keys():
            yield "captions tell left from right: choose transform.flip:none"
        if 1 < len(self.captions) <= have / 5:
            most, least = max(self.captions.values()), min(self.captions.values())
            if most > 3 * least:
                yield (f"{len(self.captions)} classes, the greatest of {most} pictures and the "
                       f"least of {least}: data:balanced draws them equally often")  # fmt: skip


def named(names: Iterable[str]) -> str:
    """The first names, and that there are more."""
    every = list(names)
    return ", ".join(every[:NAMED]) + (", ..." if len(every) > NAMED else "")


def listing(counts: Counter[str]) -> str:
    """What there is, the most frequent first."""
    return ", ".join(f"{shorten(what, 40)} {count}" for what, count in counts.most_common(8))


def pixels(header: Header) -> str:
    """Width and height."""
    return "{}x{}".format(*header.size)


def in_bytes(count: int) -> str:
    """Bytes, in a unit that suits them."""
    value, unit = float(count), "B"
    for greater in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, greater
    return f"{value:.3g} {unit}"
