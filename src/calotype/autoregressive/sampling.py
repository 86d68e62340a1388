"""Drawing images' tokens: guidance, what is likely enough, and a seed for each image."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from calotype.autoregressive.decoder import Decoder, Memory
from calotype.autoregressive.ramps import Constant, Ramp
from calotype.lazy import transformers
from calotype.training.devices import Precision
from calotype.training.noise import sent

Seed = int | torch.Generator
"""Of an image's own numbers, or what draws them next."""


@dataclass(frozen=True)
class TokenSampling:
    """How tokens are drawn."""

    guidance: float = 3.0
    """Classifier-free guidance scale, on logits; 1: none."""
    ramp: Ramp = field(default_factory=Constant)
    """How the scale grows from the image's first token to its last."""
    temperature: float = 1.0
    """Divides the logits, after guidance; 0: the likeliest token always."""
    top_k: int | None = None
    """Only so many of the likeliest codes are drawn; None: any."""
    top_p: float | None = None
    """Only the fewest codes that together are so likely are drawn; None: any."""
    batch_size: int = 32
    """Images at a time."""
    compiled: bool = False
    """Compile a step by torch.compile: pays where many images are drawn."""
    precision: Precision = "fp32"
    """Of the transformer; what is drawn from is float32 in any."""
    negative_prompt: str | None = None
    """What guidance leads away from; None: the null prompt."""

    def __post_init__(self) -> None:
        positive = (("top_k", self.top_k), ("batch_size", self.batch_size))
        for name, value in positive:
            if value is not None and value < 1:
                raise ValueError(f"sampling.{name} is {value}: it must be at least 1")
        if not math.isfinite(self.guidance):
            raise ValueError(f"sampling.guidance is {self.guidance}: it must be finite; 1 is none")
        if not self.temperature >= 0:
            raise ValueError(f"sampling.temperature is {self.temperature}: it must be 0 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"sampling.top_p is {self.top_p}: it lies in (0, 1]")


@dataclass(frozen=True)
class PromptTokens:
    """Rows of prompts' tokens, padded on their left; begin-of-image is the last of each."""

    tokens: Int[Tensor, "b prompt"]
    seen: Bool[Tensor, "b prompt"]
    """Which are none of padding."""

    def padded(self, length: int) -> "PromptTokens":
        """The same, in rows of so many tokens at least: rounding depends on their length."""
        more = (max(0, length - self.tokens.shape[1]), 0)
        return PromptTokens(functional.pad(self.tokens, more), functional.pad(self.seen, more))

    def guided(self, negative: "PromptTokens | None" = None) -> "PromptTokens":
        """The same, and behind them, for each, what guidance leads away from: the one row of
        `negative`, or the null prompt, begin-of-image alone.
        """
        if negative is None:
            begin = torch.ones_like(self.seen[:1, -1:])
            negative = PromptTokens(self.tokens[:1, -1:], begin)
        length = max(self.tokens.shape[1], negative.tokens.shape[1])
        own, other = self.padded(length), negative.padded(length)
        rows = len(own.tokens)
        return PromptTokens(torch.cat([own.tokens, other.tokens.expand(rows, -1)]),
                            torch.cat([own.seen, other.seen.expand(rows, -1)]))  # fmt: skip


@torch.inference_mode()
def draw_codes(
    decoder: Decoder, prompts: PromptTokens, seeds: Sequence[Seed], sampling: TokenSampling,
    top: Int[Tensor, "b known"] | None = None,
    progress: Callable[[int], None] = lambda images: None, negative: PromptTokens | None = None,
) -> Int[Tensor, "b n"]:  # fmt: skip
    """Draw the codes of images, one for each prompt and its seed, in the order of the sequence.

    An image depends on its own prompt and seed alone, not on its batch's other ones (up to the
    rounding of batched arithmetic).

    Args:
        decoder: Of the transformer.
        prompts: What they show.
        seeds: Of each image's own numbers, or a generator that draws them.
        sampling: How they are drawn; its `batch_size` is not looked at.
        top: Codes that the images begin with; the rest is drawn.
        progress: Called with the number of images after each token of theirs.
        negative: What guidance leads all of them away from, one row; None: the null prompt.

    Raises:
        ValueError: there are not as many seeds as prompts, or the logits are not finite.
    """
    if len(seeds) != len(prompts.tokens):
        raise ValueError(f"{len(seeds)} seeds for {len(prompts.tokens)} prompts: give one for each")
    layout, device = decoder.layout, prompts.tokens.device
    known = prompts.tokens.new_zeros(len(seeds), 0) if top is None else top.to(device)
    chances = sent(torch.stack([_chances(layout.length, seed) for seed in seeds]), device)
    # Of the null prompt itself both halves are one.
    differ = prompts.tokens.shape[1] > 1 or negative is not None
    guided = sampling.guidance != 1 and differ
    rows = prompts.guided(negative) if guided else prompts
    repeats = len(rows.tokens) // len(seeds)
    memory = Memory(decoder, rows.seen)
    read = torch.cat([rows.tokens, layout.tokens(known).repeat(repeats, 1)], dim=1)
    codes, total = [known], torch.zeros((), device=device)
    for place in range(known.shape[1], layout.length):
        logits = decoder.read(read, memory).float()
        total = total + logits.mean()
        if guided:
            logits = guide(logits, sampling, place / layout.length)
        code = choose(logits, chances[:, place], sampling)
        codes.append(code[:, None])
        offset = layout.first + place % layout.codebooks * layout.codes
        read = (code + offset)[:, None].repeat(repeats, 1)
        progress(len(seeds))
    # Asked once, of all of them: each question waits for the device.
    if not math.isfinite(total.item()):
        raise ValueError(
            "the transformer's logits are not finite: some of its weights are not, or the "
            "precision is too narrow for them; try --precision fp32"
        )
    return torch.cat(codes, dim=1)


def _chances(count: int, seed: Seed) -> Float[Tensor, " n"]:
    own = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
    return torch.rand(count, generator=own, device=own.device).cpu()


def guide(
    logits: Float[Tensor, "rows codes"], sampling: TokenSampling, done: float
) -> Float[Tensor, "b codes"]:
    """Away from what is likely without the prompt: u + s (c - u) of logits with and, behind them,
    without (Ho & Salimans 2022, eq. 6), or by a negative prompt; `done` is the part of the image
    that is there.
    """
    if sampling.guidance == 1:
        return logits
    conditional, null = logits.chunk(2)
    return null + sampling.ramp.at(sampling.guidance, done) * (conditional - null)


def choose(
    logits: Float[Tensor, "b codes"], chances: Float[Tensor, " b"], sampling: TokenSampling
) -> Int[Tensor, " b"]:
    """The code at which the sum of probabilities passes each row's chance, a number in [0, 1)."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    sums = probabilities(logits, sampling).cumsum(-1)
    # Rounded sums end near 1, not at it. Behind all codes is what is no number.
    found = torch.searchsorted(sums, (chances * sums[:, -1])[:, None], right=True)[:, 0]
    return found.clamp(max=logits.shape[-1] - 1)


def probabilities(
    logits: Float[Tensor, "b codes"], sampling: TokenSampling
) -> Float[Tensor, "b codes"]:
    """Of each code, after temperature, top-k and top-p, in this order, as `generate()` has it."""
    nothing: Any = None  # of the tokens before, these three do not read
    if sampling.temperature != 1:
        logits = transformers.TemperatureLogitsWarper(float(sampling.temperature))(nothing, logits)
    if sampling.top_k is not None:
        logits = transformers.TopKLogitsWarper(sampling.top_k)(nothing, logits)
    if sampling.top_p is not None and sampling.top_p < 1:
        logits = transformers.TopPLogitsWarper(sampling.top_p)(nothing, logits)
    return logits.softmax(-1)
