"""The verbs, one line each: where their flags and their work are, and what they say of themselves.

Both are named and not imported, so that the answer to one verb does not wait for the others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

from calotype.cli.parsing import named_recipe, parse


@dataclass(frozen=True)
class FromOptions:
    """A verb whose flags are the fields of a dataclass."""

    options: str
    """The dataclass: a module in `calotype.commands`, a colon, a name."""
    function: str
    """What takes them: a function of that module."""
    result: str
    """What the function returns, in a word; a function that returns None says all itself."""
    help: str

    @property
    def work(self) -> str:
        """Where the function is, as `pkgutil.resolve_name` takes it."""
        return f"calotype.commands.{self.options.partition(':')[0]}:{self.function}"

    def run(self, name: str, arguments: Sequence[str]) -> None:
        """Parse, call, print."""
        kind: type[Any] = resolve_name(f"calotype.commands.{self.options}")
        _call(self, parse(kind, f"calotype {name}", arguments))


@dataclass(frozen=True)
class FromRecipes:
    """A verb that takes a named recipe, whose fields flags override."""

    recipes: str
    """The recipes by name: a module in `calotype.recipes`, a colon, a name."""
    function: str
    """What takes one: a module in `calotype.commands`, a colon, a function."""
    result: str
    help: str

    @property
    def work(self) -> str:
        """Where the function is, as `pkgutil.resolve_name` takes it."""
        return f"calotype.commands.{self.function}"

    def run(self, name: str, arguments: Sequence[str]) -> None:
        """Parse, call, print."""
        recipes: Mapping[str, Callable[[], Any]] = resolve_name(f"calotype.recipes.{self.recipes}")
        recipe = named_recipe(name, recipes, arguments)
        requeued = resolve_name("calotype.training.requeue:requeued")
        with requeued(getattr(recipe, "run", None)):  # what fills a cache has none
            _call(self, recipe)


def _call(command: FromOptions | FromRecipes, options: Any) -> None:
    if (result := resolve_name(command.work)(options)) is not None:
        print(f"{command.result}: {result}")


COMMANDS: dict[str, FromOptions | FromRecipes] = {
    "train-tokenizer": FromRecipes(
        "tokenizers:TOKENIZERS", "train_tokenizer:train_tokenizer", "tokenizer",
        "train an image tokenizer from a named recipe"),
    "cache-latents": FromRecipes(
        "caches:CACHES", "cache_latents:cache", "cache",
        "encode images and captions once, for a generator"),
    "train-generator": FromRecipes(
        "generators:GENERATORS", "train_generator:train_generator", "pipeline",
        "train a diffusion model or transformer in a cache"),
    "distil-decoder": FromRecipes(
        "distil:DISTILLED", "distil_decoder:distil_decoder", "decoder",
        "distil a small fast AutoencoderTiny from a tokenizer"),
    "train-encoder": FromRecipes(
        "masked:MASKED", "train_encoder:train_encoder", "encoder",
        "train a vision transformer by hiding most of each picture (MAE)"),
    "fit-prior": FromOptions(
        "fit_prior:FitPrior", "fit", "prior",
        "fit a prior to a tokenizer's latents, so that it draws without a generator"),
    "generate": FromOptions(
        "generate:Generate", "generate", "images", "images from prompts"),
    "reconstruct": FromOptions(
        "reconstruct:Reconstruct", "reconstruct", "reconstructions",
        "images beside what a tokenizer makes of them"),
    "probe": FromOptions(
        "probe:ProbeLatents", "probe_latents", "figures",
        "how much of labels a tokenizer's latents tell, beside pixels and an untrained one"),
    "explore": FromOptions(
        "explore:Explore", "explore", "page",
        "one page of what is in latents: map, ways, attributes, nearest pictures, codes"),
    "detect": FromOptions(
        "detect:Detect", "detect", "page",
        "pictures that are unlike normal ones, and where, with a stated rate of false alarms"),
    "fit-entropy-model": FromOptions(
        "fit_entropy_model:FitEntropyModel", "fit", "entropy model",
        "fit what a tokenizer's latents are compressed by, and keep it beside the tokenizer"),
    "compress": FromOptions(
        "compress:Compress", "compress", "compressed",
        "pictures to small files, by a tokenizer and what was learnt of its latents"),
    "decompress": FromOptions(
        "decompress:Decompress", "decompress", "pictures",
        "such files to pictures"),
    "rate-distortion": FromOptions(
        "rate_distortion:RateDistortion", "rate_distortion", "rates",
        "bits and distortion of compressed pictures, beside JPEG, WebP, AVIF and JPEG XL"),
    "restore": FromOptions(
        "restore:Restore", "restore_pictures", "restored",
        "damaged pictures restored: noise, blur, holes, too few pixels, no colours"),
    "robust": FromOptions(
        "robust:Robust", "robust", "page",
        "attacks on latents and classifiers, what mends them, and what is no defence"),
    "augment": FromOptions(
        "augment:Augment", "augment", "folder",
        "more pictures of rare classes, by latents or a pipeline, and what a classifier gains"),
    "score": FromOptions(
        "score:Score", "score_images", "scores",
        "bits that a transformer needs for images under their captions"),
    "evaluate": FromOptions(
        "evaluate:Evaluate", "evaluate", "figures",
        "figures of any tokenizer or pipeline, by one protocol"),
    "compare": FromOptions(
        "compare:Compare", "compare", "comparison",
        "the same figures of several, as a page, a table and a picture"),
    "push": FromOptions(
        "push:Push", "push", "published",
        "publish tokenizers and pipelines on the Hub, with a card of what was measured"),
    "data": FromOptions(
        "data:Data", "show_data", "page",
        "what would be trained on: sizes, captions, duplicates, what is passed over and why"),
    "explain": FromOptions(
        "explain:Explain", "explain_names", "",
        "what a figure or a term of a log means, and which way is better"),
    "demo": FromOptions(
        "demo:Demo", "demo", "gallery", "all of it on procedural scenes, ending in a gallery page"),
    "quickstart": FromOptions(
        "quickstart:Quickstart", "quickstart", "gallery",
        "all of it on your own pictures, in a time that you name"),
    "doctor": FromOptions(
        "doctor:Doctor", "examine_or_fail", "",
        "what this machine has, what it lacks, and which recipes fit it"),
}  # fmt: skip
"""To add a verb, write its file in `calotype.commands` and name it here."""
ALONE = frozenset({"push", "data", "demo", "quickstart"})
"""Those that several processes would each do whole, into the same files."""
