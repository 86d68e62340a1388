"""How likely images are to a transformer under their prompts."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from calotype.autoregressive import log_likelihood
from calotype.pipelines.tokens import TokenPipeline
from calotype.training.devices import Precision, computing


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
    return token_bits(pipeline, codes, prompts, precision).sum(1)


def token_bits(
    pipeline: TokenPipeline, codes: Int[Tensor, "b n"], prompts: Sequence[str],
    precision: Precision = "fp32",
) -> Float[Tensor, "b n"]:  # fmt: skip
    """As `score`, of each code."""
    rows = pipeline.encode(prompts)
    lengths = rows.seen.sum(1) - 1
    # Padding to the right, behind what counts.
    order = (~rows.seen).int().argsort(dim=1, stable=True)
    tokens = rows.tokens.gather(1, order)[:, :-1]
    with computing(precision, pipeline.device, pipeline.transformer.model):
        nats = log_likelihood(pipeline.transformer, pipeline.layout, tokens, lengths,
                              codes.to(tokens.device))  # fmt: skip
    return -nats.cpu() / math.log(2)
