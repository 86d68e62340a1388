"""Planted defects found by a tokenizer's scores, beside anomalib's PatchCore and PaDiM.

    python benchmarks/detection.py --data FOLDER --backbones FOLDER

FOLDER of data has photos_train.parquet, that of backbones vgg16-features.safetensors. Scenes and
photographs of 64 pixels, of each 1200 normal ones to train a VQ tokenizer and a transformer in its
codes on, 200 for thresholds, 100 to be told from 100 with scratches, stains, missing and displaced
parts and other colours. All learn from the same normal pictures. Exits with 1 where of either set
the best AUROC among all scores is more than `GAP` below PatchCore's, whose backbone learnt from
ImageNet. Last, scenes and photographs are told from each other, either way round, each by a
tokenizer of its own.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from detection_models import trained
from detection_peers import padim, patchcore
from detection_sets import SIZE, write_sets

from calotype.commands.inspecting import listed
from calotype.pipelines.tokens import TokenPipeline
from calotype.uses.detection import (
    Figures,
    Pictures,
    Rule,
    Tried,
    learning,
    of_pixels,
    of_tokenizer,
    of_transformer,
    one_way,
    tried,
    with_reverse,
)
from calotype.uses.representations import untrained

GAP = 0.02
RULE = Rule()
WHOLE = Rule(top=1.0)
"""For pictures that are unusual as a whole."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    data: Path
    backbones: Path
    out: Path = Path("runs/detection")
    """What is trained already is not trained again."""
    steps: int = 2000
    later: int = 1500
    count: int = 400
    """Normal pictures that are learnt from, of those that were trained on."""
    coreset: float = 0.05
    """Part of its vectors that PatchCore keeps."""


def ours(folder: Path, pictures: Pictures, rule: Rule, every: bool = True) -> dict[str, Tried]:
    """All scores, and controls; or of them those that learn."""
    pipeline = TokenPipeline.from_pretrained(folder)
    own = of_tokenizer(pipeline.tokenizer) | of_transformer(pipeline)
    own |= of_pixels(pipeline.tokenizer)
    found = tried(pipeline.tokenizer, own if every else learning(own), pictures, rule)
    fresh = untrained(pipeline.tokenizer)
    control = {f"untrained: {name}": score for name, score in of_tokenizer(fresh).items()}
    return found | tried(fresh, control if every else learning(control), pictures, rule)


def peers(pictures: Pictures, options: Options) -> dict[str, Figures]:
    """PatchCore and PaDiM."""
    weights = options.backbones / "vgg16-features.safetensors"
    return {"PatchCore, VGG16": patchcore(pictures, weights, options.coreset),
            "PaDiM, VGG16": padim(pictures, weights)}  # fmt: skip


def defects(name: str, folder: Path, options: Options) -> bool:
    """A table of one set; whether its bar is met."""
    model = trained(folder, options.steps, options.later)
    files = listed(None, folder, None, None, 0.25, RULE.false_alarm_rate, 0)
    pictures = files.read("RGB", SIZE, options.count)
    backward = pictures.reversed()
    found = with_reverse(ours(model, pictures, RULE), ours(model, backward, RULE, every=False))
    beside, reverse = peers(pictures, options), peers(backward, options)
    print(f"\n{name}: {len(pictures.normal)} learnt from, {len(pictures.held)} held out\n")
    print("| score | AUROC | reversed | pixel AUROC | AUPRO | false alarms | found |")
    print("|---|---|---|---|---|---|---|")
    told = pictures.anomalous
    assert told is not None
    for score, each in found.items():
        alarms = f"{each.alarms[~told].mean():.1%} | {each.alarms[told].mean():.1%}"
        print(f"| {score} | {_row(each.figures, each.reverse)} | {alarms} |")
    for peer, each in beside.items():
        print(f"| {peer} | {_row(each, reverse[peer].auroc)} | | |", flush=True)
    return _met(name, found, beside)


def _met(name: str, found: Mapping[str, Tried], beside: Mapping[str, Figures]) -> bool:
    own = {score: each.figures.auroc or 0.0 for score, each in found.items()
           if not score.startswith(("untrained", "pixels"))}  # fmt: skip
    best = max(own, key=lambda score: own[score])
    bar = beside["PatchCore, VGG16"].auroc or 0.0
    met = own[best] >= bar - GAP
    said = "met" if met else "missed"
    print(f"\n{name}: the best, {best}, {own[best]:.3f}; PatchCore {bar:.3f}: {said}")
    print(f"one way only: {', '.join(one_way(found)) or 'none'}", flush=True)
    return met


def _row(told: Figures, reverse: float | None) -> str:
    known = told.auroc, reverse, told.pixel_auroc, told.aupro
    return " | ".join("" if value is None else f"{value:.3f}" for value in known)


def each_other(sets: Mapping[str, Path], options: Options) -> None:
    """Two sets, either of them normal in turn, by tokenizers of their own."""
    (a, one), (b, other) = sets.items()
    every = {name: listed(None, folder, None, None, 0.25, RULE.false_alarm_rate, 0).read(
        "RGB", SIZE, options.count) for name, folder in sets.items()}  # fmt: skip
    usual = {name: each.test[torch.from_numpy(~each.anomalous)] for name, each in every.items()
             if each.anomalous is not None}  # fmt: skip
    found = {}
    for name, folder, strange in ((a, one, b), (b, other, a)):
        told = np.repeat([False, True], [len(usual[name]), len(usual[strange])])
        test = torch.cat([usual[name], usual[strange]])
        pictures = replace(every[name], test=test, anomalous=told, masks=None)
        model = trained(folder, options.steps, options.later)
        found[name] = {rule: ours(model, pictures, rule) for rule in (RULE, WHOLE)}
    print(f"\n| score | {a} normal, {b} not: highest 1 % | mean of all | {b} normal, {a} not: "
          "highest 1 % | mean of all |\n|---|---|---|---|---|")  # fmt: skip
    for score in found[a][RULE]:
        cells = [f"{found[name][rule][score].figures.auroc:.3f}"
                 for name in (a, b) for rule in (RULE, WHOLE)]  # fmt: skip
        print(f"| {score} | {' | '.join(cells)} |", flush=True)


def main(options: Options) -> None:
    """Train what is missing, measure, print tables."""
    sets = write_sets(options.out, options.data / "photos_train.parquet")
    met = [defects(name, folder, options) for name, folder in sets.items()]
    each_other(sets, options)
    if not all(met):
        sys.exit(1)


if __name__ == "__main__":
    main(tyro.cli(Options))
