"""Micro-batches that fit are found when memory runs out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny
from calotype.tokenizers import Reconstruction
from calotype.training.fitting import FOUND
from ranks import together


def weights(out: Path, step: int) -> dict[str, torch.Tensor]:
    parts = sorted((out / f"checkpoints/step-{step}").glob("*.safetensors"))
    return {f"{p.stem}.{name}": value for p in parts for name, value in load_file(p).items()}


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("kind", ["kl", "vq-game"])
def test_a_step_that_runs_out_of_memory_is_taken_again_in_halves(
    kind, first, tmp_path, monkeypatch, capfd
):
    """From its beginning, before any weight has moved: what it had gathered counts once. Afterwards
    the run goes on with what fits, and a resumed one begins with it.
    """
    run = tiny.run(tmp_path / "short", batch_size=8, steps=4)
    tiny.train(kind, tiny.run(tmp_path / "whole", batch_size=8, steps=4))
    taken = []
    forward = tiny.fitting(Reconstruction.forward, 2, first)

    def counted(objective, batch, step):
        taken.append(len(batch["key"]))
        return forward(objective, batch, step)

    monkeypatch.setattr(Reconstruction, "forward", counted)
    tiny.train(kind, run)
    said = capfd.readouterr().err
    assert "8 samples at once do not fit into memory: going on with 4, 2 times a step" in said
    assert "4 samples at once do not fit into memory: going on with 2, 4 times a step" in said
    assert taken == [8] * (first + 1) + [4] + [2] * 4 * (4 - first)
    assert json.loads((run.out / FOUND).read_text())["samples"] == 2
    for name, whole in weights(tmp_path / "whole", 4).items():
        if name.startswith(("model", "ema")):
            again = weights(run.out, 4)[name]
            torch.testing.assert_close(again, whole, atol=1e-5, rtol=0)
    taken.clear()
    tiny.train(kind, replace(run, steps=5, resume=True))
    assert taken == [2] * 4, "it begins with what was found"
    taken.clear()
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setattr("calotype.training.fitting.described", lambda device: "a larger one")
        tiny.train(kind, replace(run, steps=6, resume=True))
    assert taken == [8, 4] + [2] * 4, "what fits here says nothing of another device"


def test_one_sample_that_does_not_fit_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(Reconstruction, "forward", tiny.fitting(Reconstruction.forward, 0))
    with pytest.raises(ValueError, match="out of memory with one sample at a time: choose"):
        tiny.train("kl", tiny.run(tmp_path))


def test_other_errors_are_no_lack_of_memory(tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Reconstruction, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        tiny.train("kl", tiny.run(tmp_path))


@pytest.mark.slow
def test_ranks_halve_alike_when_one_of_them_runs_out(tmp_path):
    """Each tries a micro-batch by itself first: one that failed in the step would leave the other
    waiting for its gradients.
    """
    together(2, tiny.short, tmp_path / "two")
    assert json.loads((tmp_path / "two" / FOUND).read_text())["samples"] == 1
    tiny.train("kl", tiny.run(tmp_path / "one", batch_size=8))
    assert tiny.apart(tmp_path / "one", tmp_path / "two") < 0.05
