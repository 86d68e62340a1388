"""What the transformer minimises."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from calotype.autoregressive.layout import Layout, Sequences, sequences
from calotype.autoregressive.orders import Annealed, Order, draw_orders
from calotype.lazy import transformers
from calotype.training import AdamW, Batch, Losses, Objective
from calotype.training.noise import generators, sent, uniform


class NextToken(Objective):
    """Predict each image token from the prompt and those before it, and each text token too
    (Ramesh et al. 2021, section 2.2).

    Text is predicted among text tokens and an image among image ones. Some samples lose their
    prompt whole, so that guidance can be used (Ho & Salimans 2022, algorithm 1).
    """

    drawn_from_whole = True

    def __init__(
        self, transformer: "transformers.LlamaForCausalLM", layout: Layout, order: Order,
        optimizer: AdamW, drop: float = 0.1, image_weight: float = 7.0, prompted: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(optimizer)
        self.transformer, self.layout, self.order = transformer, layout, order
        self.drop, self.image_weight, self.prompted = drop, image_weight, prompted
        self.asked = None
        if isinstance(order, Annealed):
            self.asked = nn.Embedding(layout.longest, transformer.config.hidden_size)
            nn.init.zeros_(self.asked.weight)
        self.picture: Callable[[], Tensor] | None = None

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The transformer without its head."""
        return (self.transformer.model,)

    def forward(self, batch: Batch, step: int) -> Losses:
        """Score images of one shape: `batch["packed"]` are ids, `batch["tokens"]` and
        `batch["lengths"]` their prompts.
        """
        height, width = batch["packed"].shape[-2:]
        layout = self.layout.of(height, width)
        codes = layout.flatten(batch["packed"])
        generator = generators(batch["key"])
        fraction = self.order.shuffled(step)
        sites = sent(draw_orders(fraction, layout.sites, generator), codes.device)
        inside = torch.arange(layout.codebooks, device=codes.device)
        order = (sites[..., None] * layout.codebooks + inside).flatten(1)
        codes = codes.gather(1, order)
        prompts, lengths = self._prompts(batch)
        kept = sent(uniform(generator) >= self.drop, codes.device)
        rows = sequences(layout, prompts, lengths * kept, layout.tokens(codes))
        hidden = self._hidden(rows, order, fraction)
        image = self._image_loss(hidden, rows, codes)
        self.metrics = {"bits_per_token": image.detach() / math.log(2)}
        if not self.prompted:
            return {"image": image}
        text, weight = self._text_loss(hidden, rows, layout.length), self.image_weight
        return {"text": text / (1 + weight), "image": weight * image / (1 + weight)}

    def preview(self) -> Float[Tensor, "n c H W"] | None:
        """What `picture` draws: images of a pipeline around the network."""
        return self.picture() if self.picture else None

    def _prompts(self, batch: Batch) -> tuple[Int[Tensor, "b prompt"], Int[Tensor, " b"]]:
        if self.prompted:
            # Beyond the longest there is nothing to see. Who reads them knows how long it is;
            # asked here, the device would have to be waited for.
            tokens, lengths = batch["tokens"], batch["lengths"]
            return tokens[:, : batch.get("longest", tokens.shape[1])], lengths
        none = batch["packed"].new_zeros(len(batch["packed"]), 0, dtype=torch.long)
        return none, none.sum(1)

    def _hidden(
        self, rows: Sequences, order: Int[Tensor, "b n"], fraction: float
    ) -> Float[Tensor, "b length c"]:
        if self.asked is None:
            return hidden_states(self.transformer, rows.tokens)
        embeddings = self.transformer.get_input_embeddings()(rows.tokens)
        places = rows.image_places(order.shape[1])
        # Also where the fraction is 0: ranks exchange the gradients of all parameters.
        told = (fraction * self.asked(order)).to(embeddings.dtype)
        width = embeddings.shape[-1]
        embeddings = embeddings.scatter_add(1, places[..., None].expand(-1, -1, width), told)
        positions = torch.arange(rows.tokens.shape[1], device=order.device).expand_as(rows.tokens)
        # A token turns by where it stands in the image, whenever its turn was.
        positions = positions.scatter(1, places + 1, rows.lengths[:, None] + 1 + order)
        return hidden_states(self.transformer, rows.tokens, embeddings, positions)

    def _image_loss(
        self, hidden: Float[Tensor, "b length c"], rows: Sequences, codes: Int[Tensor, "b n"]
    ) -> Float[Tensor, ""]:
        places = rows.image_places(codes.shape[1])
        logits = image_logits(self.transformer, self.layout, take(hidden, places))
        with torch.autocast(logits.device.type, enabled=False):
            return functional.cross_entropy(logits.float().flatten(0, 1), codes.flatten())

    def _text_loss(
        self, hidden: Float[Tensor, "b length c"], rows: Sequences, image: int
    ) -> Float[Tensor, ""]:
        """A mean over each prompt's tokens but its first, begin-of-image included, which says the
        shape where there are several; 0 for those that lost it. `image` is an image's length.
        """
        end = rows.tokens.shape[1] - image
        targets, weight = rows.tokens[:, 1:end], _text_weights(rows, end)
        logits = functional.linear(
            hidden[:, : end - 1], self.transformer.lm_head.weight[: self.layout.first]
        )
        with torch.autocast(logits.device.type, enabled=False):
            # Behind a short prompt the image begins, which is no text.
            targets = targets.clamp(max=self.layout.first - 1)
            loss = functional.cross_entropy(
                logits.float().flatten(0, 1), targets.flatten(), reduction="none"
            )
            return (weight * loss.view_as(weight)).sum(1).mean()


def _text_weights(rows: Sequences, end: int) -> Float[Tensor, "b targets"]:
    place = torch.arange(1, end, device=rows.tokens.device)
    counted = (place <= rows.lengths[:, None]).float()
    return counted / rows.lengths.clamp(min=1)[:, None]


def hidden_states(
    transformer: "transformers.LlamaForCausalLM",
    tokens: Int[Tensor, "b length"],
    embeddings: Float[Tensor, "b length c"] | None = None,
    positions: Int[Tensor, "b length"] | None = None,
) -> Float[Tensor, "b length c"]:
    """What the last layer makes of whole sequences, each place having seen those before it."""
    # Without a mask transformers takes positions that do not count up for several sequences.
    mask: Bool[Tensor, "b length"] = torch.ones_like(tokens, dtype=torch.bool)
    inputs = {"input_ids": tokens} if embeddings is None else {"inputs_embeds": embeddings}
    return transformer.model(
        **inputs, attention_mask=mask if positions is not None else None, position_ids=positions,
        use_cache=False,
    ).last_hidden_state  # fmt: skip


def take(hidden: Float[Tensor, "b length c"], places: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
    """The hidden states at some places of each row."""
    return hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))


def image_logits(
    transformer: "transformers.LlamaForCausalLM", layout: Layout, hidden: Float[Tensor, "b n c"]
) -> Float[Tensor, "b n codes"]:
    """Of the codes that may stand at the first n places of an image, in its order."""
    weight = transformer.lm_head.weight[layout.first :]
    if layout.codebooks == 1:
        return functional.linear(hidden, weight)
    heads = weight.view(layout.codebooks, layout.codes, -1)
    sites = hidden.unflatten(1, (-1, layout.codebooks))
    return torch.einsum("bsdc,dkc->bsdk", sites, heads).flatten(1, 2)
