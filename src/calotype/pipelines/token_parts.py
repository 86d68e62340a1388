"""What a transformer over tokens is saved as: stock parts in one folder, and what is noted beside
them.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError

from calotype.autoregressive import Constant, Layout, TokenSampling
from calotype.lazy import huggingface_hub, transformers
from calotype.tokenizers import ImageTokenizer, fingerprint
from calotype.tokenizers.bottlenecks import Discrete
from calotype.training.description import describe, restore
from calotype.training.network import Place, place

IMAGES = "vqvae"
"""Sub-folder of the image tokenizer."""
MARK = "calotype.json"
"""What is noted beside a saved pipeline: the fingerprint of its tokenizer, and how it is called."""


class TokenParts(NamedTuple):
    """What a `TokenPipeline` is made of."""

    transformer: "transformers.LlamaForCausalLM"
    prompts: "transformers.PreTrainedTokenizerFast | None"
    tokenizer: ImageTokenizer
    layout: Layout
    sampling: TokenSampling


def layout_of(text: int, tokenizer: ImageTokenizer, grids: Sequence[tuple[int, int]]) -> Layout:
    """The layout of images of some shapes, heights and widths in sites, of which the square, or
    else the first, is the usual one.

    Raises:
        ValueError: the tokenizer has no codes.
    """
    bottleneck = tokenizer.bottleneck
    if not isinstance(bottleneck, Discrete):
        raise ValueError(
            f"a transformer draws tokens, and a tokenizer with a {type(bottleneck).__name__} has "
            "none: choose one with codes, such as the model/ of small-vq or vqgan-f16"
        )
    usual = next((grid for grid in grids if grid[0] == grid[1]), grids[0])
    others = sorted(grid for grid in grids if grid != usual)
    several = (usual, *others) if others else ()
    return Layout(text, bottleneck.codes, bottleneck.codebooks, *usual, several)


def save_parts(parts: TokenParts, folder: Path) -> None:
    """Write the stock parts and what is noted beside them; `generate()` draws by default as
    `sampling` does, but for a ramp.
    """
    sampling = parts.sampling
    said: Any = parts.transformer.generation_config
    said.do_sample = drawn = sampling.temperature > 0
    said.temperature = sampling.temperature if drawn else None
    said.top_k, said.top_p = (sampling.top_k or 0, sampling.top_p) if drawn else (None, None)
    constant = sampling.guidance != 1 and isinstance(sampling.ramp, Constant)
    said.guidance_scale = sampling.guidance if constant and parts.prompts else None
    parts.transformer.eval().save_pretrained(folder, safe_serialization=True)
    _serve_older_transformers(folder / "config.json")
    if parts.prompts is not None:
        parts.prompts.save_pretrained(folder)
        _serve_older_tokenizers(folder / "tokenizer_config.json")
    parts.tokenizer.save(folder / IMAGES)
    mark = {"tokenizer": fingerprint(parts.tokenizer), "sampling": describe(sampling),
            "layout": _described(parts.layout)}  # fmt: skip
    (folder / MARK).write_text(json.dumps(mark) + "\n")


def _described(layout: Layout) -> dict[str, Any]:
    return {name: value for name, value in asdict(layout).items() if name != "grids" or value}


def _serve_older_transformers(file: Path) -> None:
    """Say the rotary frequencies under the names of transformers 4 too, which would otherwise take
    the usual ones.
    """
    config = json.loads(file.read_text())
    rope = config["rope_parameters"]
    config["rope_theta"] = rope["rope_theta"]
    if rope["rope_type"] != "default":
        config["rope_scaling"] = rope
    file.write_text(json.dumps(config, indent=2) + "\n")


def _serve_older_tokenizers(file: Path) -> None:
    """Say the class and begin-of-image under the names of transformers 4 too, which otherwise finds
    no such class.
    """
    config = json.loads(file.read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config["additional_special_tokens"] = config["extra_special_tokens"]
    del config["extra_special_tokens"]  # to transformers 4 a dictionary
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def load_parts(path: str | Path) -> TokenParts:
    """The parts in the folder that `save_parts` wrote, or its copy on the Hub; only safetensors
    are read.

    Raises:
        ValueError: there is none, or it is not whole.
    """
    try:
        folder = _fetched(place(path))
        mark = json.loads((folder / MARK).read_text())
        loaded: Any = transformers.LlamaForCausalLM.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True
        )
        transformer, report = loaded
        prompts = None
        if (folder / "tokenizer.json").exists():
            prompts = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"no transformer with its tokenizer in {path}: {error}") from error
    # transformers leaves at random what is missing.
    if wrong := [*report["missing_keys"], *report["unexpected_keys"]]:
        raise ValueError(f"the transformer in {path} is not whole: {wrong[0]} is where it is not")
    if "layout" not in mark:
        raise ValueError(f"{path} holds no transformer over tokens: {MARK} knows of no layout")
    said = mark["layout"]
    layout = Layout(**{**said, "grids": tuple(map(tuple, said.get("grids", ())))})
    tokenizer = ImageTokenizer.load(folder / IMAGES)
    sampling = restore(TokenSampling, mark["sampling"])
    return TokenParts(transformer.eval(), prompts, tokenizer, layout, sampling)


def _fetched(where: Place) -> Path:
    """Its folder; of the Hub, a copy."""
    if not where.is_here and not where.inside:
        wanted = ["*.json", "*.safetensors"]
        return Path(huggingface_hub.snapshot_download(
            where.root, revision=where.revision, allow_patterns=wanted
        ))  # fmt: skip
    return Path(where.whole().root)
