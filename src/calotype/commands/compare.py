"""Several artifacts on the same pictures: one table and one picture."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from calotype.commands.artifact import Artifact
from calotype.commands.evaluate import Bench, Measuring
from calotype.evaluation.protocol import ProtocolError
from calotype.pages.comparison import PAGE, write
from calotype.training.distributed import processes


@dataclass(frozen=True, kw_only=True)
class Compare(Measuring):
    """Measure several tokenizers, or several pipelines, on the same pictures. Processes of a
    launcher share them.
    """

    artifacts: tyro.conf.Positional[tuple[str, ...]]
    """Folders, ours or stock, or names on the Hub."""
    out: Path = Path("comparison")
    """Folder of comparison.html, comparison.md, comparison.png and comparison.json."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.artifacts) < 2:
            raise ValueError("give two artifacts or more to compare; evaluate measures one")
        if twice := {a for a in self.artifacts if self.artifacts.count(a) > 1}:
            raise ValueError(f"{twice.pop()} is named twice: name each artifact once")
        if self.out.is_file():
            raise ValueError(f"--out is {self.out}, a file: name a folder")


def compare(options: Compare) -> Path:
    """Measure, and write page, table and picture; returns the page.

    Raises:
        ValueError, FileNotFoundError: an artifact is not there, or they cannot be compared; before
            any measuring.
    """
    artifacts = [Artifact(path) for path in options.artifacts]
    sizes = {each.path: each.size(options.size) for each in artifacts}
    if len({each.pipeline is None for each in artifacts}) > 1:
        raise ValueError("tokenizers and pipelines cannot be compared: give one kind")
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{path} {size}" for path, size in sizes.items())
        mend = "choose one with --size" if artifacts[0].tokenizer else "compare those of one"
        raise ProtocolError(f"images of several sizes ({said}): {mend}")
    bench = Bench(options, next(iter(sizes.values())))
    work = {each.path: bench.prepare(each) for each in artifacts}
    # What is left for one process alone comes last: nobody waits for it.
    figures = {path: survey() for path, survey in work.items()}
    if not processes().is_main_process:
        return options.out / PAGE
    found = {path: make() for path, make in figures.items()}
    first = next(iter(found.values()))
    for other in found.values():
        first.protocol.check(other.protocol)
    return write(options.out, found)
