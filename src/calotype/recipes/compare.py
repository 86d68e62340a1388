"""Several artifacts on the same pictures: one table and one picture."""

import base64
import json
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from calotype.evaluation.protocol import ProtocolError
from calotype.evaluation.tokenizer import Evaluation
from calotype.recipes.evaluate import Artifact, Bench, Measuring, described, flat
from calotype.recipes.gallery import STYLE
from calotype.recipes.panorama import panorama
from calotype.training.checkpoint import write_text

STYLES = "table { border-collapse: collapse } td, th { padding: .2rem .8rem; text-align: right }"


@dataclass(frozen=True, kw_only=True)
class Compare(Measuring):
    """Measure several tokenizers, or several pipelines, on the same pictures."""

    artifacts: tyro.conf.Positional[tuple[str, ...]]
    """Folders, ours or stock, or names on the Hub."""
    out: Path = Path("comparison")
    """Folder of comparison.html, comparison.md, comparison.png and comparison.json."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.artifacts) < 2:
            raise ValueError("give two artifacts or more to compare; evaluate measures one")
        if twice := {a for a in self.artifacts if self.artifacts.count(a) > 1}:
            raise ValueError(f"{twice.pop()} is named twice: name each artifact once")
        if self.out.is_file():
            raise ValueError(f"--out is {self.out}, a file: name a folder")


def compare(options: Compare) -> Path:
    """Measure, and write page, table and picture; returns the page.

    Raises:
        ValueError, FileNotFoundError: an artifact is not there, or they cannot be compared; before
            any measuring.
    """
    artifacts = [Artifact(path) for path in options.artifacts]
    sizes = {each.path: each.size(options.size) for each in artifacts}
    if len({each.pipeline is None for each in artifacts}) > 1:
        raise ValueError("tokenizers and pipelines cannot be compared: give one kind")
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{path} {size}" for path, size in sizes.items())
        mend = "choose one with --size" if artifacts[0].tokenizer else "compare those of one"
        raise ProtocolError(f"images of several sizes ({said}): {mend}")
    bench = Bench(options, next(iter(sizes.values())))
    work = {each.path: bench.prepare(each) for each in artifacts}
    found = {path: measure() for path, measure in work.items()}
    first = next(iter(found.values()))
    for other in found.values():
        first.protocol.check(other.protocol)
    return write(options.out, found)


def write(folder: Path, found: dict[str, Evaluation]) -> Path:
    """Write page, table and picture of what was measured; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    each = [described(path, evaluation) for path, evaluation in found.items()]
    write_text(folder / "comparison.json", json.dumps(each, indent=1) + "\n")
    panorama(found).save(folder / "comparison.png")
    rows, said = table(found), protocol(next(iter(found.values())))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    picture = "![what each makes of the same pictures](comparison.png)"
    write_text(folder / "comparison.md", "\n".join([*lines, "", said, "", picture, ""]))
    write_text(folder / "comparison.html", page(rows, said, folder / "comparison.png"))
    Console().print("\n".join(lines), highlight=False, soft_wrap=True)
    return folder / "comparison.html"


def table(found: dict[str, Evaluation]) -> list[list[str]]:
    """Header and rows: a figure, and its value for each artifact."""
    columns = [dict(flat(_all(evaluation))) for evaluation in found.values()]
    names = list(dict.fromkeys(name for column in columns for name in column))
    errors = [evaluation.errors for evaluation in found.values()]
    rows = [["figure", *found]]
    for name in names:
        cells = (
            _cell(column.get(name), error.get(name))
            for column, error in zip(columns, errors, strict=True)
        )
        rows.append([name.replace("_", " "), *cells])
    return rows


def _all(evaluation: Evaluation) -> dict[str, Any]:
    drawn = {name: value for name, value in (evaluation.protocol.sampling or {}).items()
             if isinstance(value, int | float | str)}  # fmt: skip
    return {**evaluation.figures, **evaluation.health, **evaluation.speed, **drawn}


def _cell(value: Any, error: float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(f"{each:g}" for each in value)
    return f"{value:.6g}" + (f" ± {error:.2g}" if error is not None else "")


def protocol(evaluation: Evaluation) -> str:
    """What the figures depend on, in a line."""
    how = evaluation.protocol
    lpips = ", ".join(f"{net} {digest}" for net, digest in how.lpips.items())
    parts = [f"Protocol {how.version}", f"{how.images} pictures of {how.size} pixels, {how.digest}",
             f"features of {how.features}", f"LPIPS {lpips}" if lpips else "",
             f"seed {how.seed}", f"CLIP {how.clip}" if how.clip else "",
             f"training images: {how.training}" if how.training else ""]  # fmt: skip
    return "; ".join(part for part in parts if part) + "."


def page(rows: list[list[str]], said: str, picture: Path) -> str:
    """The table and the picture as one HTML file."""
    head, *body = (
        "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for tag, row in zip(["th", *["td"] * len(rows)], rows, strict=False)
    )
    data = base64.b64encode(picture.read_bytes()).decode()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>calotype</title>'
        f"<style>{STYLE}{STYLES}</style></head>\n<body><h1>calotype: a comparison</h1>\n"
        f"<table>{head}\n{chr(10).join(body)}</table>\n<p>{escape(said)}</p>\n"
        f'<img alt="rate against distortion, and samples" src="data:image/png;base64,{data}">\n'
        "</body></html>\n"
    )
