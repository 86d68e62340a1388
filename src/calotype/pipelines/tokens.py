"""Images from a transformer over tokens: its parts in one folder, and how they are called.

The folder is the transformer's: `AutoModelForCausalLM` and `AutoTokenizer` load it as it stands,
and `generate()` yields an image's tokens, which the `VQModel` in `vqvae/` decodes. Where no stock
class holds the tokenizer, calotype alone decodes them, and of several codebooks also draws them.
"""

import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor

from calotype.autoregressive import (
    Constant,
    Decoder,
    Layout,
    PromptTokens,
    Seed,
    TokenSampling,
    check_classes,
    draw_codes,
    knows_classes,
)
from calotype.data.reading.transforms import straight
from calotype.lazy import diffusers, huggingface_hub, transformers
from calotype.pipelines.token_readme import token_readme
from calotype.tokenizers import ImageTokenizer, fingerprint
from calotype.tokenizers.bottlenecks import Discrete
from calotype.tokenizers.preprocessing import Center
from calotype.training.description import describe, restore
from calotype.training.devices import DTYPES, settled
from calotype.training.files import publish, room
from calotype.training.images import Pixels
from calotype.training.network import Place, place
from calotype.training.portable import make_portable
from calotype.training.upload import Destination, push_saved

IMAGES = "vqvae"
"""Sub-folder of the image tokenizer."""
MARK = "calotype.json"
"""What is noted beside a saved pipeline: the fingerprint of its tokenizer, and how it is called."""

Images = Float[Tensor, "b c H W"]
Output = Literal["pil", "np", "pt", "latent"]


class TokenPipeline:
    """A transformer with the tokenizer of its prompts and that of its images.

    Args:
        transformer: Over the layout's vocabulary.
        prompts: Turns prompts into tokens, begin-of-image the last of them; None: there are none,
            and images are drawn unconditionally.
        tokenizer: Turns images into codes and back.
        layout: Of both in one vocabulary.
        sampling: How it draws when it is called, where the call does not say.
    """

    def __init__(
        self, transformer: "transformers.LlamaForCausalLM",
        prompts: "transformers.PreTrainedTokenizerFast | None",
        tokenizer: ImageTokenizer, layout: Layout, sampling: TokenSampling | None = None,
    ) -> None:  # fmt: skip
        self.transformer, self.prompts = transformer, prompts
        self.tokenizer, self.layout = tokenizer, layout
        self.sampling = sampling or TokenSampling()

    @torch.no_grad()
    def __call__(
        self, prompt: str | Sequence[str] = "", *, guidance_scale: float | None = None,
        negative_prompt: str | None = None, temperature: float | None = None,
        top_k: int | None = None, top_p: float | None = None,
        top: Any = None, part: float = 0.5,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_images_per_prompt: int = 1, output_type: Output = "pil", return_dict: bool = True,
        callback_on_step_end: Callable[["TokenPipeline", int, int, dict[str, Any]], Any]
        | None = None,
    ) -> Any:  # fmt: skip
        """Draw images, as a stock pipeline is called.

        Args:
            prompt: What they show, or several of it.
            guidance_scale: Of classifier-free guidance; 1: none; None, as of the next four: what
                `sampling` says.
            negative_prompt: What guidance leads away from; "": the null prompt.
            temperature: Divides the logits; 0: the likeliest token always.
            top_k: So many of the likeliest codes are drawn.
            top_p: The fewest codes that together are so likely are drawn.
            top: Picture that all begin with, as Pillow, numpy or [0, 1] tensors have it.
            part: How much of it stands, from its top.
            generator: Of their chances, one after another, or one for each image.
            num_images_per_prompt: Images of each prompt, which stand together.
            output_type: pil: Pillow's pictures; np: [B, H, W, c] and pt: [B, c, H, W], in [0, 1],
                colours beside alpha as files have them; latent: codes, [B, n].
            return_dict: Give them as `images` of an `ImagePipelineOutput`, and not in a tuple.
            callback_on_step_end: Called with the pipeline, the number of the token, twice, and {}
                after each token of a batch.

        Raises:
            ValueError: generators are not one for each image, or a number is not possible.
        """
        asked = [prompt] if isinstance(prompt, str) else list(prompt)
        prompts = [each for each in asked for _ in range(num_images_per_prompt)]
        given = {"guidance": guidance_scale, "temperature": temperature, "top_k": top_k,
                 "top_p": top_p, "negative_prompt": negative_prompt}  # fmt: skip
        said = {name: value for name, value in given.items() if value is not None}
        steps = 0

        def step(images: int) -> None:
            nonlocal steps
            if callback_on_step_end is not None:
                callback_on_step_end(
                    self, steps % self.layout.length, steps % self.layout.length, {}
                )
            steps += 1

        begun = None if top is None else self._top(top, part)
        codes = draw(self, prompts, _seeds(generator, len(prompts)),
                     replace(self.sampling, **said), begun, step)  # fmt: skip
        if output_type == "latent":
            images: Any = torch.cat(list(codes))
        else:
            drawn = straight(torch.cat([self.decode(batch) for batch in codes]))
            images = _processor().postprocess(drawn, output_type=output_type)
        return diffusers.ImagePipelineOutput(images) if return_dict else (images,)

    def _top(self, picture: Any, part: float) -> "Top":
        rows = round(part * self.layout.height)
        return Top(self.tokenizer.preprocess(picture, Center(self.size))[:1], rows)

    def save_pretrained(self, folder: str | Path) -> None:
        """Save all of it in one folder, whole or not at all, for `from_pretrained` and
        `calotype.pipelines.load`; transformers' `AutoModelForCausalLM` loads the transformer there.

        Raises:
            OSError: there is no room for it.
        """
        folder = Path(folder)
        beside = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(beside, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        weights = [*self.transformer.parameters(), *self.tokenizer.parameters()]
        with room(beside, folder, sum(each.nbytes for each in weights), "nothing was written"):
            save_parts(self, beside, self.sampling)
            text = token_readme(self.prompts, self.tokenizer, self.layout, IMAGES)
            (beside / "README.md").write_text(text)
            make_portable(beside)
            publish(beside, folder)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "TokenPipeline":
        """The pipeline that `save_pretrained` wrote to a folder, or its copy on the Hub; only
        safetensors are read.

        Raises:
            ValueError: there is none, or it is not whole.
        """
        return load_parts(path)

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
    def codes(self, images: Pixels) -> Int[Tensor, "b n"]:
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


def _seeds(
    generator: torch.Generator | Sequence[torch.Generator] | None, count: int
) -> Sequence[Seed]:
    if isinstance(generator, Sequence):
        return generator
    return [generator or torch.default_generator] * count


def _processor() -> "diffusers.image_processor.VaeImageProcessor":
    return diffusers.image_processor.VaeImageProcessor()


@dataclass(frozen=True)
class Top:
    """What images begin with."""

    images: Images
    """One for each to draw, or one for all."""
    rows: int
    """How many of the layout's `height` rows of sites are taken from them."""


def draw(
    pipeline: TokenPipeline, prompts: Sequence[str], seeds: Sequence[Seed],
    sampling: TokenSampling, top: Top | None = None,
    progress: Callable[[int], None] = lambda images: None, length: int = 0,
) -> Iterator[Int[Tensor, "b n"]]:  # fmt: skip
    """Batches of images' codes, one image for each prompt and its seed, for `pipeline.decode`.

    Args:
        pipeline: What draws.
        prompts: What each image shows.
        seeds: Of each image's own numbers, or a generator that draws them.
        sampling: How tokens are drawn.
        top: What the images begin with; None: nothing.
        progress: Called with the number of images after each token of theirs.
        length: Tokens that prompts are padded to at least, as they were in some other batch.

    Raises:
        ValueError: seeds or tops are not one for each prompt, the top leaves nothing to draw, or
            there is a negative prompt where none are read.
    """
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts: give one for each")
    known = None if top is None else _begun(pipeline, top, len(prompts))
    negative = _negative(pipeline, sampling.negative_prompt)
    dtype = DTYPES[settled(sampling.precision, pipeline.device)]
    decoder = Decoder(pipeline.transformer, pipeline.layout, sampling.compiled, dtype)
    for first in range(0, len(prompts), sampling.batch_size):
        chosen = slice(first, first + sampling.batch_size)
        begun = None if known is None else known[chosen]
        rows = pipeline.encode(prompts[chosen]).padded(length)
        yield draw_codes(decoder, rows, seeds[chosen], sampling, begun, progress, negative)


def _negative(pipeline: TokenPipeline, prompt: str | None) -> PromptTokens | None:
    if not prompt:
        return None
    if pipeline.prompts is None:
        raise ValueError("sampling.negative_prompt: this transformer reads no prompts")
    return pipeline.encode([prompt])


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
    """Write the stock parts and what is noted beside them; `generate()` draws by default as
    `sampling` does, but for a ramp.
    """
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
    mark = {"tokenizer": fingerprint(pipeline.tokenizer), "sampling": describe(sampling),
            "layout": asdict(pipeline.layout)}  # fmt: skip
    (folder / MARK).write_text(json.dumps(mark) + "\n")


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


def load_parts(path: str | Path) -> TokenPipeline:
    """A pipeline from the folder that `save_parts` wrote, or its copy on the Hub; only safetensors
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
    tokenizer, layout = ImageTokenizer.load(folder / IMAGES), Layout(**mark["layout"])
    sampling = restore(TokenSampling, mark["sampling"])
    return TokenPipeline(transformer.eval(), prompts, tokenizer, layout, sampling)


def _fetched(where: Place) -> Path:
    """Its folder; of the Hub, a copy."""
    if not where.is_here and not where.inside:
        wanted = ["*.json", "*.safetensors"]
        return Path(huggingface_hub.snapshot_download(
            where.root, revision=where.revision, allow_patterns=wanted
        ))  # fmt: skip
    return Path(where.whole().root)
