"""Runs small enough for tests; also a program, for tests that kill it or run it in two processes.

python tests/tiny.py tokenizer OUT '{"steps": 6}'
"""

import itertools
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from calotype.autoregressive import Annealed, Layout, NextToken, Order, TokenSampling, Transformer
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import Buckets, Folder, Transform, prompts
from calotype.data.digits import digits as all_digits
from calotype.data.drawn.scenes import Scenes
from calotype.diffusion import (
    Denoising,
    Epsilon,
    Flow,
    LatentSource,
    ProcessSpec,
    TextDenoising,
    UNet,
)
from calotype.diffusion.text import LearntText, tokenize
from calotype.pipelines import Sampling
from calotype.recipes.cache import CacheRecipe
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.tokenizer import NewTokenizer, TokenizerRecipe
from calotype.recipes.transformer import TransformerRecipe
from calotype.tokenizers import Backbone, Critic, Gaussian, ImageTokenizer, Reconstruction
from calotype.tokenizers.bottlenecks import FSQ, LFQ, RVQ, VQ, BottleneckSpec, Gumbel, Sparse
from calotype.tokenizers.bottlenecks.codebook import (
    EMA,
    Codebook,
    CodebookLoss,
    Codes,
    KMeans,
    Restart,
)
from calotype.tokenizers.bottlenecks.divergences import Decomposed
from calotype.tokenizers.bottlenecks.sparsity import KLRate
from calotype.tokenizers.contraction import Jacobian
from calotype.tokenizers.contrast import InfoNCE
from calotype.tokenizers.distillation import Distillation, NewTiny, Teacher
from calotype.tokenizers.masked import AtRandom, MaskedPatches, MaskedViT
from calotype.tokenizers.terms import (
    L1,
    R1,
    Adaptive,
    Adversary,
    Fixed,
    LeCAM,
    LogitLaplace,
    PerceptualTerm,
    Pixel,
)
from calotype.tokenizers.terms.perceptual import random_backbone
from calotype.training import AdamW, Batch, Objective, Run, fit
from calotype.training.distributed import leave
from calotype.training.division import shared
from calotype.training.schedules import Cosine

BOTTLENECK = Gaussian(channels=2, kl_weight=1e-3)
VQ_BOTTLENECK = VQ(Codebook(
    16, 4, EMA(0.9), KMeans(iterations=2), Restart(below=0.9, every=2)
))  # fmt: skip
"""All that moves a codebook, at once."""
BACKBONE = Backbone(widths=(8, 16), layers=1, attention=False, groups=4)
BOTTLENECKS: dict[str, BottleneckSpec] = {
    "vq": VQ_BOTTLENECK,
    "vq-loss": VQ(replace(VQ_BOTTLENECK.codebook, learning=CodebookLoss())),
    "rvq": RVQ(2, VQ_BOTTLENECK.codebook),
    "lfq": LFQ(bits=4),
    "dvae": Gumbel(16, 4, temperature=Cosine(1.0, 1 / 16, 4), kl_weight=Cosine(0.0, 1.0, 3)),
}
SIZE = 16
FIXED = Fixed(0.2)
CAPTIONS = ["a red circle", "a blue square", "a green cross", "a large pink ring"] * 4


def tokenizer(
    seed: int = 0, bottleneck: BottleneckSpec = BOTTLENECK, maps: int = 1, channels: int = 3
) -> ImageTokenizer:
    torch.manual_seed(seed)
    autoencoder = BACKBONE.autoencoder(bottleneck, SIZE, channels, maps)
    return ImageTokenizer(autoencoder, bottleneck.build())


def adam(lr: float) -> AdamW:
    # Adam divides by the gradient's size: with its usual eps, a gradient that vanishes but for
    # rounding moves a weight as far as any other, and runs that are equal look different.
    return AdamW(lr, eps=1e-3)


def images(count: int, seed: int = 0) -> torch.Tensor:
    data = Scenes(size=SIZE, seed=seed).build()
    return data.batch(range(count))["image"]


def digits(part: int = 0) -> torch.Tensor:
    """Every fourth handwritten digit from one of four on, grey images [-, 1, 8, 8]."""
    pixels, _ = all_digits()
    return torch.from_numpy(pixels[part::4])[:, None] / 127.5 - 1


def batch(count: int, seed: int = 0) -> Batch:
    return {"image": images(count, seed), "key": list(range(100, 100 + count))}


@lru_cache
def backbone() -> torch.nn.Module:
    """LPIPS, frozen: to initialise it takes seconds, so all learners share one."""
    return random_backbone("vgg", 0)


def learners(
    lpips: bool = True,
    adversary: Adversary | None = None,
    lr: float = 1e-3,
    bottleneck: BottleneckSpec = BOTTLENECK,
) -> list[Objective]:
    pixel: Pixel = LogitLaplace() if isinstance(bottleneck, Gumbel) else L1()
    terms = {"pixel": (1.0, pixel.build())}
    if lpips:
        terms["lpips"] = (1.0, PerceptualTerm(backbone()))
    first = Reconstruction(tokenizer(0, bottleneck, pixel.maps), terms, adam(lr), [images(2)])
    if adversary is None:
        return [first]
    torch.manual_seed(1)
    return [first, Critic(adversary, first, adam(adversary.lr))]


def adversary(**changes) -> Adversary:
    # Its weight has no limit that these small networks would reach.
    free = Adversary(width=8, layers=1, balance=Adaptive(largest=1e4), start=0, effect_start=0,
                     lr=1e-3)  # fmt: skip
    return replace(free, **changes)


def penalised() -> list[Objective]:
    """All that compares the pictures of a step with one another, and a latent that is sparse beside
    it has its own means over them.
    """
    parts = Gaussian(2, kl_weight=0.1, divergence=Decomposed(16, total_correlation=4.0))
    terms = {"pixel": (1.0, L1().build())}
    own = {"contraction": Jacobian(), "contrast": InfoNCE()}
    return [Reconstruction(tokenizer(0, parts), terms, adam(1e-3), encoder_terms=own)]


def sparse() -> list[Objective]:
    """Held to a rate that is averaged over all pictures."""
    made = tokenizer(0, Sparse(8, KLRate(weight=1.0)))
    return [Reconstruction(made, {"pixel": (1.0, L1().build())}, adam(1e-3))]


FLOW = Flow()


def denoising(lr: float = 1e-3, process: ProcessSpec = FLOW) -> TextDenoising:
    torch.manual_seed(2)
    text = LearntText(width=16, layers=1, heads=2, length=8, vocabulary=300)
    prompts = text.tokenizer(CAPTIONS)
    unet = UNet((8, 16), (True, True), layers=1, head_width=4, groups=4).conditional(4, 2, 16)
    return TextDenoising(
        unet, text.encoder(prompts), tokenize(prompts, [""])[0],
        LatentSource(BOTTLENECK.build(), 1.0), process, adam(lr),
    )  # fmt: skip


LAYOUT = Layout(text=600, codes=16, codebooks=1, height=4, width=4)


FADING = Annealed(1, 6)


def next_token(lr: float = 1e-3, order: Order = FADING) -> NextToken:
    torch.manual_seed(2)
    model = Transformer(16, 2, 2).build(LAYOUT, 8)
    return NextToken(model, LAYOUT, order, adam(lr), drop=0.3)


def tokens() -> dict[str, torch.Tensor]:
    ids = torch.randint(16, (16, 4, 4), generator=torch.Generator().manual_seed(3))
    return {**latents(), "packed": ids.int()}


MIXED = [(48, 32), (32, 48), (40, 40), (64, 36), (45, 40), (40, 30)]
"""Widths and heights of pictures."""


def mixed(folder: Path, count: int = 24) -> Path:
    """Write pictures of these shapes in turn."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        size = MIXED[i % len(MIXED)]
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{i:02d}.png")
    return folder


def load_step(out: Path, step: int, name: str) -> dict[str, torch.Tensor]:
    """A group of a run's checkpoint."""
    return load_file(out / f"checkpoints/step-{step}/{name}.safetensors")


def apart(one: Path, other: Path, step: int = 3) -> float:
    """Largest difference of two runs after a step, in parts of what the step moved its tensor by;
    differences of 1e-7, which are rounding, count for little where a tensor stands still.
    """
    parts = []
    for file in (one / f"checkpoints/step-{step}").iterdir():
        if not file.name.startswith(("model-", "ema")):
            continue
        before = _numbers(one / f"checkpoints/step-{step - 1}" / file.name)
        a, b = _numbers(file), _numbers(other / file.relative_to(one))
        parts += [_largest(a[n] - b[n]) / (_largest(a[n] - before[n]) + 1e-5) for n in a]
    return max(parts)


def _largest(tensor: torch.Tensor) -> float:
    return tensor.abs().max().item()


def _numbers(file: Path) -> dict[str, torch.Tensor]:
    """What it holds, flags too, as numbers that can be subtracted."""
    return {name: tensor.double() for name, tensor in load_file(file).items()}


class Repeating:
    """Batches of one small set; sample j is the same whatever the ranks and restarts. A step has
    `batch_size` samples."""

    def __init__(self, rows: dict[str, torch.Tensor], batch_size: int) -> None:
        self.rows, self.batch_size = rows, batch_size
        self.count = len(next(iter(rows.values())))

    def batches(
        self,
        position: int = 0,
        rank: int = 0,
        world: int = 1,
        micro_batch: int | None = None,
    ) -> Iterator[Batch]:
        size = micro_batch or shared(self.batch_size, world)
        first = position + rank * size
        while True:
            ordinals = range(first, first + size)
            rows = [j % self.count for j in ordinals]
            yield {**{k: v[rows] for k, v in self.rows.items()}, "key": list(ordinals)}
            first += world * size


def latents() -> dict[str, torch.Tensor]:
    text = LearntText(width=16, layers=1, heads=2, length=8, vocabulary=300)
    said = prompts.tokenize(text.tokenizer(CAPTIONS), CAPTIONS)
    moments = torch.randn(16, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    return {"packed": moments, **said._asdict()}


def run(out: Path, **changes) -> Run:
    base = Run(out, steps=3, batch_size=4, ema=0.9, precision="fp32", log_every=2, save_every=2,
               sample_every=1000)  # fmt: skip
    return replace(base, **changes)


def distillation() -> Distillation:
    torch.manual_seed(2)
    student = NewTiny(8, 1).build(BOTTLENECK.channels, 2)
    return Distillation(student, Teacher(tokenizer()), {"pixel": (1.0, L1().build())}, adam(1e-3))


def unprompted() -> Denoising:
    torch.manual_seed(2)
    unet = UNet((8, 16), (True, True), layers=1, head_width=4, groups=4).unconditional(4, 2)
    return Denoising(unet, LatentSource(BOTTLENECK.build(), 1.0), FLOW, adam(1e-3))


def masked() -> MaskedPatches:
    torch.manual_seed(2)
    network = MaskedViT(4, 16, 1, 2, 16, 1, 2).build(SIZE)
    return MaskedPatches(network, AtRandom(), adam(1e-3), [images(2)])


Rows = dict[str, torch.Tensor]
"""Samples."""


def _game(regulariser: R1 | LeCAM | None = None) -> tuple[list[Objective], Rows]:
    return learners(False, adversary(regulariser=regulariser)), {"image": images(16)}


def _coded(name: str) -> tuple[list[Objective], Rows]:
    opposed = None if name == "dvae" else adversary(lr=1e-5)
    bottleneck = BOTTLENECKS.get(name, FSQ((5, 5), features=4))
    # A larger rate lets rounding turn a site from one code to another.
    return learners(False, opposed, 1e-5, bottleneck), {"image": images(16)}


EQUAL: dict[str, Callable[[], tuple[list[Objective], Rows]]] = {
    "kl": _game,
    "kl-r1": lambda: _game(R1(0.1)),
    "kl-lecam": lambda: _game(LeCAM(0.1, 0.9)),
    **{f"{name}-game": partial(_coded, name) for name in (*BOTTLENECKS, "fsq")},
    "flow": lambda: ([denoising()], latents()),
    "epsilon": lambda: ([denoising(process=Epsilon(snr_gamma=5.0))], latents()),
    "unprompted": lambda: ([unprompted()], latents()),
    "next-token": lambda: ([next_token()], tokens()),
    "distillation": lambda: ([distillation()], {"image": images(16)}),
    "masked": lambda: ([masked()], {"image": images(16)}),
}
"""Every objective, with what it is trained on: each without LPIPS, which takes seconds to build."""


def train(kind: str, settings: Run, artifacts: Path | None = None) -> list[Objective]:
    """Train; `kind` is tokenizer, r1, lecam, penalised, sparse, generator, transformer or a name of
    BOTTLENECKS, or a whole recipe, with model/: recipe, a tokenizer's, measured, that with a
    validation, buckets, that of what `mixed` wrote beside the run, or pipeline, a generator's in
    the latents of `artifacts`.
    """
    if kind == "measured":
        held_out = Scenes(size=SIZE, split="held-out", count=8)
        train_tokenizer(tokenizer_recipe(settings.out, validation=held_out, run=settings))
        return []
    if kind == "recipe":
        train_tokenizer(tokenizer_recipe(settings.out, adversary=adversary(), run=settings))
        return []
    if kind == "buckets":
        recipe = tokenizer_recipe(
            settings.out, data=Folder(settings.out.parent / "mixed"), adversary=adversary(),
            transform=Transform(Buckets(SIZE, 2)), run=settings,
        )  # fmt: skip
        train_tokenizer(recipe)
        return []
    if kind == "pipeline":
        assert artifacts
        train_generator(generator_recipe(artifacts, optimizer=adam(1e-3), run=settings))
        return []
    if kind in EQUAL:
        objectives, rows = EQUAL[kind]()
    elif kind == "generator":
        objectives, rows = [denoising()], latents()
    elif kind == "transformer":
        objectives, rows = [next_token()], tokens()
    elif kind in ("penalised", "sparse"):
        objectives = penalised() if kind == "penalised" else sparse()
        rows = {"image": images(16)}
    else:
        regulariser = {"r1": R1(0.1), "lecam": LeCAM(0.1, 0.9)}.get(kind)
        if kind in BOTTLENECKS:
            # A larger rate lets rounding turn a site from one code to another.
            objectives = learners(lpips=False, lr=1e-5, bottleneck=BOTTLENECKS[kind])
        else:
            objectives = learners(adversary=adversary(regulariser=regulariser))
        rows = {"image": images(16)}
    settings.out.mkdir(parents=True, exist_ok=True)
    fit(objectives, Repeating(rows, settings.batch_size), settings)
    return objectives


STILL = replace(BOTTLENECK, initial_std=1e-3)
"""So that few images tell the latents' statistics."""
SCENES = Scenes(size=SIZE, count=32)
TEXT = LearntText(width=16, layers=1, heads=2, length=48, vocabulary=600)


def tokenizer_recipe(root: Path, **changes) -> TokenizerRecipe:
    base = TokenizerRecipe(
        SCENES, model=NewTokenizer(BACKBONE, STILL), perceptual=None, adversary=None,
        optimizer=adam(1e-3), measure=64, examples=2, run=run(root / "tokenizer"),
    )  # fmt: skip
    return replace(base, **changes)


def cache_recipe(root: Path, **changes) -> CacheRecipe:
    base = CacheRecipe(str(root / "tokenizer/model"), root / "latents", SCENES, text=TEXT,
                       precision="fp32", batch_size=8, shard_size=16)  # fmt: skip
    return replace(base, **changes)


def generator_recipe(root: Path, **changes) -> GeneratorRecipe:
    base = GeneratorRecipe(
        str(root / "tokenizer/model"), root / "latents",
        UNet((8, 16), (True, True), layers=1, head_width=4, groups=4, pooled_text=True,
             resnet_time_scale_shift="scale_shift"),
        text=TEXT, optimizer=AdamW(1e-3), sampling=Sampling(steps=2), run=run(root / "generator"),
    )  # fmt: skip
    return replace(base, **changes)


def token_recipes(
    root: Path, bottleneck: BottleneckSpec = VQ_BOTTLENECK, text: Any = TEXT, **changes
) -> tuple[TokenizerRecipe, CacheRecipe, TransformerRecipe]:
    """A tokenizer with codes, a cache, and a transformer over its tokens."""
    tokenizer = tokenizer_recipe(
        root, model=NewTokenizer(BACKBONE, bottleneck), measure=32, run=run(root / "codes")
    )
    model = str(tokenizer.run.model)
    cached = cache_recipe(root, tokenizer=model, out=root / "tokens", text=text)
    recipe = TransformerRecipe(
        model, cached.out, Transformer(16, 2, 2), optimizer=adam(1e-3), prompted=text is not None,
        sampling=TokenSampling(guidance=2.0), run=run(root / "transformer"),
    )  # fmt: skip
    return tokenizer, cached, replace(recipe, **changes)


def alone(
    kind: str, out: Path, changes: dict[str, Any], artifacts: Path | None = None,
    operation: int | None = None,
) -> list[Objective]:  # fmt: skip
    """Train in a process of its own, which may kill -9 itself at its nth operation on files."""
    # As a program's own: workers of a loader outlive a parent which they are not forked from.
    multiprocessing.set_start_method("fork", force=True)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    if operation is not None:
        sys.addaudithook(partial(_die, itertools.count(1), operation, str(out)))
    return train(kind, run(out, **changes), artifacts)


def _die(operations: Iterator[int], last: int, out: str, event: str, arguments: tuple) -> None:
    opens = event == "open" and str(arguments[0]).startswith(out)
    moves = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
    if (opens or moves) and next(operations) == last:
        os.kill(os.getpid(), signal.SIGKILL)


def _counted(owner: type, name: str) -> Any:
    """A patch that remembers the calls of a method."""
    return patch.object(owner, name, autospec=True, side_effect=getattr(owner, name))


def join(rank: int, world: int, port: int) -> None:
    """Be one of several ranks from now on."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ.update(MASTER_ADDR="localhost", ACCELERATE_USE_CPU="true")


def every_kind(rank: int, world: int, port: int, kinds: list[str], out: Path) -> None:
    """Train several kinds, one after another, as one of several ranks."""
    join(rank, world, port)
    for kind in kinds:
        alone(kind, out / kind, {})
    leave()


def short(rank: int, world: int, port: int, out: Path) -> None:
    """Train as one of several ranks, of which the last has memory for one sample at a time."""
    join(rank, world, port)
    least = 1 if rank == world - 1 else 4
    with (
        patch("calotype.training.trainer.may_run_out", lambda device: True),
        patch.object(Reconstruction, "forward", fitting(Reconstruction.forward, least)),
    ):
        alone("kl", out, {"batch_size": 8, "steps": 3})
    leave()


def fitting(forward: Callable[..., Any], most: int, step: int = 0) -> Callable[..., Any]:
    """A forward pass that has memory for so many samples from a step on."""

    def passed(objective: Objective, batch: Batch, now: int) -> Any:
        found = forward(objective, batch, now)
        if now >= step and len(batch["key"]) > most:
            raise torch.OutOfMemoryError("there is no more")
        return found

    return passed


GATHER, PLACE = "all_gather_with_gradient", "own_place"


def ranked(rank: int, world: int, port: int, local: bool, *arguments: Any) -> None:
    """Train `alone` as one of several ranks; `local`: each weighs the adversary, moves its codes
    and compares its pictures by itself."""
    join(rank, world, port)
    with ExitStack() as stack:
        for module in (
            "objectives",
            *(f"bottlenecks.{n}" for n in ("codebook", "discrete", "lookup_free")),
        ):
            mean = f"calotype.tokenizers.{module}.all_mean"
            stack.enter_context(patch(mean, lambda tensor: tensor) if local else nullcontext())
        for module in ("bottlenecks.divergences", "contrast"):
            for name, alone_there in ((GATHER, lambda tensor: tensor), (PLACE, lambda count: 0)):
                there = f"calotype.tokenizers.{module}.{name}"
                stack.enter_context(patch(there, alone_there) if local else nullcontext())
        placed = stack.enter_context(_counted(Codes, "place"))
        objectives = alone(*arguments)
    if objectives and isinstance(objectives[0], Reconstruction):
        state = dict(objectives[0].tokenizer.bottleneck.state_dict())
        counts = [int(call.args[1].sum()) for call in placed.call_args_list]
        state["placed"] = torch.tensor(sum(counts))
        save_file(state, arguments[1] / f"bottleneck-of-rank-{rank}.safetensors")
    leave()


if __name__ == "__main__":
    alone(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
