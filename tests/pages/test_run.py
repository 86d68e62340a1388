"""A run's page is made of its folder's files, whatever state they are in, and asks nobody for
anything.
"""

import json
import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from calotype.pages.charts import all_charts
from calotype.pages.curves import MOST_POINTS, Curve, Curves
from calotype.pages.run import MOST_WARNINGS, About, Override, RunPage
from calotype.pages.slides import LARGEST, MOST_SLIDES, Slides
from calotype.training.log import save_grid

ABOUT = About("UNet of 3 million parameters", "small-kl", "calotype train-tokenizer small-kl",
              [Override("run.seed", "0", "<7>")])  # fmt: skip


def start(first: int, last: int, **changes: Any) -> dict[str, Any]:
    base = {
        "began": "2031-05-06T07:08:09+00:00", "device": "this CPU (AVX2)", "processes": 1,
        "precision": "fp32", "versions": {"torch": "2.9"}, "first": first, "last": last,
        "seconds": 20.0, "images_per_second": 36.0, "warnings": [], "skipped": 0,
        "energy_joules": None,
    }  # fmt: skip
    return {**base, **changes}


def folder(root: Path, *starts: dict[str, Any], steps: int = 100, rows=()) -> RunPage:
    (root / "samples").mkdir(parents=True, exist_ok=True)
    described = {"run": {"steps": steps}, "data": "https://example.org/</pre><script>"}
    (root / "recipe.json").write_text(json.dumps(described))
    (root / "history.jsonl").write_text("".join(json.dumps(each) + "\n" for each in starts))
    (root / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RunPage(root, ABOUT)


def grid(root: Path, step: int, size: int = 16) -> None:
    save_grid(torch.full((2, 3, size, size), step % 100 / 50 - 1), root / f"samples/{step:07d}.png")


class Asked(HTMLParser):
    """What a page would fetch, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.within, self.code, self.text = "", "", ""
        self.policy = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.within = tag
        given = dict(attrs)
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href", "style"):
                self.sources.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self.within = ""

    def handle_data(self, data: str) -> None:
        if self.within in ("script", "style"):
            self.code += data
        else:
            self.text += data

    @property
    def others(self) -> list[str]:
        """What lies elsewhere."""
        fetched = [s for s in self.sources if not re.match(r"data:|#|width: [\d.]+%$", s)]
        return fetched + re.findall(r"https?:|url\(|@import|fetch\(|import ", self.code)


def read(root: Path) -> Asked:
    return Asked((root / "index.html").read_text())


def test_nothing_is_asked_of_anybody(tmp_path):
    """Not even by what a recipe says; a browser is told to refuse it."""
    page = folder(tmp_path, start(0, 40), rows=[{"step": 10, "psnr": 3.0}])
    grid(tmp_path, 10)
    page.write(False)
    asked = read(tmp_path)
    assert asked.others == [] and any(s.startswith("data:image/jpeg") for s in asked.sources)
    assert asked.policy.startswith("default-src 'none'; img-src data:;")
    assert "https://example.org/</pre><script>" in asked.text, "it is text there, and no tag"
    assert Asked('<a href="x.html"><img src="//a/b"><script>fetch("")</script>').others == [
        "x.html", "//a/b", "fetch(",
    ]  # fmt: skip


def test_it_says_how_far_it_is_and_what_is_left(tmp_path):
    page = folder(tmp_path, start(0, 0))
    page.write(False)
    assert "Step 0 of 100: how much time is left is being measured." in read(tmp_path).text
    folder(tmp_path, start(0, 30), start(20, 40, seconds=10.0))
    page.write(False)
    asked = read(tmp_path)
    assert "Step 40 of 100, 36 images a second, about 0:00:30 left." in asked.text
    assert "width: 40.00%" in asked.sources and "location.reload" in asked.code
    assert "20 to 40" in asked.text and "2031-05-06 07:08:09 UTC" in asked.text
    folder(tmp_path, start(0, 100, energy_joules=7200.0))
    page.write(False)
    assert "training is done, the model is being exported" in read(tmp_path).text
    page.write(True)
    asked = read(tmp_path)
    assert "the model is in model" in asked.text and "2 Wh" in asked.text
    assert "location.reload" not in asked.code and "Last written at 20" in asked.text


def test_a_run_that_has_done_nothing_yet_has_a_page(tmp_path):
    folder(tmp_path).write(False)
    assert "100 steps to come" in read(tmp_path).text


def test_bug_a_curve_of_one_point_was_an_empty_box(tmp_path):
    page = folder(tmp_path, start(0, 10), rows=[{"step": 10, "psnr": 3.0}])
    page.write(False)
    (point,) = re.findall(
        r'class="training dots" points="([^"]*)"', (tmp_path / "index.html").read_text()
    )
    assert len({*point.split(" ")}) == 1 and len(point.split(" ")) == 2


def test_warnings_stand_on_top_the_last_ones_of_many(tmp_path):
    page = folder(tmp_path, start(0, 10))
    page.write(False)
    assert "No warnings." in read(tmp_path).text
    many = [[step, f"codes are dying, {step}"] for step in range(MOST_WARNINGS + 3)]
    folder(tmp_path, start(0, 10, warnings=many, skipped=3), start(10, 20, skipped=2))
    page.write(False)
    said = read(tmp_path).text
    assert f"{MOST_WARNINGS + 3} warnings, 5 steps skipped" in said and "and 3 before" in said
    assert "codes are dying, 22" in said and "codes are dying, 2\n" not in said


def test_overridden_fields_stand_beside_the_named_recipes(tmp_path):
    page = folder(tmp_path, start(0, 10))
    page.write(False)
    text = read(tmp_path).text
    assert "By small-kl, but for:" in text and "calotype train-tokenizer small-kl" in text
    assert re.search(r"run\.seed<7>0", re.sub(r"\s", "", text))


def test_samples_are_slides_of_which_the_last_is_shown(tmp_path):
    page = folder(tmp_path, start(0, 60))
    for step in (20, 40, 60, 80):  # the last is of an attempt of before
        grid(tmp_path, step)
    (tmp_path / "samples/0000060.png").write_bytes(b"\x89PNG cut")
    page.write(False)
    said = (tmp_path / "index.html").read_text()
    assert re.findall(r'data-step="(\d+)"( hidden)?>', said) == [("20", " hidden"), ("40", "")]


def test_slides_are_few_small_and_made_once(tmp_path, monkeypatch):
    (tmp_path / "samples").mkdir()
    slides, made = Slides(tmp_path / "samples"), []
    for step in range(1, 101):
        grid(tmp_path, step, 8)
        shown = [slide.step for slide in slides.look(10**6)]
        assert len(shown) <= MOST_SLIDES + 1 and shown[0] == 1 and shown[-1] == step
        assert len({b - a for a, b in pairwise(shown[:-1])}) <= 1, "even"
    monkeypatch.setattr("calotype.pages.slides.shrunk", lambda path: str(made.append(path)))
    slides.look(10**6)
    assert made == []
    grid(tmp_path, 1000, LARGEST)
    (tmp_path / "samples/0001000-sheet.png").write_bytes(
        (tmp_path / "samples/0001000.png").read_bytes()
    )
    slides.look(10**6)
    assert made == [tmp_path / "samples/0001000-sheet.png"], "what one can see and read"


def test_a_slide_is_the_grid_as_it_is_seen(tmp_path):
    (tmp_path / "samples").mkdir()
    save_grid(torch.zeros(16, 3, 256, 256), tmp_path / "samples/0000001.png")
    (slide,) = Slides(tmp_path / "samples").look(1)
    kind, data = slide.source.split(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(BytesIO(b64decode(data))) as image:
        assert max(image.size) == LARGEST
        assert np.asarray(image)[image.height // 4, 20].tolist() == pytest.approx([128] * 3, abs=3)


def test_curves_are_read_on_and_what_is_being_written_is_left(tmp_path):
    file = tmp_path / "metrics.jsonl"
    curves = Curves(file)
    assert curves.look() == {}
    file.write_text('{"step": 1, "a": 2.0}\n{"step": 2, "a": NaN, "b": 1.0}\n{"step": 3, "a"')
    assert curves.look()["a"].points == [(1, 2.0)] and curves["b"].points == [(2, 1.0)]
    with file.open("a") as more:
        more.write(": 4.0}\n")
    assert curves.look()["a"].points == [(1, 2.0), (3, 4.0)]
    file.write_text('{"step": 1, "a": 5.0}\n')  # a resumed run's is cut
    assert curves.look()["a"].points == [(1, 5.0)] and "b" not in curves


def test_of_many_points_neighbours_are_merged_and_extremes_kept():
    curve, steps = Curve(), 100_003
    for step in range(steps):
        curve.add(step, 1000.0 if step == 777 else float(step % 2))
    assert MOST_POINTS <= len(curve.points) <= 2 * MOST_POINTS
    assert curve.highest == 1000.0 and curve.lowest == 0.0
    assert curve.points[-1][0] == curve.last[0] == steps - 1
    middle = [value for step, value in curve.points if 1000 < step < 90_000]
    assert middle == pytest.approx([0.5] * len(middle))


def test_every_figure_has_a_chart_and_validation_stands_beside_training():
    curves: dict[str, Curve] = {}
    told = {"psnr": 20.0, "validation/psnr_db": 18.0, "validation/ssim": 0.5, "denoising": 1e-3,
            "validation/denoising": 2.0, "made_up": -1.0}  # fmt: skip
    for name, value in told.items():
        curves[name] = Curve()
        curves[name].add(1, value)
        curves[name].add(5, 2 * value)
    charts = {chart["name"]: chart for chart in all_charts(curves)}
    assert list(charts) == ["psnr", "denoising", "ssim", "made_up"], "as the glossary has them"
    lines = {name: [line["of"] for line in chart["lines"]] for name, chart in charts.items()}
    assert lines["psnr"] == lines["denoising"] == ["training", "validation"]
    assert lines["ssim"] == ["validation"] and lines["made_up"] == ["training"]
    assert charts["psnr"]["label"] == "psnr, dB ↑" and charts["psnr"]["meaning"]
    assert (charts["psnr"]["lowest"], charts["psnr"]["highest"]) == (18.0, 40.0)
    assert charts["denoising"]["logarithmic"] and not charts["psnr"]["logarithmic"]
    assert charts["psnr"]["lines"][0]["points"] == "0.0,109.1 320.0,0.0"
    assert charts["psnr"]["lines"][0]["last"] == "40"
