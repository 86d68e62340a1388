"""One batch, whoever takes it: processes and micro-batches change no weight."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny
from calotype.data import Loader, Scenes
from calotype.training import Run
from calotype.training.division import Division
from ranks import together

FOUR = ["kl", "vq-game", "flow", "next-token"]
"""Which four ranks train."""


def test_the_largest_equal_parts_that_may_be_are_taken():
    run = Run(batch_size=48)
    parts = [Division.of(Run(batch_size=48, micro_batch=n), 2) for n in (None, 24, 16, 7, 1)]
    assert [part.micro_batch for part in parts] == [24, 24, 12, 6, 1]
    assert all(part.share == 24 and part.count * part.micro_batch == 24 for part in parts)
    halves, division = [], Division.of(run, 2)
    while division := division.halved():
        halves.append(division.micro_batch)
    assert halves == [12, 6, 3, 1]
    assert Division.of(Run(batch_size=2048), 1).measured == 32, "of so many none may fit"


@pytest.mark.parametrize(("batch", "processes", "near"), [(10, 4, "8 or 12"), (4, 8, "8,")])
def test_a_batch_that_processes_do_not_divide_is_refused(batch, processes, near):
    told = f"run.batch_size is {batch}, .* choose --run.batch-size {near}"
    with pytest.raises(ValueError, match=told):
        Division.of(Run(batch_size=batch), processes)
    loader = Loader(Scenes(size=16, count=16).build(), batch, seed=0)
    with pytest.raises(ValueError, match=told):
        loader.batches(0, 0, processes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Callable[[int], Path]:
    """Gives the folder in which so many ranks have trained every kind; they begin once."""
    made: dict[int, Path] = {}

    def by(world: int) -> Path:
        if world not in made:
            made[world] = tmp_path_factory.mktemp(f"ranks-{world}")
            kinds = FOUR if world == 4 else list(tiny.EQUAL)
            together(world, tiny.every_kind, kinds, made[world])
        return made[world]

    return by


@pytest.mark.parametrize("kind", tiny.EQUAL)
def test_micro_batches_make_the_weights_of_one_batch(kind, trained, tmp_path):
    """Bugs of the published ones: statistics, codebooks and adaptive weights of each part."""
    for name, most in (("twos", 2), ("ones", 1)):
        tiny.train(kind, tiny.run(tmp_path / name, micro_batch=most))
        _check_equal(trained(1) / kind, tmp_path / name)


@pytest.mark.parametrize("kind", tiny.EQUAL)
def test_two_ranks_make_the_weights_of_one(kind, trained):
    _check_equal(trained(1) / kind, trained(2) / kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOUR)
def test_four_ranks_make_the_weights_of_one(kind, trained):
    _check_equal(trained(1) / kind, trained(4) / kind)


def _check_equal(one: Path, other: Path) -> None:
    assert tiny.apart(one, other) < 0.05, "in parts of what the last step moved"
    for file in one.glob("checkpoints/step-3/*.safetensors"):
        if file.name.startswith(("model-", "ema")):
            again = load_file(other / file.relative_to(one))
            for name, tensor in load_file(file).items():
                torch.testing.assert_close(again[name], tensor, atol=1e-5, rtol=0)
