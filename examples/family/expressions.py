"""Arithmetic, such as (3+4)*2, through a discrete bottleneck and back: one code for two characters.
The bottlenecks were made for maps, and a row of characters is a map of height 1. After the symbolic
autoencoder of Amani et al. 2024; each character counts up to the end of its expression.

    python examples/family/expressions.py

ends in runs/examples/expressions.png: expressions that were not trained on, their codes, and what
is read from those.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import tyro
from learning import ROOT, learn
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from calotype.tokenizers.bottlenecks import VQ, Bottleneck
from calotype.tokenizers.bottlenecks.codebook import EMA, Codebook, KMeans, Restart
from calotype.training import AdamW, Batch, Losses, Objective
from calotype.training.noise import generators
from calotype.training.objective import Rows

SIGNS = "=0123456789+-*/()"
"""The first ends an expression, and is all that comes after."""
LENGTH = 16
DEEPEST = 3


def expression(generator: torch.Generator, depth: int = 0) -> str:
    """A sum, product, difference or quotient of such, or a digit."""
    if depth == DEEPEST or torch.rand((), generator=generator) < 0.35 * depth:
        return str(int(torch.randint(10, (), generator=generator)))
    left, right = (expression(generator, depth + 1) for _ in range(2))
    sign = "+-*/"[int(torch.randint(4, (), generator=generator))]
    wrap = torch.rand((), generator=generator) < 0.5 and depth
    return f"({left}{sign}{right})" if wrap else f"{left}{sign}{right}"


def expressions(count: int, seed: int = 0) -> list[str]:
    """So many, all of them different, each with room for its end."""
    generator, found = torch.Generator().manual_seed(seed), dict[str, None]()
    while len(found) < count:
        if len(one := expression(generator)) < LENGTH:
            found[one] = None
    return list(found)


def encoded(texts: Sequence[str]) -> Tensor:
    """Numbers of characters, [n, 16]."""
    return torch.tensor([[SIGNS.index(sign) for sign in text.ljust(LENGTH, "=")] for text in texts])


def decoded(ids: Tensor) -> list[str]:
    """Characters up to the first end."""
    return ["".join(SIGNS[i] for i in row).split("=")[0] for row in ids.tolist()]


class Codec(nn.Module):
    """Characters to a map of height 1, half as long, through a bottleneck, and back."""

    def __init__(self, bottleneck: Bottleneck, width: int = 96) -> None:
        super().__init__()
        self.bottleneck, channels = bottleneck, bottleneck.z_channels

        def wide() -> nn.Module:
            return nn.Conv2d(width, width, (1, 3), padding=(0, 1))

        self.embedding = nn.Embedding(len(SIGNS), width)
        self.encoder = nn.Sequential(
            wide(), nn.SiLU(), nn.Conv2d(width, width, (1, 2), (1, 2)), nn.SiLU(),
            nn.Conv2d(width, channels, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, width, 1), wide(), nn.SiLU(),
            nn.ConvTranspose2d(width, width, (1, 2), (1, 2)), nn.SiLU(), wide(), nn.SiLU(),
            nn.Conv2d(width, len(SIGNS), 1),
        )  # fmt: skip

    def features(self, ids: Tensor) -> Tensor:
        """[b c 1 8] of characters [b 16]."""
        return self.encoder(self.embedding(ids).mT[:, :, None])

    def read(self, z: Tensor) -> Tensor:
        """Logits [b signs 16]."""
        return self.decoder(z)[:, :, 0]


class RoundTrip(Objective):
    """Say each character again, up to the end of its expression."""

    def __init__(self, codec: Codec) -> None:
        super().__init__(AdamW(2e-3, warmup=50, schedule="cosine"))
        self.codec = codec

    def forward(self, batch: Batch, step: int) -> Losses:
        """Cross-entropy in nats a character; and what the bottleneck asks for."""
        ids, neck = batch["ids"], self.codec.bottleneck
        neck.step_begin(step)
        latent = neck(self.codec.features(ids), generators(batch["key"]))
        logits = self.codec.read(latent.z)
        counted = ((ids == 0).cumsum(1) <= 1).float()
        said = (F.cross_entropy(logits, ids, reduction="none") * counted).sum() / counted.sum()
        self.metrics["exact"] = ((logits.argmax(1) == ids) | (counted == 0)).all(1).float().mean()
        return {"said": said, **{name: each.mean() for name, each in latent.penalties.items()}}

    def wants_survey(self, micro_batches: int, step: int) -> bool:
        """Whether the bottleneck does."""
        return self.codec.bottleneck.wants_survey(micro_batches)

    @torch.no_grad()
    def survey(self, batches: Sequence[Batch], step: int) -> None:
        """Let it look."""
        features = [self.codec.features(batch["ids"]) for batch in batches]
        self.codec.bottleneck.survey(features, [key for batch in batches for key in batch["key"]])

    def step_end(self, step: int) -> Rows:
        """Let its codes follow."""
        return self.codec.bottleneck.step_end()


def round_trip(
    codes: int, texts: Sequence[str], unseen: Sequence[str], steps: int
) -> tuple[Tensor, list[str]]:
    """Codes of expressions that were not trained on, and what is read from these alone."""
    torch.manual_seed(0)
    neck = VQ(Codebook(codes, 16, EMA(), KMeans(), Restart())).build()
    objective = RoundTrip(Codec(neck))
    learn(objective, {"ids": encoded(texts)}, steps, batch=128)
    with torch.no_grad():
        ids = neck.pack(objective.codec.features(encoded(unseen)))
        return ids.flatten(1), decoded(objective.codec.read(neck.unpack(ids)).argmax(1))


def exact(texts: Sequence[str], read: Sequence[str]) -> float:
    """Share that came back whole."""
    return sum(a == b for a, b in zip(texts, read, strict=True)) / len(texts)


def main(root: Path = ROOT, steps: int = 1200, count: int = 12_000) -> Path:
    """Train it with enough codes and with too few, and count what comes back whole."""
    root.mkdir(parents=True, exist_ok=True)
    texts = expressions(count)
    unseen, texts = texts[: count // 6], texts[count // 6 :]
    mean = sum(map(len, unseen)) / len(unseen)
    print(f"{len(unseen)} unseen expressions, {mean:.1f} characters in the mean")
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axis, codes in zip(figure.subplots(1, 2), (256, 32), strict=True):
        ids, read = round_trip(codes, texts, unseen, steps)
        share = exact(unseen, read)
        print(f"8 codes of {codes}: {share:.3f} come back whole; {len(ids.unique())} in use")
        lines = [f"{a:<{LENGTH}} {' '.join(f'{i:3}' for i in row)}  {b}"
                 for a, row, b in zip(unseen[:20], ids.tolist(), read, strict=False)]  # fmt: skip
        axis.text(0, 1, "\n".join(lines), va="top", family="monospace", size=7)
        axis.set_title(f"8 codes of {codes}: {share:.1%} whole")
        axis.axis("off")
    figure.savefig(root / "expressions.png", dpi=150)
    return root / "expressions.png"


if __name__ == "__main__":
    tyro.cli(main)
