"""What a drawn PNG says of how it was drawn, and the same picture again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from calotype import __version__
from calotype.commands.artist import Batch
from calotype.commands.drawings import KEY
from calotype.commands.pictures import from_here
from calotype.pipelines import HowToSample, Toward, Wanted, picture
from calotype.training.description import describe, restore

LIBRARIES = ("torch", "diffusers", "transformers")
"""Whose versions may move the last bits."""


def model_of(path: str) -> dict[str, str]:
    """A pipeline as a PNG names it."""
    return {"folder": from_here(path)} if Path(path).exists() else {"name": path}


@dataclass(frozen=True)
class Likeness:
    """All that a picture's pixels come from; the rest of `Generate` is where they go."""

    wanted: Wanted
    model: Mapping[str, str]
    """The pipeline's `folder`, by a name that says nothing of the machine, or its `name` on the
    Hub."""
    fingerprint: str
    sampling: HowToSample
    height: int | None
    width: int | None
    sources: Mapping[str, Any]
    """Options for the pictures that it is drawn from, their paths as a `Source`."""

    def pipeline(self, file: Path) -> str:
        """Where the pipeline is.

        Raises:
            ValueError: its folder is not here.
        """
        if (name := self.model.get("name")) is not None:
            return name
        folder = self.model["folder"]
        if not Path(folder).is_dir():
            raise ValueError(
                f"--like: {file} was drawn by the pipeline {self.fingerprint} in {folder}, which "
                "is not here: say with --pipeline where it is"
            )
        return folder

    @property
    def key(self) -> str:
        """What two pictures have in common that are one."""
        said = self.described()
        said["model"] = self.fingerprint
        del said["sampling"]["batch_size"]
        text = json.dumps(said, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def described(self) -> dict[str, Any]:
        """As JSON."""
        toward = self.wanted.toward
        return {
            "prompt": self.wanted.prompt, "seed": self.wanted.seed,
            "toward": None if toward is None else asdict(toward),
            "model": {**self.model, "fingerprint": self.fingerprint},
            "sampling": describe(self.sampling), "height": self.height, "width": self.width,
            **self.sources,
        }  # fmt: skip


def written(likeness: Likeness, batch: Batch, device: torch.device) -> dict[str, Any]:
    """What stands in the picture's PNG."""
    by = {"calotype": __version__, **{name: version(name) for name in LIBRARIES},
          "device": device.type, "threads": torch.get_num_threads()}  # fmt: skip
    return {**likeness.described(), "batch": asdict(batch), "by": by}


def read(file: Path) -> tuple[Likeness, Batch, dict[str, Any]]:
    """What a PNG says, and what drew it.

    Raises:
        ValueError: it does not say it.
    """
    try:
        with Image.open(file) as image:
            image.load()  # texts may follow the pixels
            said = json.loads(image.info[KEY])
        toward = said.pop("toward")
        wanted = Wanted(said.pop("prompt"), said.pop("seed"), toward and Toward(**toward))
        model, batch, by = (said.pop(name) for name in ("model", "batch", "by"))
        sampling = restore(HowToSample, said.pop("sampling"))
        sides = said.pop("height"), said.pop("width")
        likeness = Likeness(wanted, model, model.pop("fingerprint"), sampling, *sides, said)
        return likeness, Batch(**batch), by
    except FileNotFoundError:
        raise
    except (OSError, KeyError, TypeError, ValueError, AttributeError, SyntaxError) as error:
        raise ValueError(
            f"--like: {file} does not say how it was drawn: give a PNG that `calotype generate` "
            f"wrote and nothing has rewritten ({' '.join(str(error).split())})"
        ) from error


def compared(image: Float[Tensor, "c H W"], file: Path, by: Mapping[str, Any]) -> str:
    """Whether an image has the pixels of a file, in words."""
    drawn = picture(image)
    with Image.open(file) as opened:
        levels, again = (np.atleast_3d(np.asarray(each, dtype=int))
                         for each in (opened.convert(drawn.mode), drawn))  # fmt: skip
    if again.shape == levels.shape and (again == levels).all():
        return f"the same pixels as {file}"
    if again.shape != levels.shape:
        return f"not the size of {file}, which something has rewritten"
    off = np.abs(again - levels).max(-1)
    drew = ", ".join(f"{name} {value}" for name, value in by.items())
    return (
        f"{(off > 0).mean():.1%} of pixels differ from {file}, by {off.max()} of 255 at most; it "
        f"was drawn by {drew}"
    )
