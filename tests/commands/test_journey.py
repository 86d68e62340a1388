"""A journey says where it stands, and what it took adds up over its starts."""

import json
import time

import pytest

from calotype.commands import journey as module
from calotype.commands.journey import Journey, Part, spoken
from calotype.training import Run
from calotype.training.progress import Told


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time, which moves when a test moves it."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.threading.Thread, "start", lambda thread: None)
    monkeypatch.setattr(module.threading.Thread, "join", lambda thread: None)
    return now


def record(tmp_path) -> dict[str, float]:
    return json.loads((tmp_path / "journey.json").read_text())["seconds"]


def test_what_is_left_is_what_is_expected_until_a_run_tells(tmp_path, clock):
    run = Run(tmp_path / "run", steps=100)
    parts = [Part("first", 50.0, run, resumes=True), Part("second", 7.0)]
    with Journey(tmp_path / "page.html", "way", parts) as journey:
        with journey.part("first"):
            clock[0] += 10
            assert journey.left() == 40 + 7
            run.out.mkdir()
            (run.out / "metrics.jsonl").write_text('{"step": 20}\n{"step": 2')
            assert journey.left() == 40 + 7  # 20 steps in 10 seconds
            clock[0] += 10
            assert journey.left() == 30 + 7, "bug: until the next line it rose, here to 80"
            (run.out / "metrics.jsonl").write_text('{"step": 20}\n{"step": 50}\n')
            assert journey.left() == 20 + 7
        assert journey.left() == 7
        with journey.part("second"):
            clock[0] += 9
            assert journey.left() == 0
    assert journey.gone == 20 + 9


def test_of_parts_side_by_side_the_longer_counts(tmp_path, clock):
    parts = [Part("before", 5.0), Part("a", 30.0, lane="a"), Part("b", 50.0, lane="b"),
             Part("b2", 4.0, lane="b"), Part("after", 1.0)]  # fmt: skip
    with Journey(tmp_path / "page.html", "way", parts) as journey:
        assert journey.left() == 5 + 54 + 1
        with journey.part("before"):
            clock[0] += 5
        with journey.part("a"), journey.part("b"):
            assert journey._place(*journey._current) == "2+3/5"
            clock[0] += 20
            assert journey.left() == 34 + 1
        assert journey.gone == 5 + 20, "not 45"
    assert record(tmp_path) == {"before": 5, "a": 20, "b": 20}


def test_a_part_that_is_not_measured_yet_is_not_counted_as_nothing(tmp_path, clock):
    with Journey(tmp_path / "page.html", "way", [Part("a", 3.0), Part("b")]) as journey:
        assert journey.left() is None
        journey.parts["b"].seconds = 4.0
        assert journey.left() == 7.0


def test_time_adds_up_over_starts_where_work_does(tmp_path, clock):
    for _ in range(2):
        parts = [Part("trained", resumes=True), Part("drawn")]
        with Journey(tmp_path / "page.html", "way", parts) as journey:
            for part in parts:
                with journey.part(part.name):
                    clock[0] += 10
    assert record(tmp_path) == {"trained": 20, "drawn": 10} and journey.gone == 30


def test_what_is_stopped_is_recorded_and_says_how_to_go_on(tmp_path, clock):
    with pytest.raises(KeyboardInterrupt):
        with Journey(tmp_path / "page.html", "way", [Part("trained", resumes=True)]) as journey:
            with journey.part("trained"):
                clock[0] += 5
                raise KeyboardInterrupt
    assert record(tmp_path) == {"trained": 5}
    page = (tmp_path / "page.html").read_text()
    assert "The same command goes on from here" in page and "refresh" not in page


def test_the_page_is_written_while_a_part_is_under_way(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "TICK", 0.01)
    page = tmp_path / "page.html"
    with Journey(page, "way", [Part("first", 30.0)]) as journey, journey.part("first"):
        page.unlink()
        while not page.exists():
            time.sleep(0.01)
    said = capsys.readouterr().out
    assert "[1/1] first; " in said and "left" in said


def test_a_page_that_cannot_be_written_is_said_once_and_nothing_stops(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(module, "TICK", 0.01)
    with Journey(tmp_path / "page.html", "way", [Part("first")]) as journey:
        write, tries = journey.write, []

        def fails():
            tries.append(1)
            raise OSError("no space")

        journey.write = fails
        while len(tries) < 3:
            time.sleep(0.01)
        journey.write = write
    assert capsys.readouterr().out.count("could not be written: OSError('no space')") == 1


def test_a_part_says_how_far_the_whole_is(tmp_path, clock, capsys):
    parts = [Part("first", 30.0), Part("second", 600.0)]
    with Journey(tmp_path / "page.html", "way", parts) as journey, journey.part("first"):
        told = Told("a run", 8)
        told.advance()
        journey.parts["first"].undecided = True
        told.mention()
        told.tell()
    said = capsys.readouterr().err.splitlines()
    assert [line.split(", ")[0] for line in said] == [
        "[1/2] about 10 min left of all: a run 1/8", "[1/2] about 10 min left of all: a run 1"
    ], "bug: two times left stood in one line, and the end of a leg seemed that of all"  # fmt: skip


def test_durations_are_said_in_words():
    assert [spoken(s) for s in (0.0, 45.0, 100.0, 3600.0, 8000.0)] == [
        "0 s", "45 s", "2 min", "60 min", "2 h 13 min"
    ]  # fmt: skip


def test_what_failed_is_not_under_way_and_its_lane_goes_no_further(tmp_path, clock):
    parts = [Part("a", 30.0, lane="a"), Part("b", 50.0, lane="b"), Part("b2", 40.0, lane="b")]
    with Journey(tmp_path / "page.html", "way", parts) as journey:
        with journey.part("a"):
            with pytest.raises(RuntimeError), journey.part("b"):
                raise RuntimeError
            assert journey.left() == 30
            page = (tmp_path / "page.html").read_text()
    assert page.count("▶") == 1 and "stopped" in page


def test_time_side_by_side_counts_once_over_all_starts(tmp_path, clock):
    """Bug: of lanes that did not overlap only the longer was counted."""
    for first, second in ((10, 0), (0, 20)):
        parts = [Part("a", resumes=True, lane="a"), Part("b", resumes=True, lane="b")]
        with Journey(tmp_path / "page.html", "way", parts) as journey:
            with journey.part("a"):
                clock[0] += first
            with journey.part("b"):
                clock[0] += second
    assert journey.gone == 30
