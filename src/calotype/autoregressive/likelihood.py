"""How likely a transformer finds images."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from calotype.autoregressive.layout import Layout, sequences
from calotype.autoregressive.objective import hidden_states, image_logits, take
from calotype.lazy import transformers


@torch.no_grad()
def log_likelihood(
    transformer: "transformers.LlamaForCausalLM",
    layout: Layout,
    prompts: Int[Tensor, "b prompt"],
    lengths: Int[Tensor, " b"],
    codes: Int[Tensor, "b n"],
) -> Float[Tensor, "b n"]:
    """Log-probability in nats of each code of images under prompts, begin-of-image not among their
    tokens, of which the first `lengths` count; a length of 0 is the null prompt.
    """
    rows = sequences(layout, prompts, lengths, layout.tokens(codes))
    hidden = hidden_states(transformer, rows.tokens)
    logits = image_logits(transformer, layout, take(hidden, rows.image_places(codes.shape[1])))
    return -functional.cross_entropy(logits.float().transpose(1, 2), codes, reduction="none")


def unigram_bits(train: Int[Tensor, "images n"], images: Int[Tensor, "b n"], codes: int) -> float:
    """Bits per token of images under how often each code stood at each place of `train`, one more
    of each added: what is known without looking at prompts or other tokens.
    """
    n = train.shape[1]
    counts = torch.ones(n, codes, dtype=torch.float64)
    counts.scatter_add_(1, train.T.long(), torch.ones(n, len(train), dtype=torch.float64))
    bits = -(counts / counts.sum(1, keepdim=True)).log2()
    return bits.gather(1, images.T.long()).mean().item()
