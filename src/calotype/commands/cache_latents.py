"""Encoding images once, for generators: the work."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import torch
from torch.utils.data import Dataset, IterableDataset

from calotype.commands.cached_prompts import read_captions
from calotype.commands.quiet import quiet
from calotype.commands.readers import readers
from calotype.data import once
from calotype.data.cache.index import INDEX, Index, is_finished
from calotype.data.cache.provenance import own_name
from calotype.data.cache.shards import Shard, made_of, written
from calotype.data.identity import identified, identity
from calotype.data.mixed_streams import MixedStream
from calotype.data.mixtures import BalancedPictures, MixedPictures
from calotype.data.pictures import Pictures, spread
from calotype.data.streams import Stream
from calotype.mistakes import noted
from calotype.pipelines import added_to
from calotype.recipes.cache import CacheRecipe
from calotype.recipes.tokenizer import check_sides, image_mode, image_size, shapes_of
from calotype.tokenizers import ImageTokenizer, fingerprint
from calotype.tokenizers.caching import begin_work, cache_latents, finish, is_unchanged, remaining
from calotype.tokenizers.encoder import Encoder, Scan
from calotype.tokenizers.stock import CLASSES
from calotype.training import Run, begin
from calotype.training.devices import computing
from calotype.training.distributed import own_device, processes
from calotype.training.noise import sent
from calotype.training.precision import Name, described, settled, warn_of_emulation
from calotype.training.progress import Told, say
from calotype.training.run import describe


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
    _check_related(recipe.out, dataset)
    _check_captions(recipe, dataset)
    state.wait_for_everyone()  # all have seen how it was begun
    if state.is_main_process:
        # Pictures and captions are followed: each row knows what it was made of.
        inputs = {"tokenizer": encoder.fingerprint}
        begin(Run(recipe.out, resume=True), recipe, inputs, free=_followed(whole))
        begin_work(recipe.out)
    state.wait_for_everyone()
    say(_found(encoder, dataset, recipe))
    if isinstance(whole, BalancedPictures) or (
        isinstance(whole, MixedPictures | MixedStream) and whole.weights
    ):
        say(f"{whole.reader.source}: weights and balance are for training from pictures; the cache "
            "holds each picture once, and training from it draws all alike")  # fmt: skip
    networks = computing(precision, own_device(), *tokenizer.networks)
    error = _error(encoder, dataset, recipe, precision) if state.is_main_process else None
    total = remaining(dataset, scan, recipe.out)
    kept = f"{recipe.out}: whole shards are kept, and the same command goes on from there"
    with noted(lambda: kept):
        with networks, Told("encoding", total, images=1) as told:
            shards = cache_latents(encoder, dataset, scan, recipe.out, told.advance)
        _finish(recipe, encoder, whole, shards, error)
    state.wait_for_everyone()
    if state.is_main_process:
        begin_work(recipe.out)  # nothing of it is left
    return recipe.out


def _finish(
    recipe: CacheRecipe, encoder: Encoder, whole: Dataset, shards: Sequence[Shard],
    error: float | None,
) -> None:  # fmt: skip
    """Make tokens of the captions, by all processes, and write the index, if anything changed."""
    main = processes().is_main_process
    text = recipe.text and describe(recipe.text)
    if main:
        _tell_broken(recipe.out, shards)
    if is_unchanged(recipe.out, shards, text):
        return
    processes().wait_for_everyone()  # all have seen what it was
    if main:
        (recipe.out / INDEX).unlink(missing_ok=True)  # the older one is of other tokens
    prompts = recipe.text and read_captions(recipe.text, recipe.out, shards)
    if main:
        finish(
            encoder, recipe.out, shards, prompts, data=identity(whole), crops=recipe.crops,
            precision=recipe.precision, error=error, frames=recipe.frames,
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
    always = ("text", "batch_size", "shard_size")
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
    if processes().is_main_process:
        begin(Run(recipe.out, resume=True), recipe, inputs, free=("text", "batch_size"))
    processes().wait_for_everyone()
    if not is_finished(recipe.out) or Index.read(recipe.out).text != describe(recipe.text):
        raise ValueError(
            f"{recipe.out} was made by a version before, which did not note of what: it is read as "
            "it is, but to go on with it, or for another text, choose another folder or delete it"
        )
    return recipe.out


def _check_related(root: Path, dataset: Dataset) -> None:
    """Refuse to make of a cache one of other pictures.

    Raises:
        ValueError: none of its pictures is in the data.
    """
    if not isinstance(dataset, Pictures) or not (there := [*written(root).values()]):
        return
    found = [made_of(root, names[0]) for names in (there[0], there[len(there) // 2], there[-1])]
    known = {each.name for whole in found if whole for each in whole[1].rows}
    source = dataset.reader.source
    if known and not any(own_name(record.name, source) in known for record in dataset.records):
        raise ValueError(
            f"{root} is of other pictures, such as {min(known)}, than {source}: choose another "
            "folder, or delete this one"
        )


def _precision(recipe: CacheRecipe) -> Name:
    """What is encoded in. Versions before, which did not say, encoded in float32."""
    begun = recipe.out / "recipe.json"
    if recipe.precision == "auto" and begun.exists():
        return json.loads(begun.read_text()).get("precision", "fp32")
    return settled(recipe.precision, own_device())


@torch.no_grad()
def _error(
    encoder: Encoder, dataset: Dataset, recipe: CacheRecipe, precision: Name
) -> float | None:
    """What encoding in a precision does to the first pictures: of the means the root mean square
    of the difference, relative to their spread, or of ids how many are others, relative to all;
    None: nothing, it is float32.
    """
    if precision == "fp32":
        return None
    tokenizer, device = encoder.tokenizer, own_device()
    images = sent(next(once(dataset, COMPARED, recipe.transform))["image"], device)
    exact = tokenizer.pack(images)
    with computing(precision, device, *tokenizer.networks):
        found = tokenizer.pack(images)
    if encoder.codes is not None:
        error, what = (found != exact).float().mean().item(), "of the ids are others"
    else:
        exact, found = (packed.float().chunk(2, 1)[0] for packed in (exact, found))
        error = ((found - exact).square().mean().sqrt() / exact.std()).item()
        what = "of the means' spread is the error"
    say(f"in {precision} {error:.2%} {what}, of {len(images)} pictures beside float32")
    if error > (ERROR if encoder.codes is None else OTHERS):
        warnings.warn(
            f"in {precision} {error:.1%} {what}: choose --precision fp32 for this tokenizer",
            stacklevel=3,
        )
    return error


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


def _check_captions(recipe: CacheRecipe, dataset: Dataset) -> None:
    """See that there are captions, and what reads them, before the work.

    Raises:
        ValueError: one of them is not.
    """
    if recipe.text is None:
        return
    recipe.text.tokenizer([])
    looked_at = _some_captions(dataset)
    if not any(looked_at):
        raise ValueError(
            f"text: none of {len(looked_at)} pictures looked at has a caption; choose text:none, "
            "or give captions as data's --help says"
        )


def _some_captions(dataset: Dataset) -> list[str]:
    """Of pictures all over a map-style dataset, or of a stream's first ones."""
    if isinstance(dataset, Stream):
        parts = (dataset.part(part) for part in range(dataset.parts))
        return [record.caption for record in islice(chain.from_iterable(parts), LOOKED_AT)]
    total = len(dataset)  # type: ignore[arg-type]
    places = range(0, total, -(-total // LOOKED_AT))
    if isinstance(dataset, Pictures):
        return [dataset.records[i].caption for i in places]  # which are not decoded for it
    return [dataset[i]["caption"] for i in places]


LOOKED_AT = 64
"""Pictures whose captions are looked for before the work."""
