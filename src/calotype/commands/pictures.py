"""Pictures that images are drawn from: one to draw over, or one whose top stands."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from calotype.data.aspect.boxes import BICUBIC
from calotype.data.reading.images import read_image
from calotype.data.reading.transforms import in_mode, pixels
from calotype.pipelines import Over, TokenPipeline, Top, mode_of, sides
from calotype.tokenizers.preprocessing import Cover


@dataclass(frozen=True)
class TopOf:
    """The top part of a picture, as the tokenizer rebuilds it, which images are to continue; of a
    transformer.
    """

    path: Path
    """The picture; it is resized and centre-cropped to the images' shape."""
    part: float = 0.5
    """How much of it stands, from its top, in whole rows of sites."""

    def __post_init__(self) -> None:
        if not 0 < self.part < 1:
            raise ValueError(f"--top.part is {self.part}: it lies between 0 and 1")


@dataclass(frozen=True)
class ImageOf:
    """A picture that images are drawn over (img2img), or a part of it (inpainting)."""

    path: Path
    """The picture; it is resized and centre-cropped to the images' size."""
    strength: float | None = None
    """How much of it is lost, in (0, 1]: 0.3 keeps the scene, 0.8 little more than its colours;
    None: 0.6, and with a mask 1."""
    mask: Path | None = None
    """A picture of the same size, white where it is drawn anew; elsewhere it stays as it is. None:
    all of it is drawn over."""

    def __post_init__(self) -> None:
        if self.strength is not None and not 0 < self.strength <= 1:
            raise ValueError(f"--image.strength is {self.strength}: it lies in (0, 1]")
        for path in (self.path, self.mask):
            if path is not None and not path.is_file():
                raise ValueError(f"no picture {path}")


@dataclass(frozen=True)
class Source:
    """A picture that others are drawn from: by a name that says nothing of the machine, and what
    tells whether it is still the same.
    """

    file: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "Source":
        """Of a file that is there."""
        return cls(from_here(path), hashlib.sha256(path.read_bytes()).hexdigest())

    def found(self, beside: Path) -> Path:
        """The file, where it was or in a folder.

        Raises:
            ValueError: it is in neither, or is another one.
        """
        places = (Path(self.file), beside / Path(self.file).name)
        there = [place for place in places if place.is_file()]
        for place in there:
            if hashlib.sha256(place.read_bytes()).hexdigest() == self.sha256:
                return place
        what = f"{there[0]} is another one now" if there else "it is not here"
        raise ValueError(f"--like: it was drawn from {self.file}, and {what}: put it into {beside}")


def from_here(path: str | Path) -> str:
    """A path without the folders of this machine: as it stands if it is relative, else within the
    folder that one works in, else its last two parts.
    """
    found = Path(path)
    if not found.is_absolute():
        return str(path)
    if found.is_relative_to(Path.cwd()):
        return str(found.relative_to(Path.cwd()))
    return str(Path(*found.parts[1:][-2:]))


def sources(**given: ImageOf | TopOf | None) -> dict[str, Any]:
    """What is drawn from, as a PNG says it."""
    return {
        name: {
            field: asdict(Source.of(value)) if isinstance(value, Path) else value
            for field, value in vars(group).items()
        }
        for name, group in given.items()
        if group is not None
    }


def restored(name: str, said: dict[str, Any], beside: Path) -> ImageOf | TopOf:
    """What `sources` said under a name, with files that are where they were or in a folder.

    Raises:
        ValueError: a file is not there, or is another one.
    """
    kind = {"top": TopOf, "image": ImageOf}[name]
    found = {
        field: Source(**value).found(beside) if isinstance(value, dict) else value
        for field, value in said.items()
    }
    return kind(**found)


def top_of(asked: TopOf, pipeline: TokenPipeline) -> Top:
    """The top as a pipeline takes it.

    Raises:
        ValueError: it is none of its rows or all of them, or no picture.
    """
    rows = round(asked.part * pipeline.layout.height)
    if not 0 < rows < pipeline.layout.height:
        raise ValueError(
            f"--top.part is {asked.part}: of {pipeline.layout.height} rows it leaves "
            f"{'none' if rows == 0 else 'nothing to draw'}"
        )
    image = pipeline.tokenizer.preprocess(asked.path, Cover(*pipeline.shape))
    return Top(image, rows)


def over_of(asked: ImageOf, pipeline: Any, height: int | None, width: int | None) -> Over:
    """The picture to draw over, as a pipeline takes it.

    Raises:
        ValueError: it is no picture, the mask is not of its size or leaves nothing to draw, or the
            pipeline draws none of this size.
    """
    height, width = sides(pipeline, height, width)
    image = read_image(asked.path, str(asked.path))
    fitted = ImageOps.fit(in_mode(image, mode_of(pipeline)), (width, height), BICUBIC)
    shown = pixels(fitted)
    if asked.mask is None:
        return Over(shown, asked.strength or 0.6)
    mask = read_image(asked.mask, str(asked.mask)).convert("L")
    if mask.size != image.size:
        raise ValueError(
            f"--image.mask: {asked.mask} is {mask.width}x{mask.height} and {asked.path} "
            f"{image.width}x{image.height}: make them of one size"
        )
    fitted = ImageOps.fit(mask, (width, height), Image.Resampling.NEAREST)
    anew = torch.from_numpy(np.asarray(fitted) >= 128)[None]
    if not anew.any():
        raise ValueError(f"--image.mask: {asked.mask} has no white: paint what is to be drawn anew")
    return Over(shown, asked.strength or 1.0, anew.float())
