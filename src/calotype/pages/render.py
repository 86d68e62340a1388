"""Pages: one HTML file each, pictures and all, from a template in `templates/`."""

import base64
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined


def _template(name: str) -> str:
    return (files("calotype.pages") / "templates" / name).read_text(encoding="utf-8")


ENVIRONMENT = Environment(
    loader=FunctionLoader(_template), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip


def render(name: str, **values: Any) -> str:
    """Fill a template; whatever is text is escaped.

    Raises:
        jinja2.UndefinedError: the template names a value that is not given.
    """
    return ENVIRONMENT.get_template(name).render(**values)


def data_url(picture: bytes, kind: str = "png") -> str:
    """An encoded picture as the source of an `<img>`, so that a page is one file."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
