"""Prompts as tokens, and how many of those count."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from calotype.lazy import transformers


class Prompted(NamedTuple):
    """Tokens of prompts, padded on the right to one length."""

    tokens: Int[Tensor, "b length"]
    lengths: Int[Tensor, " b"]
    """Tokens of each prompt, its begin and end included, the padding not; of the empty prompt none,
    for to a transformer that is the null prompt."""


def tokenize(tokenizer: "transformers.PreTrainedTokenizerFast", prompts: Sequence[str]) -> Prompted:
    """Tokens as a tokenizer with a pad token makes them, cut to its `model_max_length`."""
    rows = tokenizer(
        list(prompts), padding="max_length", padding_side="right", truncation=True,
        max_length=tokenizer.model_max_length, return_attention_mask=True, return_tensors="pt",
    )  # fmt: skip
    # Counted in the mask: CLIP pads with its end, so ids do not tell the one from the other.
    said = torch.tensor([bool(prompt) for prompt in prompts])
    return Prompted(rows.input_ids, rows.attention_mask.sum(1) * said)
