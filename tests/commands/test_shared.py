"""A folder of pictures is filled by several processes, however often they are killed."""

import json
import multiprocessing
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from calotype.commands import generate as command
from calotype.commands.artist import Batch, Diffuser, Drawn
from calotype.commands.drawings import Drawings, Planned
from calotype.commands.generate import Generate, generate
from calotype.commands.shared import Shared
from calotype.pipelines import Choice, load

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def quick(artifacts, tmp_path, monkeypatch):
    """A pipeline that draws at once, and writes down what it draws."""
    pipeline = load(artifacts / "generator/model")

    def drawn(self, wanted, progress, length):
        with (tmp_path / "log").open("a") as log:
            log.write("".join(f"{one.prompt}\n" for one in wanted))
        progress(len(wanted))
        for i, one in enumerate(wanted):
            yield Drawn(i, torch.zeros(3, 256, 256)[:, :4], one.seed, Batch(len(wanted), i))

    monkeypatch.setattr(command, "load", lambda path: pipeline)
    monkeypatch.setattr(command, "fingerprint", lambda pipeline: "0123")
    monkeypatch.setattr(Diffuser, "draw", drawn)
    return str(artifacts / "generator/model")


def options(pipeline: str, root: Path, count: int, batch_size: int) -> Generate:
    file = root / "prompts.txt"
    file.write_text("".join(f"prompt {i}\n" for i in range(count)))
    return Generate((), pipeline, root / "out", prompts=file, device="cpu", precision="fp32",
                    sampling=Choice(batch_size=batch_size))  # fmt: skip


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "drawn.jsonl").read_text().splitlines()]


def begin(asked: Generate, count: int) -> list:
    started = [FORK.Process(target=generate, args=(asked,)) for _ in range(count)]
    for each in started:
        each.start()
    return started


def test_two_processes_share_what_is_to_be_drawn(quick, tmp_path):
    """Bug: each drew every picture."""
    asked = options(quick, tmp_path, 60, 4)
    for each in begin(asked, 2):
        each.join()
        assert each.exitcode == 0
    log = (tmp_path / "log").read_text().split("\n")[:-1]
    assert sorted(log) == sorted(f"prompt {i}" for i in range(60))
    assert {line["file"] for line in lines(asked.out)} == {
        path.name for path in asked.out.glob("*-prompt-*.png")
    }
    assert len(lines(asked.out)) == 60


def test_a_thousand_prompts_killed_five_times_are_all_drawn_once(quick, tmp_path):
    asked = options(quick, tmp_path, 1000, 8)
    chance, progress = random.Random(0), []
    for _ in range(5):
        started = begin(asked, 2)
        done = len(list(asked.out.glob("*.png"))) if asked.out.exists() else 0
        while (now := len(list(asked.out.glob("*.png")))) < done + 60:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.05))
        for each in started:
            os.kill(each.pid, signal.SIGKILL)
            each.join()
        progress.append(now)
    assert progress[-1] < 1000  # all five came in the middle
    for each in begin(asked, 2):
        each.join()
        assert each.exitcode == 0
    files = sorted(path.name for path in asked.out.glob("*.png"))
    assert len(files) == 1000 and [int(name[:3]) for name in files if name[3] == "-"] == [
        *range(1000)
    ]
    assert {line["file"] for line in lines(asked.out)} == {*files}
    assert Counter(line["prompt"] for line in lines(asked.out)) == {
        f"prompt {i}": 1 for i in range(1000)
    }
    for name in files:
        with Image.open(asked.out / name) as image:
            assert json.loads(image.info["calotype"])["prompt"].replace(" ", "-") in name
    assert not [path for path in asked.out.iterdir() if path.name.startswith(".")]


def test_what_is_there_is_not_drawn_again(quick, tmp_path, capsys):
    asked = options(quick, tmp_path, 5, 4)
    generate(asked)
    before = lines(asked.out)
    (asked.out / "003-prompt-3-0.png").unlink()
    generate(asked)
    assert "4 of 5 are in" in capsys.readouterr().out
    assert lines(asked.out)[:5] == before and lines(asked.out)[5:] == before[3:4]
    assert (tmp_path / "log").read_text().count("prompt 3") == 2


def test_a_kill_between_a_picture_and_its_line_leaves_it_a_line(tmp_path):
    plan = [Planned("k", "a", [7]), Planned("l", "b", [7])]
    first = Drawings(tmp_path, {})  # never left
    first.plan(plan)
    first.add(torch.zeros(3, 256, 256), "a", 7, 0)
    (tmp_path / "drawn.jsonl").write_text("")
    first._shared.close()
    with Drawings(tmp_path, {"by": "x"}) as second:
        assert second.plan(plan) == 1
    assert lines(tmp_path) == [
        {"file": "000-a-7.png", "prompt": "a", "seed": 7, "by": "x", "key": "k"}
    ]


def test_a_grid_of_many_opens_one_at_a_time(tmp_path):
    """Bug: a thousand pictures were open at once, more than a process may have."""
    plan = [Planned(str(i), "a", [i]) for i in range(64)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Drawings(tmp_path, {}) as drawings:
        drawings.plan(plan)
        for i in range(len(plan)):
            drawings.add(torch.zeros(3, 256, 256), "a", i, i)
        opened = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 20, limits[1]))
        try:
            grid = drawings.grid(8)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    with Image.open(grid) as picture:
        assert picture.size == (2048, 2048)


def test_other_plans_have_other_numbers(tmp_path):
    one, other = Shared(tmp_path), Shared(tmp_path)
    assert one.plan(["a", "b"], 0) == [0, 1]
    assert other.plan(["c", "b"], 0) == [2, 1] and one.free(0) == 3
    one.settle()
    assert one.plan(["c"], 0) == [2]
    one.note({"file": "002-x-0.png", "key": "c"})
    one.settle()
    assert other.free(0) == 2  # of what is drawn the folder itself tells
    one.close()
    other.close()


def test_a_claim_is_one_process(tmp_path):
    shared = Shared(tmp_path)
    assert shared.claim(5)

    def others(answers):
        there = Shared(tmp_path)
        answers.put([there.claim(5), there.claim(6)])

    answers = FORK.Queue()
    for expected in ([False, True], [True, True]):
        each = FORK.Process(target=others, args=(answers,))
        each.start()
        assert answers.get() == expected
        each.join()
        shared.release(5)
    shared.close()


@pytest.mark.slow
def test_ranks_of_one_command_share(artifacts, tmp_path):
    """As `accelerate launch` and torchrun start them: none draws all."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "calotype", "generate", "a red circle", "a blue square",
               "--images", "4", "--pipeline", str(artifacts / "generator/model"), "--out",
               str(tmp_path / "out"), "--sampling.steps", "20", "--precision", "fp32"]  # fmt: skip
    ranks = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={
            **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
            "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
        })
        for rank in (0, 1)
    ]  # fmt: skip
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    drawn = lines(tmp_path / "out")
    assert sorted(line["file"][:3] for line in drawn) == [f"00{i}" for i in range(8)]
    assert said[0].startswith("4 images at a time, so that each of 2 processes has some")
    assert "seeds 0 to 3 of each prompt" in said[0]
    assert "seeds" not in said[1]
    batches = []
    for line in drawn:
        with Image.open(tmp_path / "out" / line["file"]) as image:
            batches.append(json.loads(image.info["calotype"])["batch"]["size"])
    assert max(batches) <= 4
