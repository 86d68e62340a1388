"""Drawing by diffusion beside the stock pipeline's usual way: images a second, and what they are
worth.

    python benchmarks/diffusion_sampling.py runs/demo/generator/model

The network, the guidance and the prompts are the same: 256 captions of scenes that training never
showed. The stock way to draw from a flow is Euler's method, here the pipeline's own scheduler at
order one (the same formula: with x_s = (1 - s) x0 + s eps an exponential step of order one moves x
along eps - x0), and 50 steps are what StableDiffusionPipeline takes unless told otherwise. Ours is
the solver that recipes leave in the pipeline, of order two, and `calotype.pipelines.load`. Quality
is the part of pictures in which every factor of the caption is right, and the Frechet distance of
EfficientNet-Lite0's features to the scenes themselves, over two seeds.
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from paired import in_turns, ratio

from calotype.commands.evaluate import pictures
from calotype.data import Scenes
from calotype.evaluation.features import features
from calotype.evaluation.generator import Reference, evaluate_generator
from calotype.evaluation.judges import Judges
from calotype.pipelines import Sampling, load, recommended, sample

IMAGES, BATCH, SEEDS, ROUNDS = 256, 32, (0, 1000), 3
STOCK = ((1, 8), (1, 12), (1, 20), (1, 50), (2, 50))
OURS = tuple((2, steps) for steps in (5, 8, 12, 20))
"""Order and steps."""


def solver(pipeline: Any, order: int) -> DPMSolverMultistepScheduler:
    """The pipeline's, at an order."""
    config = pipeline.scheduler.config
    return DPMSolverMultistepScheduler.from_config(config, solver_order=order)  # type: ignore[return-value]


Draw = Callable[..., Any]


def ways(folder: Path) -> dict[tuple[str, int, int], Draw]:
    """Who draws, at which order, in how many steps; and the drawing."""
    guidance = recommended(str(folder)).guidance
    stock: Any = StableDiffusionPipeline.from_pretrained(folder)
    both: dict[str, tuple[Any, tuple[tuple[int, int], ...]]] = {
        "stock": (stock, STOCK), "calotype": (load(str(folder)), OURS)}  # fmt: skip

    def draw(pipeline: Any, order: int, steps: int, *what: Any) -> Any:
        pipeline.scheduler = solver(stock, order)
        return sample(pipeline, *what, Sampling(steps, guidance, BATCH))

    return {
        (name, *how): partial(draw, pipeline, *how)
        for name, (pipeline, hows) in both.items() for how in hows
    }  # fmt: skip


def worth(draw: Draw, judge: Judges) -> tuple[str, str]:
    """Of the pictures: every factor right, and the Frechet distance."""
    scenes = Scenes(size=32, split="held-out", seed=0)
    said = [scenes.build().scene(i) for i in range(IMAGES)]
    right, distance = [], []
    for seed in SEEDS:
        reference = Reference(pictures(scenes, 32, BATCH, IMAGES), True, said)
        found = evaluate_generator(draw, reference, judge, seed, each=BATCH).figures
        right.append(found["all_factors_right"])
        distance.append(found["frechet"])
    return spread(right, ".1%"), spread(distance, ".2f")


def spread(values: list[float], form: str) -> str:
    """Mean, least and most."""
    return f"{statistics.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def seconds(draw: Draw) -> float:
    """Of one batch."""
    started = time.perf_counter()
    next(draw(["a small red square on white"] * BATCH, range(BATCH)))
    return time.perf_counter() - started


def main(folder: Path) -> None:
    """The table."""
    draws, judge = ways(folder), Judges(features("efficientnet-lite0"))
    # The first round warms up.
    rounds = in_turns([*draws], lambda way: [seconds(draws[way])], ROUNDS + 1)
    taken = {way: [row[0] for row in rows[1:]] for way, rows in rounds.items()}
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| drawn by | order | steps | every factor right | Frechet distance | images/s "
          "| times the stock 50 steps (spread) |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for way, draw in draws.items():
        name, order, steps = way
        right, distance = worth(draw, judge)
        print(f"| {name} | {order} | {steps} | {right} | {distance} | "
              f"{BATCH / statistics.median(taken[way]):.1f} | "
              f"{ratio(taken[way], taken['stock', 1, 50])} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
