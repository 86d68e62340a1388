"""Captions of a cache to tokens: what makes them is learnt once, and each shard is read by
whichever process comes to it.
"""

import hashlib
import shutil
import warnings
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from calotype.autoregressive.text import Classes, PromptSpec
from calotype.data.cache.index import PROMPTS, TEXT_TOKENIZER, file_name
from calotype.data.cache.mapped import mapped
from calotype.data.cache.shards import Shard, digest_of_arrays, parts, write_tensors
from calotype.data.cache.texts import from_arrays
from calotype.data.cache.work import each_once, once_by_any
from calotype.data.prompts import tokenize
from calotype.diffusion import LearntText, TextSpec
from calotype.lazy import transformers
from calotype.tokenizers.caching import Prompts
from calotype.tokenizers.filling import WORK
from calotype.training.description import describe
from calotype.training.distributed import processes
from calotype.training.files import publish
from calotype.training.progress import Told

MANY = 100
"""Images; in fewer each may be a class of its own."""
AT_ONCE = 10_000
"""Captions that are read at a time."""


def read_captions(
    text: TextSpec | PromptSpec, root: Path, shards: Sequence[Shard], learnt_from: int
) -> Prompts:
    """Make tokens of the captions of a cache's shards; all processes share the work, and none waits
    for longer than it takes to learn a vocabulary of a sample, or to read a shard.

    Args:
        text: Whose tokens.
        root: Folder of the cache.
        shards: Of it.
        learnt_from: Captions of the sample at most.
    """
    tokenizer, made = _tokenizer(text, root, shards, learnt_from)
    found = each_once(
        root / WORK / PROMPTS, len(shards),
        lambda number: _read_shard(root, shards[number], tokenizer, made),
        "reading captions, by shards",
    )  # fmt: skip
    captions, cut = sum(each[1] for each in found), sum(each[2] for each in found)
    if cut and processes().is_main_process:
        warnings.warn(
            f"{cut} of {captions} captions are longer than {tokenizer.model_max_length} tokens and "
            "were cut: run it again with a longer --text.length, if what reads it takes more",
            stacklevel=2,
        )
    return Prompts([each[0] for each in found], tokenizer.model_max_length, describe(text))


def sampled(text: TextSpec | PromptSpec | None, learnt_from: int) -> int | None:
    """Captions that a vocabulary is learnt from at most; None: none is learnt from a sample."""
    return learnt_from if isinstance(text, LearntText) else None


@dataclass(frozen=True)
class Captions:
    """Captions of a shard's rows, which are read when they are asked for."""

    arrays: dict[str, Tensor]
    ends: Tensor
    """How many are those of each row and of all before."""

    @classmethod
    def of(cls, root: Path, shard: Shard) -> "Captions":
        """Look them up."""
        arrays = mapped(root / shard.pictures)
        return cls(arrays, arrays["captions_each"][: shard.rows])

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.ends[-1])

    def some(self, first: int, last: int) -> list[str]:
        """Read them from the first up to before the last."""
        return from_arrays(self.arrays, "captions", first, last)

    def all(self) -> list[str]:
        """Read all."""
        return self.some(0, self.count)


def _tokenizer(
    text: TextSpec | PromptSpec, root: Path, shards: Sequence[Shard], learnt_from: int
) -> "tuple[transformers.PreTrainedTokenizerFast, str]":
    """What makes the tokens, and a digest of it; it is learnt by one process."""
    folder, beside = root / TEXT_TOKENIZER, root / f".{TEXT_TOKENIZER}.partial"
    classes = _classes(root, shards) if isinstance(text, Classes) else []

    def learn() -> str:
        shutil.rmtree(beside, ignore_errors=True)
        some = _sample(root, shards, most) if (most := sampled(text, learnt_from)) else classes
        with Told(f"learning how to read {len(some)} captions", None) if some else nullcontext():
            text.tokenizer(some).save_pretrained(beside)
        publish(beside, folder)
        return _digest(folder)

    made = once_by_any(root / WORK / "text", learn)
    return transformers.AutoTokenizer.from_pretrained(folder), made


def _digest(folder: Path) -> str:
    """Of the files of a tokenizer."""
    found = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        found.update(file.name.encode() + b"\0" + file.read_bytes())
    return found.hexdigest()


def _classes(root: Path, shards: Sequence[Shard]) -> list[str]:
    """All captions of a cache, each once; processes share the looking."""

    def look(number: int) -> tuple[int, list[str]]:
        captions = Captions.of(root, shards[number])
        return captions.count, sorted(set(captions.all()))

    found = each_once(root / WORK / "classes", len(shards), look)
    classes = sorted(set[str]().union(*(names for _, names in found)))
    total = sum(count for count, _ in found)
    if 2 * len(classes) > total > MANY and processes().is_main_process:
        warnings.warn(
            f"{len(classes)} classes in {total} images: these seem to be captions; choose "
            "text:learnt-text, or take metadata and .txt files out of the folder",
            stacklevel=4,
        )
    return classes


def _sample(root: Path, shards: Sequence[Shard], most: int) -> list[str]:
    """So many captions at most, from all over a cache; no others are read."""
    counts = [Captions.of(root, shard).count for shard in shards]
    total, some = sum(counts), min(sum(counts), most)
    places, found, before = [i * total // some for i in range(some)], list[str](), 0
    for shard, count in zip(shards, counts, strict=True):
        own = places[bisect_left(places, before) : bisect_left(places, before + count)]
        if len(own) == count:
            found += Captions.of(root, shard).all()
        elif own:
            captions = Captions.of(root, shard)
            found += [captions.some(at - before, at - before + 1)[0] for at in own]
        before += count
    return found


def _read_shard(
    root: Path, shard: Shard, tokenizer: "transformers.PreTrainedTokenizerFast", made: str
) -> tuple[str, int, int]:
    """Write the tokens of a shard's captions, where they are not there; returns the file's name,
    how many captions there are and how many of them were cut.
    """
    found = Captions.of(root, shard)
    captions, ends = found.all(), found.ends
    said = torch.tensor([len(caption.encode()) for caption in captions])
    digest = digest_of_arrays({"ends": ends, "said": said}, made, *captions)
    name = file_name(*parts(shard.pictures), digest, PROMPTS)
    if not (root / name).exists():
        some = [captions[i : i + AT_ONCE] for i in range(0, len(captions), AT_ONCE)]
        columns = [[each.int() for each in tokenize(tokenizer, part)] for part in some]
        tokens, lengths = map(torch.cat, zip(*columns, strict=True))
        full = [captions[i] for i in torch.where(lengths == tokenizer.model_max_length)[0].tolist()]
        some = (full[i : i + AT_ONCE] for i in range(0, len(full), AT_ONCE))
        cut = torch.tensor(sum(_cut(tokenizer, part) for part in some))
        arrays = {"tokens": tokens, "lengths": lengths, "captions_each": ends, "cut": cut}
        write_tensors(root / name, arrays)
    with safe_open(root / name, "pt") as stored:
        return name, len(captions), int(stored.get_tensor("cut"))


def _cut(tokenizer: "transformers.PreTrainedTokenizerFast", captions: list[str]) -> int:
    """How many captions, of those that fill a prompt, are longer."""
    limit = tokenizer.model_max_length
    return sum(len(row) > limit for row in tokenizer(captions, verbose=False).input_ids)
