"""The transformer a token at a time: keys and values of what was read stay where they are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from calotype.autoregressive.layout import Layout
from calotype.autoregressive.packed import PackedLinear
from calotype.lazy import transformers


@dataclass(frozen=True)
class _Layer:
    """What a transformer's layer multiplies by."""

    before_attention: Float[Tensor, " c"]
    attention_in: PackedLinear
    attention_out: PackedLinear
    before_mlp: Float[Tensor, " c"]
    mlp_in: PackedLinear
    mlp_out: PackedLinear
    activation: Callable[[Tensor], Tensor]


class Decoder:
    """The weights of a LlamaForCausalLM as a sampler wants them: what reads the same is one matrix,
    and only image tokens are answered.

    Raises:
        ValueError: the model has biases, or fewer key heads than heads: none that calotype trains.
    """

    def __init__(
        self, transformer: "transformers.LlamaForCausalLM", layout: Layout, compiled: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        check_plain(transformer)
        config, layers = transformer.config, list[Any](transformer.model.layers)
        self.layout, self.heads = layout, config.num_attention_heads
        self.positions = config.max_position_embeddings
        self.width, self.eps = config.hidden_size, config.rms_norm_eps
        self.embedding = transformer.model.embed_tokens.weight.detach().to(dtype)
        self.norm = transformer.model.norm.weight.detach().to(dtype)
        self.rotary = transformer.model.rotary_emb
        self.layers = [_layer(layer, dtype) for layer in layers]
        head = transformer.lm_head.weight[layout.first :].to(dtype)
        self.predictors = [PackedLinear(part) for part in head.split(layout.codes)]
        self.step = torch.compile(self._step, dynamic=True) if compiled else self._step

    def read(self, tokens: Int[Tensor, "b n"], memory: "Memory") -> Float[Tensor, "b codes"]:
        """Read the next tokens of each row, and answer which code comes then."""
        n, at = tokens.shape[1], memory.read
        turn = memory.cosines[at : at + n], memory.sines[at : at + n]
        hidden = self.step(tokens, at, *turn, memory.mask(at, n), memory.keys, memory.values)
        memory.read += n
        codebook = max(0, memory.read - memory.prompt) % self.layout.codebooks
        return self.predictors[codebook](hidden)

    def _step(
        self, tokens: Int[Tensor, "b n"], at: int, cosines: Tensor, sines: Tensor,
        mask: Float[Tensor, "b 1 n end"] | None, keys: list[Tensor], values: list[Tensor],
    ) -> Float[Tensor, "b c"]:  # fmt: skip
        h, end = self.embedding[tokens], at + tokens.shape[1]
        for layer, k, v in zip(self.layers, keys, values, strict=True):
            x = self._normed(h, layer.before_attention)
            parts = layer.attention_in(x).unflatten(2, (3 * self.heads, -1)).transpose(1, 2)
            q, new = _turned(parts[:, : 2 * self.heads], cosines, sines).chunk(2, dim=1)
            k[:, :, at:end], v[:, :, at:end] = new, parts[:, 2 * self.heads :]
            seen = functional.scaled_dot_product_attention(
                q, k[:, :, :end], v[:, :, :end], attn_mask=mask
            )
            h = h + layer.attention_out(seen.transpose(1, 2).flatten(2))
            gate, up = layer.mlp_in(self._normed(h, layer.before_mlp)).chunk(2, dim=-1)
            h = h + layer.mlp_out(layer.activation(gate) * up)
        return self._normed(h[:, -1], self.norm)

    def _normed(self, x: Float[Tensor, "*b c"], weight: Float[Tensor, " c"]) -> Tensor:
        return functional.rms_norm(x, (self.width,), weight, self.eps)


def check_plain(transformer: "transformers.LlamaForCausalLM") -> None:
    """Refuse what is read by its own class alone.

    Raises:
        ValueError: the model has biases, or fewer key heads than heads: none that calotype trains.
    """
    config, first = transformer.config, list[Any](transformer.model.layers)[0]
    if (
        config.attention_bias
        or config.mlp_bias
        or config.num_key_value_heads != config.num_attention_heads
        or first.self_attn.head_dim * config.num_attention_heads != config.hidden_size
    ):
        raise ValueError(
            f"{config.name_or_path or 'the transformer'} has biases, or keys of another "
            "width: sample it by its own generate()"
        )


class Memory:
    """Keys and values of rows of tokens, in tensors of their final size.

    Args:
        decoder: Who reads.
        seen: Which of the prompts' tokens are none of padding, on their left; begin-of-image is
            the last of them.

    Raises:
        ValueError: prompts are so long that an image would end behind the transformer's positions.
    """

    def __init__(self, decoder: Decoder, seen: Bool[Tensor, "b prompt"]) -> None:
        rows, self.prompt = seen.shape
        length, weight = self.prompt + decoder.layout.length, decoder.embedding
        most = decoder.positions - decoder.layout.length
        if self.prompt > most and (longest := int(seen.sum(1).max())) > most:
            raise ValueError(
                f"a prompt of {longest} tokens: this transformer has places for {most} before "
                "an image, begin-of-image among them; cut it with truncation=True"
            )
        shape = (rows, decoder.heads, length, decoder.width // decoder.heads)
        self.keys = [weight.new_empty(shape) for _ in decoder.layers]
        self.values = [weight.new_empty(shape) for _ in decoder.layers]
        # Rotary positions are relative: padding shifts all of a row alike.
        positions = torch.arange(length, device=weight.device)[None]
        cosines, sines = decoder.rotary(weight, positions)
        self.cosines, self.sines, self.read = cosines[0], sines[0], 0
        self.hidden = None
        if not seen.all():
            hidden = functional.pad(~seen, (0, decoder.layout.length))
            self.hidden = weight.new_zeros(rows, 1, 1, length)
            self.hidden.masked_fill_(hidden[:, None, None], float("-inf"))

    def mask(self, at: int, n: int) -> Float[Tensor, "b 1 n end"] | None:
        """What `n` tokens from place `at` must not see: what comes behind them, and padding."""
        end = at + n
        if n == 1:
            return None if self.hidden is None else self.hidden[..., :end]
        ahead = self.cosines.new_full((n, end), float("-inf")).triu(at + 1)
        if self.hidden is None:
            return ahead.expand(len(self.keys[0]), 1, n, end)
        # Padding sees itself: of nothing at all there would be no mean.
        itself = torch.ones_like(ahead, dtype=torch.bool).triu(at).tril(at)
        return (self.hidden[..., :end] + ahead).masked_fill(itself, 0)


def _layer(layer: Any, dtype: torch.dtype) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp

    def packed(*layers: Any) -> PackedLinear:
        return PackedLinear(*(each.weight.to(dtype) for each in layers))

    return _Layer(
        layer.input_layernorm.weight.detach().to(dtype),
        packed(attention.q_proj, attention.k_proj, attention.v_proj),
        packed(attention.o_proj),
        layer.post_attention_layernorm.weight.detach().to(dtype),
        packed(mlp.gate_proj, mlp.up_proj),
        packed(mlp.down_proj),
        mlp.act_fn,
    )


def _turned(x: Float[Tensor, "b h n d"], cosines: Tensor, sines: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([-second, first], dim=-1) * sines
