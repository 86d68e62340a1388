"""What ranks do that have a host, and so a disk, of their own each; they can import this file."""

import io
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

import sharing
import tiny
from calotype import cli
from calotype.commands.cache_latents import cache
from calotype.commands.fit_prior import FitPrior
from calotype.commands.fit_prior import fit as fit_command
from calotype.data import CenterCrop, Folder, Transform
from calotype.tokenizers.priors import Mixture, fit_prior
from calotype.training import Batch, Interrupted, Losses, Objective, Run, checkpoint, fit
from calotype.training.agreement import agree, agree_to_share, by_all, by_main, gathered, of_main
from calotype.training.distributed import leave
from calotype.training.hosts import hand_out
from calotype.training.lost import together
from calotype.training.start import started


def at_home(rank: int, world: int, port: int, work: Callable[[int], Any], root: Path) -> None:
    """Work as a rank in a folder that no other rank looks into, and note what it came to."""
    tiny.join(rank, world, port)
    home = root / f"host-{rank}"
    home.mkdir(exist_ok=True)
    os.chdir(home)
    # Each is the first of its host.
    os.environ["LOCAL_RANK"] = "0"
    try:
        said = work(rank)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    (root / f"{work.__name__}-{rank}.json").write_text(json.dumps(said))
    leave()


def all_of_it(rank: int) -> dict:
    """One start of processes for all small questions."""
    found = {}

    def told(name, work):
        try:
            found[name] = work()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"

    told("agreed", lambda: agree({"a": 1, "b": "x"}))
    told("data", lambda: agree({"a": 1, "inputs.data": f"{12 + rank} pictures"}))
    told("shared", lambda: agree_to_share(tokenizer=lambda: f"weights {rank}"))
    told("missing", lambda: agree({"a": 1} if rank else {"a": 1, "b": 2}))
    told("main", lambda: by_main(lambda: os.getpid()) == os.getpid())
    told("mistake", lambda: by_main(lambda: 1 // 0))
    tensors = {"one": {"x": torch.arange(3) + rank, "half": torch.tensor(0.5).bfloat16()},
               "two": {"none": torch.zeros(0, 4), "true": torch.tensor([True])}}  # fmt: skip
    given = of_main(lambda: tensors)
    told("tensors", lambda: {
        f"{group}.{name}": [str(value.dtype), list(value.shape), value.float().tolist()]
        for group, values in given.items() for name, value in values.items()
    })  # fmt: skip
    folder = Path("model")
    if rank == 0:
        (folder / "deep").mkdir(parents=True)
        (folder / "deep/large").write_bytes(bytes(range(256)) * 2**17)
        (folder / "empty").touch()
    else:
        folder.mkdir()
        (folder / "old").touch()
    hand_out(folder)
    told("files", lambda: {str(f): f.stat().st_size for f in sorted(folder.rglob("*"))
                           if f.is_file()})  # fmt: skip
    told("bytes", lambda: (folder / "deep/large").read_bytes() == bytes(range(256)) * 2**17)
    size, place = tiny.run(Path("r"), batch_size=1 + rank), tiny.run(Path(f"r{rank}"))
    for name, settings in (("run", size), ("place", place)):
        recipe = tiny.tokenizer_recipe(Path("r"), run=settings)

        def begin(recipe=recipe):
            with started(recipe.run, recipe, dict, "nothing") as run:
                return run.precision

        told(name, begin)
    with patch("calotype.training.agreement.version", lambda name: f"{name} {rank}"):
        told("version", begin)
    taken = replace(recipe, run=Run(Path("taken")))
    if rank == 0:
        Path("taken").mkdir()
        Path("taken/somebody's").touch()

    def begin_there():
        with started(taken.run, taken, dict, "nothing"):
            return "begun"

    told("taken", begin_there)
    return found


def train_twice(rank: int) -> list[str]:
    """Interrupted by its own end, and taken up from the main process's disk alone."""
    tiny.train("generator", tiny.run(Path("run"), batch_size=4, steps=3))
    tiny.train("generator", tiny.run(Path("run"), batch_size=4, steps=5, resume=True))
    return sorted(folder.name for folder in Path("run").glob("checkpoints/step-*"))


def other_has_more(rank: int) -> str:
    """The checkpoints are on the second host: a launcher numbers hosts as it likes."""
    tiny.train("generator", tiny.run(Path("run"), batch_size=4, steps=3))
    if rank == 0:
        Path("run/checkpoints").rename("../host-1/run/checkpoints")
    gathered(None)
    tiny.train("generator", tiny.run(Path("run"), batch_size=4, steps=5, resume=True))
    return "trained"


def fill_a_cache(rank: int) -> None:
    """Into a folder of its own."""
    asked = sharing.recipe(Path.cwd().parent, 24, 8, out=Path("latents"))
    sharing.fill(asked)


def cache_other_pictures(rank: int) -> None:
    """As many, of which one has another name."""
    photos = tiny.mixed(Path("photos"), 6)
    if rank:
        (photos / "00.png").rename(photos / "06.png")
    asked = sharing.recipe(Path.cwd().parent, 6, 8, out=Path("latents"), text=None)
    cache(replace(asked, data=Folder(Path("photos")), transform=Transform(CenterCrop(tiny.SIZE))))


def fit_a_prior(rank: int) -> tuple[str, int]:
    """To a tokenizer that all see; the file, and how often it is done here."""
    model = Path.cwd().parent / "tokenizer"
    with patch("calotype.commands.fit_prior.fit_prior", side_effect=fit_prior) as fitted:
        file = fit_command(
            FitPrior(model, data=tiny.SCENES, prior=Mixture(2), count=20, device="cpu")
        )
    return file.name, fitted.call_count


def whole_recipe(rank: int) -> dict[str, str]:
    """From the recipe to the model that is exported; its files' checksums."""
    tiny.train("recipe", tiny.run(Path("run"), batch_size=4))
    model = Path("run/model")
    return {str(file.relative_to(model)): sha256(file.read_bytes()).hexdigest()
            for file in model.rglob("*") if file.is_file()}  # fmt: skip


def command(said: str) -> tuple[int, str]:
    """A command's exit code and its last line; 1 is Python's own for what is no mistake."""
    lines = io.StringIO()
    try:
        with redirect_stderr(lines):
            cli.main(said.split())
    except SystemExit as end:
        return int(end.code or 0), lines.getvalue().splitlines()[-1]
    except Exception as error:
        return 1, f"{type(error).__name__}: {error}"
    return 0, ""


def two_seeds(rank: int) -> int:
    """The exit code of a command that differs."""
    return command(f"train-tokenizer scenes-kl --run.out run --run.seed {rank}")[0]


EXPLAIN = "calotype.commands.explain.explain_names"


def other_misspells(rank: int) -> tuple[int, str]:
    """What is no flag, before anything is begun."""
    flag = "--run.sead" if rank else "--run.seed"
    return command(f"train-tokenizer scenes-kl --run.out run {flag} 1")


def other_has_no_data(rank: int) -> tuple[int, str]:
    """While the first waits for it to compare."""
    if rank == 0:
        tiny.mixed(Path("photos"))
    return command("train-tokenizer small-kl --data.path photos --run.out run")


def main_takes_its_time(rank: int) -> list:
    """Longer than an exchange waits, and then each of them, and then it dies."""
    os.environ["CALOTYPE_TIMEOUT"] = "2"
    agree({"a": 1})
    slow = partial(time.sleep, 5)
    found = [by_main(lambda: slow() or 7)]
    by_all(slow if rank else lambda: None)
    began = time.monotonic()
    try:
        by_main(lambda: os._exit(0))
    except ConnectionError as error:
        return [*found, str(error), time.monotonic() - began]
    raise AssertionError


def preview_takes_its_time(rank: int) -> int:
    """A picture that takes longer to draw than an exchange waits; the step that is reached."""
    os.environ["CALOTYPE_TIMEOUT"] = "2"
    objective = Measured(rank)
    objective.preview = lambda: time.sleep(4)  # type: ignore[method-assign]
    run = tiny.run(Path("run"), evaluate_every=9, sample_every=1, steps=2)
    fit([objective], tiny.Repeating({"x": torch.ones(8, 1)}, 4), run)
    return objective.seen


def main_fails_while_the_other_computes(rank: int) -> tuple[int, str]:
    """Of a bug, in a command in which nobody waits for anybody, but at its end."""

    def work(options: Any) -> None:
        if rank == 0:
            raise RuntimeError("a bug")
        time.sleep(4)
        gathered(None)

    with patch(EXPLAIN, work):
        return command("explain psnr")


def a_third_computes(rank: int) -> tuple[int, str]:
    """While the second fails, and the first, which keeps the store, is gone as soon as it hears."""

    def work(options: Any) -> None:
        if rank == 1:
            raise RuntimeError("a bug")
        time.sleep(3 if rank == 2 else 0)
        gathered(None)

    with patch(EXPLAIN, work):
        found = command("explain psnr")
    if rank == 0:
        Path(f"../{a_third_computes.__name__}-0.json").write_text(json.dumps(found))
        os._exit(0)
    return found


def other_is_interrupted(rank: int) -> tuple[int, str]:
    """By somebody on its machine."""

    def work(options: Any) -> None:
        if rank == 1:
            raise KeyboardInterrupt
        gathered(None)

    with patch(EXPLAIN, work):
        return command("explain psnr")


def other_does_not_come(rank: int) -> tuple[int, str]:
    """Its machine has not begun."""
    os.environ["CALOTYPE_TIMEOUT"] = "3"
    return (0, "") if rank else command("explain psnr")


def main_is_done_first(rank: int) -> tuple[int, str, float]:
    """And keeps the store; after how many seconds it ends."""
    began = time.monotonic()
    with patch(EXPLAIN, lambda options: time.sleep(5 * rank)):
        return *command("explain psnr"), time.monotonic() - began


def other_raises(rank: int) -> None:
    """Something that is the second rank's alone."""
    _part(rank == 1)


def main_raises(rank: int) -> None:
    """Whose store is gone when it has ended."""
    _part(rank == 0)


def _part(mine: bool) -> None:
    with together():
        agree({"a": 1})
        if mine:
            raise ValueError("its own disk is full")
        dist.all_reduce(torch.ones(1))


def other_dies(rank: int) -> None:
    """Without a word."""
    with together():
        agree({"a": 1})
        if rank:
            os._exit(0)
        dist.all_reduce(torch.ones(1))


def other_hangs(rank: int) -> tuple[str, float]:
    """What is said of it, and after how many seconds."""
    began = time.monotonic()
    os.environ["CALOTYPE_TIMEOUT"] = "2"
    try:
        with together():
            agree({"a": 1})
            if rank:
                time.sleep(8)
            dist.all_reduce(torch.ones(1))
    except ConnectionError as error:
        return str(error), time.monotonic() - began
    raise AssertionError


class Measured(Objective):
    """Learns a number; its second measurement sends the second rank a signal."""

    def __init__(self, rank: int) -> None:
        super().__init__(tiny.adam(0.1))
        self.w, self.rank, self.seen = torch.nn.Parameter(torch.zeros(1)), rank, 0
        self.evaluation = self.measured

    def forward(self, batch: Batch, step: int) -> Losses:
        return {"distance": 1 - self.w.sum()}

    def measured(self) -> dict[str, float]:
        self.seen += 1
        if self.rank and self.seen == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"error": self.w.item()}


def one_is_stopped_over_an_evaluation(rank: int) -> tuple[int, int, list[str]]:
    """By which signal and at which step it ends, and what is saved."""
    run = tiny.run(Path("run"), evaluate_every=2, steps=9, save_every=20)
    try:
        fit([Measured(rank)], tiny.Repeating({"x": torch.ones(8, 1)}, 4), run)
    except Interrupted as stop:
        saved = [path.name for path in checkpoint.complete(run.checkpoints)]
        return stop.number, stop.step, saved
    raise AssertionError


def writer_fails(rank: int) -> None:
    """The main process's disk is full, on which it writes beside the training."""
    recipe = tiny.tokenizer_recipe(Path("."), run=tiny.run(Path("run"), steps=1000, save_every=2))

    def full(*arguments: Any) -> None:
        raise OSError("no room for a checkpoint")

    with patch.object(checkpoint, "write", full), started(recipe.run, recipe, dict, "a") as run:
        tiny.train("generator", run)
