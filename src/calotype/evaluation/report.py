"""What was measured, for a file or a table."""

import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from calotype.evaluation.judges import Evaluation

VERSIONS = ("calotype", "torch", "diffusers", "transformers", "torchmetrics", "torch-fidelity")


def described(artifact: str, found: Evaluation) -> dict[str, Any]:
    """For JSON: figures, what they depend on, and where they were measured."""
    parts = {
        "artifact": artifact, "figures": found.figures, "standard_errors": found.errors,
        "notes": found.notes, "latents": found.health, "speed": found.speed,
        "protocol": asdict(found.protocol), "environment": environment(found.protocol.device),
    }  # fmt: skip
    return {name: part for name, part in parts.items() if part}


def environment(kind: str | None) -> dict[str, Any]:
    """The machine and the versions that speed, and the last digits of all else, depend on; of a
    kind of device.
    """
    device = torch.cuda.get_device_name() if kind == "cuda" else platform.machine()
    return {"device": device, "threads": torch.get_num_threads(),
            "versions": {name: version(name) for name in VERSIONS}}  # fmt: skip


def flat(figures: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values, those of inner tables behind the table's name."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}: ")
        else:
            yield prefix + name, value


def noted(notes: Mapping[str, str]) -> list[str]:
    """What is said of figures, a line each."""
    return [f"* {name}: {note}" for name, note in notes.items()]
