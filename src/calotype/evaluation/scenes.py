"""How good a pipeline is at scenes that training never showed: figures and pictures."""

from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from calotype.autoregressive import unigram_bits
from calotype.data import LatentCache, Scenes, once
from calotype.data.drawn.scenes import Scene, held_out_scenes
from calotype.evaluation.alignment import Alignment, alignment
from calotype.pipelines import HowToSample, Pipeline, TokenPipeline, sample, score
from calotype.tokenizers import ImageTokenizer, fingerprint, psnr
from calotype.training.description import describe

Images = Float[Tensor, "b 3 S S"]


@dataclass(frozen=True)
class Drawn:
    """Images of unseen scenes, with what they should show and whether they do."""

    images: Images
    captions: list[str]
    checked: Alignment


def draw(pipeline: Pipeline, spec: Scenes, count: int, seed: int, sampling: HowToSample) -> Drawn:
    """Draw and check `count` scenes that training never showed, image i with seed + i."""
    scenes: list[Scene] = held_out_scenes(spec, count, seed)
    rng = np.random.default_rng(seed)
    captions = [scene.caption(rng) for scene in scenes]
    seeds = range(seed, seed + count)
    images = torch.cat(list(sample(pipeline, captions, seeds, sampling)))
    return Drawn(images, captions, alignment(images, scenes))


def reconstructions(
    tokenizer: ImageTokenizer, spec: Scenes, count: int = 512
) -> tuple[Images, Images]:
    """Scenes, and what a tokenizer makes of them by way of the likeliest latents."""
    real = torch.cat([batch["image"] for batch in _held_out(spec, count)])
    fake = torch.cat([tokenizer.reconstruct(x) for x in real.split(64)])
    return real, fake.clamp(-1, 1)


def likelihood(
    pipeline: TokenPipeline, cache: LatentCache, spec: Scenes, count: int = 512
) -> dict[str, float]:
    """Bits per token of held-out scenes under their captions, and what they are when only the
    frequency of each code at each place is known, of all images in the cache.
    """
    layout, bits, codes = pipeline.layout, [], []
    for batch in _held_out(spec, count):
        codes.append(pipeline.codes(batch["image"]))
        bits.append(score(pipeline, codes[-1], batch["caption"]))
    ids = cache.batch(list(range(len(cache))), [0] * len(cache))["packed"]
    places = unigram_bits(layout.flatten(ids), torch.cat(codes).cpu(), layout.codes)
    return {"bits_per_token": torch.cat(bits).mean().item() / layout.length,
            "unigram_bits_per_token": places}  # fmt: skip


@dataclass(frozen=True)
class HeldOut:
    """What a pipeline does with scenes that training never showed."""

    report: dict[str, Any]
    """Figures, and under "protocol" what they depend on."""
    one: Drawn
    """Scenes of one object, as training shows."""
    two: Drawn
    """Scenes of two in a relation, of which training shows none."""
    rebuilt: tuple[Images, Images]
    """Held-out scenes, and what the tokenizer makes of them."""


def evaluate(
    pipeline: Pipeline, tokenizer: ImageTokenizer, spec: Scenes, prompts: int, seed: int,
    sampling: HowToSample,
) -> HeldOut:  # fmt: skip
    """Reconstruct 512 scenes, draw `prompts` of one object and a quarter as many of two, and check
    them.
    """
    real, fake = reconstructions(tokenizer, replace(spec, split="held-out", seed=seed + 1))
    one = draw(pipeline, spec, prompts, seed, sampling)
    two = draw(pipeline, replace(spec, objects=2), prompts // 4, seed, sampling)
    report = {
        "reconstruction_psnr_db": round(psnr(fake, real).mean().item(), 2),
        "reconstructed": len(real),
        "prompts": prompts, "all_factors_right": one.checked.all_right,
        "factors_right": one.checked.accuracy,
        "two_objects_prompts": prompts // 4,
        "two_objects_all_right": two.checked.all_right,
        "protocol": {"sampling": describe(sampling), "seed": seed, "resolution": spec.size,
                     "split": "held-out", "tokenizer": fingerprint(tokenizer),
                     "device": pipeline.device.type},
    }  # fmt: skip
    if not isinstance(pipeline, TokenPipeline):
        report["protocol"]["scheduler"] = type(pipeline.scheduler).__name__
    return HeldOut(report, one, two, (real, fake))


def _held_out(spec: Scenes, count: int) -> list[dict[str, Any]]:
    """Batches of 64 of the first `count` scenes; the last is cut."""
    batches = list(islice(once(spec.build(), 64), -(-count // 64)))
    kept = count - 64 * (len(batches) - 1)
    last = {name: values[:kept] for name, values in batches[-1].items()}
    return [*batches[:-1], last]
