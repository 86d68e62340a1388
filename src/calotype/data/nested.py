"""Sources within others, whose mistakes name their flags as they are written there."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import TypeVar

from calotype.data.pictures import Pictures
from calotype.data.reading.records import Record
from calotype.data.streams import Parts, Stream

FIELD = re.compile(r"(?<![\w./])(?:(--)data\.(?=[a-z_-])|data\.(?=[a-z_.]+(?:: | is | are )))")
"""How messages begin the name of a field, or of its flag."""
Built = TypeVar("Built", bound=Pictures | Stream)


@contextmanager
def within(field: str) -> Iterator[None]:
    """What is wrong with a source says `data.FIELD.path` in here, for `data.path`.

    Args:
        field: Of the source that it is in.

    Raises:
        ValueError, OSError, ImportError: as in here, with other words.
    """
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        said = FIELD.sub(rf"\g<1>data.{field}.", str(error))
        if said == str(error):
            raise
        kind = next(k for k in (ImportError, OSError, ValueError) if isinstance(error, k))
        # One that asks for more than words is told as what it is of.
        raise (type(error) if type(error).__init__ is kind.__init__ else kind)(said) from error


def opened(field: str, build: Callable[[], Built]) -> Built:
    """Open a source that is another's field; mistakes say so, of a stream those too that are met
    while it is read.

    Raises:
        ValueError, OSError, ImportError: as of the source.
    """
    with within(field):
        dataset = build()
    if isinstance(dataset, Stream):
        dataset = copy(dataset)
        dataset.source = Inner(dataset.source, field)
    return dataset


class Inner(Parts):
    """Parts of a stream that is another source's field."""

    def __init__(self, source: Parts, field: str) -> None:
        super().__init__(source.counts, source.lanes)
        self.source, self.field = source, field
        self.counts, self.counted, self.seeks = source.counts, source.counted, source.seeks

    def read(self, part: int, places: Iterable[int]) -> Iterator[Record]:  # noqa: D102
        with within(self.field):
            yield from self.source.read(part, places)

    def learn(self, part: int, length: int) -> None:  # noqa: D102
        self.source.learn(part, length)

    def news(self) -> list[tuple[int, int]]:  # noqa: D102
        return self.source.news()
