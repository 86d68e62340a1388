"""What is said on the way: how far it is, at once and again and again, and where it stands."""

import io
import json
import os
import signal
import time

import pytest
import torch
from PIL import Image

import tiny
from calotype.training import AdamW, Batch, Losses, Objective, fit, progress
from calotype.training.interrupt import Interrupts
from calotype.training.progress import Standing, Told, heard_by, track
from calotype.training.sheet import draw_sheet


class Slope(Objective):
    """Minimise w; has pictures, one for each caption."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__(AdamW(0.1))
        self.w, self.fails_at = torch.nn.Parameter(torch.zeros(1)), fails_at

    def forward(self, batch: Batch, step: int) -> Losses:
        if step == self.fails_at:
            raise RuntimeError("operands could not be broadcast")
        return {"height": self.w.sum()}

    def preview(self) -> torch.Tensor:
        return torch.zeros(2, 3, 16, 16)


def train(objective: Objective, run) -> None:
    fit([objective], tiny.Repeating({"x": torch.zeros(2, 1)}, run.batch_size), run)


def test_a_line_follows_the_first_step_and_says_what_is_left(tmp_path, capfd):
    train(Slope(), tiny.run(tmp_path / "out", steps=4, log_every=100))
    first, *_ = capfd.readouterr().err.splitlines()
    assert first.startswith("out 1/4, ") and first.endswith(" left") and " img/s, 0:00:0" in first


def test_something_is_said_while_one_step_takes_long(monkeypatch, capfd):
    """Bug: nothing was printed before step 50."""
    monkeypatch.setattr(progress, "EVERY", 0.02)
    with Told("slow", 10):
        deadline = time.monotonic() + 30
        said = ""
        while "slow 0/10, 0:00:00 so far" not in said and time.monotonic() < deadline:
            time.sleep(0.01)
            said += capfd.readouterr().err
    assert "slow 0/10, 0:00:00 so far" in said


def test_the_first_of_many_does_not_count_for_the_time_left(monkeypatch):
    """It loads and compiles. One alone tells more than nothing."""
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    told = Told("x", 11, images=4)
    now = 100.0
    told.advance()
    assert told.standing.left == 1000 and told.standing.speed == 0.04
    now = 101.0
    told.advance()
    assert told.standing.left == 9 and told.standing.speed == 4


def test_whoever_does_something_longer_hears_of_its_parts(capfd):
    heard: list[Standing] = []

    def listener(standing: Standing) -> str:
        heard.append(standing)
        return f"part 2 of 6: {standing.counted}"

    with heard_by(listener):
        assert list(track("abc", "letters", 3)) == ["a", "b", "c"]
    list(track("d", "more", 1))
    first, other = capfd.readouterr().err.splitlines()
    assert first == "part 2 of 6: letters 1/3" and other.startswith("more 1/1, ")
    assert [(each.what, each.done, each.total) for each in heard] == [("letters", 1, 3)]


def test_a_part_of_something_longer_is_not_talkative(monkeypatch, capfd):
    """Bug: a quickstart of twenty minutes printed 450 lines."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def lines() -> int:
        told = Told("x", 65)
        for _ in range(65):
            now[0] += 1.0
            told.advance()
            told.mention()
        return len(capfd.readouterr().err.splitlines())

    with heard_by(lambda standing: standing.counted):
        assert lines() == 1 + 6 + 1  # the first, each ten seconds, the last
    assert lines() == 1 + 65


def test_no_time_is_written_into_metrics(tmp_path):
    train(Slope(), tiny.run(tmp_path, steps=2, log_every=1))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.keys() for line in lines] == [{"step", "height", "slope_gradient"}] * 2


@pytest.fixture
def interruptible():
    """As on a terminal: what a shell starts behind `&` ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_is_answered_at_once(capfd, interruptible):
    with Interrupts() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        said = capfd.readouterr().err
        assert asked.number == signal.SIGINT
        assert said == "\nfinishing this step and saving; again to quit now\n"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    with Interrupts(speaks=False):
        os.kill(os.getpid(), signal.SIGTERM)
    assert capfd.readouterr().err == ""


def test_an_error_of_a_library_says_where_the_run_stands(tmp_path):
    """Bug: 'operands could not be broadcast' and nothing more."""
    run = tiny.run(tmp_path, steps=9, save_every=2)
    with pytest.raises(RuntimeError) as early:
        train(Slope(fails_at=1), run)
    (note,) = early.value.__notes__
    assert note == (
        f"{tmp_path}: after step 1 of 9; there is no checkpoint yet: the same command begins anew"
    )
    with pytest.raises(RuntimeError) as late:
        train(Slope(fails_at=3), run)
    (note,) = late.value.__notes__
    assert note == (
        f"{tmp_path}: after step 3 of 9; the newest checkpoint is of step 2: the same command "
        "with --run.resume goes on from there"
    )


def test_the_first_picture_is_there_early_and_large_enough_to_be_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("calotype.training.looking.EARLY", 2)
    objective = Slope()
    objective.captions = ("a red circle", "a blue square")
    train(objective, tiny.run(tmp_path, steps=3))
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == [f"{step}{kind}.png" for step in ("0000002", "0000003")
                     for kind in ("-sheet", "")]  # fmt: skip
    with Image.open(tmp_path / "samples/0000002-sheet.png") as sheet:
        assert sheet.width >= 2 * 128 and sheet.height >= 128


def test_pictures_are_enlarged_without_a_blur_and_captions_are_written():
    image = torch.tensor([-1.0, 1.0]).repeat(1, 3, 2, 1)
    plain, told = draw_sheet(image), draw_sheet(image, ["a red circle"])
    colours = plain.crop((8, 8, 8 + 128, 8 + 128)).getcolors()
    assert colours and sorted(colours) == [(8192, (0, 0, 0)), (8192, (255, 255, 255))]
    below = told.crop((8, 8 + 128, 8 + 128, told.height))
    assert told.height > plain.height and below.convert("L").histogram()[0] > 0


def test_nothing_is_said_by_other_ranks(capfd):
    told = Told("x", 3)
    told.main = False
    with told:
        told.advance()
        told.say("y")
    assert capfd.readouterr().err == ""


def test_a_terminal_shows_a_bar():
    told = Told("x", 3)
    told.console.file = shown = io.StringIO()
    told.console._force_terminal = True
    told._bar.disable = False
    with told:
        told.advance(2)
        told.note = "loss 3"
        told.tell()
    assert "2/3" in shown.getvalue() and "loss 3" in shown.getvalue()
