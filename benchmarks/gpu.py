"""calotype on one GPU in eight minutes: whether it is right and waits, how fast, how much memory.

    python benchmarks/gpu.py          on a card
    python benchmarks/gpu.py --cpu    whatever of it a CPU can do, in small

Each stage has seconds of its own and writes benchmarks/gpu.json and gpu.md when it ends, so that a
run that is cut short keeps what it has; --cpu writes beside them, gpu-cpu.json and gpu-cpu.md.
LPIPS has a random backbone, which takes as long as a trained one.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file
from transformers import CLIPTokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import tiny
from calotype.autoregressive import Decoder, Layout, PromptTokens, Raster, TokenSampling, draw_codes
from calotype.autoregressive import Transformer as TransformerSpec
from calotype.commands import rehearsal
from calotype.diffusion import Epsilon, Velocity
from calotype.evaluation.speed import speed
from calotype.recipes.generators import GENERATORS
from calotype.recipes.tokenizers import TOKENIZERS
from calotype.tokenizers.bottlenecks import BSQ, FSQ
from calotype.tokenizers.terms import R1, LeCAM
from calotype.training import Batch, Objective, Run, fit
from calotype.training.precision import DTYPES

HERE = Path(__file__).parent
SECONDS = 480.0
"""Of all stages together."""
Loaded = Callable[[], list[Objective]]


@dataclass
class Bench:
    """Where stages leave what they found."""

    cpu: bool
    began: float = field(default_factory=time.monotonic)
    found: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """What is measured."""
        return torch.device("cpu" if self.cpu else "cuda")

    def wait(self) -> None:
        """Until the device has done all that it was told."""
        if not self.cpu:
            torch.cuda.synchronize()

    def stage(self, table: str, row: str, work: Callable[[], dict[str, Any]]) -> None:
        """Do a part of the work, while there is time, and keep what it found, or how it failed."""
        if not self.cpu and time.monotonic() - self.began > SECONDS:
            found: dict[str, Any] = {"no time": True}
        else:
            try:
                found = work()
            except Exception as error:
                lines = traceback.format_exc(limit=-3).splitlines()
                found = {"fails": f"{type(error).__name__}: {str(error)[:300]}", "at": lines[-8:]}
        self.tables.setdefault(table, []).append({"": row, **found})
        print(f"{time.monotonic() - self.began:5.0f} s  {table}, {row}: {json.dumps(found)[:300]}",
              flush=True)  # fmt: skip
        self.write()
        if not self.cpu:
            torch.cuda.empty_cache()

    def write(self) -> None:
        """What there is so far."""
        name = "gpu-cpu" if self.cpu else "gpu"
        said = {**self.found, "tables": self.tables}
        (HERE / f"{name}.json").write_text(json.dumps(said, indent=1) + "\n")
        parts = [f"# One device: {self.found['device']}, torch {self.found['torch']}"]
        parts += [f"## {title}\n\n{_markdown(rows)}" for title, rows in self.tables.items()]
        (HERE / f"{name}.md").write_text("\n\n".join(parts) + "\n")


def _markdown(rows: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row if name != "at"))
    lines = [names, ["---"] * len(names)]
    lines += [[_said(row.get(name, "")) for name in names] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "/").replace("\n", " ")


def codes(name: str) -> Loaded:
    """A tokenizer with codes."""
    return lambda: tiny.learners(False, bottleneck=tiny.BOTTLENECKS[name])


def opposed(regulariser: Any = None) -> Loaded:
    """A tokenizer and its adversary."""
    return lambda: tiny.learners(True, tiny.adversary(regulariser=regulariser))


OBJECTIVES: dict[str, tuple[Loaded, str]] = {
    "kl, lpips, adversary": (opposed(), "images"),
    "kl, adversary, r1": (opposed(R1(0.1)), "images"),
    "kl, adversary, lecam": (opposed(LeCAM(0.1, 0.9)), "images"),
    **{name: (codes(name), "images") for name in tiny.BOTTLENECKS},
    "bsq": (lambda: tiny.learners(False, bottleneck=BSQ(bits=4)), "images"),
    "fsq": (lambda: tiny.learners(False, bottleneck=FSQ((5, 5, 5))), "images"),
    "flow": (lambda: [tiny.denoising()], "latents"),
    "epsilon": (lambda: [tiny.denoising(process=Epsilon(snr_gamma=5.0))], "latents"),
    "velocity": (lambda: [tiny.denoising(process=Velocity(snr_gamma=5.0))], "latents"),
    "transformer": (lambda: [tiny.next_token(order=Raster())], "tokens"),
    "transformer, random orders": (lambda: [tiny.next_token()], "tokens"),
}


def rows(kind: str) -> dict[str, torch.Tensor]:
    """Of which batches are made."""
    match kind:
        case "images":
            return {"image": tiny.images(16)}
        case "latents":
            return tiny.latents()
    return tiny.tokens()


class Pinned(tiny.Repeating):
    """Batches as the loader gives them where there is a GPU."""

    def __init__(self, rows: dict[str, torch.Tensor], pinned: bool) -> None:
        super().__init__(rows, 4)
        self.pinned = pinned

    def batches(
        self,
        position: int = 0,
        rank: int = 0,
        world: int = 1,
        micro_batch: int | None = None,
    ) -> Iterator[Batch]:
        """Endless."""
        for batch in super().batches(position, rank, world, micro_batch):
            yield {k: v.pin_memory() if self.pinned and isinstance(v, torch.Tensor) else v
                   for k, v in batch.items()} | {"longest": 8}  # fmt: skip


def run(out: Path, **changes: Any) -> Run:
    """A short one, in float32 unless told otherwise."""
    return tiny.run(out, save_every=10**6, sample_every=10**6, **changes)


def on(device: str) -> Any:
    """Where `fit` trains within this context."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    return patch.dict(os.environ, ACCELERATE_USE_CPU=str(device == "cpu").lower())


def lines(out: Path) -> list[dict[str, float]]:
    """Of metrics.jsonl."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def same(bench: Bench, name: str) -> dict[str, Any]:
    """A few steps here and on the CPU: losses differ by rounding alone. Noise comes from keys and
    is drawn on the CPU, but for the dVAE's.
    """
    make, kind = OBJECTIVES[name]
    with tempfile.TemporaryDirectory() as folder:
        for device in ("cpu", bench.device.type):
            with on(device):
                settings = run(Path(folder) / device, steps=4, log_every=1)
                fit(make(), Pinned(rows(kind), device == "cuda"), settings)
        a, b = (lines(Path(folder) / device) for device in ("cpu", bench.device.type))
    worst = max(
        (abs(x[k] - y[k]) / (abs(x[k]) + 1e-3), k) for x, y in zip(a, b, strict=True) for k in x
    )
    return {"largest relative difference": round(worst[0], 7), "of": worst[1]}


def resumed(bench: Bench, name: str) -> dict[str, Any]:
    """Stopped after two steps of four and taken up: whether all bits are the same."""
    make, kind = OBJECTIVES[name]
    with tempfile.TemporaryDirectory() as folder, on(bench.device.type):
        whole, parts = Path(folder) / "whole", Path(folder) / "parts"
        for out, steps, resume in ((whole, 4, False), (parts, 2, False), (parts, 4, True)):
            settings = replace(run(out, steps=steps), resume=resume)
            fit(make(), Pinned(rows(kind), not bench.cpu), settings)
        a, b = (load_file(out / "checkpoints/step-4/model-0.safetensors") for out in (whole, parts))
    return {"equal bit for bit": all(torch.equal(a[name], b[name]) for name in a)}


def waits(bench: Bench, name: str) -> dict[str, Any]:
    """Lines that wait for the device in a steady step, by torch's own alarm."""
    if bench.cpu:
        return {"waits": "none of a CPU"}
    make, kind = OBJECTIVES[name]
    batches, heard = Pinned(rows(kind), True), []

    class Listening(Pinned):
        def batches(
            self,
            position: int = 0,
            rank: int = 0,
            world: int = 1,
            micro_batch: int | None = None,
        ) -> Iterator[Batch]:
            for number, batch in enumerate(batches.batches(position, rank, world)):
                torch.cuda.set_sync_debug_mode("warn" if number == 4 else "default")
                yield batch

    with tempfile.TemporaryDirectory() as folder, on("cuda"), warnings.catch_warnings():
        warnings.simplefilter("always")
        shown = warnings.showwarning
        warnings.showwarning = lambda message, category, file, line, *_: heard.append(
            (str(message), f"{Path(file).name}:{line}")
        )
        try:
            fit(make(), Listening({}, True), run(Path(folder) / "x", steps=6, log_every=100))
        finally:
            torch.cuda.set_sync_debug_mode("default")
            warnings.showwarning = shown
    places = [place for message, place in heard if "synchroniz" in message]
    return {"waits": len(places), "where": ", ".join(sorted({*places}))}


def peak(bench: Bench, precision: str) -> dict[str, Any]:
    """Of matrix products, the share of which is what a step reaches."""
    n = 512 if bench.cpu else 8192
    a, b = (torch.randn(n, n, device=bench.device, dtype=DTYPES[precision]) for _ in range(2))
    taken = speed(lambda: a @ b, bench.device, repeats=10)
    bench.found[f"peak {precision}"] = 2 * n**3 / taken.seconds
    return {"TFLOP/s": 2 * n**3 / taken.seconds / 1e12}


@dataclass(frozen=True)
class Job:
    """A recipe's step."""

    recipe: str
    batch: int
    precision: str = "bf16"
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.recipe}, {self.batch}, {self.precision}{', compiled' * self.compiled}"


def step(bench: Bench, job: Job) -> dict[str, Any]:
    """Images a second, share of the peak, how busy kernels are, and memory beside what was computed
    without the device.
    """
    recipe = {**TOKENIZERS, **GENERATORS}[job.recipe]()
    recipe = replace(recipe, run=replace(recipe.run, batch_size=job.batch))
    counted = rehearsal.needs(recipe, DTYPES[job.precision])
    made = rehearsal.rehearsed(recipe)
    steps = 6 if bench.cpu else 24
    marks: list[float] = []

    class Endless:
        def batches(
            self,
            position: int = 0,
            rank: int = 0,
            world: int = 1,
            micro_batch: int | None = None,
        ) -> Iterator[Batch]:
            batch = {k: v.pin_memory() if isinstance(v, torch.Tensor) and not bench.cpu else v
                     for k, v in made.batch.items()}  # fmt: skip
            for number in itertools.count():
                if number in (2, steps - 1):
                    bench.wait()
                marks.append(time.perf_counter())
                yield batch

    for learner in made.objectives:
        adversary = getattr(learner, "adversary", None)
        if adversary is not None:
            early = replace(adversary, start=0, effect_start=0)
            learner.adversary = early
            learner.opponent[0].opponent = (early, learner.discriminator)
    with tempfile.TemporaryDirectory() as folder, on(bench.device.type):
        settings = replace(recipe.run, out=Path(folder) / "x", steps=steps, compile=job.compiled,
                           precision=job.precision, log_every=10**6, save_every=10**6,
                           sample_every=10**6, workers=0, best=None)  # fmt: skip
        if not bench.cpu:
            torch.cuda.reset_peak_memory_stats()
        fit(made.objectives, Endless(), settings)
    each = (marks[steps - 1] - marks[2]) / (steps - 3)
    work = counted.convolution_flops + counted.product_flops
    found = {
        "images/s": job.batch / each, "TFLOP/s": work / each / 1e12,
        "of the peak": work / each / bench.found.get(f"peak {job.precision}", float("nan")),
        "first two steps, s": marks[2] - marks[0],
        "GiB computed": (counted.state + counted.step) / 2**30,  # of tensors alone
    }  # fmt: skip
    if not bench.cpu:
        found["GiB at its height"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def busy(bench: Bench, job: Job) -> dict[str, Any]:
    """The part of a steady step's time in which kernels run."""
    if bench.cpu:
        return {"kernels busy": "of a GPU"}
    from torch.profiler import ProfilerActivity, profile

    recipe = {**TOKENIZERS, **GENERATORS}[job.recipe]()
    recipe = replace(recipe, run=replace(recipe.run, batch_size=job.batch))
    made = rehearsal.rehearsed(recipe)
    seen = profile(activities=[ProfilerActivity.CUDA])
    marks = []

    class Endless:
        def batches(
            self,
            position: int = 0,
            rank: int = 0,
            world: int = 1,
            micro_batch: int | None = None,
        ) -> Iterator[Batch]:
            batch = {k: v.pin_memory() if isinstance(v, torch.Tensor) else v
                     for k, v in made.batch.items()}  # fmt: skip
            for number in itertools.count():
                if number == 4:  # to begin to look takes its time, too
                    seen.__enter__()
                if number in (4, 8):
                    bench.wait()
                    marks.append(time.perf_counter())
                if number == 8:
                    seen.__exit__(None, None, None)
                yield batch

    with tempfile.TemporaryDirectory() as folder, on("cuda"):
        settings = replace(recipe.run, out=Path(folder) / "x", steps=10, compile=job.compiled,
                           precision=job.precision, log_every=10**6, save_every=10**6,
                           sample_every=10**6, workers=0, best=None)  # fmt: skip
        fit(made.objectives, Endless(), settings)
    ran = sum(event.self_device_time_total for event in seen.key_averages()) / 1e6
    return {"kernels busy": ran / (marks[1] - marks[0])}


def tokens(bench: Bench, images: int, precision: str, compiled: bool = False) -> dict[str, Any]:
    """Drawing a transformer's images, beside transformers' `generate()` with a static cache."""
    side, width, layers = (4, 64, 2) if bench.cpu else (16, 768, 12)
    layout = Layout(1000, 64 if bench.cpu else 16384, 1, side, side)
    model: Any = TransformerSpec(width, layers, width // 64 or 1).build(layout, 1)
    model = model.to(bench.device, DTYPES[precision]).eval()
    decoder = Decoder(model, layout, compiled, DTYPES[precision])
    prompts = torch.tensor([[5, layout.begin]] * images, device=bench.device)
    asked = PromptTokens(prompts, torch.ones_like(prompts, dtype=torch.bool))
    how = TokenSampling(guidance=2.0, temperature=0.0)
    ours = speed(lambda: draw_codes(decoder, asked, range(images), how), bench.device, repeats=1)
    stock = speed(lambda: model.generate(
        prompts, attention_mask=torch.ones_like(prompts), do_sample=False, guidance_scale=2.0,
        max_new_tokens=layout.length, min_new_tokens=layout.length, cache_implementation="static",
    ), bench.device, repeats=1)  # fmt: skip
    return {
        "ms a token": 1e3 * ours.seconds / layout.length, "images/s": images / ours.seconds,
        "times generate()": stock.seconds / ours.seconds, "peak MiB": ours.peak_mib,
    }  # fmt: skip


def latents(bench: Bench, recipe: str, images: int, precision: str) -> dict[str, Any]:
    """Drawing by diffusion: 25 steps of a text-to-image UNet, guided, and what is drawn decoded."""
    from calotype.diffusion import Flow
    from calotype.pipelines import Sampling, sample, text_to_image

    made: Any = rehearsal.rehearsed(GENERATORS[recipe]())
    (objective,), (tokenizer,) = made.objectives, made.beside
    prompts = CLIPTokenizer({"<|startoftext|>": 0, "<|endoftext|>": 1, "x</w>": 2}, [],
                            model_max_length=len(objective.null))  # fmt: skip
    pipeline = text_to_image(tokenizer.autoencoder, objective.unet, Flow().scheduler(),
                             objective.text_encoder, prompts).to(bench.device)  # fmt: skip
    how = Sampling(25, 2.0, images, precision)  # type: ignore[arg-type]
    found = speed(lambda: list(sample(pipeline, ["x"] * images, range(images), how)), bench.device,
                  repeats=1)  # fmt: skip
    return {"images/s": images / found.seconds}


def main() -> None:
    """All stages, the most telling first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpu", action="store_true", help="whatever of it a CPU can do, in small")
    bench = Bench(parser.parse_args().cpu)
    bench.found |= {
        "torch": torch.__version__,
        "device": "cpu" if bench.cpu else torch.cuda.get_device_name(),
    }
    for precision in ("bf16", "fp32"):
        bench.stage("Peak of matrix products", precision, lambda p=precision: peak(bench, p))
    for name in OBJECTIVES:
        bench.stage("Waits for the device in a step", name, lambda n=name: waits(bench, n))
    for name in OBJECTIVES:
        bench.stage("The same as on the CPU", name, lambda n=name: same(bench, n))
    if bench.cpu:
        jobs = [Job("small-kl", 2), Job("small-diffusion", 4, "fp32")]
        draws = [(2, "fp32", False)]
    else:
        jobs = [
            Job("ldm-kl-f8", 8), Job("ldm-kl-f8", 8, compiled=True), Job("llamagen-b", 64),
            Job("llamagen-b", 64, compiled=True), Job("unconditional-diffusion", 64),
            Job("unconditional-diffusion", 64, compiled=True), Job("ldm-kl-f8", 8, "fp32"),
        ]  # fmt: skip
        draws = [(1, "bf16", False), (32, "bf16", False), (32, "bf16", True), (1, "fp32", False)]
    for job in jobs:
        bench.stage("A recipe's step", str(job), lambda j=job: step(bench, j))
    for job in jobs[:: 2 if not bench.cpu else 1][:3]:
        bench.stage("How busy kernels are", str(job), lambda j=job: busy(bench, j))
    for draw in draws:
        row = f"{draw[0]} images, {draw[1]}{', compiled' * draw[2]}"
        bench.stage("Drawing tokens", row, lambda d=draw: tokens(bench, *d))
    recipe, images, precision = (
        ("small-diffusion", 2, "fp32") if bench.cpu else ("text-diffusion", 32, "bf16")
    )
    bench.stage("Drawing by diffusion", f"{recipe}, {images} images, {precision}",
                lambda: latents(bench, recipe, images, precision))  # fmt: skip
    for name in ("kl, lpips, adversary", "vq", "flow", "transformer"):
        bench.stage("Resume", name, lambda n=name: resumed(bench, n))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
