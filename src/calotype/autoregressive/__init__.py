"""A causal transformer over text and image tokens."""

from calotype.autoregressive.decoder import Decoder
from calotype.autoregressive.layout import Layout
from calotype.autoregressive.likelihood import log_likelihood, unigram_bits
from calotype.autoregressive.objective import NextToken
from calotype.autoregressive.orders import Annealed, Order, Raster
from calotype.autoregressive.ramps import Constant, Linear, PowerCosine, Ramp
from calotype.autoregressive.sampling import PromptTokens, Seed, TokenSampling, draw_codes
from calotype.autoregressive.text import (
    Classes,
    HubTokenizer,
    PromptSpec,
    check_classes,
    knows_classes,
    name_images,
    name_shapes,
    prompt_tokenizer,
)
from calotype.autoregressive.transformer import (
    FromCodes,
    Init,
    Normal,
    RowPeriodic,
    Sequential,
    Transformer,
)

__all__ = [
    "Annealed",
    "Classes",
    "Constant",
    "Decoder",
    "FromCodes",
    "HubTokenizer",
    "Init",
    "Layout",
    "Linear",
    "NextToken",
    "Normal",
    "Order",
    "PowerCosine",
    "PromptSpec",
    "PromptTokens",
    "Ramp",
    "Raster",
    "RowPeriodic",
    "Seed",
    "Sequential",
    "TokenSampling",
    "Transformer",
    "check_classes",
    "draw_codes",
    "knows_classes",
    "log_likelihood",
    "name_images",
    "name_shapes",
    "prompt_tokenizer",
    "unigram_bits",
]
