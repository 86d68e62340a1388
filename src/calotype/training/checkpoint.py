"""Checkpoints: safetensors and JSON, complete or absent.

A checkpoint is written beside its place, synced to disk and renamed, so that a run killed at any
instant leaves only whole ones; what it also leaves is hidden, and swept by the next one. `step-N/`
holds one safetensors file per group of tensors, or, where processes hold shares of weights, one per
process (`parted.py`), `state.json`, and `SHA256SUMS` of both, which `sha256sum -c` reads too. A
disk may still damage what was whole: whoever reads one checks it.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

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
        seal(beside, folder, state, {})


def seal(beside: Path, folder: Path, state: Mapping[str, Any], sums: Mapping[str, str]) -> None:
    """Put numbers and checksums beside a checkpoint's tensors, and the whole in its place.

    Args:
        beside: Where they are.
        folder: The place.
        state: The numbers.
        sums: Checksums that are known, by file.
    """
    (beside / "state.json").write_text(json.dumps(state, indent=1, sort_keys=True) + "\n")
    every = [f"{sums.get(file.name) or checksum(file)}  {file.name}\n"
             for file in sorted(beside.iterdir())]  # fmt: skip
    (beside / SUMS).write_text("".join(every))
    publish(beside, folder)


def is_parted(folder: Path) -> bool:
    """Whether a checkpoint is in parts, one of each process that wrote it."""
    return any(folder.glob("shard-*.safetensors"))


def read(folder: Path) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """Read what `write` wrote.

    Raises:
        DamagedError: it is not what was written. Versions before wrote no checksums: of theirs it
            is known when it cannot be read.
    """
    state = state_of(folder)
    try:
        return {file.stem: load_file(file) for file in sorted(folder.glob("*.safetensors"))}, state
    except (OSError, SafetensorError) as error:
        raise DamagedError(f"{folder}: {error}") from error


def state_of(folder: Path) -> dict[str, Any]:
    """The numbers of a checkpoint of which all is what was written.

    Raises:
        DamagedError: it is not.
    """
    try:
        if (folder / SUMS).exists():
            _check(folder)
        return json.loads((folder / "state.json").read_text())
    except DamagedError:
        raise
    except (OSError, ValueError) as error:
        raise DamagedError(f"{folder}: {error}") from error


def _check(folder: Path) -> None:
    sums = dict(line.split("  ", 1)[::-1] for line in (folder / SUMS).read_text().splitlines())
    # Hidden files are the system's: a file browser's, a network disk's.
    there = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {SUMS}
    if sums.keys() != there:
        raise DamagedError(f"{folder}: {SUMS} and what is there differ: {min(sums.keys() ^ there)}")
    for name, was in sums.items():
        if checksum(folder / name) != was:
            raise DamagedError(f"{folder}: {name} is not what was written")


def newest(
    checkpoints: Path, read: Callable[[Path], tuple[dict[str, Tensors], dict[str, Any]]] = read
) -> Found | None:
    """The newest whole checkpoint under a folder; None: there is none at all.

    Args:
        checkpoints: The folder.
        read: Gives what one holds, as `read` above.

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
    """Delete what a kill left half-written or half-deleted in a run's folder; put back what was
    being replaced.
    """
    for name in ("model", "checkpoints/best"):  # of checkpoints of steps there are others
        place = folder / name
        old = place.with_name(f".{place.name}.old")
        if old.exists() and not place.exists():  # it is deleted when there is another
            old.rename(place)
    for path in [*folder.glob(".model.*"), *folder.glob("checkpoints/.*")]:
        if re.fullmatch(r"\.(model|best|step-\d+)\.(partial|old)", path.name):
            shutil.rmtree(path)


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]
) -> Tensors:
    """An optimiser's state as named tensors: `NUMBER.NAME`, by the number of the parameter."""
    return {
        f"{i}.{key}": torch.as_tensor(value)
        for i, parameter in enumerate(parameters)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], tensors: Tensors
) -> None:
    """Put `optimizer_tensors` back."""
    # torch counts them group by group.
    every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    places = {id(parameter): place for place, parameter in enumerate(every)}
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, key = name.split(".", 1)
        state.setdefault(places[id(parameters[int(number)])], {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, entry in optimizer.state.items():
        for key, tensor in entry.items():
            if tensor.shape == parameter.shape:  # fused optimisers want both laid out alike
                entry[key] = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)


def checksum(file: Path) -> str:
    """The SHA-256 of a file, as `sha256sum` writes it."""
    digest = hashlib.sha256()
    with file.open("rb") as data:
        while block := data.read(2**20):
            digest.update(block)
    return digest.hexdigest()
