"""A new tokenizer that begins with a trained one's weights."""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.tokenizers.bottlenecks.base import WAIST
from calotype.tokenizers.tokenizer import ImageTokenizer

Weights = dict[str, Tensor]


@torch.no_grad()
def inherit(heir: ImageTokenizer, source: ImageTokenizer) -> None:
    """Give encoder and decoder the weights of a trained tokenizer with the same blocks, whatever
    its bottleneck; of a posterior, what leads to its mean.

    Where the heir's waist is wider, the channels that are its own are fresh, and what the source
    has does not read them; where only the layers around z are narrower, what the source's two do
    becomes one layer's work. So but for its own bottleneck the heir rebuilds as the source does (up
    to the border of a decoder that is joined so). A narrower z keeps the first channels, which is
    warned of.

    Raises:
        ValueError: the blocks are not the same, or the channels of the images.
    """
    if source.mode != heir.mode:
        raise ValueError(
            f"it takes {source.mode}, and transform.mode is {heir.mode}: give the same"
        )
    given, own = dict(source.autoencoder.state_dict()), heir.autoencoder.state_dict()
    has, wants = source.bottleneck.z_channels, heir.bottleneck.z_channels
    if wants < has:
        warnings.warn(
            f"latents of {has} channels begin {wants} of another bottleneck: the first {wants} are "
            "kept, and what the others held is learnt anew",
            stacklevel=2,
        )
    _keep_mean(given, has, min(has, wants))
    _join(given, own)
    for name, weight in own.items():
        if name.rpartition(".")[0] in WAIST and name in given:
            weight.copy_(_within(weight, given[name]))
        elif name.startswith(("encoder.", "decoder.")):
            _check_same(name, given, weight)
            weight.copy_(given[name])


def _check_same(name: str, given: Weights, weight: Tensor) -> None:
    here = "x".join(map(str, weight.shape))
    there = "x".join(map(str, given[name].shape)) if name in given else "missing"
    if here != there:
        raise ValueError(
            f"{name} is {there} there and {here} here: give a tokenizer of the same backbone, or "
            "choose its model.backbone.widths, layers and attention"
        )


def _keep_mean(given: Weights, channels: int, kept: int) -> None:
    """Cut a source to `kept` of its z's channels: of what leads to them, and of what reads them."""
    for part in ("weight", "bias"):
        if (name := f"quant_conv.{part}") in given:
            given[name] = given[name][:kept]
    if "post_quant_conv.weight" in given and given["post_quant_conv.weight"].shape[1] == channels:
        given["post_quant_conv.weight"] = given["post_quant_conv.weight"][:, :kept]


def _join(given: Weights, own: Weights) -> None:
    """Where the heir has fewer channels between a source's two layers than those have, and enough
    for z, let one of them do the work of both, and the other hand it on.
    """
    into, wide = given.get("quant_conv.weight"), given["encoder.conv_out.weight"]
    if into is not None and len(into) <= len(own["encoder.conv_out.weight"]) < len(wide):
        matrix = into[:, :, 0, 0]
        given["encoder.conv_out.weight"] = torch.einsum("zf,fchw->zchw", matrix, wide)
        bias = matrix @ given["encoder.conv_out.bias"]
        given["encoder.conv_out.bias"] = bias + given["quant_conv.bias"]
        given["quant_conv.weight"] = torch.eye(len(into))[..., None, None].to(into)
        given["quant_conv.bias"] = torch.zeros_like(bias)
    out, reads = given.get("post_quant_conv.weight"), given["decoder.conv_in.weight"]
    room = own["decoder.conv_in.weight"].shape[1]
    if out is not None and out.shape[1] <= room < reads.shape[1]:
        matrix, offset = out[:, :, 0, 0], given["post_quant_conv.bias"]
        given["decoder.conv_in.weight"] = torch.einsum("cfhw,fz->czhw", reads, matrix)
        # At the border the padding was without this offset.
        given["decoder.conv_in.bias"] = given["decoder.conv_in.bias"] + reads.sum((2, 3)) @ offset
        given["post_quant_conv.weight"] = torch.eye(out.shape[1])[..., None, None].to(out)
        given["post_quant_conv.bias"] = torch.zeros_like(matrix[0])


def _within(fresh: Float[Tensor, "..."], given: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """What is given, amid fresh outputs; what it has no weights for it does not read."""
    outputs = slice(min(len(fresh), len(given)))
    places = (outputs, slice(min(fresh.shape[1], given.shape[1]))) if fresh.ndim > 1 else (outputs,)
    made = fresh.clone()
    made[outputs] = 0
    made[places] = given[places]
    return made
