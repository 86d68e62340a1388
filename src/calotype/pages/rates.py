"""The page, the table and the picture of codecs on the same pictures."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from calotype.evaluation.rates import Rate, saved
from calotype.lazy import matplotlib
from calotype.pages.comparison import page
from calotype.training.files import write_bytes, write_text

PAGE = "rates.html"
FIGURES = {"psnr_db": "PSNR, dB", "ssim": "SSIM", "lpips_alex": "LPIPS of AlexNet",
           "lpips_vgg": "LPIPS of VGG"}  # fmt: skip
AGAINST = "JPEG"


def write(folder: Path, rates: Sequence[Rate], said: Sequence[str]) -> Path:
    """Write page, table, picture and figures; returns the page."""
    rows = table(rates)
    told = [{"codec": each.codec, "quality": each.quality, "pictures": each.pictures,
             "bytes": each.bytes, "bits_per_pixel": each.bits_per_pixel, **each.figures}
            for each in rates]  # fmt: skip
    write_text(folder / "rates.json", json.dumps(told, indent=1) + "\n")
    write_bytes(folder / "rates.png", drawn(rates))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    picture = "![bits a pixel against distortion](rates.png)"
    write_text(folder / "rates.md", "\n\n".join(["\n".join(lines), *said, picture]) + "\n")
    write_text(folder / PAGE, page(rows, list(said), folder / "rates.png"))
    Console().print("\n".join([*lines, "", *said]), highlight=False, soft_wrap=True)
    return folder / PAGE


def table(rates: Sequence[Rate]) -> list[list[str]]:
    """Header and rows; the last columns say how many bits fewer than JPEG's, for the same figure,
    a codec needs.
    """
    names = [name for name in FIGURES if name in rates[0].figures]
    against = [each for each in rates if each.codec == AGAINST]
    judged = [name for name in names if name.startswith("lpips") or name == "psnr_db"]
    heads = [f"bits beside {AGAINST} at equal {FIGURES[name]}" for name in judged]
    rows = [["codec", "quality", "bytes", "bits a pixel", *(FIGURES[name] for name in names),
             *heads * bool(against)]]  # fmt: skip
    for each in rates:
        cells = [each.codec, each.quality or "-", f"{each.bytes / each.pictures:.0f}",
                 f"{each.bits_per_pixel:.4f}"]  # fmt: skip
        cells += [f"{each.figures[name]:.4g}" for name in names]
        if against:
            cells += [_beside(each, against, name) for name in judged]
        rows.append(cells)
    return rows


def _beside(rate: Rate, against: Sequence[Rate], name: str) -> str:
    if rate.codec == AGAINST:
        return ""
    found = saved(rate, against, name)
    return "beyond" if found is None else f"{-found:+.0%}"


def drawn(rates: Sequence[Rate]) -> bytes:
    """Bits a pixel against each figure, a line a codec, as PNG."""
    names = [name for name in FIGURES if name in rates[0].figures and name != "ssim"]
    figure = matplotlib.figure.Figure(figsize=(5 * len(names), 4.5), layout="constrained")
    codecs = list(dict.fromkeys(each.codec for each in rates))
    for place, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), place + 1)
        for codec in codecs:
            own = sorted((each.bits_per_pixel, each.figures[name]) for each in rates
                         if each.codec == codec)  # fmt: skip
            axes.plot(*zip(*own, strict=True), "o-", markersize=4, label=codec)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("bits a pixel, heads of files counted")
        axes.set_ylabel(FIGURES[name])
        axes.grid(alpha=0.3)
        if place == 0:
            axes.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
