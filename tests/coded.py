"""Small models that compress, of random weights: exactness needs no training."""

from pathlib import Path

import torch

import tiny
from calotype.autoregressive import Layout, Transformer
from calotype.pipelines import TokenPipeline
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import BottleneckSpec
from calotype.uses.compression import Codec, Hyperprior, fit_entropy_model
from calotype.uses.compression.exact_transformer import ExactTransformer
from calotype.uses.compression.models import Frequencies
from calotype.uses.compression.models import Transformer as TransformerModel

FAST = Hyperprior(width=8, channels=2, steps=20, batch_size=8)


def layout_of(tokenizer: ImageTokenizer, *grids: tuple[int, int]) -> Layout:
    bottleneck = tokenizer.bottleneck
    several = grids if len(grids) > 1 else ()
    return Layout(3, bottleneck.codes, bottleneck.codebooks, *grids[0], several)


def transformer(layout: Layout, seed: int = 0, width: int = 16, heads: int = 2):
    """A transformer that finds some codes much likelier than others."""
    torch.manual_seed(seed)
    network = Transformer(width, 2, heads).build(layout, 4).eval()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 2:
                weight.copy_(1.5 * torch.randn_like(weight) / weight.shape[1] ** 0.5)
    return network


def pipeline(
    bottleneck: BottleneckSpec = tiny.VQ_BOTTLENECK, *grids: tuple[int, int], seed: int = 0
) -> TokenPipeline:
    tokenizer = tiny.tokenizer(bottleneck=bottleneck).eval()
    if (stock := tokenizer.export()) is not None:  # as a transformer's training loads it
        tokenizer = ImageTokenizer.around(stock).eval()
    layout = layout_of(tokenizer, *(grids or ((8, 8),)))
    return TokenPipeline(transformer(layout, seed), None, tokenizer, layout)


def codec(bottleneck: BottleneckSpec, *grids: tuple[int, int], seed: int = 0) -> Codec:
    """By a transformer, and by frequencies for other sizes."""
    made = pipeline(bottleneck, *grids, seed=seed)
    codes = made.tokenizer.encode_ids(tiny.images(4))
    books = made.layout.codebooks
    by_place = TransformerModel(ExactTransformer(made.transformer, made.layout))
    return Codec(made.tokenizer, [by_place, Frequencies.of([codes], books, made.layout.codes)])


def continuous(seed: int = 0) -> Codec:
    tokenizer = tiny.tokenizer(seed).eval()
    latents = tokenizer.latents(tiny.images(16)).detach()
    model = fit_entropy_model(tokenizer, latents, FAST)
    return Codec(tokenizer, model)


def save(folder: Path, *grids: tuple[int, int], seed: int = 0) -> Path:
    pipeline(tiny.VQ_BOTTLENECK, *grids, seed=seed).save_pretrained(folder)
    return folder
