"""The loop: exact resume, exact accumulation, exact ranks, averages, precision, bad numbers."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import get_cosine_schedule_with_warmup

import tiny
from calotype.training import (
    AdamW,
    Batch,
    Best,
    DivergedError,
    Interrupted,
    Losses,
    Objective,
    fit,
)
from calotype.training import checkpoint as checkpoints
from calotype.training.interrupt import Interrupts
from calotype.training.noise import seed_ambient
from calotype.training.objective import Rows
from calotype.training.trainer import Trainer
from ranks import alone, ranks

KINDS = ["tokenizer", "lecam", "r1", "vq", "vq-loss", "dvae", "penalised", "sparse", "generator",
         "transformer"]  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    found = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert any(path.suffix == ".safetensors" for path in found)
    return {str(path): data for path, data in found.items()}


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
def test_resume_equals_uninterrupted(kind, tmp_path, monkeypatch):
    """Stopped in its third step and continued in the same folder: identical files."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    tiny.train(kind, tiny.run(whole, steps=5))
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr("tiny.Repeating", Stopping)
        tiny.train(kind, tiny.run(parts, steps=5, save_every=5))
    tiny.train(kind, tiny.run(parts, steps=5, resume=True))
    assert files(whole / "checkpoints/step-5") == files(parts / "checkpoints/step-5")
    assert (whole / "metrics.jsonl").read_text() == (parts / "metrics.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "workers"),
    [("tokenizer", 0), ("generator", 0), ("transformer", 0), ("recipe", 0), ("pipeline", 1)],
)
def test_kill_at_any_instant_then_resume(kind, workers, artifacts, tmp_path):
    """kill -9 again and again, at moments and at operations on files (in a write, in a deletion)
    that are drawn by chance; what is left is complete, and continues exactly.
    """
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    changes = {"steps": 20, "save_every": 1, "log_every": 1, "workers": workers, "resume": True}
    alone(kind, whole, changes, artifacts).join()
    chance = random.Random(kind)
    for operation in (None, *chance.sample(range(5, 40), 3)):
        process = alone(kind, killed, changes, artifacts, operation)
        if operation is None:
            wait_for(process, killed / "metrics.jsonl")
            time.sleep(chance.uniform(0, 0.05))
            process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        for folder in checkpoints.complete(killed / "checkpoints"):
            assert checkpoints.read(folder)[1]["step"] == int(folder.name[5:])
    alone(kind, killed, changes, artifacts).join()
    made, again = files(whole), files(killed)
    for each in (made, again):
        for name in ("recipe.json", "history.jsonl", "index.html"):  # they say where and when
            each.pop(name, None)
    assert made == again


def wait_for(process: ForkServerProcess, path: Path) -> None:
    while not path.exists():
        assert process.is_alive()
        time.sleep(0.003)


class Stopping(tiny.Repeating):
    """Asks the run to stop in its third step."""

    def batches(
        self,
        position: int = 0,
        rank: int = 0,
        world: int = 1,
        micro_batch: int | None = None,
    ) -> Iterator[Batch]:
        for number, batch in enumerate(super().batches(position, rank, world, micro_batch)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(number, tmp_path):
    class Asked(Line):
        def step_end(self, step: int) -> Rows:
            if step == 3:
                os.kill(os.getpid(), number)
            return []

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


def test_bug_a_signal_in_the_last_step_is_heard(tmp_path):
    """The step's question had been asked: the run went on to its export."""

    class Asked(Line):
        def step_end(self, step: int) -> Rows:
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return []

    with pytest.raises(Interrupted) as stopped:
        fit([Asked()], points(1), tiny.run(tmp_path))
    assert stopped.value.code == 128 + signal.SIGTERM and stopped.value.step == 3
    assert [path.name for path in checkpoints.complete(tmp_path / "checkpoints")][-1] == "step-3"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_reaches_the_workers_too_and_saves(number, tmp_path):
    """Bug: workers died of the terminal's Ctrl-C, or of the SIGTERM that torchrun and Slurm send to
    all processes, and with them the step that was to be saved.
    """
    options = {"steps": 100_000, "log_every": 1, "save_every": 100_000, "workers": 2}
    command = [sys.executable, tiny.__file__, "recipe", tmp_path, json.dumps(options)]
    process = subprocess.Popen(command, start_new_session=True)
    while not (tmp_path / "metrics.jsonl").exists() or not (tmp_path / "metrics.jsonl").read_text():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, number)
    assert process.wait(60) == 128 + number
    assert len(checkpoints.complete(tmp_path / "checkpoints")) == 1


@pytest.mark.parametrize("balance", [tiny.FIXED, tiny.adversary().balance])
def test_accumulated_steps_equal_one(balance, tmp_path):
    """With the adversary on: four micro-batches of one are a batch of four. Bug: each micro-batch
    had an adaptive weight of its own."""
    weights = []
    for name, settings in {"one": {}, "four": {"micro_batch": 1}}.items():
        objectives = tiny.learners(adversary=tiny.adversary(balance=balance), lr=1e-3)
        run = tiny.run(tmp_path / name, **settings)
        fit(objectives, tiny.Repeating({"image": tiny.images(16)}, run.batch_size), run)
        weights.append([p for o in objectives for p in o.parameters()])
    for one, four in zip(*weights, strict=True):
        torch.testing.assert_close(one, four, atol=1e-5, rtol=0)


def test_accumulated_steps_of_a_transformer_equal_one(tmp_path):
    """Prompts of several lengths: each micro-batch is cut to its own longest."""
    weights = []
    for name, settings in {"one": {}, "four": {"micro_batch": 1}}.items():
        objective, run = tiny.next_token(), tiny.run(tmp_path / name, **settings)
        fit([objective], tiny.Repeating(tiny.tokens(), run.batch_size), run)
        weights.append([*objective.parameters()])
    moved = [*tiny.next_token().parameters()]
    assert max((a - b).abs().max().item() for a, b in zip(weights[0], moved, strict=True)) > 1e-4
    for one, four in zip(*weights, strict=True):
        torch.testing.assert_close(one, four, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_two_ranks_keep_the_best_that_one_process_keeps(tmp_path):
    """Both measure, one writes, and both export it: a rank that had judged by itself would wait for
    the other for ever."""
    one, two = tmp_path / "one", tmp_path / "two"
    measured = {"evaluate_every": 1, "best": Best("psnr_db", "highest")}
    ranks(1, "measured", one, batch_size=4, **measured)
    ranks(2, "measured", two, batch_size=4, **measured)
    kept = [checkpoints.read(out / "checkpoints/best") for out in (one, two)]
    assert kept[0][1]["step"] == kept[1][1]["step"]
    assert kept[0][1]["best"] == pytest.approx(kept[1][1]["best"], abs=1e-3)
    files = [*one.glob("model/*.safetensors")]
    assert files
    for file in files:
        again = load_file(two / file.relative_to(one))
        torch.testing.assert_close(load_file(file), again, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_two_ranks_equal_one_process(artifacts, tmp_path):
    """With the adaptive adversary on. Bug: encode and decode went round the wrapper, so ranks
    drifted apart; and the adaptive weight was each rank's own."""
    # Codes of a learnt codebook, and what compares pictures, have the next tests.
    tiny.mixed(tmp_path / "mixed")
    apart = "vq", "penalised"
    for kind in (*(k for k in KINDS if not k.startswith(apart)), "recipe", "buckets", "pipeline"):
        one, two = tmp_path / f"{kind}-one", tmp_path / f"{kind}-two"
        ranks(1, kind, one, artifacts, batch_size=4)
        ranks(2, kind, two, artifacts, batch_size=4)
        assert tiny.apart(one, two) < 0.05
        learnt = "checkpoints/step-3/model-*.safetensors"  # the discriminator's too
        for file in (*one.glob(learnt), *one.glob("model/**/*.safetensors")):
            again = load_file(two / file.relative_to(one))
            torch.testing.assert_close(load_file(file), again, atol=1e-5, rtol=0)
    # It would show: were the adaptive weight each rank's own, they would be far from one.
    ranks(2, "tokenizer", tmp_path / "local", local=True, batch_size=4)
    assert tiny.apart(tmp_path / "tokenizer-one", tmp_path / "local") > 1


@pytest.mark.slow
def test_two_ranks_compare_the_pictures_of_both(tmp_path):
    """What decomposes the divergence and what contrasts views looks at all of a step, and its
    gradient comes back to the rank that the other picture is on. It shows where it does not.
    """
    one, two, local = (tmp_path / name for name in ("one", "two", "local"))
    ranks(1, "penalised", one, batch_size=4)
    ranks(2, "penalised", two, batch_size=4)
    ranks(2, "penalised", local, batch_size=4, local=True)
    assert tiny.apart(one, two) < 0.05 < 0.5 < tiny.apart(one, local)


@pytest.mark.slow
@pytest.mark.parametrize("kind", tiny.BOTTLENECKS)
def test_all_ranks_hold_one_codebook(kind, tmp_path):
    """After 30 steps of k-means start, averages or losses, and restarts every other step. Bug of
    the published ones: each rank's averages, centres and restarts were its own.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    ranks(1, kind, one, batch_size=8, steps=30)
    ranks(2, kind, two, batch_size=8, steps=30)
    single, first, second = _bottleneck(one, 0), _bottleneck(two, 0), _bottleneck(two, 1)
    for name, value in first.items():
        assert torch.equal(value, second[name])
        # A site that rounding turns in a first stage moves the codes of the second.
        if kind != "rvq":
            torch.testing.assert_close(value, single[name], atol=1e-5, rtol=0)
    if kind.startswith(("vq", "rvq")):
        assert first["placed"] > first["usage"].numel(), "all began at k-means, none restarted"


@pytest.mark.slow
@pytest.mark.parametrize("kind", tiny.BOTTLENECKS)
def test_ranks_that_do_not_talk_hold_several(kind, tmp_path):
    """The test above can fail."""
    ranks(2, kind, tmp_path, local=True, batch_size=8, steps=4)
    first, second = _bottleneck(tmp_path, 0), _bottleneck(tmp_path, 1)
    assert not all(torch.equal(value, second[name]) for name, value in first.items())


def _bottleneck(out: Path, rank: int) -> dict[str, torch.Tensor]:
    """What a rank held in the end."""
    return load_file(out / f"bottleneck-of-rank-{rank}.safetensors")


@pytest.mark.slow
def test_two_ranks_resume_exactly_and_hand_over_to_one(tmp_path):
    """One that takes as many samples at once, in twice the micro-batches."""
    whole, parts, handed = tmp_path / "whole", tmp_path / "parts", tmp_path / "handed"
    for out, steps in ((whole, 5), (parts, 3), (handed, 3)):
        ranks(2, "generator", out, batch_size=4, steps=steps)
    ranks(2, "generator", parts, batch_size=4, steps=5, resume=True)
    assert files(whole / "checkpoints/step-5") == files(parts / "checkpoints/step-5")
    half = tiny.run(handed, micro_batch=2, steps=5, resume=True)
    with pytest.raises(ValueError, match="took 4 samples a step and would now take 2"):
        tiny.train("generator", replace(half, batch_size=2))
    tiny.train("generator", half)
    assert tiny.apart(whole, handed, 5) < 0.05


def test_bug_ema_moves_with_the_discriminator_too(tmp_path):
    """The average follows once per step of the generator, with diffusers' warm-up."""
    objective, average = Line(), torch.zeros(1)

    class Recorded(Line):
        def step_end(self, step: int) -> Rows:
            decay = min(0.9, (1 + step) / (10 + step)) if step else 0.0
            average.mul_(decay).add_((1 - decay) * self.w.detach())
            return []

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


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_in_bf16(kind, tmp_path):
    """Beside float32: every term within a tenth, all that is kept without bf16."""
    found = []
    for precision in ("fp32", "bf16"):
        out = tmp_path / precision
        tiny.train(kind, tiny.run(out, precision=precision, log_every=1))
        found.append(json.loads((out / "metrics.jsonl").read_text().splitlines()[0]))
        groups, _ = checkpoints.read(out / "checkpoints/step-3")
        assert torch.bfloat16 not in {t.dtype for part in groups.values() for t in part.values()}
    exact, cast = found
    assert exact.keys() == cast.keys()
    assert any(exact[name] != cast[name] for name in exact)
    for name in exact:
        assert cast[name] == pytest.approx(exact[name], rel=0.1, abs=5e-3), name


def test_small_steps_are_not_lost_in_bf16(tmp_path):
    objective = Line(w=1.0, lr=1e-5)
    fit([objective], points(1, 2), tiny.run(tmp_path, precision="bf16", ema=None))
    assert objective.w.item() != 1.0


def test_a_term_that_is_not_finite_is_skipped_and_named(tmp_path, capfd):
    clean, poisoned = Line(), Line()
    run = tiny.run(tmp_path / "a", steps=4, batch_size=2, ema=None)
    fit([clean], points(1, 2), replace(run, steps=2))
    fit([poisoned], points(1, 2, float("nan"), 3), replace(run, out=tmp_path / "b"))
    assert torch.equal(clean.w, poisoned.w)
    assert "error not finite; step skipped (2 so far)" in capfd.readouterr().err
    _, state = checkpoints.read(tmp_path / "b/checkpoints/step-4")
    assert state["skipped"] == 2


def test_launchers_and_schedulers_may_each_send_sigterm():
    with Interrupts() as asked:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
    assert asked.number == signal.SIGTERM


def test_patience_ends(tmp_path):
    with pytest.raises(DivergedError, match="error not finite for 3 steps in a row") as stopped:
        fit([Line()], points(float("inf")), tiny.run(tmp_path, steps=9, patience=3))
    assert isinstance(stopped.value, ValueError)  # which the command answers in one line


def test_metrics_are_means_over_the_interval(tmp_path):
    fit([Line(lr=1e-12)], points(1, 1, 3, 3), tiny.run(tmp_path, steps=4, log_every=2))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.pop("line_gradient") for line in lines] == [20.0, 20.0]
    assert lines == [{"step": 2, "error": 20.0}, {"step": 4, "error": 20.0}]


def test_old_checkpoints_are_pruned(tmp_path):
    fit([Line()], points(1, 2), tiny.run(tmp_path, steps=6, save_every=1, keep=2))
    assert [p.name for p in checkpoints.complete(tmp_path / "checkpoints")] == ["step-5", "step-6"]


def test_bug_a_kill_in_the_deletion_of_a_checkpoint(tmp_path, monkeypatch):
    """It left a folder of the right name with half its files."""

    def killed(path: Path) -> None:
        (path / "state.json").unlink()
        raise KeyboardInterrupt

    folder = tmp_path / "checkpoints"
    for step in (1, 2, 3):
        checkpoints.write(folder / f"step-{step}", {"model-0": {"w": torch.ones(1)}}, {})
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("shutil.rmtree", lambda path, **_: killed(path) if path.exists() else None)
        checkpoints.prune(folder, keep=2)
    assert [path.name for path in checkpoints.complete(folder)] == ["step-2", "step-3"]
    assert (folder / ".step-1.old").exists()


def test_what_a_kill_left_is_swept_and_what_a_person_put_there_is_not(tmp_path):
    left = ["checkpoints/.step-4.partial", "checkpoints/.step-1.old", ".model.old"]
    own = ["checkpoints/step-9-backup", "checkpoints/step-best", "checkpoints/.cache", ".git"]
    for name in (*left, *own):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").touch()
    fit([Line()], points(1, 2), tiny.run(tmp_path, save_every=1, keep=1, resume=True))
    assert [path.name for path in checkpoints.complete(tmp_path / "checkpoints")] == ["step-3"]
    assert not any((tmp_path / name).exists() for name in left)
    assert all((tmp_path / name / "file").exists() for name in own)


class Slope(Objective):
    """Minimise w: the gradient is always 1, and AdamW's step the learning rate."""

    def __init__(self, optimizer: AdamW) -> None:
        super().__init__(optimizer)
        self.w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, batch: Batch, step: int) -> Losses:
        return {"height": self.w.sum()}


def test_the_learning_rate_of_a_run_is_the_schedules(tmp_path):
    """Linear from lr / warmup to lr, then transformers' half cosine."""
    rates = []

    class Recorded(Slope):
        def step_end(self, step: int) -> Rows:
            rates.append(-self.w.item() - sum(rates))
            return []

    optimizer = AdamW(0.1, warmup=4, schedule="cosine")
    fit([Recorded(optimizer)], points(1), tiny.run(tmp_path, steps=12, ema=None))
    weight = torch.nn.Parameter(torch.zeros(1))
    theirs = get_cosine_schedule_with_warmup(torch.optim.AdamW([weight], 0.1), 4, 12)
    expected = [0.1 * theirs.lr_lambdas[0](step) for step in range(12)]
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1], rel=1e-5)
    assert rates[4:] == pytest.approx(expected[4:], rel=1e-5)
    assert 0 < rates[-1] < 0.004 and optimizer.rate(12, 12) == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("clip", "expected"), [(None, -20.0), (5.0, -5.0), (100.0, -20.0)])
def test_a_steps_whole_gradient_is_clipped(clip, expected, precision, tmp_path):
    """Of micro-batches with the gradients -4 and -36 at w = 0, the mean and not each is clipped."""
    run = tiny.run(
        tmp_path, steps=1, batch_size=4, micro_batch=2, precision=precision, clip=clip, log_every=1
    )
    fit([Line()], points(1, 1, 3, 3), run)
    groups, _ = checkpoints.read(tmp_path / "checkpoints/step-1")
    seen = groups["optimizer-0"]["0.exp_avg"].item() / (1 - 0.9)
    assert seen == pytest.approx(expected, rel=1e-5)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["line_gradient"] == 20.0


def test_bug_ambient_chance_repeats_after_65536_steps():
    """torch's CPU generator reads the low 32 bits of a seed, where a step was put above bit 16."""
    draws = set()
    places = [(0, 0, 0), (0, 1 << 16, 0), (0, 1 << 20, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)]
    for seed, step, rank in places:
        seed_ambient(seed, step, rank)
        draws.add(torch.rand(()).item())
    assert len(draws) == len(places)


def test_the_last_interval_is_logged_though_it_is_short(tmp_path):
    fit([Line()], points(1, 2), tiny.run(tmp_path, steps=5, log_every=2))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 5]


def test_two_objectives_of_one_class_are_told_apart(tmp_path):
    fit([Line(0.0), Line(1.0)], points(1), tiny.run(tmp_path, steps=1, log_every=1))
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 1, "error": 4.0, "error_2": 1.0, "line_gradient": 4.0, "line_gradient_2": 2.0,
    }  # fmt: skip


def test_bug_frozen_weights_with_two_names_are_kept_in_checkpoints(tmp_path):
    """LPIPS knows each of its heads as lin0 and as lins.0."""
    fit(tiny.learners(), tiny.Repeating({"image": tiny.images(4)}, 4), tiny.run(tmp_path, steps=1))
    groups, _ = checkpoints.read(tmp_path / "checkpoints/step-1")
    kept = {name for name in groups["model-0"] if name.startswith("terms.")}
    assert kept == {f"terms.lpips.network.scaling_layer.{name}" for name in ("shift", "scale")}


def test_a_run_is_not_resumed_with_another_global_batch(tmp_path):
    """But its samples may be shared otherwise between micro-batches, which changes nothing."""
    run = tiny.run(tmp_path / "run", steps=2)
    fit([Line()], points(1, 2, 3, 4), run)
    longer = replace(run, steps=4, resume=True)
    refused = r"took 4 samples a step and would now take 2: choose --run\.batch-size 4"
    with pytest.raises(ValueError, match=refused):
        fit([Line()], points(1, 2, 3, 4), replace(longer, batch_size=2))
    whole, parts = Line(), Line()
    fit([whole], tiny.Repeating(numbers(), 4), tiny.run(tmp_path / "whole", steps=4))
    fit([Line()], tiny.Repeating(numbers(), 4), tiny.run(tmp_path / "parts", steps=2))
    halves = tiny.run(tmp_path / "parts", steps=4, micro_batch=2, resume=True)
    fit([parts], tiny.Repeating(numbers(), 4), halves)
    torch.testing.assert_close(parts.w, whole.w, atol=1e-6, rtol=0)


def numbers() -> dict[str, torch.Tensor]:
    return {"x": torch.arange(1.0, 14.0)[:, None]}


def test_a_run_is_not_resumed_to_fewer_steps_than_it_has(tmp_path):
    fit([Line()], points(1), tiny.run(tmp_path, steps=4))
    with pytest.raises(ValueError, match=r"run\.steps is 3, but .* has been trained for 4"):
        fit([Line()], points(1), tiny.run(tmp_path, steps=3, resume=True))


def test_bug_fit_outside_the_main_thread_raised(tmp_path):
    """As in a notebook's worker or a server: signals are the main thread's."""
    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as threads:
        threads.submit(tiny.train, "generator", tiny.run(tmp_path)).result()
    assert (tmp_path / "checkpoints/step-3").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_bug_weights_of_which_no_step_was_taken_were_exported(tmp_path):
    """Where the run is shorter than its patience."""
    with pytest.raises(DivergedError, match="each of 3 steps was skipped, and there is nothing"):
        fit([Line()], points(float("nan"), float("nan")), tiny.run(tmp_path))


def test_a_step_begins_before_its_last_micro_batch_is_loaded(tmp_path):
    """Where nothing has to look at all of them first."""
    loaded, scored = [], []

    class Loading(tiny.Repeating):
        def batches(
            self,
            position: int = 0,
            rank: int = 0,
            world: int = 1,
            micro_batch: int | None = None,
        ) -> Iterator[Batch]:
            for batch in super().batches(position, rank, world, micro_batch):
                loaded.append(len(scored))
                yield batch

    class Scoring(Line):
        def forward(self, batch: Batch, step: int) -> Losses:
            scored.append(step)
            return super().forward(batch, step)

        def wants_survey(self, micro_batches: int, step: int) -> bool:
            return step == 1

    rows = Loading({"x": torch.ones(16, 1)}, 3)
    fit([Scoring()], rows, tiny.run(tmp_path, steps=3, batch_size=3, micro_batch=1))
    assert loaded[:9] == [0, 1, 2, 3, 3, 3, 6, 7, 8]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["tokenizer", "generator", "transformer"])
def test_nothing_is_compiled_again_after_the_first_step(kind, tmp_path, monkeypatch):
    """Bug: previews and measures were compiled too, each time anew, and all networks shared the
    eight times that torch allows one piece of code; behind them nothing was compiled any more.
    """
    traced, after = [], []

    def as_it_is(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        traced.append(graph)
        return graph.forward

    taken = Trainer.update

    def update(trainer: Trainer, *arguments: Any) -> int:
        after.append(len(traced))
        return taken(trainer, *arguments)

    monkeypatch.setattr(Trainer, "update", update)
    tiny.train(kind, tiny.run(tmp_path / "plain"))
    assert traced == [] and after
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=as_it_is))
    torch.compiler.reset()
    after.clear()
    tiny.train(kind, tiny.run(tmp_path / "compiled", compile=True))
    # Prompts of another length are met once: from then on any length will do.
    assert after[0] > 0 and len(traced) <= after[0] + (kind == "transformer")
    assert (tmp_path / "compiled/samples").exists() or kind != "tokenizer"
    assert "forward" not in vars(tiny.backbone().net), "tests share it: it is left as it was"
    for group in ("model-0", "optimizer-0", "ema"):
        expected, found = (
            tiny.load_step(tmp_path / out, 3, group) for out in ("plain", "compiled")
        )
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor)
    tiny.train(kind, tiny.run(tmp_path / "compiled", steps=4, resume=True))  # names are the same


def test_a_picture_that_is_not_finite_stops_no_run(tmp_path, capfd):
    class Wild(Line):
        def preview(self) -> torch.Tensor:
            return torch.full((1, 3, 8, 8), torch.nan)

    fit([Wild()], points(1, 2), tiny.run(tmp_path, sample_every=1))
    assert "step 1: what was drawn is not finite, and there is no picture" in capfd.readouterr().err
    assert not (tmp_path / "samples").exists()
