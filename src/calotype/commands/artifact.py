"""What is measured: a tokenizer or a pipeline."""

from typing import Any

from calotype.commands.quiet import quiet
from calotype.pipelines import Pipeline, is_pipeline, load, size_of
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.likelihood import kept_likelihood
from calotype.training.progress import say


class Artifact:
    """A tokenizer or a pipeline, from disk or the Hub.

    Raises:
        ValueError: there is none, or of a class that cannot be measured.
    """

    def __init__(self, path: str) -> None:
        quiet()
        self.path = path
        self.pipeline = load(path) if is_pipeline(path) else None
        self.tokenizer = None if self.pipeline else ImageTokenizer.load(path)
        self.likelihood = kept_likelihood(path) if self.tokenizer else None
        found: Any = self.pipeline
        if getattr(found, "safety_checker", None):
            say(f"{path}: measured without its safety checker, which would black images out")
            found.safety_checker = None

    @property
    def part(self) -> Pipeline | ImageTokenizer:
        """Whichever it is."""
        found = self.pipeline or self.tokenizer
        assert found is not None
        return found

    def size(self, asked: int | None) -> int:
        """Pixels a side at which it is measured.

        Raises:
            ValueError: it cannot do what is asked.
        """
        if self.pipeline is not None:
            size = size_of(self.pipeline)
            if asked not in (None, size):
                raise ValueError(f"--size is {asked}, but {self.path} draws {size} pixels")
            return size
        assert self.tokenizer is not None
        size = asked or self.tokenizer.sample_size
        self.tokenizer.check(size)
        return size
