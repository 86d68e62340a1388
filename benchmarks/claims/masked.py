"""Claims of masked autoencoders."""

import time

import numpy as np
import torch
from torch import Tensor

from calotype.data.drawn.shape_grid import Nuisance, Shapes
from calotype.lazy import sklearn
from calotype.tokenizers.bottlenecks import Identity
from calotype.tokenizers.masked import AtRandom, MaskedPatches, MaskedViT, whole_features
from calotype.tokenizers.terms import L2
from calotype.training import AdamW
from claims.learning import Figure, train, trained

NETWORK = MaskedViT(2, 64, 3, 4, 48, 1, 4, normalised=False)


def masking(steps: int = 2000) -> list[Figure]:
    """He et al. 2022: what is hidden is told from what is seen, and what the encoder makes of a
    picture tells where things are, on shapes that no linear probe of pixels finds: black or white,
    on a sloping ground. The controls are pixels, a plain autoencoder, and the encoder untrained,
    which on other sets is the best of all.
    """
    data = Shapes(copies=3, nuisance=Nuisance()).build()
    every = data.batch(range(len(data)))
    images, factors = every["image"][:, :1].contiguous(), every["factors"].long()
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    learnt, held = rows[: len(rows) * 3 // 4], rows[len(rows) * 3 // 4 :]
    torch.manual_seed(0)
    made = MaskedPatches(NETWORK.build(16, 1), AtRandom(),
                         AdamW(1e-3, (0.9, 0.95), 0.05, warmup=100, schedule="cosine"))  # fmt: skip
    untrained = _features(made, images)
    train(made, {"image": images[learnt]}, steps)
    plain = trained(Identity(32), images[learnt], L2(), steps)
    codes = {
        "masked": _features(made, images), "pixels": images.flatten(1),
        "autoencoder": plain.latents(images).detach().flatten(1), "untrained": untrained,
    }  # fmt: skip
    told = {name: [_probe(z, factors[:, f], learnt, held) for f in (2, 3)]
            for name, z in codes.items()}  # fmt: skip
    with torch.no_grad():
        lost = made({"image": images[held], "key": list(range(len(held)))}, 0)["masked"].item()
    part = lost / made.metrics["mean_fill"].item()
    figures = [
        Figure("masking: error of hidden patches, of mean fill's", part, "< 0.5", part < 0.5)
    ]
    for axis, name in enumerate("xy"):
        own = told["masked"][axis]
        others = {n: values[axis] for n, values in told.items() if n != "masked"}
        said = ", ".join(f"{n} {value:.3f}" for n, value in others.items())
        figures.append(Figure(f"masking: probe of {name}, of 8 places", own, "> all controls",
                              own > max(others.values()), f"{said}, chance 0.125"))  # fmt: skip
    return [*figures, _cost(made, images[:256])]


@torch.no_grad()
def _features(made: MaskedPatches, images: Tensor) -> Tensor:
    made.eval()
    return torch.cat([whole_features(made.network, part).mean(1) for part in images.split(256)])


def _probe(codes: Tensor, labels: Tensor, learnt: Tensor, held: Tensor) -> float:
    """Accuracy of a linear classifier of standardised codes."""
    mean, std = codes[learnt].mean(0), codes[learnt].std(0) + 1e-6
    z = ((codes - mean) / std).numpy()
    probe = sklearn.linear_model.LogisticRegression(C=0.1, max_iter=500)
    probe.fit(z[learnt], labels[learnt].numpy())
    return float(probe.score(z[held], labels[held].numpy()))


@torch.no_grad()
def _cost(made: MaskedPatches, images: Tensor) -> Figure:
    """Of the encoder, with three quarters of the patches hidden and with none."""
    times = {}
    for hidden in (0.0, 0.75):
        made.network.config.mask_ratio = hidden
        found = []
        for _ in range(5):
            began = time.perf_counter()
            made.network.vit(pixel_values=images)
            found.append(time.perf_counter() - began)
        times[hidden] = float(np.median(found))
    part = times[0.75] / times[0.0]
    return Figure("masking: time of the encoder, of what all patches take", part, "< 0.5",
                  part < 0.5, "a quarter of the patches")  # fmt: skip
