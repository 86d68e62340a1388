"""What a cache of latents is made of: the recipe."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from calotype.autoregressive.text import PromptSpec
from calotype.data import Scenes, Source, Transform
from calotype.data.cache.index import LEARNT_FROM
from calotype.diffusion import LearntText, TextSpec
from calotype.training.precision import Precision


@dataclass(frozen=True)
class CacheRecipe:
    """Encode images once, to moments or to ids of codes, so that a generator can be trained on
    them. Processes share the shards.
    """

    tokenizer: str
    """Folder of a tokenizer, such as the model/ of a train-tokenizer run or any stock AutoencoderKL
    or VQModel, or a name on the Hub."""
    out: Path
    """Folder of the cache."""
    data: Source = field(default_factory=Scenes)
    transform: Transform | None = None
    """How pictures become square images; None: they are already."""
    text: TextSpec | PromptSpec | None = field(default_factory=LearntText)
    """Whose tokens the captions become: a CLIP text encoder's, for any generator; another
    tokenizer's or one a class, for an autoregressive one; None: no captions."""
    learnt_from: int = LEARNT_FROM
    """Captions, from all over the cache, that a learnt text's vocabulary is made of at most."""
    count: int | None = None
    """Images to encode, from all over the data, or of a stream the first; None: all."""
    crops: int = 1
    """Of each picture, where the transform crops at random; training takes another each epoch."""
    frames: bool = False
    """Keep of each row how large its picture was and where it was cropped, for a diffusion model
    that is told so."""
    flipped: bool = False
    """Encode each image's mirror image too; wrong where captions say left and right."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of the stored moments of a KL tokenizer; ids of codes are integers in either."""
    precision: Precision = "auto"
    """Of encoding; what is stored was float32. auto: bf16 where the device multiplies it in
    hardware, else fp32; a cache that is half done keeps what it began in."""
    batch_size: int = 64
    workers: int = 0
    shard_size: int = 8192
    """Pictures in a shard; a run that was stopped continues at the next one."""

    def __post_init__(self) -> None:
        if self.frames and self.transform is None:
            raise ValueError(
                "--frames: without a transform all pictures are whole and of one size: choose "
                "transform:transform"
            )
        for name in ("learnt_from", "count", "crops", "batch_size", "shard_size", "workers"):
            value, least = getattr(self, name), 0 if name == "workers" else 1
            if value is not None and value < least:
                raise ValueError(f"--{name.replace('_', '-')} is {value}: choose {least} or more")
