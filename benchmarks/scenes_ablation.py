"""What it takes to draw scenes as their captions say: changes to the demo's recipes as they were
when its network was chosen.

    python benchmarks/scenes_ablation.py pooled            # about ten minutes each on two cores
    python benchmarks/scenes_ablation.py attention-only narrow-posteriors wide-posteriors

Each trains a tokenizer of KL weight 1e-6 (the demo's is now 1e-4) for as many steps as its row
says, and a generator of 900 steps; draws 128 prompts, which training never showed and the demo's
report does not draw, at four guidance scales; and prints the fraction that has every factor right.
Tokenizers and latents are shared where they are the same.
"""

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from calotype.commands.cache_latents import cache
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import Scenes
from calotype.diffusion import Flow, LogitNormal, ProcessSpec, UNet, Uniform
from calotype.evaluation.scenes import draw
from calotype.pipelines import Sampling, load
from calotype.recipes.caches import scenes_cache
from calotype.recipes.generators import scenes_diffusion
from calotype.recipes.tokenizers import scenes_kl
from calotype.tokenizers import Gaussian
from calotype.training import has_ended

OUT = Path("runs/ablation")
SEED = 1000
"""Of prompts and noise: other ones than the demo is reported on."""


@dataclass(frozen=True)
class Variant:
    """A tokenizer's bottleneck and length, and a generator's network and process."""

    bottleneck: Gaussian = field(default_factory=Gaussian)
    tokenizer_steps: int = 1500
    unet: UNet = field(default_factory=lambda: scenes_diffusion().unet)
    process: ProcessSpec = field(default_factory=lambda: scenes_diffusion().process)


PLAIN = replace(scenes_diffusion().unet, pooled_text=False, resnet_time_scale_shift="default")
VARIANTS = {
    "pooled": Variant(),
    "attention-only": Variant(unet=PLAIN),
    "attention-only-shift-2": Variant(unet=PLAIN, process=Flow(Uniform(), shift=2.0)),
    "attention-only-logit-normal": Variant(unet=PLAIN, process=Flow(LogitNormal())),
    "narrow-posteriors": Variant(Gaussian(initial_std=0.05), 800, PLAIN),
    "wide-posteriors": Variant(Gaussian(kl_weight=1e-2, initial_std=0.3), 900, PLAIN),
    "wide-posteriors-pooled": Variant(Gaussian(kl_weight=1e-2, initial_std=0.3), 900),
}


def measure(name: str, variant: Variant) -> None:
    """Train what is not there yet, draw, and print."""
    b = variant.bottleneck
    shared = OUT / f"kl{b.kl_weight:g}-std{b.initial_std:g}-{variant.tokenizer_steps}"
    base = scenes_kl()
    tokenizer = replace(
        base, model=replace(base.model, bottleneck=b),
        run=replace(base.run, out=shared, steps=variant.tokenizer_steps, resume=True),
    )  # fmt: skip
    if not has_ended(tokenizer.run, tokenizer):
        train_tokenizer(tokenizer)
    latents = replace(scenes_cache(), tokenizer=str(tokenizer.run.model), out=shared / "latents",
                      count=60_000)  # fmt: skip
    cache(latents)
    base = scenes_diffusion()
    generator = replace(
        base, tokenizer=latents.tokenizer, cache=latents.out, unet=variant.unet,
        process=variant.process,
        run=replace(base.run, out=OUT / name, steps=900, ema=0.99, resume=True),
    )  # fmt: skip
    if not has_ended(generator.run, generator):
        train_generator(generator)
    last = json.loads((generator.run.out / "metrics.jsonl").read_text().splitlines()[-1])
    print(f"{name}: loss {last['denoising']:.3f}")
    pipeline = load(generator.run.model)
    for guidance in (1.0, 1.5, 2.0, 3.0):
        drawn = draw(pipeline, Scenes(), 128, SEED, Sampling(20, guidance)).checked
        factors = ", ".join(f"{name} {value:.0%}" for name, value in drawn.accuracy.items())
        print(f"  guidance {guidance}: all right {drawn.all_right:.1%} ({factors})", flush=True)


if __name__ == "__main__":
    for chosen in sys.argv[1:]:
        measure(chosen, VARIANTS[chosen])
