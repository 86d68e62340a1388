"""Schedulers that stop a run are asked to start it again."""

import os
import signal
from pathlib import Path

import pytest

import tiny
from calotype import cli
from calotype.training import Interrupted, Run
from calotype.training.requeue import requeue, requeued

SCONTROL = """#!/bin/sh
echo "$@" >> "{asked}"
ls "{checkpoints}" >> "{asked}"
exit {code}
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """A job of SLURM, whose `scontrol` notes what it is asked, and which checkpoints are there."""
    asked = tmp_path / "asked"
    _install(tmp_path, 0)
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return asked


def _install(folder: Path, code: int) -> None:
    script = folder / "bin/scontrol"
    script.parent.mkdir(exist_ok=True)
    script.write_text(SCONTROL.format(
        asked=folder / "asked", checkpoints=folder / "run/checkpoints", code=code
    ))  # fmt: skip
    script.chmod(0o755)


class Stopping(tiny.Repeating):
    number = signal.SIGTERM

    def batches(
        self,
        position: int = 0,
        rank: int = 0,
        world: int = 1,
        micro_batch: int | None = None,
    ):
        for place, batch in enumerate(super().batches(position, rank, world, micro_batch)):
            if place == 1:
                os.kill(os.getpid(), self.number)
            yield batch


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_that_is_stopped_is_requeued_when_all_is_saved(slurm, tmp_path, monkeypatch, number):
    """And not one that a person stops."""
    run = tiny.run(tmp_path / "run", steps=5, save_every=9, requeue=True)
    with monkeypatch.context() as patched, pytest.raises(Interrupted), requeued(run), requeued(run):
        patched.setattr("tiny.Repeating", Stopping)
        patched.setattr(Stopping, "number", number)
        tiny.train("generator", run)
    if number == signal.SIGINT:
        assert not slurm.exists()
        return
    assert slurm.read_text().split() == ["requeue", "17", "step-2"]
    tiny.train("generator", run)
    assert (tmp_path / "run/checkpoints/step-5").exists()


@pytest.mark.parametrize("place", ["assemble_tokenizer", "finish"])
def test_bug_a_job_that_was_stopped_before_or_behind_its_steps_was_not_requeued(
    place, slurm, tmp_path, monkeypatch, capfd
):
    """While networks are loaded, and while latents are measured: it died as if nobody had asked."""
    (tmp_path / "run").mkdir()
    recipe = tiny.tokenizer_recipe(tmp_path, run=tiny.run(tmp_path / "run", requeue=True))
    monkeypatch.setattr("calotype.cli.commands.named_recipe", lambda *_: recipe)
    with monkeypatch.context() as patched, pytest.raises(SystemExit) as stopped:
        patched.setattr(f"calotype.commands.train_tokenizer.{place}", terminated)
        cli.main(["train-tokenizer", "tiny"])
    assert stopped.value.code == 128 + signal.SIGTERM
    steps = ["step-2", "step-3"] if place == "finish" else []
    assert slurm.read_text().split() == ["requeue", "17", *steps], "and once"
    assert "stopping: there is nothing to save" in capfd.readouterr().err
    cli.main(["train-tokenizer", "tiny"])
    assert recipe.run.model.exists()


def terminated(*_: object) -> None:
    """As by two who each send a signal."""
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)


def test_what_came_of_it_is_said(slurm, tmp_path, monkeypatch):
    assert requeue() == "job 17 is requeued, and goes on from there"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    _install(tmp_path, 1)
    assert requeue().startswith("job 5_3 was not requeued: ")
    assert slurm.read_text().split("\n")[0] == "requeue 17"
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_ID"):
        monkeypatch.delenv(name)
    assert requeue().startswith("no job of SLURM")


def test_requeue_resumes(tmp_path):
    assert Run(tmp_path, requeue=True).resume
    with pytest.raises(ValueError, match=r"run\.overwrite deletes it"):
        Run(tmp_path, requeue=True, overwrite=True)
