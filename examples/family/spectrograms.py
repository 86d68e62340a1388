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
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Gaussian
from calotype.tokenizers.terms import FixedDeviation, GaussianLikelihood
from calotype.tokenizers.vector import Dense

SIZE = 32
LOWEST, OCTAVES = 110.0, 4.0
"""Hertz of the first row of frequencies, and how far up they go."""
TIMBRES = ("soft", "hollow", "bright")
FORMANTS = (1.0, 2.0, 3.0)
"""Octaves over the lowest at which each instrument resounds, in the mean."""


def tones(timbre: Tensor, pitch: Tensor, decay: Tensor) -> Tensor:
    """Log-spectrograms [n 1 32 32] in [-1, 1], low frequencies below, over a second.

    Args:
        timbre: Octaves at which the instrument resounds.
        pitch: Octaves of the fundamental over the lowest.
        decay: Per second, of what an octave over the lowest loses.
    """
    rows = torch.linspace(0, OCTAVES, SIZE)
    partials = torch.arange(1, 11).float()
    octaves = pitch[:, None] + partials.log2()  # (n, partials)
    loud = (-((octaves - timbre[:, None]) ** 2) / 0.4).exp() + 0.003
    lines = (-((rows - octaves[..., None]) ** 2) / (2 * 0.07**2)).exp()  # (n, partials, rows)
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


def nearest(images: Tensor, known: Tensor) -> float:
    """Root mean square distance to the nearest of the known, in the median."""
    return torch.cdist(images.flatten(1), known.flatten(1)).min(1).values.median().item() / SIZE


def trained(images: Tensor, steps: int, latent: int = 8) -> ImageTokenizer:
    """A VAE of tones."""
    term = GaussianLikelihood(deviation=FixedDeviation(0.2))
    neck = Gaussian(latent, kl_weight=1.0, keep_prior=True)
    objective = member(NewTokenizer(Dense((256, 256), "silu"), neck), SIZE, term)
    learn(objective, {"image": images}, steps)
    return objective.tokenizer


def ways(
    tokenizer: ImageTokenizer, begin: Tensor, end: Tensor, steps: int = 9
) -> dict[str, Tensor]:
    """From one batch to another, [steps n 1 32 32]: straight on in the latent, and in pixels."""
    shares = torch.linspace(0, 1, steps)
    with torch.no_grad():
        ends = (tokenizer.latents(images) for images in (begin, end))
        decoded = [tokenizer.decode(z).clamp(-1, 1) for z in mixed(*ends, shares)]
    return {"latent": torch.stack(decoded), "pixels": mixed(begin, end, shares)}


def mixed(begin: Tensor, end: Tensor, shares: Tensor) -> Tensor:
    """[steps, n, ...], of which the first are `begin` and the last `end`."""
    return torch.stack([begin.lerp(end, float(share)) for share in shares])


def main(root: Path = ROOT, steps: int = 1500, count: int = 4000) -> Path:
    """Train a VAE, and go from the soft instrument to the bright, each tone of one pitch."""
    images = tones(*drawn(count, 0)[1:])
    tokenizer = trained(images, steps)
    _, _, pitch, decay = drawn(100, 1)
    soft, hollow, bright = (tones(torch.full((100,), each), pitch, decay) for each in FORMANTS)
    print(f"unseen tones of the instrument between: {nearest(hollow, images):.3f} from the nearest")
    found = ways(tokenizer, soft, bright)
    for name, way in found.items():
        heard = torch.stack([centroid(step) for step in way])
        rising = (heard.diff(dim=0) > 0).all(0).double().mean()
        octaves = ", ".join(f"{value:.2f}" for value in heard.mean(1))
        away = nearest(way[len(way) // 2], images)
        print(f"{name}: centroid at {octaves} octaves, rising all the way in {rising:.0%} of "
              f"tones; the middle is {away:.3f} from the nearest")  # fmt: skip
    shown = torch.cat([way[::2, i] for way in found.values() for i in range(2)])
    captions = [f"{name}, {step / 4:.0%}" for name in found for _ in range(2) for step in range(5)]
    write_sheet(root / "spectrograms.png", shown, captions, columns=5, side=128)
    return root / "spectrograms.png"


if __name__ == "__main__":
    tyro.cli(main)
