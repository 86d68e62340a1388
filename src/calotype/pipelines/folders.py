"""Which pipeline lies in a folder, and which folder has the newest."""

from pathlib import Path

from torch import nn

from calotype.pipelines.sampling import Pipeline
from calotype.pipelines.token_parts import MARK
from calotype.pipelines.tokens import TokenPipeline
from calotype.training.weights import digest

INDICES = ("model_index.json", MARK)
"""A folder with one of them holds a pipeline."""


def pipelines_under(root: Path) -> list[Path]:
    """The folders of pipelines under one, the one that was written last first.

    What is hidden, as everything half-written is, does not count.
    """
    found = [file for name in INDICES for file in root.rglob(name)
             if not any(part.startswith(".") for part in file.relative_to(root).parts)]  # fmt: skip
    found.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    return [*{file.parent: None for file in found}]


def fingerprint(pipeline: Pipeline) -> str:
    """The SHA-256 of the weights of all networks of a pipeline, as 16 hexadecimal digits."""
    return digest(
        (f"{name} {key}", weight)
        for name, network in sorted(_networks(pipeline).items())
        for key, weight in sorted(network.state_dict().items())
    )


def _networks(pipeline: Pipeline) -> dict[str, nn.Module]:
    if isinstance(pipeline, TokenPipeline):
        return {"transformer": pipeline.transformer, "tokenizer": pipeline.tokenizer}
    parts = pipeline.components.items()
    return {name: part for name, part in parts if isinstance(part, nn.Module)}
