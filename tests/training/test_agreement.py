"""Ranks with a disk of their own each: what one has the others get, and what differs ends all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import hosts
import tiny
from ranks import together

pytestmark = pytest.mark.slow


def said(root: Path, work: Callable[[int], Any], world: int = 2) -> list[Any]:
    """What a work came to on each host."""
    together(world, hosts.at_home, work, root)
    return [json.loads((root / f"{work.__name__}-{r}.json").read_text()) for r in range(world)]


def test_what_ranks_agree_on_and_what_they_give_each_other(tmp_path):
    main, other = said(tmp_path, hosts.all_of_it)
    assert main["agreed"] is None and other["agreed"] is None
    for name, line in (
        ("data", "ValueError: inputs.data is 12 pictures for process 0 and 13 pictures for "
                 "process 1: give all processes the same"),
        ("shared", "ValueError: tokenizer is weights 0 for process 0 and weights 1 for process 1: "
                   "give all processes the same"),
        ("missing", "ValueError: b is 2 for process 0 and None for process 1: give all processes "
                    "the same"),
        ("mistake", "ZeroDivisionError: integer division or modulo by zero"),
        ("run", "ValueError: run.batch_size is 1 for process 0 and 2 for process 1: give all "
                "processes the same"),
        ("version", "ValueError: torch is torch 0 for process 0 and torch 1 for process 1: give "
                    "all processes the same"),
        ("taken", "ValueError: taken holds somebody's and no run: choose a new folder"),
    ):  # fmt: skip
        assert main[name] == other[name] == line
    assert main["place"] == other["place"] == "fp32"
    assert main["main"] and not other["main"]
    assert main["tensors"] == other["tensors"]
    assert main["tensors"]["one.x"] == ["torch.int64", [3], [0.0, 1.0, 2.0]]
    assert main["tensors"]["two.none"] == ["torch.float32", [0, 4], []]
    assert main["files"] == other["files"] == {"model/deep/large": 2**25, "model/empty": 0}
    assert main["bytes"] and other["bytes"]


def test_bug_ranks_without_a_shared_disk_went_on_from_different_steps(tmp_path):
    """Rank 0 at step 3, rank 1 at step 0, and they exchanged gradients without complaint."""
    main, other = said(tmp_path, hosts.train_twice)
    assert main == ["step-4", "step-5"] and other == []
    tiny.train("generator", tiny.run(tmp_path / "one", batch_size=4, steps=5))
    for file in (tmp_path / "one/checkpoints/step-5").glob("model-*.safetensors"):
        again = load_file(tmp_path / "host-0/run/checkpoints/step-5" / file.name)
        torch.testing.assert_close(load_file(file), again, atol=1e-5, rtol=0)


def test_bug_a_run_began_anew_where_another_host_had_its_checkpoints(tmp_path):
    main, other = said(tmp_path, hosts.other_has_more)
    assert main == other and "has a checkpoint of step 3, and the main process" in main


def test_bug_the_export_read_the_main_processs_disk_on_every_rank(tmp_path):
    """Which another host does not see: it trained, and then ended in an error."""
    main, other = said(tmp_path, hosts.whole_recipe)
    assert main == other and "config.json" in main
    assert not (tmp_path / "host-1/run/checkpoints").exists()


def test_a_difference_is_a_mistake_on_every_rank(tmp_path):
    """One line, and exit code 2."""
    assert said(tmp_path, hosts.two_seeds) == [2, 2]
