"""A rank that ends or says nothing ends the others, which say why in one line."""

import json
import re
from pathlib import Path

import pytest

import hosts
from calotype.training.distributed import patience, processes
from ranks import together


def said(root: Path, work, world: int = 2) -> list:
    """What it came to on each rank; None where there was no time to note it."""
    together(world, hosts.at_home, work, root)
    files = [root / f"{work.__name__}-{rank}.json" for rank in range(world)]
    return [json.loads(file.read_text()) if file.exists() else None for file in files]


def test_what_ended_a_rank_is_the_last_word_of_the_others(tmp_path):
    main, other = said(tmp_path, hosts.other_raises)
    assert other == "ValueError: its own disk is full"
    assert main.startswith("LostError: process 1 on ") and main.endswith(f" ended: {other}")


def test_the_main_process_leaves_word_though_it_keeps_the_store(tmp_path):
    main, other = said(tmp_path, hosts.main_raises)
    assert main == "ValueError: its own disk is full"
    assert other.startswith("LostError: process 0 on ") and other.endswith(f" ended: {main}")


def test_bug_a_full_disk_of_the_main_process_ended_the_others_without_a_reason(tmp_path):
    main, other = said(tmp_path, hosts.writer_fails)
    assert main == other == "OSError: no room for a checkpoint"


def test_a_rank_that_is_stopped_over_an_evaluation_stops_the_others_behind_it(tmp_path):
    main, other = said(tmp_path, hosts.one_is_stopped_over_an_evaluation)
    assert main == [15, 4, ["step-4"]] and other == [15, 4, []]


def test_bug_who_was_at_work_was_waited_for_no_longer_than_an_exchange_takes(tmp_path):
    """And so a large checkpoint, a long report or a picture ended a run."""
    main, other = said(tmp_path, hosts.main_takes_its_time)
    assert main is None
    assert other[0] == 7
    assert other[1].startswith("another process has ended and left no word") and other[2] < 4


def test_bug_a_picture_that_took_long_to_draw_ended_the_run(tmp_path):
    assert said(tmp_path, hosts.preview_takes_its_time) == [1, 1]


def test_who_dies_leaves_no_word(tmp_path):
    main, _ = said(tmp_path, hosts.other_dies)
    assert main == ("LostError: another process has ended and left no word: see what it said last, "
                    "where it ran")  # fmt: skip


def test_bug_who_hangs_was_waited_for_half_an_hour(tmp_path):
    (line, seconds), _ = said(tmp_path, hosts.other_hangs)
    assert line.startswith("no word from another process for 2 s (CALOTYPE_TIMEOUT)")
    assert seconds < 7


@pytest.mark.parametrize(
    ("work", "codes", "lines"),
    [
        (hosts.other_misspells, (2, 2), ("calotype: process 1 on .* ended: {other}",
                                         "calotype: (unrecognized option --run.sead.*)")),
        (hosts.other_has_no_data, (2, 2), ("calotype: process 1 on .* ended: FileNotFoundError: "
                                           "{other}", "calotype: (no .*photos.*)")),
        (hosts.main_fails_while_the_other_computes, (1, 2),
         ("RuntimeError: a bug", "calotype: process 0 on .* ended: RuntimeError: a bug")),
        (hosts.other_is_interrupted, (2, 130),
         ("calotype: process 1 on .* ended: KeyboardInterrupt", "calotype: interrupted")),
        (hosts.other_does_not_come, (2, 0),
         ("calotype: no word from another process for 3 s.*", "")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_bug_a_command_waited_for_ranks_that_had_ended_without_a_reason(
    work, codes, lines, tmp_path
):
    """In which each meets the others late: a mistake on one machine was ten minutes on the rest."""
    main, other = said(tmp_path, work)
    assert (main[0], other[0]) == codes
    known = re.fullmatch(lines[1], other[1])
    assert known, other
    own = re.escape(known[1]) if known.groups() else ""
    assert re.fullmatch(lines[0].replace("{other}", own), main[1]), main


def test_bug_who_kept_the_last_word_took_it_along_before_all_had_heard_it(tmp_path):
    main, own, third = said(tmp_path, hosts.a_third_computes, world=3)
    assert own == [1, "RuntimeError: a bug"] and main[0] == third[0] == 2
    for other in (main, third):
        assert re.fullmatch("calotype: process 1 on .* ended: RuntimeError: a bug", other[1])


def test_a_main_process_that_is_done_waits_for_nobody(tmp_path):
    main, other = said(tmp_path, hosts.main_is_done_first)
    assert main[:2] == other[:2] == [0, ""]
    assert main[2] < 4 < other[2]


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf"])
def test_a_time_is_seconds(value, monkeypatch):
    monkeypatch.setenv("CALOTYPE_TIMEOUT", value)
    with pytest.raises(ValueError, match=r"CALOTYPE_TIMEOUT is .*: give seconds"):
        processes()


def test_ten_minutes_unless_told(monkeypatch):
    monkeypatch.delenv("CALOTYPE_TIMEOUT", raising=False)
    assert patience().total_seconds() == 600
