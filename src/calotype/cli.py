"""The `calotype` command: parse, call, print.

Mistakes are answered with one line and exit code 2 before any work; set CALOTYPE_TRACEBACK to see
where such a line came from.
"""

import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import SequenceMatcher
from types import NoneType
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

import tyro
from rich.console import Console

from calotype import __version__

Arguments = Sequence[str]
R = TypeVar("R")


@dataclass(frozen=True)
class Command:
    """A verb of the command line."""

    run: Callable[[Arguments], None]
    help: str


def main(argv: Arguments | None = None) -> None:
    """Run one command; exits with 0, with 2 for a mistake, with 128 + signal when stopped."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return
    if arguments[0] == "--version":
        print(f"calotype {__version__}")
        return
    command = COMMANDS.get(arguments[0])
    if command is None:
        _fail(f"no command {arguments[0]!r}: choose from {', '.join(COMMANDS)}")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", module="huggingface_hub")  # of diffusers' calls, not ours
    try:
        command.run(arguments[1:])
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("CALOTYPE_TRACEBACK"):
            raise
        _fail(str(error))
    except KeyboardInterrupt:
        # Training saves first, and says so; whatever else was under way is begun again.
        print("calotype: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: calotype COMMAND ...", "", *lines, "",
                      "calotype COMMAND --help says more."])  # fmt: skip


def _fail(message: str) -> NoReturn:
    print("calotype: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(2)


def _recipe(command: str, recipes: Mapping[str, Callable[[], R]], arguments: Arguments) -> R:
    """A named recipe with overridden fields."""
    name, *rest = arguments or ("--help",)
    if name in ("-h", "--help"):
        width = max(map(len, recipes))
        for each, build in recipes.items():
            print(f"  {each:{width}}  {_first_line(build)}")
        print(f"\ncalotype {command} RECIPE --help lists the recipe's fields.")
        raise SystemExit(0)
    if name not in recipes:
        _fail(f"no recipe {name!r}: choose from {', '.join(recipes)}")
    build = recipes[name]
    default = build()
    inner = [f"  {field}:{{{','.join(names)}}}" for field, names in _inner_choices(default)]
    said = "\n".join([build.__doc__ or "", "Choices further in:", *inner] if inner else [])
    program = f"calotype {command} {name}"
    return _parse(type(default), program, rest, default, said or build.__doc__)


def _inner_choices(value: Any, prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    """Fields of several types below the first level, which tyro shows only one by one."""
    hints = get_type_hints(type(value))
    for field in fields(value):
        name, chosen = prefix + field.name, getattr(value, field.name)
        options: list[type] = list(get_args(hints[field.name]))
        kinds = [kind for kind in options if is_dataclass(kind)]
        if prefix and kinds:
            none = ["none"] if NoneType in options else []
            yield name.replace("_", "-"), [_word(kind.__name__) for kind in kinds] + none
        if is_dataclass(chosen):
            yield from _inner_choices(chosen, f"{name}.")


def _word(name: str) -> str:
    """A type on the command line: KMeans is k-means."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


def _parse(
    kind: type[R], program: str, arguments: Arguments, default: R | None = None,
    description: str | None = None,
) -> R:  # fmt: skip
    options: dict[str, Any] = {} if default is None else {"default": default}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                kind, prog=program, args=_choices_first(kind, arguments, default),
                description=description,
                config=(tyro.conf.CascadeSubcommandArgs,),
                **options,
            )  # fmt: skip
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        _fail(_one_line(said.getvalue()))


def _one_line(box: str) -> str:
    """What tyro says in a box of several parts: what is wrong, and what may have been meant."""
    text = re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯│]", " ", box)
    parts = [" ".join(part.split()) for part in re.split(r"[-─]{5,}", text)]
    _title, what, *hints = filter(None, parts)
    if unknown := re.match(r"Unrecognized (?:or misplaced )?options: ([^\s,]+)", what):
        return f"unrecognized option {unknown[1]}{_meant(unknown[1], ' '.join(hints))}"
    return re.sub(r"^Error parsing (?:[A-Za-z][\w.]*: )?", "", what)


def _meant(option: str, hints: str) -> str:
    choices = re.findall(r"[\w.-]+:[\w-]+(?=,| |$)", hints)
    if not option.startswith("-"):
        same = [choice for choice in choices if choice.split(":")[0] == option.split(":")[0]]
        return f": choose from {', '.join(same)}" if same else ""
    known = re.findall(r"(?<=\s)(?!--help)--[\w.-]+(?=\s|$)", hints)
    if known and known[0] == option:
        owners = dict.fromkeys(re.findall(r"in calotype (\S+:\S+) --help", hints))
        return f": it belongs to {', '.join(owners)}"
    near = [each for each in known if _is_near(option, each)]
    return f"; perhaps you meant {near[0]}" if near else ""


def _is_near(option: str, known: str) -> bool:
    """Whether one is a slip of the other, or its last word."""
    same = option.removeprefix("--") == known.split(".")[-1].removeprefix("--")
    return same or SequenceMatcher(None, option, known).ratio() > 0.75


def _choices_first(kind: type, arguments: Arguments, default: Any) -> list[str]:
    """Let choices stand anywhere, because tyro knows `--data.path` only behind its `data:folder`;
    and let `--transform.crop.size` choose the only transform that there is, where the default is
    none.
    """
    names = {field.name for field in fields(kind)}
    choice = re.compile(rf"({'|'.join(names)})(\.[\w.-]+)?:[\w-]+")
    chosen = [a for a in arguments if choice.fullmatch(a)]
    implied = [
        f"{name}:{_word(only.__name__)}"
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


def _train_tokenizer(arguments: Arguments) -> None:
    from calotype.commands.train_tokenizer import train_tokenizer
    from calotype.recipes.tokenizers import TOKENIZERS

    _say("tokenizer", train_tokenizer(_recipe("train-tokenizer", TOKENIZERS, arguments)))


def _cache_latents(arguments: Arguments) -> None:
    from calotype.commands.cache_latents import cache, kind
    from calotype.recipes.caches import CACHES

    folder = cache(_recipe("cache-latents", CACHES, arguments))
    _say(kind(folder), folder)


def _train_generator(arguments: Arguments) -> None:
    from calotype.commands.train_generator import train_generator
    from calotype.recipes.generators import GENERATORS

    _say("pipeline", train_generator(_recipe("train-generator", GENERATORS, arguments)))


def _generate(arguments: Arguments) -> None:
    from calotype.commands.generate import Generate, generate

    _say("images", generate(_parse(Generate, "calotype generate", arguments)))


def _reconstruct(arguments: Arguments) -> None:
    from calotype.commands.reconstruct import Reconstruct, reconstruct

    _say("reconstructions", reconstruct(_parse(Reconstruct, "calotype reconstruct", arguments)))


def _score(arguments: Arguments) -> None:
    from calotype.commands.score import Score, score_images

    _say("scores", score_images(_parse(Score, "calotype score", arguments)))


def _evaluate(arguments: Arguments) -> None:
    from calotype.commands.evaluate import Evaluate, evaluate

    _say("figures", evaluate(_parse(Evaluate, "calotype evaluate", arguments)))


def _compare(arguments: Arguments) -> None:
    from calotype.commands.compare import Compare, compare

    _say("comparison", compare(_parse(Compare, "calotype compare", arguments)))


def _demo(arguments: Arguments) -> None:
    from calotype.commands.demo import Demo, demo

    _say("gallery", demo(_parse(Demo, "calotype demo", arguments)))


def _quickstart(arguments: Arguments) -> None:
    from calotype.commands.quickstart import Quickstart, quickstart

    _say("gallery", quickstart(_parse(Quickstart, "calotype quickstart", arguments)))


def _doctor(arguments: Arguments) -> None:
    from calotype.commands.doctor import Doctor, doctor

    raise SystemExit(doctor(_parse(Doctor, "calotype doctor", arguments)))


def _say(what: str, where: object) -> None:
    Console().print(f"{what}: {where}", highlight=False, soft_wrap=True)


COMMANDS = {
    "train-tokenizer": Command(_train_tokenizer, "train an image tokenizer from a named recipe"),
    "cache-latents": Command(_cache_latents, "encode images and captions once, for a generator"),
    "train-generator": Command(
        _train_generator, "train a diffusion model or transformer in a cache"
    ),
    "generate": Command(_generate, "images from prompts"),
    "reconstruct": Command(_reconstruct, "images beside what a tokenizer makes of them"),
    "score": Command(_score, "bits that a transformer needs for images under their captions"),
    "evaluate": Command(_evaluate, "figures of any tokenizer or pipeline, by one protocol"),
    "compare": Command(_compare, "the same figures of several, as a page, a table and a picture"),
    "demo": Command(_demo, "all of it on procedural scenes, ending in a gallery page"),
    "quickstart": Command(_quickstart, "all of it on your own pictures, in a time that you name"),
    "doctor": Command(_doctor, "what this machine has, what it lacks, and which recipes fit it"),
}
