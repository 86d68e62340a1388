"""Checkpoints in parts, of which each process writes and reads its own.

torch.distributed.checkpoint writes them as safetensors, by its `HuggingFaceStorageWriter`: its own
format has a pickled index, and nothing here is pickled. What part of a tensor one is stands in the
file's header, so that any number of processes may read them, or one that wants all. All processes
see the folder.
"""

import shutil
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import (
    CheckpointException,
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)

from calotype.mistakes import sendable
from calotype.training import checkpoint
from calotype.training.checkpoint import Tensors
from calotype.training.files import room

T = TypeVar("T")


def write(
    folder: Path, tensors: Tensors, state: Mapping[str, Any], group: dist.ProcessGroup
) -> None:
    """Write a checkpoint, on all processes of a group; `folder` appears only when every byte of it
    is on disk.

    Args:
        folder: Its place.
        tensors: In the memory of the CPU, by `group/name`.
        state: Numbers, the same on all processes.
        group: In which nobody else exchanges anything meanwhile.

    Raises:
        OSError: on all processes, the disk is full or fails; nothing of it is left.
    """
    beside = folder.with_name(f".{folder.name}.partial")
    main = dist.get_rank(group) == 0

    need = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

    # Each step ends on all processes before the next begins.
    with ExitStack() as kept:

        def begin() -> None:
            beside.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(beside, ignore_errors=True)
            kept.enter_context(room(beside, folder, need, "checkpoints of before are as they were"))
            beside.mkdir()

        _together(begin if main else _nothing, group)
        _saved(beside, tensors, group)
        sums = _summed(beside, group)
        end = partial(checkpoint.seal, beside, folder, state, sums)
        _together(end if main else _nothing, group)


def _nothing() -> None:
    """What the others do meanwhile."""


def _saved(beside: Path, tensors: Tensors, group: dist.ProcessGroup) -> None:
    writer = HuggingFaceStorageWriter(str(beside), save_distributed=True)
    try:
        dcp.save(dict(tensors), storage_writer=writer, process_group=group)
    except CheckpointException as failed:
        raise _first(failed) from failed


def _summed(beside: Path, group: dist.ProcessGroup) -> dict[str, str]:
    """Checksums of all parts, which the processes share out to find."""
    files = sorted(beside.iterdir())[dist.get_rank(group) :: dist.get_world_size(group)]
    found = _together(lambda: {file.name: checkpoint.checksum(file) for file in files}, group)
    return {name: each for sums in found for name, each in sums.items()}


def _together(work: Callable[[], T], group: dist.ProcessGroup) -> list[T]:
    """What a work comes to on each process.

    Raises:
        Exception: on all processes, it failed on one.
    """
    found: list[Any] = [None] * dist.get_world_size(group)
    try:
        own = (work(), None)
    except Exception as error:
        own = (None, sendable(error))
    dist.all_gather_object(found, own, group)
    for _, error in found:
        if error is not None:
            raise error
    return [value for value, _ in found]


def _first(failed: CheckpointException) -> BaseException:
    """What went wrong on the first process where something did."""
    return next(iter(failed.failures.values()))[0]


def checked(folder: Path) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """Of a checkpoint in parts no tensors and its numbers, when it has been seen to be whole; any
    other as `checkpoint.read`.

    Raises:
        DamagedError: it is not what was written.
    """
    if not checkpoint.is_parted(folder):
        return checkpoint.read(folder)
    return {}, checkpoint.state_of(folder)


def read(
    folder: Path, likes: Mapping[str, Tensors], group: dist.ProcessGroup
) -> dict[str, Tensors]:
    """What processes hold of a checkpoint in parts, each its own.

    Args:
        folder: Of the checkpoint.
        likes: By group, what is held here: of a tensor that was kept the one of its name, or of
            that before its first dot. What is of the same shape is held like it, else whole, in
            the memory of the CPU.
        group: The processes.
    """
    made = {}
    for name, (shape, dtype) in _there(folder).items():
        group_name, own = name.split("/", 1)
        known = likes.get(group_name, {})
        like = known.get(own, known.get(own.split(".", 1)[0]))
        held = like is not None and like.shape == shape
        made[name] = (
            torch.empty_like(like, dtype=dtype, requires_grad=False)
            if like is not None and held
            else torch.empty(shape, dtype=dtype)
        )
    try:
        reader = HuggingFaceStorageReader(str(folder))
        dcp.load(made, storage_reader=reader, process_group=group)
    except CheckpointException as failed:
        raise _first(failed) from failed
    return _grouped(made)


def whole(folder: Path) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """All of a checkpoint in parts, as `checkpoint.read` gives others; by one process.

    Raises:
        DamagedError: it is not what was written.
    """
    state = checkpoint.state_of(folder)
    made = {name: torch.empty(shape, dtype=dtype)
            for name, (shape, dtype) in _there(folder).items()}  # fmt: skip
    with warnings.catch_warnings():  # that it is by one process
        warnings.simplefilter("ignore")
        dcp.load(made, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return _grouped(made), state


def _there(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """What is kept, by `group/name`: whole shapes, and types."""
    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: (each.size, each.properties.dtype) for name, each in found.items()}  # type: ignore[union-attr]


def _grouped(tensors: Tensors) -> dict[str, Tensors]:
    groups: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        group, own = name.split("/", 1)
        groups.setdefault(group, {})[own] = tensor
    return groups
