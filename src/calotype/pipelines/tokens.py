"""Images from a transformer over tokens: its parts in one folder, and how they are called.

The folder is the transformer's: `AutoModelForCausalLM` and `AutoTokenizer` load it as it stands,
and `generate()` yields an image's tokens, which the `VQModel` in `vqvae/` decodes. Where no stock
class holds the tokenizer, calotype alone decodes them, and of several codebooks also draws them.
"""

import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor

from calotype.autoregressive import (
    Constant,
    Decoder,
    Layout,
    PromptTokens,
    TokenSampling,
    check_classes,
    draw_codes,
    knows_classes,
    log_likelihood,
)
from calotype.lazy import huggingface_hub, transformers
from calotype.tokenizers import ImageTokenizer, fingerprint
from calotype.tokenizers.bottlenecks import Discrete
from calotype.training.devices import DTYPES, Precision, computing, settled
from calotype.training.network import Place, place
from calotype.training.run import describe
from calotype.training.upload import Destination, push_saved

IMAGES = "vqvae"
"""Sub-folder of the image tokenizer."""
MARK = "calotype.json"
"""File of a saved pipeline that stock classes do not read: whose latents it draws, and how best."""
CARD = f"""---
license: unknown
library_name: transformers
pipeline_tag: text-to-image
tags:
- calotype
---

# Images, token by token

A `LlamaForCausalLM` of transformers that draws a picture's tokens, and in `{IMAGES}/` the tokenizer
that decodes them. Trained with calotype: `calotype generate PROMPT --pipeline NAME` does both.
"""
"""Nobody was asked for a licence: `unknown` is the Hub's word for that."""

Images = Float[Tensor, "b 3 H W"]


class TokenPipeline:
    """A transformer with the tokenizer of its prompts and that of its images.

    Args:
        transformer: Over the layout's vocabulary.
        prompts: Turns prompts into tokens, begin-of-image the last of them; None: there are none,
            and images are drawn unconditionally.
        tokenizer: Turns images into codes and back.
        layout: Of both in one vocabulary.
    """

    def __init__(
        self, transformer: "transformers.LlamaForCausalLM",
        prompts: "transformers.PreTrainedTokenizerFast | None",
        tokenizer: ImageTokenizer, layout: Layout,
    ) -> None:  # fmt: skip
        self.transformer, self.prompts = transformer, prompts
        self.tokenizer, self.layout = tokenizer, layout

    @property
    def knows_classes(self) -> bool:
        """Whether its prompts are names of classes."""
        return self.prompts is not None and knows_classes(self.prompts)

    def to(self, device: str | torch.device) -> "TokenPipeline":
        """Move both networks."""
        self.transformer.to(device)  # type: ignore[reportArgumentType]
        self.tokenizer.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.transformer.device

    def save_pretrained(self, folder: str | Path, sampling: TokenSampling | None = None) -> None:
        """Write the stock parts, and what calotype reads besides.

        Args:
            folder: Where to.
            sampling: How it draws best, which `generate()` then does by default; None: by guidance
                and temperature of a TokenSampling.
        """
        folder, how = Path(folder), sampling or TokenSampling()
        save_parts(self, folder, how)
        mark = {"tokenizer": fingerprint(self.tokenizer), "sampling": describe(how),
                "layout": asdict(self.layout)}  # fmt: skip
        (folder / MARK).write_text(json.dumps(mark) + "\n")
        (folder / "README.md").write_text(CARD)

    def push_to_hub(
        self, repo_id: str, private: bool | None = None, commit_message: str | None = None,
        revision: str | None = None, token: str | None = None,
    ) -> str:  # fmt: skip
        """Save it in a repository on the Hub; as `ImageTokenizer.push_to_hub`."""
        return push_saved(
            self.save_pretrained, Destination(repo_id, revision, private, commit_message), token
        )

    def encode(self, prompts: Sequence[str]) -> PromptTokens:
        """Rows of prompts' tokens; the empty prompt is the null prompt. A prompt that is too long
        is cut, which is said.

        Raises:
            ValueError: classes are asked for, and a prompt names none.
        """
        if self.prompts is None or not any(prompts):
            tokens = torch.full((len(prompts), 1), self.layout.begin, device=self.device)
            return PromptTokens(tokens, torch.ones_like(tokens, dtype=torch.bool))
        check_classes(self.prompts, prompts)
        _warn_of_cut(self.prompts, prompts)
        found = self.prompts(list(prompts), padding=True, truncation=True, return_tensors="pt")
        found = found.to(self.device)
        seen = found["attention_mask"].bool()
        empty = [i for i, prompt in enumerate(prompts) if not prompt]
        seen[empty, :-1] = False
        return PromptTokens(found["input_ids"], seen)

    @property
    def size(self) -> int:
        """Pixels a side of its images."""
        return self.layout.height * self.tokenizer.factor

    @torch.no_grad()
    def codes(self, images: Images) -> Int[Tensor, "b n"]:
        """Codes of images in the order of the sequence."""
        return self.layout.flatten(self.tokenizer.pack(images.to(self.device)))

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "b n"]) -> Images:
        """Images of codes, near [-1, 1], on the CPU."""
        z = self.tokenizer.bottleneck.unpack(self.layout.unflatten(codes))
        return self.tokenizer.decode(z).cpu()


def _warn_of_cut(tokenizer: "transformers.PreTrainedTokenizerFast", prompts: Sequence[str]) -> None:
    limit = tokenizer.model_max_length
    cut = sum(len(row) > limit for row in tokenizer(list(prompts), verbose=False).input_ids)
    if cut:
        warnings.warn(f"{cut} of {len(prompts)} prompts are cut to {limit} tokens", stacklevel=3)


@dataclass(frozen=True)
class Top:
    """What images begin with."""

    images: Images
    """One for each to draw, or one for all."""
    rows: int
    """How many of the layout's `height` rows of sites are taken from them."""


def draw(
    pipeline: TokenPipeline, prompts: Sequence[str], seeds: Sequence[int],
    sampling: TokenSampling, top: Top | None = None,
    progress: Callable[[int], None] = lambda images: None,
) -> Iterator[Int[Tensor, "b n"]]:  # fmt: skip
    """Batches of images' codes, one image for each prompt and its seed, for `pipeline.decode`.

    Args:
        pipeline: What draws.
        prompts: What each image shows.
        seeds: Of each image's own numbers.
        sampling: How tokens are drawn.
        top: What the images begin with; None: nothing.
        progress: Called with the number of images after each token of theirs.

    Raises:
        ValueError: seeds or tops are not one for each prompt, or the top leaves nothing to draw.
    """
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts: give one for each")
    known = None if top is None else _begun(pipeline, top, len(prompts))
    dtype = DTYPES[settled(sampling.precision, pipeline.device)]
    decoder = Decoder(pipeline.transformer, pipeline.layout, sampling.compiled, dtype)
    for first in range(0, len(prompts), sampling.batch_size):
        chosen = slice(first, first + sampling.batch_size)
        begun = None if known is None else known[chosen]
        yield draw_codes(decoder, pipeline.encode(prompts[chosen]), seeds[chosen], sampling,
                         begun, progress)  # fmt: skip


def best(
    pipeline: TokenPipeline, codes: Int[Tensor, "b n"], prompts: Sequence[str], candidates: int,
    batch_size: int,
) -> list[int]:  # fmt: skip
    """Of every `candidates` neighbours the place of the one that takes the fewest bits under its
    prompt; scored `batch_size` at a time.
    """
    if candidates == 1 or not len(codes):
        return list(range(len(codes)))
    parts = [slice(first, first + batch_size) for first in range(0, len(codes), batch_size)]
    bits = torch.cat([score(pipeline, codes[part], prompts[part]) for part in parts])
    groups = bits.view(-1, candidates)
    return (groups.argmin(1) + candidates * torch.arange(len(groups))).tolist()


def score(
    pipeline: TokenPipeline, codes: Int[Tensor, "b n"], prompts: Sequence[str],
    precision: Precision = "fp32",
) -> Float[Tensor, " b"]:  # fmt: skip
    """Bits that images' codes take under prompts, one of each: the negative log-likelihood of an
    image's tokens. By `layout.length` it is bits per token, by H * W bits per pixel. The
    transformer computes in `precision`; probabilities are float32.
    """
    rows = pipeline.encode(prompts)
    lengths = rows.seen.sum(1) - 1
    # Padding to the right, behind what counts.
    order = (~rows.seen).int().argsort(dim=1, stable=True)
    tokens = rows.tokens.gather(1, order)[:, :-1]
    with computing(precision, pipeline.device, pipeline.transformer.model):
        nats = log_likelihood(pipeline.transformer, pipeline.layout, tokens, lengths,
                              codes.to(tokens.device))  # fmt: skip
    return -nats.sum(1).cpu() / math.log(2)


def _begun(pipeline: TokenPipeline, top: Top, count: int) -> Int[Tensor, "b known"]:
    layout = pipeline.layout
    if len(top.images) not in (1, count) or not 0 <= top.rows < layout.height:
        raise ValueError(
            f"{len(top.images)} tops of {top.rows} rows for {count} images of {layout.height}: "
            "give one for each or one for all, and leave rows to draw"
        )
    known = top.rows * layout.width * layout.codebooks
    return pipeline.codes(top.images)[:, :known].expand(count, -1)


def layout_of(text: int, tokenizer: ImageTokenizer, length: int) -> Layout:
    """The layout of square images of `length` tokens.

    Raises:
        ValueError: the tokenizer has no codes, or the tokens make no square.
    """
    bottleneck = tokenizer.bottleneck
    if not isinstance(bottleneck, Discrete):
        raise ValueError(
            f"a transformer draws tokens, and a tokenizer with a {type(bottleneck).__name__} has "
            "none: choose one with codes, such as the model/ of small-vq or vqgan-f16"
        )
    side = math.isqrt(length // bottleneck.codebooks)
    if side * side * bottleneck.codebooks != length:
        raise ValueError(f"{length} tokens are no square image of {bottleneck.codebooks} a site")
    return Layout(text, bottleneck.codes, bottleneck.codebooks, side, side)


def save_parts(pipeline: TokenPipeline, folder: Path, sampling: TokenSampling) -> None:
    """Write the stock parts; `generate()` draws by default as `sampling` does, but for a ramp."""
    said: Any = pipeline.transformer.generation_config
    said.do_sample = drawn = sampling.temperature > 0
    said.temperature = sampling.temperature if drawn else None
    said.top_k, said.top_p = (sampling.top_k or 0, sampling.top_p) if drawn else (None, None)
    constant = sampling.guidance != 1 and isinstance(sampling.ramp, Constant)
    said.guidance_scale = sampling.guidance if constant and pipeline.prompts else None
    pipeline.transformer.eval().save_pretrained(folder, safe_serialization=True)
    _serve_older_transformers(folder / "config.json")
    if pipeline.prompts is not None:
        pipeline.prompts.save_pretrained(folder)
        _serve_older_tokenizers(folder / "tokenizer_config.json")
    pipeline.tokenizer.save(folder / IMAGES)


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


def load_parts(path: str | Path, layout: Layout) -> TokenPipeline:
    """A pipeline from the folder that `save_parts` wrote, or its copy on the Hub; only safetensors
    are read.

    Raises:
        ValueError: there is none, or it is not whole.
    """
    try:
        folder = _fetched(place(path))
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
    tokenizer = ImageTokenizer.load(folder / IMAGES)
    return TokenPipeline(transformer.eval(), prompts, tokenizer, layout)


def _fetched(where: Place) -> Path:
    """Its folder; of the Hub, a copy."""
    if not where.is_here and not where.inside:
        wanted = ["*.json", "*.safetensors"]
        return Path(huggingface_hub.snapshot_download(
            where.root, revision=where.revision, allow_patterns=wanted
        ))  # fmt: skip
    return Path(where.whole().root)
