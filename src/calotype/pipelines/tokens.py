"""Images from a transformer over tokens: its parts in one folder, and how they are called.

The folder is the transformer's: `AutoModelForCausalLM` and `AutoTokenizer` load it as it stands,
and `generate()` yields an image's tokens, which the `VQModel` in `vqvae/` decodes. Where no stock
class holds the tokenizer, calotype alone decodes them, and of several codebooks also draws them.
"""

import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from calotype.autoregressive import (
    Decoder,
    Layout,
    PromptTokens,
    Seed,
    TokenSampling,
    check_classes,
    draw_codes,
    knows_classes,
)
from calotype.data.aspect.buckets import Listed, Shape
from calotype.data.reading.transforms import CenterCrop, straight
from calotype.lazy import diffusers, transformers
from calotype.pipelines.token_parts import IMAGES, TokenParts, load_parts, save_parts
from calotype.pipelines.token_readme import token_readme
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.preprocessing import Cover
from calotype.training.devices import DTYPES, settled
from calotype.training.files import publish, room
from calotype.training.images import Pixels
from calotype.training.portable import make_portable
from calotype.training.upload import Destination, push_saved

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
        top: Any = None, part: float = 0.5, height: int | None = None, width: int | None = None,
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
            height: Pixels of the images, where it draws several shapes; None: of the usual one.
            width: Likewise.
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
        shaped = self.shaped(height, width)
        asked = [prompt] if isinstance(prompt, str) else list(prompt)
        prompts = [each for each in asked for _ in range(num_images_per_prompt)]
        given = {"guidance": guidance_scale, "temperature": temperature, "top_k": top_k,
                 "top_p": top_p, "negative_prompt": negative_prompt}  # fmt: skip
        said = {name: value for name, value in given.items() if value is not None}
        steps = 0

        def step(images: int) -> None:
            nonlocal steps
            if callback_on_step_end is not None:
                number = steps % shaped.layout.length
                callback_on_step_end(self, number, number, {})
            steps += 1

        begun = None if top is None else shaped._top(top, part)
        codes = draw(shaped, prompts, _seeds(generator, len(prompts)),
                     replace(self.sampling, **said), begun, step)  # fmt: skip
        if output_type == "latent":
            images: Any = torch.cat(list(codes))
        else:
            drawn = straight(torch.cat([shaped.decode(batch) for batch in codes]))
            images = _processor().postprocess(drawn, output_type=output_type)
        return diffusers.ImagePipelineOutput(images) if return_dict else (images,)

    def _top(self, picture: Any, part: float) -> "Top":
        rows = round(part * self.layout.height)
        return Top(self.tokenizer.preprocess(picture, Cover(*self.shape))[:1], rows)

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
            save_parts(self.parts(self.sampling), beside)
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
        return cls(*load_parts(path))

    def parts(self, sampling: TokenSampling) -> TokenParts:
        """What it is made of, to be saved, and how it draws by default then."""
        layout = self.layout.of(*self.layout.shapes[0])
        return TokenParts(self.transformer, self.prompts, self.tokenizer, layout, sampling)

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
        tokens = found["input_ids"]
        tokens[:, -1] = self.layout.begin
        return PromptTokens(tokens, seen)

    def shaped(self, height: int | None, width: int | None) -> "TokenPipeline":
        """The same parts, for images of another shape; None: of this one, or of the only one that
        has the other side.

        Args:
            height: Pixels.
            width: Pixels.

        Raises:
            ValueError: there is none of it, or several.
        """
        if height is None and width is None:
            return self
        asked = [shape for shape in self.shapes
                 if width in (None, shape.width) and height in (None, shape.height)]  # fmt: skip
        if len(asked) != 1:
            raise ValueError(
                f"--width, --height: this transformer draws images of "
                f"{', '.join(map(str, self.shapes))} pixels: choose one of these"
            )
        (shape,), factor = asked, self.tokenizer.factor
        layout = self.layout.of(shape.height // factor, shape.width // factor)
        return TokenPipeline(self.transformer, self.prompts, self.tokenizer, layout, self.sampling)

    @property
    def shape(self) -> Shape:
        """Width and height of its images, in pixels."""
        factor = self.tokenizer.factor
        return Shape(factor * self.layout.width, factor * self.layout.height)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """All that its images may have, the usual first."""
        factor = self.tokenizer.factor
        return tuple(Shape(factor * width, factor * height) for height, width in self.layout.shapes)

    @property
    def crop(self) -> CenterCrop | Listed:
        """What makes pictures of any size images of its shapes."""
        if len(self.shapes) == 1 and self.shape.width == self.shape.height:
            return CenterCrop(self.size)
        return Listed(listed=self.shapes)

    @property
    def size(self) -> int:
        """Pixels a side of a square of about its images' area."""
        return round((self.shape.width * self.shape.height) ** 0.5)

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
