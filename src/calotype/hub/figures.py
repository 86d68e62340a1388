"""What was measured of a model, by which protocol, and as the Hub's `model-index` has it."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calotype.evaluation.glossary import glossed
from calotype.evaluation.report import flat
from calotype.hub.parts import Part, read_json
from calotype.lazy import huggingface_hub
from calotype.tokenizers.distillation import REPORT
from calotype.training.network import located
from calotype.training.progress import say

COUNTS = ("prompts", "reconstructed", "two_objects_prompts", "minutes")
"""What a demo's report counts, and does not measure."""
TASKS = {
    "text-to-image": "Text to image",
    "unconditional-image-generation": "Images from noise",
    "image-to-image": "Reconstruction",
}


@dataclass(frozen=True)
class Measured:
    """Figures of one evaluation."""

    figures: dict[str, float]
    data: str
    """What it was measured on, in words."""
    data_type: str
    """The same as an identifier."""
    protocol: dict[str, Any]
    """What they depend on."""
    errors: dict[str, float] = field(default_factory=dict)
    """Standard errors of some."""
    notes: dict[str, str] = field(default_factory=dict)
    """What is to be said of some."""

    @property
    def lines(self) -> Iterator[tuple[str, str]]:
        """Names with units and directions, and values."""
        for name, value in self.figures.items():
            error = f" ± {self.errors[name]:.2g}" if name in self.errors else ""
            yield glossed(name), f"{value:.6g}{error}"


def measured(part: Part, files: Sequence[Path]) -> list[Measured]:
    """What `files` say of a part, and what lies in the folders of its run and its way.

    Raises:
        ValueError, FileNotFoundError: a file is no evaluation, or of another model.
    """
    given = [_evaluated(_read(file), file) for file in files]
    found = [*given, *_lying_about(part, files)]
    report = read_json(part.way / "report.json") if part.way and part.kind != "tokenizer" else {}
    judged = report.get("transformer" if part.kind == "tokens" else "diffusion", report)
    if judged.get("protocol"):
        found.append(_judged(judged))
    distilled = read_json(part.folder / REPORT) if part.kind == "tokenizer" else {}
    return [*found, *([_distilled(distilled)] if distilled else [])]


def _read(file: Path) -> dict[str, Any]:
    """An evaluation.

    Raises:
        ValueError, FileNotFoundError: the file is none.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"--evaluation {file}: no such file; `calotype evaluate` writes one"
        )
    try:
        found = json.loads(file.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict) or not {"figures", "protocol", "artifact"} <= found.keys():
        raise ValueError(f"--evaluation {file} is no evaluation: `calotype evaluate` writes one")
    return found


def check_evaluations(parts: Sequence[Part], files: Sequence[Path]) -> dict[Path, Part]:
    """Which part each file is of.

    Raises:
        ValueError, FileNotFoundError: it is of none, or no evaluation.
    """
    found = {}
    for file in files:
        artifact = _read(file)["artifact"]
        own = [part for part in parts if _is_of(part, artifact)]
        if not own and (len(parts) > 1 or Path(artifact).exists()):
            names = " or ".join(str(part.folder) for part in parts)
            raise ValueError(f"--evaluation {file} is of {artifact} and not of {names}")
        found[file] = own[0] if own else parts[0]  # where it has moved since
    return found


def _is_of(part: Part, artifact: str) -> bool:
    path = Path(artifact)
    if not path.exists():
        return False
    names = {part.folder.resolve(), *((part.run.resolve(),) if part.run else ())}
    return path.resolve() in names or Path(located(path, "pipeline", "model")).resolve() in names


def _lying_about(part: Part, known: Sequence[Path]) -> Iterator[Measured]:
    """Evaluations of a part in the folder of its run."""
    weights = max((file.stat().st_mtime for file in part.folder.rglob("*.safetensors")), default=0)
    seen = {file.resolve() for file in known}
    folders = [folder for folder in (part.run, part.way) if folder]
    for file in sorted({file for folder in folders for file in folder.glob("*.json")}):
        found = read_json(file) if file.resolve() not in seen else {}
        if not isinstance(found, dict) or not {"figures", "protocol", "artifact"} <= found.keys():
            continue
        if not _is_of(part, found["artifact"]):
            continue
        if file.stat().st_mtime < weights:
            say(f"{file} is older than the weights of {part.folder}: left out of the card")
            continue
        yield _evaluated(found, file)


def _evaluated(found: dict[str, Any], file: Path) -> Measured:
    protocol = found["protocol"]
    kept = {name: value for name, value in _plain(protocol).items() if value not in (None, {})}
    return Measured(
        _finite(dict(flat(found["figures"]))),
        f"{protocol['images']} pictures of {protocol['size']} pixels, {protocol['digest']}",
        f"pictures-{protocol['digest']}", kept, found.get("standard_errors", {}),
        _of_figures(found.get("notes", {})),
    )  # fmt: skip


def _of_figures(notes: dict[str, str]) -> dict[str, str]:
    """Notes without those that say why the machine that measured left something out."""
    return {name: note for name, note in notes.items() if not note.startswith("left out:")}


def _distilled(report: dict[str, Any]) -> Measured:
    """What a distillation says of its student."""
    figures = {name: value for name, value in report.items() if name != "pictures"}
    return Measured(
        _finite(figures), f"{report['pictures']} pictures of those that it learnt from",
        "training-pictures", {"pictures": report["pictures"]},
        notes={"times_as_fast": "as its teacher decodes, on the machine that trained it"},
    )  # fmt: skip


def _judged(report: dict[str, Any]) -> Measured:
    """What a demo or a quickstart says of itself at its end."""
    protocol = report["protocol"]
    counts = {name: report[name] for name in COUNTS if name in report}
    figures = {name: value for name, value in report.items() if name not in (*counts, "protocol")}
    size = protocol.get("resolution")
    return Measured(
        _finite(dict(flat(figures))),
        f"scenes of {size} pixels that training does not show, judged by a program",
        "calotype-scenes", _plain(protocol) | counts,
    )  # fmt: skip


def _plain(protocol: dict[str, Any]) -> dict[str, Any]:
    """What a protocol says, in a flat table: `sampling steps`."""
    return {name.replace(": ", " "): value for name, value in flat(protocol)
            if value is not None and not name.endswith(": type")}  # fmt: skip


def _finite(figures: dict[str, Any]) -> dict[str, float]:
    """What is a number; no other stands in strict JSON or YAML."""
    return {name: value for name, value in figures.items()
            if isinstance(value, int | float) and math.isfinite(value)}  # fmt: skip


def results(found: Sequence[Measured], task: str, place: str) -> "list[huggingface_hub.EvalResult]":
    """The same for the front matter of a card; `place` tells parts of a repository apart."""
    return [
        huggingface_hub.EvalResult(
            task_type=task, task_name=TASKS[task], dataset_type=each.data_type,
            dataset_name=each.data, dataset_config=place or None, dataset_args=each.protocol,
            metric_type=re.sub(r"\W+", "_", name), metric_value=value, metric_name=glossed(name),
        )
        for each in found
        for name, value in each.figures.items()
    ]  # fmt: skip
