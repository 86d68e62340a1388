"""The page shows what there is in the runs' folders, whatever state they are in."""

import json
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from calotype.data.reading.transforms import eight_bits
from calotype.pages.charts import charts
from calotype.pages.gallery import PAIR, Gallery, Grid, Stage, Training, write_gallery
from calotype.pages.tiles import newest, tiles
from calotype.training.log import save_grid


def pictures(count: int, size: int = 8) -> torch.Tensor:
    return torch.linspace(-1, 1, count)[:, None, None, None].expand(count, 3, size, size)


def metrics(folder, rows) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_grid_is_cut_into_the_images_it_was_made_of(tmp_path):
    for count in (1, 2, 8, 11):
        images = pictures(count)
        save_grid(images, tmp_path / f"{count}.png")
        found = [int(np.asarray(Image.open(BytesIO(part)))[0, 0, 0])
                 for part in tiles(tmp_path / f"{count}.png", 8, count)]  # fmt: skip
        assert found == pytest.approx(eight_bits(images)[:, 0, 0, 0].tolist(), abs=1)


def test_the_newest_grid_is_of_the_latest_step(tmp_path):
    assert newest(tmp_path) is None
    for name in ("0000050", "0000100", "codebook"):
        save_grid(pictures(2), tmp_path / f"{name}.png")
    assert newest(tmp_path) == tmp_path / "0000100.png"


def test_a_grid_that_is_being_written_shows_nothing_yet(tmp_path):
    save_grid(pictures(8), tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    assert tiles(tmp_path / "cut.png", 8, 8) == []


def test_charts_go_from_the_first_step_to_the_last(tmp_path):
    assert charts(tmp_path / "metrics.jsonl") == []
    metrics(tmp_path, [{"step": 2, "psnr": 10.0, "pixel": 1.0}, {"step": 4, "psnr": 30.0},
                       {"step": 6, "psnr": 20.0, "pixel": 0.01}])  # fmt: skip
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "ps')  # what a kill leaves, or a reader meets
    psnr, pixel = charts(tmp_path / "metrics.jsonl")
    assert psnr["line"] == "0.0,120.0 160.0,0.0 320.0,60.0"
    assert psnr["label"] == "psnr, dB ↑"
    assert (psnr["first"], psnr["last"], psnr["highest"]) == ("10", "20", "30")
    assert pixel["line"] == "0.0,0.0 320.0,120.0" and pixel["last"] == "0.01"


def test_figures_that_are_no_numbers_are_left_out(tmp_path):
    rows = [{"step": i, "psnr": value} for i, value in enumerate((1.0, float("nan"), 2.0))]
    metrics(tmp_path, rows)
    (chart,) = charts(tmp_path / "metrics.jsonl")
    assert chart["line"].count(",") == 2


def test_the_page_grows_with_the_folders(tmp_path):
    page, run = tmp_path / "new/gallery.html", tmp_path / "run"
    pairs, drawn = (
        Training("rebuilt", run, 8, PAIR, True),
        Training("drawn", run, 8, ("a <b>", "c")),
    )
    stages = [Stage("first", "done", "took 3 s"), Stage("second", "now", ""),
              Stage("third", "to come", "about 2 min")]  # fmt: skip
    gallery = Gallery("a way", ("a line",), stages, "3 s gone", (pairs, drawn), finished=False)
    write_gallery(page, gallery)
    said = page.read_text()
    assert all(each in said for each in ("a line", "third", "about 2 min", 'http-equiv="refresh"'))
    assert "<figure>" not in said

    (run / "samples").mkdir(parents=True)
    save_grid(pictures(2), run / "samples/0000007.png")
    metrics(run, [{"step": 1, "psnr": 1.0}, {"step": 7, "psnr": 3.0}])
    write_gallery(page, gallery)
    said = page.read_text()
    assert said.count("<img") == 4 and said.count("<polyline") == 2
    assert "at step 7" in said and "original" in said and "a &lt;b&gt;" in said


@pytest.mark.parametrize(("stopped", "images"), [(False, 2), (True, 4)])
def test_what_was_made_on_the_way_gives_place_to_what_it_ends_in(tmp_path, stopped, images):
    """Bug: the last samples stood below the same images drawn in the end."""
    run = tmp_path / "run"
    (run / "samples").mkdir(parents=True)
    save_grid(pictures(2), run / "samples/0000007.png")
    metrics(run, [{"step": 1, "psnr": 1.0}, {"step": 7, "psnr": 3.0}])
    grid = Grid("in the end", pictures(2), None, None)
    gallery = Gallery("a way", trainings=(Training("drawn", run, 8, ("a", "b")),), grids=(grid,),
                      stopped=stopped)  # fmt: skip
    write_gallery(tmp_path / "gallery.html", gallery)
    said = (tmp_path / "gallery.html").read_text()
    assert said.count("<img") == images
    assert ('class="quiet">at step 7' in said) == stopped and said.count("<polyline") == 1


def test_a_finished_page_stands_still(tmp_path):
    grid = Grid("in the end", pictures(2), ["one", "two"], [{"colour": True}, {"colour": False}])
    write_gallery(tmp_path / "gallery.html", Gallery("a way", grids=(grid,)))
    said = (tmp_path / "gallery.html").read_text()
    assert "refresh" not in said and said.count("<figure>") == 2
    assert said.count("✓") == 1 and "✗ colour" in said
