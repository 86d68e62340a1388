"""What ranks do together that fill one cache, or draw and measure; they can import this file."""

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate import PartialState
from torch.utils.data import Dataset

import tiny
from calotype.commands import cached_prompts
from calotype.commands.cache_latents import cache
from calotype.commands.compare import Compare, compare
from calotype.commands.evaluate import Evaluate, evaluate
from calotype.commands.generate import Generate, generate
from calotype.commands.reconstruct import Reconstruct, reconstruct
from calotype.commands.score import Score, score_images
from calotype.data import Folder, Scenes
from calotype.diffusion import LearntText
from calotype.pipelines import Choice
from calotype.recipes.cache import CacheRecipe
from calotype.tokenizers.encoder import Encoder
from calotype.training.distributed import leave

TEXT = LearntText(width=16, layers=1, heads=2, length=16, vocabulary=600)


class Sayings(Dataset):
    """Captions; their pictures are all alike."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {name: values[0] for name, values in self.batch([i], [0]).items()}

    def batch(self, indices: list[int], keys: list[int]) -> dict[str, Any]:
        """Some of them."""
        images = torch.zeros(len(indices), 3, tiny.SIZE, tiny.SIZE, dtype=torch.uint8)
        return {"image": images, "caption": [f"picture {i}" for i in indices]}


@dataclass(frozen=True)
class Said(Scenes):
    """A source that costs nothing."""

    def build(self) -> Any:
        return Sayings(self.count)


def recipe(root: Path, count: int, shard: int, **changes) -> CacheRecipe:
    base = CacheRecipe(str(root / "tokenizer"), root / "latents", Said(tiny.SIZE, count=count),
                       text=TEXT, learnt_from=1000, precision="fp32", batch_size=min(shard, 1024),
                       shard_size=shard)  # fmt: skip
    return replace(base, **changes)


def fill(
    asked: CacheRecipe, each: Callable[[], None] = lambda: None,
    read: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Make a cache whose encoding costs nothing but `each` for a batch, and whose reading of a
    shard's captions costs `read` more.
    """
    tokenize = cached_prompts.tokenize

    def rows(self: Encoder, images: torch.Tensor, full: int = 0) -> dict[str, torch.Tensor]:
        each()
        return {"packed": torch.zeros(len(images), 4, 1, 1).half()}

    def slow(*given: Any) -> Any:
        read()
        return tokenize(*given)

    with patch.object(Encoder, "rows", rows), patch.object(cached_prompts, "tokenize", slow):
        cache(asked)


def begin(rank: int, world: int, port: int, timeout: float) -> None:
    """Be a rank that waits for others no longer than so many seconds."""
    tiny.join(rank, world, port)
    torch.set_num_threads(1)
    PartialState(cpu=True, timeout=timedelta(seconds=timeout))


def fill_as_rank(
    rank: int, world: int, port: int, asked: CacheRecipe, timeout: float, late: float = 0.0
) -> None:
    """Fill a cache, rank 1 so many seconds late with its first shard's captions; note how much it
    did.
    """
    begin(rank, world, port, timeout)
    encoded, read = [], []

    def read_one() -> None:
        time.sleep(late if rank and not read else 0)
        read.append(1)

    fill(asked, lambda: encoded.append(1), read_one)
    (asked.out.parent / f"rank-{rank}.json").write_text(json.dumps([len(encoded), len(read)]))
    leave()


def fill_and_die(rank: int, world: int, port: int, asked: CacheRecipe) -> None:
    """Fill a cache; rank 1 is killed over its third batch, its shard half done."""
    begin(rank, world, port, 60)
    encoded: list[int] = []

    def act() -> None:
        encoded.append(1)
        time.sleep(0.1 if rank == 0 else 0)
        if rank == 1 and len(encoded) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    fill(asked, act)
    leave()


def options(models: Path, out: Path) -> dict[str, Callable[[], Any]]:
    """What each verb is asked for."""
    vq, drawer, tokens = (str(models / name) for name in ("vq", "drawer", "tokens"))
    how: dict[str, Any] = {
        "data": Folder(models / "pictures"), "count": 9, "features": "efficientnet-lite0",
        "lpips": (), "batch_size": 2, "device": "cpu",
    }  # fmt: skip
    drawing: dict[str, Any] = {**how, "repeats": 2, "training": Folder(models / "pictures"),
                               "sampling": Choice(steps=2, batch_size=4)}  # fmt: skip
    fp32: dict[str, Any] = {"precision": "fp32", "device": "cpu"}
    return {
        "tokenizer": lambda: evaluate(Evaluate(artifact=vq, out=out / "vq.json", **how)),
        "generator": lambda: evaluate(Evaluate(artifact=drawer, out=out / "d.json", **drawing)),
        "compare": lambda: compare(Compare(artifacts=(vq, str(models / "kl")), out=out / "page",
                                           **how)),
        "score": lambda: score_images(Score(tokens, how["data"], batch_size=2,
                                            out=out / "scores.jsonl", **fp32)),
        "reconstruct": lambda: reconstruct(Reconstruct(vq, how["data"], count=20,
                                                       out=out / "pairs.png", **fp32)),
        "worst": lambda: reconstruct(Reconstruct(vq, how["data"], worst=3,
                                                 out=out / "worst.html", **fp32)),
        "generate": lambda: generate(Generate(
            ("a red circle", "a blue square"), drawer, out / "drawn", images=6, grid=True,
            sampling=Choice(steps=2, batch_size=3), **fp32)),
        "missing": lambda: evaluate(Evaluate(artifact=vq, out=out / "no.json",
                                             **{**how, "data": Folder(models / "broken")})),
    }  # fmt: skip


def all_verbs(models: Path, out: Path) -> dict[str, str]:
    """Do all; what each came to."""
    said = {}
    with patch("calotype.commands.reconstruct.EACH", 2):  # so that there is something to share
        for name, act in options(models, out).items():
            try:
                said[name] = str(act())
            except Exception as error:
                said[name] = f"{type(error).__name__}: {error}"
    return said


def verbs_as_rank(rank: int, world: int, port: int, models: Path, out: Path) -> None:
    """As one of several ranks; what it prints goes into a file."""
    begin(rank, world, port, 60)
    out.mkdir(exist_ok=True)
    with (out.parent / f"said-{rank}.txt").open("w") as file, redirect_stdout(file):
        said = all_verbs(models, out)
    (out.parent / f"came-to-{rank}.json").write_text(json.dumps(said))
    leave()


def measure_and_die(rank: int, world: int, port: int, models: Path, out: Path, how: str) -> None:
    """Measure; over its second batch rank 1 is killed, or it raises."""
    from calotype.evaluation import tokenizer

    begin(rank, world, port, 60)
    done, passed = [], tokenizer._pass

    def pass_on(*given: Any) -> Any:
        done.append(1)
        if rank == 1 and len(done) == 2:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("the disk is on fire")
        return passed(*given)

    with patch.object(tokenizer, "_pass", pass_on):
        try:
            said = str(options(models, out)["tokenizer"]())
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
    (out / f"end-{rank}.txt").write_text(said)
    os._exit(3)  # as a command that failed; nothing of gloo's is waited for
