"""Flags and choices to a dataclass, by tyro; what is wrong with them, in one line."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

import tyro

from calotype.cli.help import choices, common_help, flags
from calotype.commands.command_line import word
from calotype.mistakes import Answered

R = TypeVar("R")


def fail(message: str, notes: Iterable[str] = ()) -> NoReturn:
    """Say in one line what is wrong, and in others what was noted of it; exits with 2."""
    line = " ".join(message.split())
    print(f"calotype: {line}", *notes, sep="\n", file=sys.stderr)
    raise Answered(line)


def named_recipe(
    command: str, recipes: Mapping[str, Callable[[], R]], arguments: Sequence[str]
) -> R:
    """A recipe by its name, with overridden fields."""
    name, *rest = arguments or ("--help",)
    if name in ("-h", "--help", "--help-all"):
        width = max(map(len, recipes))
        for each, build in recipes.items():
            print(f"  {each:{width}}  {_first_line(build)}")
        print(f"\ncalotype {command} RECIPE --help lists the recipe's fields.")
        raise SystemExit(0)
    if name not in recipes:
        fail(f"no recipe {name!r}{perhaps(name, recipes)}: choose from {', '.join(recipes)}")
    build = recipes[name]
    default = build()
    return parse(type(default), f"calotype {command} {name}", rest, default, build.__doc__ or "")


def perhaps(said: str, known: Iterable[str]) -> str:
    """Which name may have been meant by one that is none."""
    near = get_close_matches(said, list(known), 1)
    return f", perhaps {near[0]}" if near else ""


def parse(
    kind: type[R], program: str, arguments: Sequence[str], default: R | None = None,
    description: str | None = None,
) -> R:  # fmt: skip
    """A dataclass from flags and choices; exits with 2 for a mistake in them, and with 0 when help
    was asked for.
    """
    given = _choices_first(kind, _renamed(kind, arguments), default)
    if "-h" in given or "--help" in given:
        print(common_help(kind, program, default, given, description or kind.__doc__ or ""))
        raise SystemExit(0)
    options: dict[str, Any] = {} if default is None else {"default": default}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found, unknown = tyro.cli(
                kind, prog=program, description=description,
                args=["--help" if each == "--help-all" else each for each in given],
                config=(tyro.conf.CascadeSubcommandArgs,), return_unknown_args=True,
                **options,
            )  # fmt: skip
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        fail(_as_typed(_one_line(said.getvalue()), given))
    if unknown:
        fail(f"unrecognized option {unknown[0]}{_meant(unknown[0], kind)}")
    return _at_home(found)


def _as_typed(said: str, given: Sequence[str]) -> str:
    """What is said of a field of the data, by its flag where it is a source within another:
    `data.first.lanes`.
    """
    for name in re.findall(r"(?<![\w.-])data\.(\w+)", said):
        ending = f".{name}".replace("_", "-")
        flags = {each.partition("=")[0].removeprefix("--") for each in given}
        typed = [flag for flag in flags if flag.startswith("data.") and flag.endswith(ending)]
        if len(typed) == 1:
            said = said.replace(f"data.{name}", typed[0].replace("-", "_"))
    return said


def _at_home(options: R) -> R:
    """Options with the user's home in every path, for a `~` that no shell replaced: --out=~/x."""
    hints = get_type_hints(type(options))
    values = {field.name: getattr(options, field.name) for field in fields(options)}  # type: ignore[arg-type]
    homed = {name: _homed(value, hints[name]) for name, value in values.items()}
    changed = {name: value for name, value in homed.items() if value != values[name]}
    return replace(options, **changed) if changed else options  # type: ignore[type-var]


def _homed(value: Any, hint: Any) -> Any:
    if isinstance(value, Path):
        return value.expanduser()
    if isinstance(value, str) and Path in get_args(hint):
        return os.path.expanduser(value)
    if isinstance(value, tuple):
        return tuple(_homed(each, None) for each in value)
    is_options = is_dataclass(value) and not isinstance(value, type)
    return _at_home(value) if is_options else value


def _renamed(kind: type, arguments: Sequence[str]) -> list[str]:
    """Flags by what they are called: tokens are no latents, and a cache may hold either."""
    if "cache" in {field.name for field in fields(kind)}:
        arguments = [re.sub(r"^--latents(?==|$)", "--cache", each) for each in arguments]
    # What has a path may be given by it alone: --image FILE.
    groups = [name for name, only in _only_ones(kind).items()
              if "path" in {field.name for field in fields(only)}]  # fmt: skip
    named = re.compile(rf"--({'|'.join(groups)})(?==|$)")
    return [named.sub(r"--\1.path", each) for each in arguments] if groups else [*arguments]


def _one_line(box: str) -> str:
    """What tyro says in a box of several parts: what is wrong."""
    text = re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯│]", " ", box)
    parts = [" ".join(part.split()) for part in re.split(r"[-─]{5,}", text)]
    _title, what, *_hints = filter(None, parts)
    what = re.sub(r"^Error parsing (?:[A-Za-z][\w.]*: )?", "", what)
    what = re.sub(
        r"invalid literal for int\(\) with base 10: (\S+)", r"\1 is no whole number", what
    )
    return re.sub(r"could not convert string to float: (\S+)", r"\1 is no number", what)


def _meant(option: str, kind: type) -> str:
    """What may have been meant by a flag or a choice that is none."""
    if " " in option:
        return ": what begins with a dash is no prompt; put -- before the prompts"
    if not option.startswith("-"):
        same = [each for each in choices(kind) if each.split(":")[0] == option.split(":")[0]]
        return f": choose from {', '.join(same)}" if same else ""
    known: dict[str, list[str]] = {}
    for flag, owner in flags(kind):
        known.setdefault(flag, []).append(owner)
    if option in known:
        return f": it belongs to {', '.join(filter(None, known[option]))}"
    near = [each for each in known if _is_near(option, each)]
    likest = max(near, key=lambda each: SequenceMatcher(None, option, each).ratio(), default=None)
    return f"; perhaps you meant {likest}" if likest else ""


def _is_near(option: str, known: str) -> bool:
    """Whether one is a slip of the other, or its last word."""
    same = option.removeprefix("--") == known.split(".")[-1].removeprefix("--")
    return same or SequenceMatcher(None, option, known).ratio() > 0.75


def _choices_first(kind: type, arguments: Sequence[str], default: Any) -> list[str]:
    """Let choices stand anywhere, because tyro knows `--data.path` only behind its `data:folder`;
    and let `--transform.crop.size` choose the only transform that there is, where the default is
    none.
    """
    names = {field.name for field in fields(kind)}
    choice = re.compile(rf"({'|'.join(names)})(\.[\w.-]+)?:[\w-]+")
    chosen = [a for a in arguments if choice.fullmatch(a)]
    implied = [
        f"{name}:{word(only.__name__)}"
        for name, only in _only_ones(kind).items()
        if getattr(default, name, None) is None
        and any(a.startswith(f"--{name}.") for a in arguments)
        and not any(a.startswith(f"{name}:") for a in chosen)
    ]
    return chosen + implied + [a for a in arguments if a not in chosen]


def _only_ones(kind: type) -> dict[str, type]:
    """Fields that are None or of one type of one word."""
    found = {}
    for name, hint in get_type_hints(kind).items():
        options = [option for option in get_args(hint) if option is not NoneType]
        if len(options) == 1 and NoneType in get_args(hint) and is_dataclass(options[0]):
            found[name] = options[0]
    return found


def _first_line(build: Callable[..., Any]) -> str:
    return " ".join((build.__doc__ or "").split("\n\n")[0].split())
