"""Checkpoints: safetensors and JSON, complete or absent.

A checkpoint is written beside its place, synced to disk and renamed, so that a run killed at any
instant leaves only whole ones; what it also leaves is hidden, and swept by the next one. `step-N/`
holds one safetensors file per group of tensors and `state.json`.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]


def write(folder: Path, groups: Mapping[str, Tensors], state: Mapping[str, Any]) -> None:
    """Write a checkpoint; `folder` appears only when every byte of it is on disk."""
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for name, tensors in groups.items():
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()},
                  beside / f"{name}.safetensors")  # fmt: skip
    (beside / "state.json").write_text(json.dumps(state, indent=1, sort_keys=True) + "\n")
    publish(beside, folder)


def publish(beside: Path, folder: Path) -> None:
    """Sync a finished folder to disk and move it to its name, replacing what stood there."""
    for path in [*beside.rglob("*"), beside]:
        _sync(path)
    old = _hide(folder) if folder.exists() else None
    beside.rename(folder)
    _sync(folder.parent)
    if old:
        shutil.rmtree(old)


def read(folder: Path) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """Read what `write` wrote."""
    groups = {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    return groups, json.loads((folder / "state.json").read_text())


def complete(checkpoints: Path) -> list[Path]:
    """The complete checkpoints under a folder, oldest first. `step-7-copy` is a person's own."""
    found = [path for path in checkpoints.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def prune(checkpoints: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints."""
    for path in complete(checkpoints)[:-keep]:
        shutil.rmtree(_hide(path))


def sweep(folder: Path) -> None:
    """Delete what a kill left half-written or half-deleted in a run's folder."""
    for path in [*folder.glob(".model.*"), *folder.glob("checkpoints/.*")]:
        if re.fullmatch(r"\.(model|best|step-\d+)\.(partial|old)", path.name):
            shutil.rmtree(path)


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    with written(path) as file:
        file.write(text)


@contextmanager
def written(path: Path) -> Iterator[TextIO]:
    """A text file to write that takes its place when all of it is there, and not before; a pipe or
    a device, which has nothing to lose, is written as it comes.
    """
    if path.exists() and not path.is_file():
        with path.open("w") as file:
            yield file
        return
    path = path.resolve()  # or a link would be replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    try:
        with beside.open("w") as file:
            yield file
        _sync(beside)
        beside.rename(path)
    finally:
        beside.unlink(missing_ok=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """An optimiser's state as named tensors: `INDEX.NAME`, in the order of its parameters."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{k}": torch.as_tensor(v) for i, entry in state.items() for k, v in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Put `optimizer_tensors` back."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _hide(folder: Path) -> Path:
    """Take a folder's name from it in one step: deleting a folder takes many."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    return folder.rename(old)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
