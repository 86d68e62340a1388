"""The transformer: a stock LlamaForCausalLM over text and image tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.autoregressive.layout import Layout
from calotype.lazy import transformers


@dataclass(frozen=True)
class Sequential:
    """Rotary positions along the sequence (Su et al. 2021)."""

    def parameters(self, head_width: int, length: int, rows: Sequence[int]) -> dict[str, Any]:
        """What transformers calls `rope_parameters`."""
        return {"rope_type": "default", "rope_theta": THETA}


@dataclass(frozen=True)
class RowPeriodic:
    """Rotary positions along the sequence in half of each head, and in the other half frequencies
    whose period is a row of the image or a whole fraction of one. To these, tokens of one column
    stand at one place however many rows are between them, so that heads can look straight up. Where
    images have rows of several lengths these share that half, and an image heeds those of its own.
    """

    def parameters(self, head_width: int, length: int, rows: Sequence[int]) -> dict[str, Any]:
        """What transformers calls `rope_parameters`: its "longrope" takes any frequencies, as
        divisors of the usual ones.

        Args:
            head_width: Channels of a head.
            length: Places of the longest sequence.
            rows: Tokens of a row of each shape of images, the usual first; no two alike.
        """
        pairs = head_width // 2
        half = pairs // 2
        usual = [THETA ** (-i / pairs) for i in range(pairs)]
        along = [THETA ** (-i / (pairs - half)) for i in range(pairs - half)]
        whose = [(rows[i % len(rows)], i // len(rows)) for i in range(half)]
        column = [2 * math.pi * (1 + turn % max(1, row // 2)) / row for row, turn in whose]
        divisors = [u / f for u, f in zip(usual, along + column, strict=True)]
        return {
            "rope_type": "longrope", "rope_theta": THETA, "attention_factor": 1.0, "factor": 1.0,
            "short_factor": divisors, "long_factor": divisors,
            "original_max_position_embeddings": length,
        }  # fmt: skip


THETA = 10_000.0
"""Base of the usual frequencies."""


@dataclass(frozen=True)
class Transformer:
    """A causal transformer as Llama's: RMSNorm before each block, SwiGLU, no biases."""

    width: int = 768
    """Channels of a token."""
    layers: int = 12
    """Blocks of attention and MLP."""
    heads: int = 12
    """Attention heads; must divide the width."""
    positions: Sequential | RowPeriodic = field(default_factory=RowPeriodic)
    """How places are told apart."""
    dropout: float = 0.0
    """Of attention weights; what stock Llama has."""

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"transformer.{name} is {value}: it must be at least 1")
        if self.width % (4 * self.heads):
            raise ValueError(
                f"transformer.width is {self.width}: choose a multiple of 4 * transformer.heads, "
                f"{4 * self.heads}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"transformer.dropout is {self.dropout}: it lies in [0, 1)")

    def build(
        self, layout: Layout, prompt: int, pad: Any = None
    ) -> "transformers.LlamaForCausalLM":
        """Fresh weights for prompts of up to `prompt` tokens and images of the layout, padded by
        the token `pad`; `generate()` then yields image tokens and nothing else, as many as an image
        of the layout's own shape has.
        """
        length = prompt + 1 + layout.longest
        rows = tuple(dict.fromkeys(width * layout.codebooks for _, width in layout.shapes))
        rope = self.positions.parameters(self.width // self.heads, length, rows)
        config = transformers.LlamaConfig(
            vocab_size=layout.vocabulary, hidden_size=self.width, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, num_key_value_heads=self.heads,
            # Two thirds of 4 * width, which cost what two matrices of 4 * width do.
            intermediate_size=32 * math.ceil(8 * self.width / 3 / 32),
            max_position_embeddings=length, attention_dropout=self.dropout,
            # No pad: its embedding would stay zero, and CLIP pads with its end of text.
            rope_parameters=rope, bos_token_id=None, eos_token_id=None, pad_token_id=None,
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config)
        model.generation_config = transformers.GenerationConfig(
            max_new_tokens=layout.length, bos_token_id=layout.begin, pad_token_id=pad,
            suppress_tokens=list(range(layout.first)), do_sample=True, top_k=0,
        )  # fmt: skip
        return model


@dataclass(frozen=True)
class Normal:
    """Embeddings and output rows of image tokens as stock Llama begins with them, all from one
    normal distribution of deviation 0.02.
    """

    def __call__(
        self, transformer: "transformers.LlamaForCausalLM", layout: Layout,
        vectors: Float[Tensor, "codebooks k c"],
    ) -> None:  # fmt: skip
        """Leave fresh weights as they are."""


@dataclass(frozen=True)
class FromCodes:
    """Random projections of the codes' vectors are added to that, so that tokens of codes that are
    decoded alike begin alike, and what is learnt of one serves its neighbours. A code is rare: in a
    short run most would hardly have learnt what they are.
    """

    embedding: float = 0.1
    """Deviation of what is added to an embedding."""
    head: float = 0.05
    """Of what is added to the row that predicts a token."""

    def __post_init__(self) -> None:
        for name in ("embedding", "head"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"init.{name} is {value}: it is a deviation, 0 or more")

    @torch.no_grad()
    def __call__(
        self, transformer: "transformers.LlamaForCausalLM", layout: Layout,
        vectors: Float[Tensor, "codebooks k c"],
    ) -> None:  # fmt: skip
        """Add to fresh weights, from torch's ambient generator.

        Args:
            transformer: With fresh weights.
            layout: Of its tokens.
            vectors: Of the codes, about 0 with a mean square of 1: `Discrete.code_vectors()`.
        """
        channels, width = vectors.shape[-1], transformer.config.hidden_size
        codes = vectors.flatten(0, 1).cpu()
        tables = transformer.model.embed_tokens.weight, transformer.lm_head.weight
        for table, deviation in zip(tables, (self.embedding, self.head), strict=True):
            projection = torch.randn(channels, width) * deviation / channels**0.5
            table[layout.first :] += (codes @ projection).to(table)


Init = Normal | FromCodes
