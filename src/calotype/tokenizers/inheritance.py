"""A new tokenizer that begins with a trained one's weights."""

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.tokenizers.bottlenecks.base import WAIST
from calotype.tokenizers.tokenizer import ImageTokenizer


@torch.no_grad()
def inherit(heir: ImageTokenizer, source: ImageTokenizer) -> None:
    """Give encoder and decoder the weights of a trained tokenizer with the same blocks, whatever
    its bottleneck; of a posterior, what leads to its mean.

    Where the heir's waist is wider, the channels that are its own are fresh, and what the source
    has does not read them: so but for its own bottleneck it rebuilds as the source does.

    Raises:
        ValueError: the blocks are not the same.
    """
    given, own = source.autoencoder.state_dict(), heir.autoencoder.state_dict()
    for name, weight in own.items():
        layer = name.rpartition(".")[0]
        if layer in WAIST and name in given:
            kept = given[name]
            if layer == "quant_conv":
                kept = kept[: source.bottleneck.z_channels]
            weight.copy_(_within(weight, kept))
        elif name.startswith(("encoder.", "decoder.")):
            if name not in given or given[name].shape != weight.shape:
                raise ValueError(
                    f"{name} is not the same there: give a tokenizer of the same backbone"
                )
            weight.copy_(given[name])


def _within(fresh: Float[Tensor, "..."], given: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """What is given, amid fresh outputs; what it has no weights for it does not read."""
    outputs = slice(min(len(fresh), len(given)))
    places = (outputs, slice(min(fresh.shape[1], given.shape[1]))) if fresh.ndim > 1 else (outputs,)
    made = fresh.clone()
    made[outputs] = 0
    made[places] = given[places]
    return made
