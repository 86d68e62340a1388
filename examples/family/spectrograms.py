"""Tones as pictures: log-spectrograms of three synthetic instruments, and what lies between two of
them, in a VAE's latent and by mixing pixels. Real sounds need a codec (Engel et al. 2017, NSynth).

    python examples/family/spectrograms.py

ends in runs/examples/spectrograms.png: one tone that goes over from one instrument to another.
"""

from pathlib import Path

import torch
import tyro
from learning import ROOT, learn, member
from torch import Tensor

from calotype.pages.sheet import write_sheet
from calotype.recipes.tokenizer import NewTokenizer
from calotype.tokenizers.bottlenecks import Gaussian
from calotype.tokenizers.terms import FixedDeviation, GaussianLikelihood
from calotype.tokenizers.vector import Dense

SIZE = 32
LOWEST, OCTAVES = 110.0, 5.0
"""Hertz of the first row of frequencies, and how far up they go."""
TIMBRES = ("soft", "hollow", "bright")
FORMANTS = (1.2, 2.3, 3.4)
"""Octaves over the lowest at which each instrument resounds, in the mean."""


def tones(timbre: Tensor, pitch: Tensor, decay: Tensor) -> Tensor:
    """Log-spectrograms [n 1 32 32] in [-1, 1], low frequencies below, over a second.

    Args:
        timbre: Octaves at which the instrument resounds.
        pitch: Octaves of the fundamental over the lowest.
        decay: Per second, of what an octave over the lowest loses.
    """
    rows = torch.linspace(0, OCTAVES, SIZE)
    partials = torch.arange(1, 17).float()
    octaves = pitch[:, None] + partials.log2()  # (n, partials)
    loud = (-((octaves - timbre[:, None]) ** 2) / 0.5).exp() + 0.02
    lines = (-((rows - octaves[..., None]) ** 2) / (2 * 0.12**2)).exp()  # (n, partials, rows)
    power = torch.einsum("np,npf->nf", loud, lines)
    times = torch.linspace(0, 1, SIZE)
    fall = (-decay[:, None, None] * (1 + rows[:, None] / 2) * times).exp()
    power = power[..., None] * fall * (times / 0.05).clamp_max(1)
    decibels = 10 * (power + 1e-4).log10()  # from -40
    return (decibels / 20 + 1).clamp(-1, 1).flip(1)[:, None]


def drawn(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which instrument plays, and what `tones` is to be told of each tone."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(3, (count,), generator=generator)
    chance = torch.rand(3, count, generator=generator)
    timbre = torch.tensor(FORMANTS)[kinds] + 1.1 * (chance[0] - 0.5)
    return kinds, timbre, chance[1], 1 + 3 * chance[2]


def centroid(images: Tensor) -> Tensor:
    """Octaves over the lowest about which each one's power lies."""
    power = (10 ** (2 * images[:, 0].double())).sum(-1).flip(1) - SIZE * 10**-2
    rows = torch.linspace(0, OCTAVES, SIZE, dtype=torch.double)
    return (power.clamp_min(0) * rows).sum(1) / power.clamp_min(0).sum(1).clamp_min(1e-9)


def mixed(begin: Tensor, end: Tensor, shares: Tensor) -> Tensor:
    """[steps, n, ...], of which the first are `begin` and the last `end`."""
    shares = shares.view(-1, *[1] * begin.ndim)
    return (1 - shares) * begin + shares * end


def main(root: Path = ROOT, steps: int = 2000, count: int = 4000, latent: int = 8) -> Path:
    """Train a VAE, and go from the soft instrument to the bright, each tone of one pitch."""
    images = tones(*drawn(count, 0)[1:])
    term = GaussianLikelihood(deviation=FixedDeviation(0.2))
    neck = Gaussian(latent, kl_weight=1.0, keep_prior=True)
    objective = member(NewTokenizer(Dense((256, 256), "silu"), neck), SIZE, term)
    learn(objective, {"image": images}, steps)
    tokenizer = objective.tokenizer
    _, _, pitch, decay = drawn(100, 1)
    ends = [tones(torch.full((100,), FORMANTS[kind]), pitch, decay) for kind in (0, 2)]
    shares = torch.linspace(0, 1, 9)
    with torch.no_grad():
        way = mixed(*(tokenizer.latents(end) for end in ends), shares)
        latent_way = tokenizer.decode(way.flatten(0, 1)).clamp(-1, 1).unflatten(0, way.shape[:2])
    ways = {"latent": latent_way, "pixels": mixed(*ends, shares)}
    between = tones(torch.full((100,), FORMANTS[1]), pitch, decay)
    unseen = torch.cdist(between.flatten(1), images.flatten(1)).min(1).values.median()
    print(f"an unseen tone of an instrument between: {unseen / SIZE:.3f} from the nearest known")
    for name, each in ways.items():
        heard = torch.stack([centroid(step) for step in each])
        rising = (heard.diff(dim=0) > 0).all(0).float().mean()
        away = torch.cdist(each[4].flatten(1), images.flatten(1)).min(1).values.median()
        octaves = ", ".join(f"{value:.2f}" for value in heard.mean(1))
        print(f"{name}: centroid rises all the way in {rising:.0%} of 100, in the mean {octaves} "
              f"octaves; its middle is {away / SIZE:.3f} from the nearest")  # fmt: skip
    shown = torch.cat([each[::2, i] for each in ways.values() for i in range(2)])
    captions = [f"{name}, {share:.0%}" for name in ways for _ in range(2) for share in shares[::2]]
    write_sheet(root / "spectrograms.png", shown, captions, columns=5, side=128)
    return root / "spectrograms.png"


if __name__ == "__main__":
    tyro.cli(main)
