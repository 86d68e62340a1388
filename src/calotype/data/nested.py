"""Sources within others, whose mistakes name their flags as they are written there."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

FIELD = re.compile(r"(?<![\w./])(--)?data\.(?=[a-z_-])")
"""How messages begin the name of a field, or of its flag."""


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
        said = FIELD.sub(rf"\1data.{field}.", str(error))
        if said == str(error):
            raise
        raise type(error)(said) from error
