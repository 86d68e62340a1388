"""Checkpoints are written beside the training, from a copy, and none is lost."""

import os
import signal
import threading
import time

import pytest
import torch
from safetensors.torch import load_file

import tiny
from calotype.training import Interrupted, checkpoint
from calotype.training.background import Writer
from calotype.training.lock import held
from calotype.training.requeue import requeued
from other_process import save_for_ever
from ranks import PROCESSES


def test_one_thing_at_a_time_and_all_of_it():
    seen, going = [], threading.Event()

    def slow() -> None:
        going.wait(5)
        seen.append("slow")

    with Writer() as writer:
        writer.start(slow)
        assert not writer.failed and seen == []
        going.set()
        writer.start(lambda: seen.append("next"))
        assert seen[0] == "slow"
    assert seen == ["slow", "next"]


def test_what_fails_is_raised_where_it_was_asked_for():
    def fail() -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"), Writer() as writer:
        writer.start(fail)
        while not writer.failed:
            time.sleep(0.01)
        writer.wait()
    with pytest.raises(ZeroDivisionError) as caught, Writer() as writer:
        writer.start(fail)
        raise ZeroDivisionError
    assert "disk is full" in caught.value.__notes__[0]


@pytest.fixture
def slow_disk(monkeypatch):
    """A disk on which a checkpoint takes longer than several steps."""
    write, taken = checkpoint.write, []

    def slowly(folder, groups, state):
        time.sleep(0.3)
        write(folder, groups, state)
        taken.append(state["step"])

    monkeypatch.setattr(checkpoint, "write", slowly)
    return taken


def test_a_checkpoint_holds_the_step_that_it_is_called_by(slow_disk, tmp_path):
    """Though training went on while it was written."""
    tiny.train("tokenizer", tiny.run(tmp_path / "slow", steps=6, save_every=3, log_every=1))
    assert slow_disk == [3, 6]
    tiny.train("tokenizer", tiny.run(tmp_path / "three", steps=3, save_every=3, log_every=1))
    for file in (tmp_path / "three/checkpoints/step-3").iterdir():
        again = tmp_path / "slow/checkpoints/step-3" / file.name
        assert file.read_bytes() == again.read_bytes()


def test_training_does_not_wait_for_the_disk(slow_disk, tmp_path, monkeypatch):
    steps = []
    move = torch.optim.AdamW.step

    def timed(self, *arguments, **options):
        steps.append(time.monotonic())
        return move(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", timed)
    tiny.train("generator", tiny.run(tmp_path, steps=4, save_every=2))
    assert slow_disk == [2, 4]
    assert steps[2] - steps[1] < 0.25, "the third step waited for the checkpoint of the second"


class Stopping(tiny.Repeating):
    """Is told to stop in its third step."""

    def batches(self, *arguments, **options):
        for number, batch in enumerate(super().batches(*arguments, **options)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch


@pytest.mark.parametrize("again", [False, True], ids=["once", "again while it saves"])
def test_a_signal_is_answered_when_all_is_saved(again, slow_disk, tmp_path, capfd, monkeypatch):
    """A scheduler and a launcher each send one."""
    slowly = checkpoint.write

    def told_again(*arguments) -> None:
        if again:
            os.kill(os.getpid(), signal.SIGTERM)
        slowly(*arguments)

    monkeypatch.setattr(checkpoint, "write", told_again)
    monkeypatch.setattr("tiny.Repeating", Stopping)
    with pytest.raises(Interrupted):
        tiny.train("generator", tiny.run(tmp_path, steps=50, save_every=50))
    assert slow_disk == [3]
    said = capfd.readouterr().err
    assert "stopped at step 3, saved 0." in said
    assert said.count("finishing this step and saving") == 1
    assert load_file(tmp_path / "checkpoints/step-3/model-0.safetensors")


def test_who_is_told_to_stop_and_cannot_save_says_so(tmp_path, capfd, monkeypatch):
    """And asks for no other start."""
    asked = []
    monkeypatch.setattr("calotype.training.requeue.requeue", lambda: asked.append(1) or "requeued")
    monkeypatch.setattr("tiny.Repeating", Stopping)
    write = checkpoint.write

    def full(folder, groups, state):
        if state["step"] == 3:
            raise OSError("no room")
        write(folder, groups, state)

    monkeypatch.setattr(checkpoint, "write", full)
    run = tiny.run(tmp_path, steps=50, save_every=2, requeue=True)
    with pytest.raises(OSError, match="no room") as told, requeued(run):
        tiny.train("generator", run)
    assert "the newest checkpoint is of step 2" in told.value.__notes__[0]
    assert not asked and "stopped at" not in capfd.readouterr().err


def test_whose_grace_ran_out_goes_on_from_the_checkpoint_before(tmp_path, capfd):
    """Kubernetes and SLURM kill what has not ended in time."""
    process = PROCESSES.Process(target=save_for_ever, args=(tmp_path,))
    process.start()
    while not (tmp_path / "checkpoints/.step-4.partial").exists():
        assert process.is_alive()
        time.sleep(0.01)
    time.sleep(0.2)
    assert process.is_alive()  # it was told to stop, and waits for its checkpoint
    process.kill()
    process.join()
    with held(tmp_path):
        assert f"was held by process {process.pid} of " in capfd.readouterr().err
        tiny.train("generator", tiny.run(tmp_path, steps=6, save_every=2, resume=True))
    assert [f.name for f in checkpoint.complete(tmp_path / "checkpoints")] == ["step-4", "step-6"]
    tiny.train("generator", tiny.run(tmp_path / "whole", steps=6, save_every=2))
    for file in (tmp_path / "whole/checkpoints/step-6").iterdir():
        assert file.read_bytes() == (tmp_path / "checkpoints/step-6" / file.name).read_bytes()


def test_a_full_disk_stops_the_run_with_the_last_whole_checkpoint(tmp_path, monkeypatch):
    write = checkpoint.write

    def full(folder, groups, state):
        if state["step"] == 4:
            raise OSError("no room")
        write(folder, groups, state)

    monkeypatch.setattr(checkpoint, "write", full)
    with pytest.raises(OSError, match="no room") as told:
        tiny.train("generator", tiny.run(tmp_path, steps=1000, save_every=2))
    assert "the newest checkpoint is of step 2" in told.value.__notes__[0]


def test_time_tells_too(tmp_path):
    run = tiny.run(tmp_path, steps=5, save_every=100, save_minutes=1e-9, keep=9)
    tiny.train("generator", run)
    names = sorted(folder.name for folder in checkpoint.complete(run.checkpoints))
    assert names == [f"step-{n}" for n in range(1, 6)]
