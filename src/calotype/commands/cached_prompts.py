"""Captions of a cache to tokens: what makes them is learnt once, and each shard is read by
whichever process comes to it.
"""

import hashlib
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from calotype.autoregressive.text import Classes, PromptSpec
from calotype.data.cache.index import PROMPTS, TEXT_TOKENIZER, file_name
from calotype.data.cache.shards import Shard, digest_of_arrays, parts, write_tensors
from calotype.data.cache.texts import from_arrays
from calotype.data.cache.work import Work
from calotype.data.prompts import tokenize
from calotype.diffusion import TextSpec
from calotype.lazy import transformers
from calotype.tokenizers.caching import Prompts
from calotype.tokenizers.filling import WORK
from calotype.training.description import describe
from calotype.training.distributed import processes
from calotype.training.files import publish
from calotype.training.progress import Told, track

LEARNT_FROM = 100_000
"""Captions, from all over a cache, that a vocabulary is learnt from at most; classes are counted in
all."""
MANY = 100
"""Images; in fewer each may be a class of its own."""
AT_ONCE = 10_000
"""Captions that are read at a time."""


def read_captions(text: TextSpec | PromptSpec, root: Path, shards: Sequence[Shard]) -> Prompts:
    """Make tokens of the captions of a cache's shards; all processes share the work, and none waits
    for longer than it takes to learn a vocabulary of a sample, or to read a shard.
    """
    tokenizer, made = _tokenizer(text, root, shards)
    with Work(root / WORK / PROMPTS) as work:
        for wait in (False, True):
            numbers = (n for n in range(len(shards)) if work.take(n, wait))
            told = numbers if wait else track(numbers, "reading captions, by shards", len(shards))
            for number in told:
                work.done(number, _read_shard(root, shards[number], tokenizer, made))
        found = [work.result(number) for number in range(len(shards))]
    captions, cut = sum(each[1] for each in found), sum(each[2] for each in found)
    if cut and processes().is_main_process:
        warnings.warn(
            f"{cut} of {captions} captions are longer than {tokenizer.model_max_length} tokens and "
            "were cut: run it again with a longer --text.length, if what reads it takes more",
            stacklevel=2,
        )
    return Prompts([each[0] for each in found], tokenizer.model_max_length, describe(text))


class Captions(NamedTuple):
    """Captions of a shard's rows, and how many of them are those of each row and of all before."""

    captions: list[str]
    ends: Tensor

    @classmethod
    def of(cls, root: Path, shard: Shard, first: int = 0, last: int | None = None) -> "Captions":
        """Read them from the first to the last one; None: to the end."""
        names = ("captions", "captions_ends", "captions_each")
        with safe_open(root / shard.pictures, "pt") as stored:
            arrays = {name: stored.get_tensor(name) for name in names}
        ends = arrays["captions_each"][: shard.rows]
        return cls(from_arrays(arrays, "captions", first, last or int(ends[-1])), ends)


def _tokenizer(
    text: TextSpec | PromptSpec, root: Path, shards: Sequence[Shard]
) -> "tuple[transformers.PreTrainedTokenizerFast, str]":
    """What makes the tokens, and a digest of it; it is learnt by one process."""
    folder, beside = root / TEXT_TOKENIZER, root / f".{TEXT_TOKENIZER}.partial"
    with Work(root / WORK / "text") as work:
        if work.take(0, wait=True):
            shutil.rmtree(beside, ignore_errors=True)
            _learnt(text, root, shards).save_pretrained(beside)
            publish(beside, folder)
            work.done(0, _digest(folder))
        made = work.result(0)
    return transformers.AutoTokenizer.from_pretrained(folder), made


def _digest(folder: Path) -> str:
    """Of the files of a tokenizer."""
    found = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        found.update(file.name.encode() + b"\0" + file.read_bytes())
    return found.hexdigest()


def _learnt(
    text: TextSpec | PromptSpec, root: Path, shards: Sequence[Shard]
) -> "transformers.PreTrainedTokenizerFast":
    counts = [int(Captions.of(root, shard).ends[-1]) for shard in shards]
    total = sum(counts)
    if isinstance(text, Classes):
        classes = set[str]()
        for shard in shards:
            classes.update(Captions.of(root, shard).captions)
        if 2 * len(classes) > total > MANY:
            warnings.warn(
                f"{len(classes)} classes in {total} images: these seem to be captions; choose "
                "text:learnt-text, or take metadata and .txt files out of the folder",
                stacklevel=2,
            )
        return text.tokenizer(classes)
    some = min(total, LEARNT_FROM)
    with Told(f"learning how to read {some} captions", None):
        return text.tokenizer(list(_sample(root, shards, counts, some)))


def _sample(root: Path, shards: Sequence[Shard], counts: Sequence[int], some: int) -> Iterator[str]:
    """So many captions from all over a cache."""
    total, before = sum(counts), 0
    places = (i * total // some for i in range(some))
    place = next(places, None)
    for shard, count in zip(shards, counts, strict=True):
        captions = Captions.of(root, shard).captions
        while place is not None and place < before + count:
            yield captions[place - before]
            place = next(places, None)
        before += count


def _read_shard(
    root: Path, shard: Shard, tokenizer: "transformers.PreTrainedTokenizerFast", made: str
) -> tuple[str, int, int]:
    """Write the tokens of a shard's captions, where they are not there; returns the file's name,
    how many captions there are and how many of them were cut.
    """
    captions, ends = Captions.of(root, shard)
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
