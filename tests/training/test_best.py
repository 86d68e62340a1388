"""Small evaluations while training runs, and the best checkpoint by one of their figures."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.commands.validation import of_generator, of_tokenizer
from calotype.data import LatentCache, Scenes
from calotype.data.cache.latents import LatentRows
from calotype.data.reading.transforms import eight_bits
from calotype.evaluation.distortion import distortion
from calotype.tokenizers import ImageTokenizer
from calotype.training import AdamW, Batch, Best, Interrupted, Losses, Objective, Run, fit
from calotype.training import checkpoint as checkpoints
from calotype.training.objective import Rows

UNSEEN = Scenes(size=tiny.SIZE, split="held-out", count=8)
ERROR = Best("error", "lowest")


class Walk(Objective):
    """Goes up by about the learning rate a step; the aim lies on the way."""

    def __init__(self, aim: float) -> None:
        super().__init__(AdamW(0.1))
        self.w = torch.nn.Parameter(torch.zeros(1))
        self.evaluation = lambda: {"error": abs(self.w.item() - aim), "w": self.w.item()}

    def forward(self, batch: Batch, step: int) -> Losses:
        return {"distance": 100 - self.w.sum()}


def walk(out: Path, aim: float = 0.4, **changes) -> Walk:
    objective = Walk(aim)
    run = tiny.run(out, **{"steps": 8, "evaluate_every": 2, "ema": None, "best": ERROR, **changes})
    out.mkdir(parents=True, exist_ok=True)
    fit([objective], tiny.Repeating({"x": torch.ones(4, 1)}, 2), run)
    return objective


def figures(out: Path, name: str) -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[f"validation/{name}"] for line in lines
            if f"validation/{name}" in line}  # fmt: skip


def test_the_best_is_kept_and_exported(tmp_path):
    objective = walk(tmp_path)
    found = figures(tmp_path, "error")
    assert list(found) == [2, 4, 6, 8]
    assert min(found, key=lambda step: found[step]) == 4
    groups, counts = checkpoints.read(tmp_path / "checkpoints/best")
    assert counts["step"] == 4 and counts["best"] == pytest.approx(found[4])
    assert objective.w.item() == groups["model-0"]["w"].item() == figures(tmp_path, "w")[4]
    newest = checkpoints.read(checkpoints.complete(tmp_path / "checkpoints")[-1])[0]
    assert newest["model-0"]["w"].item() == figures(tmp_path, "w")[8], "the last is there too"


def test_without_best_the_last_is_exported(tmp_path):
    objective = walk(tmp_path, best=None)
    assert objective.w.item() == figures(tmp_path, "w")[8]
    assert not (tmp_path / "checkpoints/best").exists()


def test_averages_are_measured_and_the_best_is_an_average(tmp_path):
    objective = walk(tmp_path, aim=0.2, ema=0.5)
    ws, best = figures(tmp_path, "w"), checkpoints.read(tmp_path / "checkpoints/best")
    assert ws[8] < 0.8 - 0.05, "it lags behind the weights"
    assert objective.w.item() == pytest.approx(ws[best[1]["step"]])
    assert objective.w.item() != best[0]["model-0"]["w"].item()


class Stopped(Walk):
    """Is sent a signal in its second step, or while it is measured behind that."""

    def __init__(self, aim: float, when: str) -> None:
        super().__init__(aim)
        self.when, self.evaluation, self.seen = when, self.measured, 0

    def step_end(self, step: int) -> Rows:
        if step == 1 and self.when == "step":
            os.kill(os.getpid(), signal.SIGTERM)
        return []

    def forward(self, batch: Batch, step: int) -> Losses:
        if step == 1 and self.when == "before":
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(batch, step)

    def measured(self) -> dict[str, float]:
        self.seen += 1
        if self.when == "within" and self.seen == 2:  # the first is before any step
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("it went on")
        return {"error": abs(self.w.item() - 0.4), "w": self.w.item()}


@pytest.mark.parametrize("when", ["before", "step", "within"])
def test_bug_a_save_waited_for_the_evaluation_of_its_step(when, tmp_path):
    """Which a grace of seconds does not. The evaluation is made when the run is taken up, and the
    run ends as if it had never been stopped."""
    rows = {"x": torch.ones(4, 1)}
    run = tiny.run(
        tmp_path / "run", steps=4, evaluate_every=2, log_every=1, save_every=9, best=ERROR
    )
    for name in ("run", "whole"):
        (tmp_path / name).mkdir()
    objective = Stopped(0.4, when)
    with pytest.raises(Interrupted) as stopped:
        fit([objective], tiny.Repeating(rows, 2), run)
    assert stopped.value.step == 2 and objective.training
    assert objective.seen == (2 if when == "within" else 1)
    assert [path.name for path in checkpoints.complete(run.checkpoints)] == ["step-2"]
    assert 2 not in figures(run.out, "error")
    fit([Stopped(0.4, "never")], tiny.Repeating(rows, 2), replace(run, resume=True))
    whole = replace(run, out=tmp_path / "whole")
    fit([Stopped(0.4, "never")], tiny.Repeating(rows, 2), whole)
    assert (run.out / "metrics.jsonl").read_text() == (whole.out / "metrics.jsonl").read_text()
    one, other = (checkpoints.read(each.checkpoints / "best") for each in (run, whole))
    assert one[1] == other[1] and one[0]["model-0"]["w"] == other[0]["model-0"]["w"]


def test_a_picture_that_is_broken_off_keeps_no_signal_waiting(tmp_path):
    class Drawn(Walk):
        def preview(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("it went on")

    run = tiny.run(tmp_path, steps=9, sample_every=2)
    with pytest.raises(Interrupted) as stopped:
        fit([Drawn(0.4)], tiny.Repeating({"x": torch.ones(4, 1)}, 2), run)
    assert stopped.value.step == 2


def test_bug_the_best_checkpoint_put_off_those_that_a_run_goes_on_from(tmp_path):
    """Where it got better more often than --run.save-minutes, none was written by the clock."""

    class Slow(Walk):
        def forward(self, batch, step):
            time.sleep(0.1)
            return super().forward(batch, step)

    run = tiny.run(tmp_path, steps=9, evaluate_every=1, save_every=100, save_minutes=0.5 / 60,
                   keep=9, best=Best("w", "highest"))  # fmt: skip
    fit([Slow(-1.0)], tiny.Repeating({"x": torch.ones(4, 1)}, 2), run)
    names = {folder.name for folder in (tmp_path / "checkpoints").iterdir()}
    assert names & {f"step-{step}" for step in range(1, 9)}


def test_the_best_outlives_a_restart(tmp_path):
    """Begun anew it would take its first evaluation for the best."""
    walk(tmp_path, steps=6, save_every=6)
    objective = walk(tmp_path, resume=True)
    whole = walk(tmp_path / "whole")
    assert objective.w.item() == whole.w.item()
    assert checkpoints.read(tmp_path / "checkpoints/best")[1]["step"] == 4
    assert figures(tmp_path, "w") == {**figures(tmp_path / "whole", "w")}


def test_which_value_is_best_is_told_by_the_figure():
    assert Best("psnr_db").beats(2.0, 1.0) and not Best("psnr_db").beats(1.0, 2.0)
    assert Best("loss").beats(1.0, 2.0) and not Best("loss").beats(2.0, 1.0)
    assert Best("loss", "highest").beats(2.0, 1.0) and Best("loss").beats(3.0, None)


def test_ties_keep_the_first(tmp_path):
    objective = Walk(0.0)
    objective.evaluation = lambda: {"error": 1.0}
    fit([objective], tiny.Repeating({"x": torch.ones(4, 1)}, 2),
        tiny.run(tmp_path, steps=4, evaluate_every=1, best=ERROR))  # fmt: skip
    assert checkpoints.read(tmp_path / "checkpoints/best")[1]["step"] == 1


def test_what_cannot_be_told_is_refused_before_any_step(tmp_path):
    with pytest.raises(ValueError, match=r"run\.best\.figure is 'psnr': choose from error, w"):
        walk(tmp_path, best=Best("psnr", "highest"))
    objective = Walk(0.0)
    objective.evaluation = None
    with pytest.raises(ValueError, match=r"give a validation, or choose run\.best:none"):
        fit([objective], tiny.Repeating({"x": torch.ones(4, 1)}, 2), tiny.run(tmp_path, best=ERROR))
    assert not (tmp_path / "checkpoints").exists()


def test_a_tokenizer_is_measured_on_pictures_that_it_does_not_see(tmp_path):
    recipe = tiny.tokenizer_recipe(tmp_path, validation=UNSEEN, validate=6)
    train_tokenizer(replace(recipe, run=replace(recipe.run, evaluate_every=2)))
    found = figures(tmp_path / "tokenizer", "psnr_db")
    assert list(found) == [2, 3]
    # Latents are then normalised, which decoded images do not show.
    tokenizer = ImageTokenizer.load(tmp_path / "tokenizer/model")
    real = UNSEEN.build().batch(range(6))["image"]
    expected = distortion(eight_bits(real), eight_bits(tokenizer.reconstruct(real)), {})
    assert found[3] == pytest.approx(expected["psnr_db"].mean().item(), abs=1e-2)
    assert figures(tmp_path / "tokenizer", "ssim")[3] == pytest.approx(
        expected["ssim"].mean().item(), abs=1e-3
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_measures_are_taken_in_the_precision_of_training(precision):
    """What training computes fast its measures need not compute slowly."""
    reconstruction, denoising = tiny.learners()[0], tiny.denoising()
    seen = []
    for objective in (reconstruction, denoising):
        objective.precision = precision
        convolution = next(m for m in objective.modules() if isinstance(m, torch.nn.Conv2d))
        convolution.register_forward_hook(lambda *given: seen.append(given[2].dtype))
    of_tokenizer(reconstruction, UNSEEN.build(), None, 2, {}, 2)()

    class Rows(LatentRows):
        def __init__(self) -> None: ...

        def __len__(self) -> int:
            return 4

        def batch(self, places, keys):
            return {name: rows[places] for name, rows in tiny.latents().items()}

        def buckets(self):
            return None

    of_generator(denoising, Rows(), 4)()
    assert seen == [torch.bfloat16 if precision == "bf16" else torch.float32] * 2


def test_a_generator_is_measured_on_rows_that_it_does_not_see(artifacts, tmp_path):
    run = tiny.run(tmp_path / "g", steps=4, evaluate_every=2, best=Best("loss", "lowest"))
    train_generator(tiny.generator_recipe(artifacts, held_out=5, run=run))
    found = figures(run.out, "denoising")
    assert list(found) == [2, 4] and found[2] != found[4]
    assert found == figures(run.out, "loss")
    assert load_file(run.out / "checkpoints/best/ema.safetensors")


def test_rows_are_trained_on_or_held_out(artifacts):
    cache = LatentCache(artifacts / "latents")
    left, held_out = cache.split(5)
    assert sorted([*left.indices, *held_out.indices]) == list(range(32))
    assert list(held_out.indices) == [0, 6, 12, 19, 25]
    torch.testing.assert_close(held_out.batch([1], [0])["packed"], cache.batch([6], [0])["packed"])
    for wrong in (32, -1):
        with pytest.raises(ValueError, match=r"held_out is .* 32 rows"):
            cache.split(wrong)


def test_what_is_no_number_is_never_the_best(tmp_path):
    objective, scores = Walk(0.0), iter([1.0, float("nan"), 3.0, 2.0])
    objective.evaluation = lambda: {"error": next(scores)}
    # The first is of the question whether there is such a figure.
    fit([objective], tiny.Repeating({"x": torch.ones(4, 1)}, 2),
        tiny.run(tmp_path, steps=3, evaluate_every=1, best=ERROR))  # fmt: skip
    assert checkpoints.read(tmp_path / "checkpoints/best")[1]["step"] == 3


def test_a_checkpoint_is_named_after_its_step_whatever_was_measured(tmp_path):
    """Between two lines of the log running means are pending."""
    walk(tmp_path, steps=3, save_every=3, log_every=2, best=None)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-3"]


def test_another_best_is_refused_on_resume(tmp_path):
    """What was best by one figure says nothing about another."""
    recipe = tiny.tokenizer_recipe(tmp_path, validation=UNSEEN, validate=4)
    run = replace(recipe.run, evaluate_every=1, steps=2, best=Best("psnr_db", "highest"))
    train_tokenizer(replace(recipe, run=run))
    for changes in (
        {"run": replace(run, resume=True, best=Best("ssim", "highest"))},
        {"run": replace(run, resume=True), "validate": 5},
    ):
        with pytest.raises(ValueError, match=r"(run\.best\.figure|validate) was"):
            train_tokenizer(replace(replace(recipe, run=run), **changes))


def test_a_run_without_evaluation_is_as_before(tmp_path):
    run = Run(tmp_path)
    assert run.best is None
    with pytest.raises(ValueError, match=r"run\.evaluate_every is 0"):
        replace(run, evaluate_every=0)
