"""What a latent cache is, and which files hold it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from calotype.training.files import write_text

INDEX, TEXT_TOKENIZER = "latents.json", "text_tokenizer"
LATENTS, PICTURES, PROMPTS = "latents", "pictures", "prompts"
"""What a file of a shard holds: its rows; what they were made of; their captions' tokens."""
LEARNT_FROM = 100_000
"""Captions of the sample that a vocabulary is learnt from, where nothing else is said."""


class Files(NamedTuple):
    """Names of the files of a shard, each with a digest of what it was made of: none is taken for
    another's, whatever was interrupted.
    """

    latents: str
    pictures: str
    prompts: str = ""
    """Empty where there are no captions."""


def file_name(part: int, piece: int, digest: str, holds: str) -> str:
    """Name of a file of a shard: files sort as their rows do, however many there are."""
    return f"{part:09d}.{piece:06d}-{digest[:16]}.{holds}.safetensors"


@dataclass(frozen=True)
class Index:
    """What a cache is. A shard is a number and the names of three files, a row is nothing."""

    tokenizer: str
    """Fingerprint of the tokenizer that encoded it."""
    size: int
    """Pixels a side of the images that were encoded."""
    rows: tuple[int, ...]
    """Samples in each shard."""
    flipped: bool
    """Whether each sample's mirror image is stored too."""
    tokens: int | None
    """Length of the prompts' tokens; None: no captions."""
    text: dict[str, Any] | None = None
    """The text spec that made them, as recipe.json describes it."""
    learnt_from: int | None = None
    """Captions, from all over it, that the vocabulary of its tokens was made of at most; None: none
    was learnt, or of `LEARNT_FROM`, by a version before."""
    codes: int | None = None
    """Rows are ids from 0 to codes - 1, [h, w] or, of several codes a site, [codebooks, h, w];
    None: they are moments."""
    data: str | None = None
    """What told the pictures from others when all had been encoded; None: it is not known."""
    precision: str | None = None
    """What they were encoded in; None: it is not known."""
    crops: int = 1
    """Of each picture, one behind the other in a shard; a key chooses one."""
    error: float | None = None
    """Root mean square of what encoding in this precision did to some means, or of ids how many
    are others, relative to the means' spread or to all; None: it was not measured."""
    frames: bool = False
    """Whether it is kept how large the pictures were and where they were cropped."""
    shapes: tuple[tuple[int, ...], ...] = ()
    """Of a row of each shard; none: all are alike."""
    files: tuple[Files, ...] = ()
    """Of each shard; none: a version before wrote it, which numbered them."""

    @classmethod
    def read(cls, root: Path) -> "Index":
        """Read a cache's index.

        Raises:
            FileNotFoundError: there is no finished cache under `root`.
            ValueError: what is there is no cache.
        """
        file = root / INDEX
        if not file.exists():
            raise FileNotFoundError(
                f"no finished cache in {root}: run `calotype cache-latents` to make it"
            )
        return cls.parse(file.read_text(), str(file))

    @classmethod
    def parse(cls, text: str, name: str) -> "Index":
        """Read an index from what a file of this name holds.

        Raises:
            ValueError: it is no cache's.
        """
        try:
            values = json.loads(text)
            files = tuple(Files(*each) for each in values.get("files", ()))
            shapes = tuple(tuple(each) for each in values.get("shapes", ()))
            return cls(**{**values, "rows": tuple(values["rows"]), "shapes": shapes,
                          "files": files})  # fmt: skip
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ValueError(
                f"{name} is not a cache's: give a folder that `calotype cache-latents` made"
            ) from None

    def write(self, root: Path) -> None:
        """Finish a cache."""
        lists = {"rows": list(self.rows), "shapes": [list(each) for each in self.shapes],
                 "files": [list(each) for each in self.files]}  # fmt: skip
        fields = {name: value for name, value in asdict(self).items() if name not in lists}
        text = json.dumps(fields, indent=1).removesuffix("\n}")
        text += "".join(f",\n {json.dumps(name)}: {json.dumps(v)}" for name, v in lists.items())
        write_text(root / INDEX, text + "\n}\n")


def is_finished(root: Path) -> bool:
    """Whether a cache is whole; its index is what is written last."""
    return (root / INDEX).exists()
