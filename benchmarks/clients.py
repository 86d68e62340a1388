"""Folders of each kind in the hands of clients that nobody here wrote: the table of
docs/clients.md.

python benchmarks/clients.py [--diffusers DIR] [--made DIR]

trains a small pipeline of each layout on drawn scenes, for a minute or two, and gives each client
of stock_clients.py a process of its own, in which calotype cannot be imported. Exit code 1: one
failed.
"""

import argparse
import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stock_clients import CLIENTS

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs/clients.md"
MARKS = "<!-- by benchmarks/clients.py -->", "<!-- end -->"
KINDS = ("stable", "flow", "tokens")
STEPS, SIZE = 20, 64
"""Enough for weights that are no longer those of the beginning: what is drawn is not looked at."""


def make(root: Path) -> dict[str, Path]:
    """A pipeline of each kind, by the small recipes."""
    from calotype.commands.cache_latents import cache
    from calotype.commands.train_generator import train_generator
    from calotype.commands.train_tokenizer import train_tokenizer
    from calotype.data import Scenes
    from calotype.recipes.caches import CACHES
    from calotype.recipes.generators import GENERATORS
    from calotype.recipes.tokenizers import TOKENIZERS

    names = {
        "stable": ("small-kl-f8", "small-f8", "small-stable-diffusion"),
        "flow": ("small-kl", "small", "small-diffusion"),
        "tokens": ("small-vq", "small-tokens", "small-ar"),
    }
    scenes, found = Scenes(size=SIZE, count=64), {}
    for kind, (tokenizer, cached, generator) in names.items():
        there = root / kind
        first: Any = TOKENIZERS[tokenizer]()
        model = train_tokenizer(replace(
            first, data=scenes, transform=None, measure=64, run=shortened(first.run, there / "a")
        ))  # fmt: skip
        second = replace(CACHES[cached](), tokenizer=str(model), data=scenes, transform=None,
                         out=there / "latents")  # fmt: skip
        third: Any = GENERATORS[generator]()
        found[kind] = train_generator(replace(
            third, tokenizer=str(model), cache=cache(second), run=shortened(third.run, there / "b")
        ))  # fmt: skip
    return found


def shortened(run: Any, out: Path) -> Any:
    """A run of a few steps."""
    return replace(run, out=out, steps=STEPS, save_every=STEPS, sample_every=10 * STEPS)


def answers(folders: dict[str, Path], checkout: Path | None) -> list[dict[str, Any]]:
    """What came of each client with each folder that it is for."""
    found = []
    for each in CLIENTS:
        for kind in each.kinds:
            command = [sys.executable, "-I", HERE / "stock_clients.py", f"{kind}={folders[kind]}",
                       "--only", each.name]  # fmt: skip
            more = ["--diffusers", checkout] if checkout else []
            done = subprocess.run([str(word) for word in (*command, *more)],
                                  capture_output=True, text=True)  # fmt: skip
            last = (done.stdout.strip().splitlines() or [""])[-1]
            found.append(json.loads(last) if last.startswith("{") else {
                "client": each.name, "kind": kind, "state": "fails", "seen": done.stderr[-300:],
                "seconds": 0.0,
            })  # fmt: skip
            print(*found[-1].values(), sep=" | ", flush=True)
    return found


def table(found: list[dict[str, Any]]) -> str:
    """Clients down, kinds of folders across."""
    lines = ["| client | Stable Diffusion's layout | a flow of our layout | transformer |",
             "|---|---|---|---|"]  # fmt: skip
    by = {(each["client"], each["kind"]): each for each in found}
    for name in dict.fromkeys(each.name for each in CLIENTS):
        cells = [told(by.get((name, kind))) for kind in KINDS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def told(answer: dict[str, Any] | None) -> str:
    """A cell."""
    if answer is None:
        return ""
    seen = answer["seen"].replace("|", "\\|")  # which ends a cell
    return seen if answer["state"] == "works" else f"{answer['state']}: {seen}"


def main() -> None:
    """Make folders, run clients, write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--diffusers", type=Path, help="a checkout of diffusers")
    parser.add_argument("--made", type=Path, help="folder to make them in")
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        sys.modules.pop("calotype", None)  # stock_clients.py has blocked it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of few steps and few pictures
            folders = make(options.made or Path(temporary))
        found = answers(folders, options.diffusers and options.diffusers.resolve())
    before, rest = PAGE.read_text().split(MARKS[0])
    after = rest.split(MARKS[1], 1)[1]
    PAGE.write_text(f"{before}{MARKS[0]}\n{table(found)}\n{MARKS[1]}{after}")
    sys.exit(any(each["state"] == "fails" for each in found))


if __name__ == "__main__":
    main()
