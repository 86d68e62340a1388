"""A transformer over tokens whose answers are the same bits on any machine."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from calotype.autoregressive import Layout
from calotype.autoregressive.decoder import check_plain
from calotype.lazy import transformers
from calotype.uses.compression import arithmetic
from calotype.uses.compression.arithmetic import (
    FRACTION,
    MASS,
    WHOLE,
    ExactLinear,
    masses,
    normed,
    on_grid,
    silu,
)
from calotype.uses.compression.coding import PART

AT_ONCE = 256
"""Tokens that are read at once: as many as keep what is between within a processor's caches."""
MEMORY = 2**26
"""Numbers of float64 that keys and values of images may be, which are read together."""
CODE = 24
"""Bits of the weight of the likeliest code; what is less likely than 2**-24 of it is as likely."""


@dataclass(frozen=True)
class _Layer:
    before_attention: Float[Tensor, " c"]
    attention_in: ExactLinear
    attention_out: ExactLinear
    before_mlp: Float[Tensor, " c"]
    mlp_in: ExactLinear
    mlp_out: ExactLinear


class ExactTransformer:
    """The weights of a LlamaForCausalLM, on the CPU, in exact arithmetic.

    How many places are read at once, or how many rows, changes no bit of any of them.

    Raises:
        ValueError: it is none that calotype trains, or so wide that sums are not exact.
    """

    def __init__(self, transformer: "transformers.LlamaForCausalLM", layout: Layout) -> None:
        check_plain(transformer)
        config = transformer.config
        if config.hidden_act != "silu":
            raise ValueError(f"the transformer's activation is {config.hidden_act}: silu is coded")
        self.layout, self.heads = layout, config.num_attention_heads
        self.places = 1 + layout.longest
        self.width, self.eps = config.hidden_size, float(config.rms_norm_eps)
        arithmetic.check_width(self.width // self.heads, WHOLE + FRACTION)
        arithmetic.check_width(self.places, MASS)
        self.embedding = _double(transformer.model.embed_tokens.weight)
        self.norm = _double(transformer.model.norm.weight)
        self.layers = [_layer(layer) for layer in list[Any](transformer.model.layers)]
        rows = transformer.lm_head.weight[layout.first :].split(layout.codes)
        self.predictors = [ExactLinear(part) for part in rows]
        self.cosines, self.sines = arithmetic.angles(_frequencies(config), self.places)

    @property
    def most(self) -> int:
        """Images that are read together, so that their memory and answers are bounded."""
        memory = 2 * len(self.layers) * self.places * self.width
        return max(1, min(MEMORY // memory, PART // self.layout.codes))

    def weights(
        self, layout: Layout, codes: Int[Tensor, "b n"]
    ) -> Iterator[Float[Tensor, "b places codes"]]:
        """How likely each code is at each place of images, in whole numbers of 1 to 2**24 that are
        in proportion, some places after others; the image's own codes before a place are known.
        """
        begin = torch.full_like(codes[:, :1], layout.begin)
        tokens = torch.cat([begin, layout.tokens(codes)[:, :-1]], dim=1)
        memory = self.memory(len(codes))
        most = min(AT_ONCE, PART // layout.codes)
        for block in tokens.split(max(1, most // len(codes)), dim=1):
            yield self.read(block, memory)

    def memory(self, rows: int) -> "ExactMemory":
        """Of rows of images, nothing of which is read."""
        shape = (rows, self.heads, self.places, self.width // self.heads)
        keys, values = ([torch.zeros(shape, dtype=torch.float64) for _ in self.layers]
                        for _ in range(2))  # fmt: skip
        return ExactMemory(keys, values)

    def read(self, tokens: Int[Tensor, "b n"], memory: "ExactMemory") -> Float[Tensor, "b n codes"]:
        """Read the next tokens, and answer which code follows each; what `weights` gives."""
        at, n = memory.read, tokens.shape[1]
        turn = self.cosines[at : at + n], self.sines[at : at + n]
        ahead = torch.full((n, at + n), float("-inf"), dtype=torch.float64).triu_(at + 1)
        hidden = self.embedding[tokens]
        for layer, keys, values in zip(self.layers, memory.keys, memory.values, strict=True):
            x = normed(hidden, layer.before_attention, self.eps)
            q, k, v = layer.attention_in(x).unflatten(2, (3, self.heads, -1)).unbind(2)
            keys[:, :, at : at + n] = on_grid(_turned(k.transpose(1, 2), *turn))
            values[:, :, at : at + n] = on_grid(v.transpose(1, 2))
            q = on_grid(_turned(q.transpose(1, 2), *turn))
            seen = self._seen(q, keys[:, :, : at + n], values[:, :, : at + n], ahead)
            hidden = hidden + layer.attention_out(seen.transpose(1, 2).flatten(2))
            gate, up = layer.mlp_in(normed(hidden, layer.before_mlp, self.eps)).chunk(2, dim=-1)
            hidden = hidden + layer.mlp_out(on_grid(silu(gate) * up))
        memory.read += n
        return self._answered(normed(hidden, self.norm, self.eps), at)

    def _seen(
        self, q: Float[Tensor, "b h n d"], keys: Float[Tensor, "b h end d"],
        values: Float[Tensor, "b h end d"], ahead: Float[Tensor, "n end"],
    ) -> Float[Tensor, "b h n d"]:  # fmt: skip
        scores = (q @ keys.mT).div_(math.sqrt(q.shape[-1]))
        mass = masses(scores.add_(ahead) if len(ahead) > 1 else scores, MASS)
        return on_grid((mass @ values).div_(mass.sum(-1, keepdim=True)))

    def _answered(self, hidden: Float[Tensor, "b n c"], at: int) -> Float[Tensor, "b n codes"]:
        books = self.layout.codebooks
        logits = torch.stack([self.predictors[(at + i) % books](hidden[:, i])
                              for i in range(hidden.shape[1])], 1)  # fmt: skip
        return masses(logits, CODE).clamp_min(1)


@dataclass
class ExactMemory:
    """Keys and values of what was read."""

    keys: list[Float[Tensor, "b h places d"]]
    values: list[Float[Tensor, "b h places d"]]
    read: int = 0


def _layer(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return _Layer(
        _double(layer.input_layernorm.weight),
        ExactLinear(*(p.weight for p in (attention.q_proj, attention.k_proj, attention.v_proj))),
        ExactLinear(attention.o_proj.weight),
        _double(layer.post_attention_layernorm.weight),
        ExactLinear(mlp.gate_proj.weight, mlp.up_proj.weight),
        ExactLinear(mlp.down_proj.weight),
    )


def _double(weight: Tensor) -> Tensor:
    return weight.detach().cpu().double()


def _turned(
    x: Float[Tensor, "b h n d"], cosines: Float[Tensor, "n pairs"], sines: Float[Tensor, "n pairs"]
) -> Float[Tensor, "b h n d"]:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)


def _frequencies(config: Any) -> list[Decimal]:
    """Rotary ones, in radians a place, as transformers has them but for rounding."""
    rope = config.rope_parameters
    pairs = config.hidden_size // config.num_attention_heads // 2
    divisors = [1.0] * pairs
    if rope["rope_type"] == "longrope":
        divisors = rope["long_factor"]
    plain = rope["rope_type"] in ("default", "longrope")
    if not plain or rope.get("short_factor", divisors) != divisors or len(divisors) != pairs:
        raise ValueError(
            "the transformer's rotary positions are none of those that calotype trains"
        )
    with localcontext(Context(prec=40)):
        logarithm = Decimal(rope["rope_theta"]).ln()
        return [(-logarithm * i / pairs).exp() / Decimal(divisor)
                for i, divisor in enumerate(divisors)]  # fmt: skip
