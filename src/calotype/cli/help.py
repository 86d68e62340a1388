"""The help that one reads first: a verb's common fields and its choices.

tyro's own, under `--help-all`, has them all.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from calotype.commands.command_line import word

COMMON = frozenset({
    "data.path", "data.size", "transform.crop.size", "transform.mode", "model.path",
    "model.backbone.widths", "model.bottleneck.channels", "model.bottleneck.kl-weight",
    "model.bottleneck.codebook.size",
    "unet.widths", "transformer.width", "transformer.layers", "text.length", "text.vocabulary",
    "sampling.steps", "sampling.guidance", "sampling.scheduler", "sampling.negative-prompt",
    "sampling.temperature", "optimizer.lr",
    "student.width", "learn.rank",
    "run.out", "run.steps", "run.batch-size", "run.precision", "run.seed", "run.workers",
    "run.save-every", "run.sample-every", "run.evaluate-every", "run.resume", "run.overwrite",
})  # fmt: skip
"""Fields inside others that are shown; those of a verb itself always are."""
WIDTH, COLUMN = 100, 30


@dataclass(frozen=True)
class Field:
    """A flag, a choice between types, or a positional argument."""

    name: str
    hint: Any
    default: Any
    """Its value, or MISSING."""
    doc: str
    positional: bool = False

    @property
    def kinds(self) -> list[type]:
        """The types to choose from; [] if it is a flag."""
        members = _members(self.hint)
        return [each for each in members if _is_choice(each)] if len(members) > 1 else []

    @property
    def group(self) -> type | None:
        """The only type that it may have, if that is begun by a path: --image FILE."""
        only = self.kinds[0] if len(self.kinds) == 1 else None
        return only if only and "path" in {field.name for field in fields(only)} else None


def common_help(
    kind: type, program: str, default: Any, given: Sequence[str], description: str
) -> str:
    """What the verb is, its common fields, and its choices; all fields of a choice that is given.

    Args:
        kind: The dataclass of the verb's fields.
        program: What is typed before them.
        default: An instance with their values, or None.
        given: What is typed after it.
        description: What the verb does.
    """
    chosen = dict(
        each.split(":", 1) for each in given if re.fullmatch(r"[a-z][\w.-]*:[\w-]+", each)
    )
    every = list(_fields(kind, default, chosen))
    shown = [each for each in every if (each.group or not each.kinds)
             and _is_shown(each.name, chosen)]  # fmt: skip
    shown.sort(key=lambda each: not each.positional)
    named = [each.name.upper() for each in shown if each.positional]
    usage = [program, *named, "[--FIELD VALUE ...]"]
    unions = [each for each in every if each.kinds and not each.group]
    usage += ["[FIELD:CHOICE ...]"] if unions else []
    lines = [f"usage: {' '.join(usage)}", "", inspect.cleandoc(description), ""]
    for each in shown:
        lines += _entry(_flag(each), f"{each.doc} {_value(each.default)}")
        inside = _fields(each.group, None, chosen, f"{each.name}.") if each.group else ()
        for one in (one for one in inside if one.default is not MISSING):
            lines += _entry(_flag(one), f"{one.doc} {_value(one.default)}")
    if unions:
        lines += ["", "choices; FIELD:CHOICE --help lists a choice's fields too:"]
        lines += [line for each in unions for line in _choice(each)]
    return "\n".join([*lines, "", f"{program} --help-all lists every field."])


def flags(kind: type, prefix: str = "", owner: str = "") -> Iterator[tuple[str, str]]:
    """Every flag there can be, with the choice that has it, or "" if it is always there."""
    for name, members in _names(kind, prefix):
        inside = list(filter(_is_choice, members))
        for each in inside:
            chosen = f"{name}:{word(each.__name__)}" if len(members) > 1 else owner
            yield from flags(each, f"{name}.", chosen)
        if not inside:
            yield f"--{name}", owner


def choices(kind: type, prefix: str = "") -> Iterator[str]:
    """Every choice there can be, those within others too."""
    for name, members in _names(kind, prefix):
        for each in filter(_is_choice, members):
            yield from [f"{name}:{word(each.__name__)}"] if len(members) > 1 else []
            yield from choices(each, f"{name}.")
        if NoneType in members and any(map(_is_choice, members)):
            yield f"{name}:none"


def _names(kind: type, prefix: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Fields as flags spell them, and the types that each may have."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        yield prefix + field.name.replace("_", "-"), _members(hints[field.name])


def _fields(kind: type, value: Any, chosen: dict[str, str], prefix: str = "") -> Iterator[Field]:
    """Every field, those of a dataclass after it."""
    hints, docs = get_type_hints(kind, include_extras=True), _docs(kind)
    for field in fields(kind):
        name, hint = prefix + field.name.replace("_", "-"), hints[field.name]
        positional = get_origin(hint) is Annotated
        hint = get_args(hint)[0] if positional else hint
        if value is not None:
            default = getattr(value, field.name)
        else:
            default = field.default if field.default_factory is MISSING else field.default_factory()
        found = Field(name, hint, default, docs.get(field.name, ""), positional)
        inside = _inside(found, chosen)
        if found.kinds or inside is None:
            yield found
        if inside is not None:
            same = isinstance(default, inside)
            yield from _fields(inside, default if same else None, chosen, f"{name}.")


def _inside(field: Field, chosen: dict[str, str]) -> type | None:
    """The dataclass whose fields are a field's own: the one that was chosen, or its default's."""
    if field.name in chosen:
        return next((k for k in field.kinds if word(k.__name__) == chosen[field.name]), None)
    if is_dataclass(field.default):
        return type(field.default)
    return field.hint if _is_choice(field.hint) else None


def _is_choice(hint: Any) -> bool:
    return isinstance(hint, type) and is_dataclass(hint)


def _is_shown(name: str, chosen: dict[str, str]) -> bool:
    return "." not in name or name in COMMON or any(name.startswith(f"{each}.") for each in chosen)


@lru_cache
def _docs(kind: type) -> dict[str, str]:
    """The string behind each field of a dataclass and of its bases."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if not is_dataclass(each):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(body, ast.ClassDef)
        for field, behind in zip(body.body, body.body[1:], strict=False):
            match field, behind:
                case (ast.AnnAssign(target=ast.Name(name)),
                      ast.Expr(ast.Constant(str(text)))):  # fmt: skip
                    found[name] = " ".join(text.split())
    return found


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _flag(field: Field) -> str:
    if field.positional:
        return field.name.upper()
    if field.hint is bool:
        *path, last = field.name.split(".")
        return f"--{field.name}, --{'.'.join([*path, 'no-' + last])}"
    return f"--{field.name} {_metavar(field.hint)}"


def _metavar(hint: Any) -> str:
    kinds = [kind for kind in _members(hint) if kind is not NoneType]
    if _is_choice(kinds[0]):
        return "PATH"
    if get_origin(kinds[0]) is Literal:
        return "{" + ",".join(map(str, get_args(kinds[0]))) + "}"
    if get_origin(kinds[0]) is tuple:
        each = [arg for arg in get_args(kinds[0]) if arg is not ...]
        return " ".join(map(_metavar, each)) + (" ..." if ... in get_args(kinds[0]) else "")
    return "PATH" if Path in kinds else kinds[0].__name__.upper()


def _value(value: Any) -> str:
    if value is MISSING:
        return "(needed)"
    if isinstance(value, tuple):
        return f"({' '.join(map(str, value)) or 'none'})"
    return f"({value})"


def _choice(field: Field) -> list[str]:
    names = [word(kind.__name__) for kind in field.kinds]
    names += ["none"] if NoneType in _members(field.hint) else []
    default = "none" if field.default is None else word(type(field.default).__name__)
    return _entry(f"{field.name}:{{{','.join(names)}}}", f"({default})")


def _entry(head: str, text: str) -> list[str]:
    body = textwrap.wrap(text, WIDTH - COLUMN - 2)
    if len(head) < COLUMN - 1:
        first, *body = body
        return [f"  {head:{COLUMN}}{first}", *(" " * (COLUMN + 2) + line for line in body)]
    return [f"  {head}", *(" " * (COLUMN + 2) + line for line in body)]
