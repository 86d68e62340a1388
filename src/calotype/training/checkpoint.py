"""Checkpoints: safetensors and JSON, complete or absent.

A checkpoint is written beside its place, synced to disk and renamed, so that a run killed at any
instant leaves only whole ones; what it also leaves is hidden, and swept by the next one. `step-N/`
holds one safetensors file per group of tensors, `state.json`, and `SHA256SUMS` of both, which
`sha256sum -c` reads too. A disk may still damage what was whole: whoever reads one checks it.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from calotype.training.files import hide, publish, room

Tensors = dict[str, Tensor]
SUMS = "SHA256SUMS"
"""File of a checkpoint's checksums."""


class DamagedError(ValueError):
    """A checkpoint does not hold what was written."""


@dataclass(frozen=True)
class Found:
    """A checkpoint that is whole."""

    folder: Path
    groups: dict[str, Tensors]
    state: dict[str, Any]
    damaged: dict[Path, str]
    """Newer ones that are not, and why."""


def write(folder: Path, groups: Mapping[str, Tensors], state: Mapping[str, Any]) -> None:
    """Write a checkpoint; `folder` appears only when every byte of it is on disk.

    Raises:
        OSError: the disk is full; nothing of it is left, and other checkpoints are as they were.
    """
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    need = sum(tensor.nbytes for tensors in groups.values() for tensor in tensors.values())
    with room(beside, folder, need, "checkpoints of before are as they were"):
        beside.mkdir()
        for name, tensors in groups.items():
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()},
                      beside / f"{name}.safetensors")  # fmt: skip
        (beside / "state.json").write_text(json.dumps(state, indent=1, sort_keys=True) + "\n")
        sums = [f"{_sum(file)}  {file.name}\n" for file in sorted(beside.iterdir())]
        (beside / SUMS).write_text("".join(sums))
        publish(beside, folder)


def read(folder: Path) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """Read what `write` wrote.

    Raises:
        DamagedError: it is not what was written. Versions before wrote no checksums: of theirs it
            is known when it cannot be read.
    """
    try:
        if (folder / SUMS).exists():
            _check(folder)
        groups = {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
        return groups, json.loads((folder / "state.json").read_text())
    except DamagedError:
        raise
    except (OSError, SafetensorError, ValueError) as error:
        raise DamagedError(f"{folder}: {error}") from error


def _check(folder: Path) -> None:
    sums = dict(line.split("  ", 1)[::-1] for line in (folder / SUMS).read_text().splitlines())
    # Hidden files are the system's: a file browser's, a network disk's.
    there = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {SUMS}
    if sums.keys() != there:
        raise DamagedError(f"{folder}: {SUMS} and what is there differ: {min(sums.keys() ^ there)}")
    for name, was in sums.items():
        if _sum(folder / name) != was:
            raise DamagedError(f"{folder}: {name} is not what was written")


def newest(checkpoints: Path) -> Found | None:
    """The newest whole checkpoint under a folder; None: there is none at all.

    Raises:
        DamagedError: there are some, and each is damaged.
    """
    damaged: dict[Path, str] = {}
    for folder in reversed(complete(checkpoints)):
        try:
            return Found(folder, *read(folder), damaged)
        except DamagedError as error:
            damaged[folder] = str(error)
    if damaged:
        raise DamagedError(
            f"no checkpoint is whole ({'; '.join(damaged.values())}): put back a copy, or begin "
            "anew with --run.overwrite"
        )
    return None


def set_aside(folder: Path) -> Path:
    """Give a damaged checkpoint a name under which no run takes it for one of its own, and none
    deletes it; returns its place.
    """
    place = folder.with_name(f"{folder.name}-damaged")
    number = 1
    while place.exists():
        number += 1
        place = folder.with_name(f"{folder.name}-damaged-{number}")
    return folder.rename(place)


def complete(checkpoints: Path) -> list[Path]:
    """The complete checkpoints under a folder, oldest first. `step-7-copy` is a person's own."""
    found = [path for path in checkpoints.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def prune(checkpoints: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints."""
    for path in complete(checkpoints)[:-keep]:
        shutil.rmtree(hide(path))


def sweep(folder: Path) -> None:
    """Delete what a kill left half-written or half-deleted in a run's folder."""
    for path in [*folder.glob(".model.*"), *folder.glob("checkpoints/.*")]:
        if re.fullmatch(r"\.(model|best|step-\d+)\.(partial|old)", path.name):
            shutil.rmtree(path)


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
    for parameter, entry in optimizer.state.items():
        for key, tensor in entry.items():
            if tensor.shape == parameter.shape:  # fused optimisers want both laid out alike
                entry[key] = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)


def _sum(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as data:
        while block := data.read(2**20):
            digest.update(block)
    return digest.hexdigest()
