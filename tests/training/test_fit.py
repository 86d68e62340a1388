"""The loop: exact resume, exact accumulation, exact ranks, averages, precision, bad numbers."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny
from calotype.training import AdamW, Batch, Interrupted, Losses, Objective, fit
from calotype.training import checkpoint as checkpoints

KINDS = ["tokenizer", "lecam", "r1", "generator"]


def files(folder: Path) -> dict[str, bytes]:
    found = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert any(path.suffix == ".safetensors" for path in found)
    return {str(path): data for path, data in found.items()}


def program(kind: str, out: Path, **changes) -> list[str]:
    return [sys.executable, str(Path(tiny.__file__)), kind, str(out), json.dumps(changes)]


class Line(Objective):
    """Fit y = w x with squared error; a batch may poison it."""

    def __init__(self, w: float = 0.0, lr: float = 0.1) -> None:
        super().__init__(AdamW(lr))
        self.w = torch.nn.Parameter(torch.tensor([w]))
        self.dtypes: set[torch.dtype] = set()

    def forward(self, batch: Batch, step: int) -> Losses:
        x = batch["x"]
        product = torch.nn.functional.linear(x, self.w[None])
        self.dtypes.add(product.dtype)
        return {"error": (product.float() - 2 * x).square().mean()}


def points(*values: float) -> tiny.Repeating:
    return tiny.Repeating({"x": torch.tensor(values, dtype=torch.float32)[:, None]}, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_resume_equals_uninterrupted(kind, tmp_path):
    """Stopped after a checkpoint and continued in the same folder: identical files."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    tiny.train(kind, tiny.run(whole, steps=5))
    tiny.train(kind, tiny.run(parts, steps=3, save_every=3))
    tiny.train(kind, tiny.run(parts, steps=5, resume=True))
    assert files(whole / "checkpoints/step-5") == files(parts / "checkpoints/step-5")
    assert (whole / "metrics.jsonl").read_text() == (parts / "metrics.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tokenizer", "generator", "recipe"])
def test_kill_at_any_instant_then_resume(kind, tmp_path):
    """kill -9 in the midst of a step, twice; what is left is complete, and continues exactly."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = {"steps": 30, "save_every": 1, "log_every": 1}
    subprocess.run(program(kind, whole, **options), check=True)
    for wanted in (3, 11):
        process = subprocess.Popen(program(kind, killed, **options, resume=True))
        while not (killed / f"checkpoints/step-{wanted}").exists():
            assert process.poll() is None
            time.sleep(0.003)
        process.kill()
        process.wait()
        assert checkpoints.complete(killed / "checkpoints")[-1].name != "step-30"
    subprocess.run(program(kind, killed, **options, resume=True), check=True)
    made, again = files(whole), files(killed)
    for each in (made, again):
        each.pop("recipe.json", None)  # it says which of the two was resumed
    assert made == {name: data for name, data in again.items() if "partial" not in name}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(number, tmp_path):
    class Asked(Line):
        def step_end(self, step: int) -> None:
            if step == 3:
                os.kill(os.getpid(), number)

    run = tiny.run(tmp_path, steps=50, save_every=100)
    with pytest.raises(Interrupted) as stopped:
        fit([Asked()], points(1, 2, 3, 4), run)
    assert stopped.value.code == 128 + number and stopped.value.step == 5  # heard in the step after
    assert [p.name for p in checkpoints.complete(tmp_path / "checkpoints")] == ["step-5"]
    before = signal.getsignal(number)
    again = Line()
    fit([again], points(1, 2, 3, 4), replace(run, steps=8, resume=True))
    whole = Line()
    fit([whole], points(1, 2, 3, 4), tiny.run(tmp_path / "whole", steps=8))
    assert torch.equal(again.w, whole.w)
    assert signal.getsignal(number) == before


@pytest.mark.slow
def test_ctrl_c_reaches_the_workers_too_and_saves(tmp_path):
    """Bug: workers died of the terminal's Ctrl-C, and with them the step that was to be saved."""
    options = {"steps": 100_000, "log_every": 1, "save_every": 100_000, "workers": 2}
    process = subprocess.Popen(program("recipe", tmp_path, **options), start_new_session=True)
    while not (tmp_path / "metrics.jsonl").exists() or not (tmp_path / "metrics.jsonl").read_text():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 128 + signal.SIGINT
    assert len(checkpoints.complete(tmp_path / "checkpoints")) == 1


def test_accumulated_steps_equal_one(tmp_path):
    """With an adversary of fixed weight on: four micro-batches of one are a batch of four."""
    weights = []
    for name, settings in {"one": {}, "four": {"batch_size": 1, "accumulate": 4}}.items():
        objectives = tiny.players(adversary=tiny.adversary(balance=tiny.FIXED), lr=1e-3)
        run = tiny.run(tmp_path / name, **settings)
        fit(objectives, tiny.Repeating({"image": tiny.images(16)}, run.batch_size), run)
        weights.append([p for o in objectives for p in o.parameters()])
    for one, four in zip(*weights, strict=True):
        torch.testing.assert_close(one, four, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_two_ranks_equal_one_process_with_twice_the_batch(tmp_path):
    """With the adaptive adversary on. Bug: encode and decode went round the wrapper, so ranks
    drifted apart; and the adaptive weight was each rank's own."""
    # `accelerate launch` starts several processes for GPUs; on CPUs this is what it would call.
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    for kind in (*KINDS, "recipe"):
        one, two = tmp_path / f"{kind}-one", tmp_path / f"{kind}-two"
        subprocess.run(program(kind, one, batch_size=4), check=True)
        command = program(kind, two, batch_size=2)
        subprocess.run([command[0], *launch, *command[1:]], check=True, env=environment)
        assert _apart(one, two) < 1e-5
    # What is compared does move: a rank that saw its own half alone would be far away.
    subprocess.run(program("tokenizer", tmp_path / "half", batch_size=2), check=True)
    assert _apart(tmp_path / "tokenizer-one", tmp_path / "half") > 1e-4


def _apart(one: Path, other: Path) -> float:
    """Largest difference of any learnt, averaged or exported number of two runs."""
    patterns = "checkpoints/step-3/model*", "checkpoints/step-3/ema*", "model/*.safetensors"
    found = [file for pattern in patterns for file in one.glob(pattern)]
    pairs = [(load_file(file), load_file(other / file.relative_to(one))) for file in found]
    return max((a[name] - b[name]).abs().max().item() for a, b in pairs for name in a)


def test_bug_ema_moves_with_the_discriminator_too(tmp_path):
    """The average follows once per step of the generator, with diffusers' warm-up."""
    objective, average = Line(), torch.zeros(1)

    class Recorded(Line):
        def step_end(self, step: int) -> None:
            decay = min(0.9, (1 + step) / (10 + step)) if step else 0.0
            average.mul_(decay).add_((1 - decay) * self.w.detach())

    objective = Recorded()
    fit([objective, Line()], points(1, 2, 3, 4), tiny.run(tmp_path, steps=7))
    torch.testing.assert_close(objective.w.detach(), average)


def test_bug_bf16_weights(tmp_path):
    """bf16 computes in bf16 and keeps weights, averages and optimiser state in float32."""
    objective = Line()
    fit([objective], points(1, 2), tiny.run(tmp_path, precision="bf16"))
    assert objective.dtypes == {torch.bfloat16}
    groups, _ = checkpoints.read(tmp_path / "checkpoints/step-3")
    assert {t.dtype for tensors in groups.values() for t in tensors.values()} == {torch.float32}


def test_small_steps_are_not_lost_in_bf16(tmp_path):
    objective = Line(w=1.0, lr=1e-5)
    fit([objective], points(1, 2), tiny.run(tmp_path, precision="bf16", ema=None))
    assert objective.w.item() != 1.0


def test_a_term_that_is_not_finite_is_skipped_and_named(tmp_path, capfd):
    clean, poisoned = Line(), Line()
    run = tiny.run(tmp_path / "a", steps=4, ema=None)
    fit([clean], points(1, 2), replace(run, steps=2))
    fit([poisoned], points(1, 2, float("nan"), 3), replace(run, out=tmp_path / "b"))
    assert torch.equal(clean.w, poisoned.w)
    assert "error not finite; step skipped (2 so far)" in capfd.readouterr().err
    _, state = checkpoints.read(tmp_path / "b/checkpoints/step-4")
    assert state["skipped"] == 2


def test_patience_ends(tmp_path):
    with pytest.raises(RuntimeError, match="error not finite for 3 steps in a row"):
        fit([Line()], points(float("inf")), tiny.run(tmp_path, steps=9, patience=3))


def test_metrics_are_means_over_the_interval(tmp_path):
    fit([Line(lr=0.0)], points(1, 1, 3, 3), tiny.run(tmp_path, steps=4, log_every=2))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.pop("line_gradient") for line in lines] == [20.0, 20.0]
    assert lines == [{"step": 2, "error": 20.0}, {"step": 4, "error": 20.0}]


def test_old_checkpoints_are_pruned(tmp_path):
    fit([Line()], points(1, 2), tiny.run(tmp_path, steps=6, save_every=1, keep=2))
    assert [p.name for p in checkpoints.complete(tmp_path / "checkpoints")] == ["step-5", "step-6"]


def test_schedule_warms_up_and_falls_to_zero():
    optimizer = AdamW(1.0, warmup=4, schedule="cosine")
    rates = [optimizer.rate(step, 24) for step in (0, 3, 4, 14, 24)]
    assert rates == pytest.approx([0.25, 1.0, 1.0, 0.5, 0.0])
