"""Which pipeline lies in a folder, and which folder has the newest."""

import hashlib
from pathlib import Path

from torch import nn

from calotype.pipelines.sampling import Pipeline
from calotype.pipelines.tokens import MARK, TokenPipeline

INDICES = ("model_index.json", MARK)
"""A folder with one of them holds a pipeline."""


def newest(root: Path) -> Path | None:
    """The pipeline under a folder that was written last; None: there is none.

    What is hidden, as everything half-written is, does not count.
    """
    found = [file for name in INDICES for file in root.rglob(name)
             if not any(part.startswith(".") for part in file.relative_to(root).parts)]  # fmt: skip
    return max(found, key=lambda file: file.stat().st_mtime).parent if found else None


def fingerprint(pipeline: Pipeline) -> str:
    """The SHA-256 of the weights of all networks of a pipeline, as 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, network in sorted(_networks(pipeline).items()):
        for key, weight in sorted(network.state_dict().items()):
            digest.update(f"{name} {key} {tuple(weight.shape)}".encode())
            digest.update(weight.float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _networks(pipeline: Pipeline) -> dict[str, nn.Module]:
    if isinstance(pipeline, TokenPipeline):
        return {"transformer": pipeline.transformer, "tokenizer": pipeline.tokenizer}
    parts = pipeline.components.items()
    return {name: part for name, part in parts if isinstance(part, nn.Module)}
