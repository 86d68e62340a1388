"""Inside a transformer that draws digits by tokens: a sparse autoencoder of its residual stream
finds features that respond to one class, and clamping these while it draws takes most of that class
away and leaves the others. At 0 half of it goes and more; further below, others suffer too. Behind
the last layer, where no other would read them, clamping at 0 changes hardly anything.

    python examples/family/sparse_features.py

ends in runs/examples/sparse-features.png: digits that are drawn as features are clamped.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from learning import ROOT, learn, member
from sklearn.svm import SVC
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from calotype.data.digits import digits
from calotype.pages.sheet import write_sheet
from calotype.recipes.tokenizer import NewTokenizer
from calotype.tokenizers import Backbone, ImageTokenizer
from calotype.tokenizers.bottlenecks import VQ, Sparse
from calotype.tokenizers.bottlenecks.codebook import EMA, Codebook, KMeans, Restart
from calotype.tokenizers.bottlenecks.sparsity import TopK
from calotype.tokenizers.vector import Dense
from calotype.training import AdamW, Batch, Losses, Objective

CODES, SIDE, LENGTH = 64, 8, 16
"""Of the tokenizer; pixels of a digit and numbers of a row of the stream; tokens of a digit."""
CLASSES = 10
SELECTIVE = 1 / 3
"""Share of a feature's activity that is one class's, from which on it is that class's."""


class NextCode(Objective):
    """Tell each token from those before it and a class, which comes first."""

    def __init__(self) -> None:
        super().__init__(AdamW(3e-3, warmup=50, schedule="cosine", weight_decay=0.05))
        self.transformer = LlamaForCausalLM(LlamaConfig(
            vocab_size=CODES + CLASSES, hidden_size=SIDE * SIDE, intermediate_size=192,
            num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=LENGTH + 1,
            bos_token_id=None, eos_token_id=None, pad_token_id=None,
        ))  # fmt: skip

    def forward(self, batch: Batch, step: int) -> Losses:
        """Nats a token."""
        ids = batch["ids"]
        labels = torch.where(ids < CODES, ids, -100)
        return {"next": self.transformer(input_ids=ids, labels=labels).loss}


class Stream(NamedTuple):
    """The residual stream behind a layer, and a sparse autoencoder of it."""

    layer: nn.Module
    mean: Tensor
    deviation: Tensor
    tokenizer: ImageTokenizer

    def features(self, states: Tensor) -> Tensor:
        """Of rows [n 64], how much each of them responds: [n units]."""
        rows = ((states - self.mean) / self.deviation).view(-1, 1, SIDE, SIDE)
        return self.tokenizer.latents(rows).flatten(1)

    def rows(self, features: Tensor) -> Tensor:
        """Back, [n 64]."""
        decoded = self.tokenizer.decode(features[..., None, None]).flatten(1)
        return decoded * self.deviation + self.mean

    @contextmanager
    def clamped(self, units: Tensor, values: Tensor) -> Iterator[None]:
        """Have units stay at values, wherever the stream flows. Only the difference is added, so
        that what the autoencoder does not rebuild stays as it is.
        """

        def hook(module: nn.Module, inputs: tuple, states: Tensor) -> Tensor:
            was = self.features(states.flatten(0, 1))
            moved = was.index_copy(1, units, values.expand(len(was), -1))
            return states + (self.rows(moved) - self.rows(was)).view_as(states)

        handle = self.layer.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


def streamed(model: LlamaForCausalLM, layer: int, ids: Tensor) -> Tensor:
    """What flows behind a layer at each place: [n 17 64]."""
    found: list[Tensor] = []
    handle = model.model.layers[layer].register_forward_hook(lambda m, i, out: found.append(out))
    with torch.no_grad():
        for part in ids.split(256):
            model(input_ids=part)
    handle.remove()
    return torch.cat(found)


def sparse(model: LlamaForCausalLM, layer: int, states: Tensor, steps: int) -> Stream:
    """Train a sparse autoencoder of rows; each is a grey picture of 8x8 numbers to it."""
    rows = states.flatten(0, 1)
    mean, deviation = rows.mean(0), rows.std()
    objective = member(NewTokenizer(Dense(()), Sparse(512, TopK(16))), SIDE,
                       optimizer=AdamW(1e-3, schedule="cosine"))  # fmt: skip
    pictures = ((rows - mean) / deviation).view(-1, 1, SIDE, SIDE)
    learn(objective, {"image": pictures}, steps, batch=256)
    stream = Stream(model.model.layers[layer], mean, deviation, objective.tokenizer)
    with torch.no_grad():
        left = (stream.rows(stream.features(rows)) - rows).square().sum()
    explained = 1 - left / (rows - mean).square().sum()
    print(f"sparse autoencoder of 512 units, 16 at a time: {explained:.3f} of variance explained")
    return stream


def draw(model: LlamaForCausalLM, tokenizer: ImageTokenizer, each: int) -> Tensor:
    """So many digits of each class in turn, [classes * each 1 8 8]."""
    prompts = CODES + torch.arange(CLASSES).repeat_interleave(each)[:, None]
    torch.manual_seed(0)
    ids = model.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=LENGTH, do_sample=True,
        top_k=0, temperature=0.8, suppress_tokens=list(range(CODES, CODES + CLASSES)),
    )  # fmt: skip
    with torch.no_grad():
        return tokenizer.decode_ids(ids[:, 1:].view(-1, 4, 4).int()).clamp(-1, 1)


def accuracy(judge: SVC, images: Tensor, target: int) -> tuple[float, float]:
    """How many digits of a class are seen to be it, and of all others what they should be."""
    found = torch.from_numpy(judge.predict(images.flatten(1).numpy())).view(CLASSES, -1)
    right = (found == torch.arange(CLASSES)[:, None]).double().mean(1)
    return right[target].item(), (right.sum() - right[target]).item() / (CLASSES - 1)


class Drawing(NamedTuple):
    """What draws digits, and what is found in it."""

    tokenizer: ImageTokenizer
    transformer: LlamaForCausalLM
    stream: Stream
    activity: Tensor
    """Mean response of each unit while each class is read, [10 units]."""

    def own(self, target: int) -> Tensor:
        """Units that are a class's."""
        return (self._shares[target] > SELECTIVE).nonzero()[:, 0]

    def nobodys(self, target: int) -> Tensor:
        """As many of those that respond and are no class's."""
        found = ((self._shares.max(0).values < SELECTIVE) & (self.activity.mean(0) > 0)).nonzero()
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(target))
        return found[order[: len(self.own(target))], 0]

    @property
    def _shares(self) -> Tensor:
        return self.activity / self.activity.sum(0).clamp_min(1e-6)

    def drawn(self, each: int, target: int, units: Tensor, times: float) -> Tensor:
        """Digits, with units clamped at so many times their mean response to a class."""
        with self.stream.clamped(units, times * self.activity[target, units]):
            return draw(self.transformer, self.tokenizer, each)


def trained(images: Tensor, names: Tensor, steps: int, layer: int = 0) -> Drawing:
    """Tokenizer, transformer and sparse autoencoder of digits and their classes."""
    codebook = Codebook(CODES, 8, EMA(), KMeans(), Restart())
    coder = member(NewTokenizer(Backbone((16, 32), 1, False, groups=8), VQ(codebook)), SIDE)
    learn(coder, {"image": images}, max(1, steps // 2))
    with torch.no_grad():
        codes = coder.tokenizer.encode_ids(images).flatten(1).long()
    ids = torch.cat([names[:, None] + CODES, codes], 1)
    objective = NextCode()
    learn(objective, {"ids": ids}, steps)
    states = streamed(objective.transformer, layer, ids)
    stream = sparse(objective.transformer, layer, states, steps)
    with torch.no_grad():
        found = stream.features(states.flatten(0, 1)).view(*states.shape[:2], -1).mean(1)
    activity = torch.stack([found[names == c].mean(0) for c in range(CLASSES)]).clamp_min(0)
    return Drawing(coder.tokenizer, objective.transformer, stream, activity)


WAYS = {"0": (True, 0), "-1x": (True, -1), "-3x": (True, -3), "nobody's, -1x": (False, -1)}
"""Whether the class's own units are clamped, and at which multiple of their mean response."""


def main(
    root: Path = ROOT, steps: int = 1000, each: int = 50, targets: tuple[int, ...] = (0, 3, 7)
) -> Path:  # fmt: skip
    """Train all of it; draw with a class's features clamped."""
    pixels, names = (torch.from_numpy(part) for part in digits())
    images = pixels[:, None] / 127.5 - 1
    drawing = trained(images, names, steps)
    judge = SVC(gamma=0.01).fit(images.flatten(1).numpy(), names.numpy())
    plain = draw(drawing.transformer, drawing.tokenizer, each)
    rows: dict[str, list[tuple[str, Tensor]]] = {}
    for target in targets:
        own, nobodys = drawing.own(target), drawing.nobodys(target)
        pictures = {"as it is": plain}
        for name, (of_class, times) in WAYS.items():
            units = own if of_class else nobodys
            pictures[name] = drawing.drawn(each, target, units, times)
        print(f"digits of {target}, of which {len(own)} features are: seen to be it, and others "
              "what they should be")  # fmt: skip
        for name, images in pictures.items():
            right, rest = accuracy(judge, images, target)
            print(f"  {name:<16} {right:.2f}  {rest:.3f}")
            for digit in (target, target, (target + 1) % CLASSES):
                row = rows.setdefault(name, [])
                image = images[digit * each + len(row) % 3]
                row.append((f"{digit}; {target}'s: {name}", image))
    captions, shown = zip(*(one for row in rows.values() for one in row), strict=True)
    sheet, columns = root / "sparse-features.png", 3 * len(targets)
    write_sheet(sheet, torch.stack(shown), captions, columns=columns, side=96)
    return sheet


if __name__ == "__main__":
    tyro.cli(main)
