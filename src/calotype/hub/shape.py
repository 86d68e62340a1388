"""What a model is, in a sentence and in numbers, as its configs and its weights say."""

import math
from pathlib import Path
from typing import Any

from safetensors import safe_open

from calotype.hub.parts import Part, read_json
from calotype.pipelines.token_parts import IMAGES, MARK
from calotype.tokenizers.continuing import KEPT
from calotype.tokenizers.tokenizer import OWN_CONFIG

ONES_OWN = {
    "pipeline": "draws only the kind of picture that it was trained on",
    "tokens": "draws only the kind of picture that it was trained on",
    "lora": "draws nothing without the pipeline that it is added to",
    "tokenizer": "draws nothing by itself: it turns pictures into latents and back",
}

NETWORKS = {"tokens": "transformer", "tokenizer": "tokenizer", "lora": "additions"}
"""What lies in no folder of its own."""


def described(part: Part) -> str:
    """What it is."""
    if part.kind == "tokenizer":
        return f"An image tokenizer, {_tokenizer(part.folder)}."
    if part.kind == "lora":
        return "LoRA weights: small additions to the networks of a latent diffusion pipeline."
    tokenizer = _tokenizer(_autoencoder(part))
    if part.kind == "tokens":
        layout = read_json(part.folder / MARK)["layout"]
        grids = layout.get("grids") or [(layout["height"], layout["width"])]
        lengths = [height * width * layout["codebooks"] for height, width in grids]
        tokens = f"{lengths[0]} tokens a picture"
        if len(grids) > 1:
            tokens = f"{min(lengths)} to {max(lengths)} tokens a picture of {len(grids)} shapes"
        return (
            "A transformer (`LlamaForCausalLM`) that draws pictures token by token, "
            f"{tokens}, and the tokenizer that decodes them, {tokenizer}."
        )
    index = read_json(part.folder / "model_index.json")
    how = "from prompts" if reads_prompts(part) else "from noise alone, without prompts"
    return (
        f"Latent diffusion (`{index['_class_name']}`) {how}, in the latents of a tokenizer, "
        f"{tokenizer}."
    )


def is_not(part: Part) -> str:
    """What it is not."""
    own = "" if part.kind == "tokenizer" else ", and has no filter for what it draws"
    return f"It {ONES_OWN[part.kind]}{own}."


def is_own(part: Part) -> bool:
    """Whether it is a tokenizer that no stock class holds."""
    return (part.folder / OWN_CONFIG).exists()


def reads_prompts(part: Part) -> bool:
    """Whether it is asked for pictures in words."""
    if part.kind == "pipeline":
        return "tokenizer" in read_json(part.folder / "model_index.json")
    return part.kind == "lora" or (part.folder / "tokenizer.json").exists()


def _autoencoder(part: Part) -> Path:
    """Folder of a part's tokenizer."""
    names = (IMAGES,) if part.kind == "tokens" else ("vae", "vqvae")
    return next(
        (part.folder / name for name in names if (part.folder / name).is_dir()), part.folder
    )


def _tokenizer(folder: Path) -> str:
    config = read_json(folder / "config.json")
    own = read_json(folder / OWN_CONFIG)
    config = config or own.get("autoencoder", {})
    name = str(config.get("_class_name"))
    kind = "one that calotype alone loads" if own else f"a{'n' * name.startswith('A')} `{name}`"
    levels = config.get("block_out_channels", ())
    size, latent = config.get("sample_size"), config.get("latent_channels")
    if not isinstance(size, int) or not levels:
        return kind
    side = size // 2 ** (len(levels) - 1)
    codes = config.get("num_vq_embeddings") if config.get("_class_name") == "VQModel" else None
    numbers = f"{side}x{side}x{latent} numbers"
    to = f"{side}x{side} codes of {codes}" if codes and not own else numbers
    pixels = {1: "grey pixels", 4: "pixels with alpha"}.get(config.get("in_channels", 3), "pixels")
    return f"{kind} that turns {size}x{size} {pixels} into {to}"


def parameters(part: Part) -> dict[str, int]:
    """Numbers of its weights, by network; without what only training goes on with."""
    found: dict[str, int] = {}
    for file in sorted(part.folder.rglob("*.safetensors")):
        if file.name == KEPT:
            continue
        name = file.parent.relative_to(part.folder).as_posix()
        name = NETWORKS.get(part.kind, "network") if name == "." else name
        with safe_open(file, "pt") as weights:
            shapes: list[Any] = [weights.get_slice(key).get_shape() for key in weights.keys()]
        found[name] = found.get(name, 0) + sum(map(math.prod, shapes))
    return found
