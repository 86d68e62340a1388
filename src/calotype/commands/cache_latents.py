"""Encoding images once, for generators: the work."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset

from calotype.commands.cache_checks import check_captions, check_related
from calotype.commands.cached_prompts import read_captions, sampled
from calotype.commands.quiet import quiet
from calotype.commands.readers import readers
from calotype.data import once
from calotype.data.cache.index import INDEX, Index, is_finished
from calotype.data.cache.shards import Shard, made_of
from calotype.data.cache.work import once_by_any
from calotype.data.identity import identified, identity
from calotype.data.loading.in_order import in_order
from calotype.data.mixed_streams import MixedStream
from calotype.data.mixtures import BalancedPictures, MixedPictures
from calotype.data.pictures import Pictures, spread
from calotype.data.streams import Stream
from calotype.mistakes import noted
from calotype.pipelines import added_to
from calotype.recipes.cache import CacheRecipe
from calotype.recipes.tokenizer import check_sides, image_mode, image_size, shapes_of
from calotype.tokenizers import ImageTokenizer, fingerprint
from calotype.tokenizers.caching import (
    cache_latents,
    finish,
    is_unchanged,
    remaining,
    together,
)
from calotype.tokenizers.encoder import Encoder, Scan
from calotype.tokenizers.filling import WORK
from calotype.tokenizers.stock import CLASSES
from calotype.training import Run, begin
from calotype.training.agreement import agree, agree_to_share, by_main
from calotype.training.description import describe, is_place
from calotype.training.devices import computing
from calotype.training.distributed import own_device, processes
from calotype.training.hosts import check_shared
from calotype.training.noise import sent
from calotype.training.portable import flat
from calotype.training.precision import Name, described, settled, warn_of_emulation
from calotype.training.progress import Told, say


def cache(recipe: CacheRecipe) -> Path:
    """Fill a latent cache; returns its folder. Several processes share the work.

    Raises:
        ValueError, FileNotFoundError: something in the recipe cannot be; before any encoding.
    """
    quiet()
    if base := added_to(recipe.tokenizer):
        raise ValueError(
            f"tokenizer: {recipe.tokenizer} holds LoRA weights and no tokenizer: give {base}, "
            "which they were trained on"
        )
    size = image_size(recipe.data, recipe.transform)
    whole, state = recipe.data.build(), processes()
    dataset = spread(whole, recipe.count)
    precision = _precision(recipe)
    recipe = replace(recipe, precision=precision)
    warn_of_emulation(precision, own_device())
    tokenizer = ImageTokenizer.load(recipe.tokenizer, classes=CLASSES).to(state.device)
    check_sides(tokenizer, size, recipe.transform)
    tokenizer.check_mode(image_mode(recipe.transform), recipe.tokenizer)
    encoder = Encoder(tokenizer, fingerprint(tokenizer), size, recipe.flipped,
                      getattr(torch, recipe.dtype))  # fmt: skip
    scan = Scan(recipe.transform, recipe.count, recipe.batch_size,
                readers(recipe.workers, whole), recipe.shard_size, recipe.crops,
                recipe.frames)  # fmt: skip
    if _is_older(recipe.out):
        return _finished_before(recipe, encoder, whole)
    check_related(recipe.out, in_order(dataset, recipe.shard_size))
    check_captions(recipe, dataset)
    what = _agreed(recipe, encoder, dataset)
    # Pictures and captions are followed: each row knows what it was made of.
    inputs = {"tokenizer": encoder.fingerprint}
    by_main(lambda: begin(Run(recipe.out, resume=True), recipe, inputs, free=_followed(whole)))
    say(_found(encoder, dataset, recipe))
    if isinstance(whole, BalancedPictures) or (
        isinstance(whole, MixedPictures | MixedStream) and whole.weights
    ):
        say(f"{whole.reader.source}: weights and balance are for training from pictures; the cache "
            "holds each picture once, and training from it draws all alike")  # fmt: skip
    networks = computing(precision, own_device(), *tokenizer.networks)
    kept = f"{recipe.out}: whole shards are kept, and the same command goes on from there"
    # From here on no rank speaks to another: one that dies leaves the rest to them.
    with noted(lambda: kept), together(recipe.out, what):
        error, of = once_by_any(
            recipe.out / WORK / "error", lambda: _error(encoder, dataset, recipe, precision)
        )
        _tell_error(encoder, precision, error, of)
        total = remaining(dataset, scan, recipe.out)
        with networks, Told("encoding", total, images=1) as told:
            shards = cache_latents(encoder, dataset, scan, recipe.out, told.advance)
        _finish(recipe, encoder, whole, shards, error)
    return recipe.out


def _agreed(recipe: CacheRecipe, encoder: Encoder, dataset: Dataset) -> dict[str, Any]:
    """What the cache is made of, of which all processes say the same; where things lie may be
    another place for each.

    Raises:
        ValueError: on all ranks, they do not, or their disks are not one.
    """
    said = {name: value for name, value in flat(describe(recipe))
            if name not in ("out", "tokenizer", "workers") and not is_place(name)}  # fmt: skip
    said |= {"tokenizer": encoder.fingerprint, "pictures": _number(dataset)}
    agree(said)
    agree_to_share(data=lambda: identity(dataset))
    check_shared(recipe.out, "--out")
    return said


def _finish(
    recipe: CacheRecipe, encoder: Encoder, whole: Dataset, shards: Sequence[Shard],
    error: float | None,
) -> None:  # fmt: skip
    """Make tokens of the captions, by all processes, and write the index, if anything changed."""
    main = processes().is_main_process
    text = recipe.text and describe(recipe.text)
    learnt_from = sampled(recipe.text, recipe.learnt_from)
    if main:
        _tell_broken(recipe.out, shards)

    def changed() -> bool:
        if is_unchanged(recipe.out, shards, text, learnt_from):
            return False
        (recipe.out / INDEX).unlink(missing_ok=True)  # the older one is of other tokens
        return True

    if not once_by_any(recipe.out / WORK / "changed", changed):
        return
    data = once_by_any(recipe.out / WORK / "identity", lambda: identity(whole))
    prompts = recipe.text and read_captions(recipe.text, recipe.out, shards, recipe.learnt_from)
    finish(
        encoder, recipe.out, shards, prompts, data=data, crops=recipe.crops,
        precision=recipe.precision, error=error, learnt_from=learnt_from, frames=recipe.frames,
    )  # fmt: skip


def _tell_broken(root: Path, shards: Sequence[Shard]) -> None:
    """Name the pictures that are not in the cache."""
    found = [
        f"{each.name} ({reason})"
        for shard in shards
        if shard.listed > shard.rows and (whole := made_of(root, shard.pictures))
        for each, reason in zip(whole[1].broken, whole[1].reasons, strict=True)
    ]
    if found:
        more = f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
        warnings.warn(
            f"{len(found)} pictures cannot be read and are not in {root}, until they change: "
            f"{', '.join(found[:NAMED])}{more}",
            stacklevel=3,
        )


NAMED = 10
"""Broken pictures that are named; all are in the shards' files."""


def _followed(whole: Dataset) -> tuple[str, ...]:
    """Fields of a recipe that may change: what they change is seen in each picture and caption, or
    they change nothing.
    """
    always = ("text", "learnt_from", "batch_size", "shard_size")
    return (*always, "data") if isinstance(whole, Pictures | Stream) else always


def _is_older(root: Path) -> bool:
    """Whether a version before began a cache, which counted its pictures and did not name them."""
    begun = root / "recipe.json"
    return begun.exists() and "images" in json.loads(begun.read_text()).get("inputs", {})


def _finished_before(recipe: CacheRecipe, encoder: Encoder, whole: Dataset) -> Path:
    """A cache of a version before, which is whole and what is asked for.

    Raises:
        ValueError: it is not.
    """
    begun = json.loads((recipe.out / "recipe.json").read_text())["inputs"]
    known = identified(data=whole) if "data" in begun else {}
    inputs = {"tokenizer": encoder.fingerprint, "images": _number(whole), **known}
    free = ("text", "learnt_from", "batch_size")
    by_main(lambda: begin(Run(recipe.out, resume=True), recipe, inputs, free=free))
    if not is_finished(recipe.out) or Index.read(recipe.out).text != describe(recipe.text):
        raise ValueError(
            f"{recipe.out} was made by a version before, which did not note of what: it is read as "
            "it is, but to go on with it, or for another text, choose another folder or delete it"
        )
    return recipe.out


def _precision(recipe: CacheRecipe) -> Name:
    """What is encoded in. Versions before, which did not say, encoded in float32."""
    begun = recipe.out / "recipe.json"
    if recipe.precision == "auto" and begun.exists():
        return json.loads(begun.read_text()).get("precision", "fp32")
    return settled(recipe.precision, own_device())


@torch.no_grad()
def _error(
    encoder: Encoder, dataset: Dataset, recipe: CacheRecipe, precision: Name
) -> tuple[float | None, int]:
    """What encoding in a precision does to the first pictures: of the means the root mean square
    of the difference, relative to their spread, or of ids how many are others, relative to all;
    None: nothing, it is float32. And how many pictures these were.
    """
    if precision == "fp32":
        return None, 0
    tokenizer, device = encoder.tokenizer, own_device()
    images = sent(next(once(dataset, COMPARED, recipe.transform))["image"], device)
    exact = tokenizer.pack(images)
    with computing(precision, device, *tokenizer.networks):
        found = tokenizer.pack(images)
    if encoder.codes is not None:
        return (found != exact).float().mean().item(), len(images)
    exact, found = (packed.float().chunk(2, 1)[0] for packed in (exact, found))
    return ((found - exact).square().mean().sqrt() / exact.std()).item(), len(images)


def _tell_error(encoder: Encoder, precision: Name, error: float | None, of: int) -> None:
    """Say what a precision does, whichever process found it."""
    if error is None or not processes().is_main_process:
        return
    what = "of the means' spread is the error" if encoder.codes is None else "of the ids are others"
    say(f"in {precision} {error:.2%} {what}, of {of} pictures beside float32")
    if error > (ERROR if encoder.codes is None else OTHERS):
        warnings.warn(
            f"in {precision} {error:.1%} {what}: choose --precision fp32 for this tokenizer",
            stacklevel=3,
        )


COMPARED = 16
"""Pictures that are encoded in float32 too, where it is another precision."""
ERROR, OTHERS = 0.05, 0.1
"""From which on a precision is warned of: noise of this part of the spread, which samplers leave
behind anyway, and ids."""


def _found(encoder: Encoder, dataset: Dataset, recipe: CacheRecipe) -> str:
    images = _number(dataset)
    what = "latents" if encoder.codes is None else "tokens"
    few = "" if recipe.count is None else f", {recipe.count} of them at most"
    return (
        f"{what} of {images} pictures{few}, {shapes_of(encoder.size, recipe.transform)}, by "
        f"{recipe.tokenizer}, into {recipe.out}; on {described(own_device())}, "
        f"in {recipe.precision}"
    )


def _number(dataset: Dataset) -> str:
    """How many pictures there are, if that is known."""
    streamed = isinstance(dataset, IterableDataset)
    return "streamed" if streamed else str(len(dataset))  # type: ignore[arg-type]
