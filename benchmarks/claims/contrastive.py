"""The claim of contrast: what two views of a picture share is kept, and detail is not."""

import torch

from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Identity
from calotype.tokenizers.contrast import InfoNCE, Views
from calotype.tokenizers.terms import L2
from calotype.training.noise import generators
from calotype.uses.representations import untrained
from claims.learning import Figure, digits, psnr_of, trained

VIEWS = Views(crop=0.6, flip=False)
"""Digits are not what they are in a mirror."""


def contrast(steps: int = 2500) -> list[Figure]:
    """Oord et al. 2018; Chen et al. 2020: latents move less with the view, beside how far
    pictures' latents are apart, than those of a plain autoencoder and of an untrained one.
    """
    learnt, _, held, _ = digits()
    terms = {"contrast": InfoNCE(weight=1.0, views=VIEWS)}
    own = trained(Identity(16), learnt, L2(), steps, terms=terms)
    plain = trained(Identity(16), learnt, L2(), steps)
    moves = {name: moved(made, held) for name, made in
             {"own": own, "plain": plain, "untrained": untrained(plain)}.items()}  # fmt: skip
    with torch.no_grad():
        quality = [psnr_of(made.reconstruct(held), held) for made in (own, plain)]
    said = f"plain {moves['plain']:.2f}, untrained {moves['untrained']:.2f}; rebuilt to "
    said += f"{quality[0]:.1f} dB, plain {quality[1]:.1f}"
    least = min(moves["plain"], moves["untrained"])
    return [
        Figure("contrast: how far a view moves latents, of how far pictures are apart",
               moves["own"], "<= 0.6 of every control's", moves["own"] <= 0.6 * least, said)
    ]  # fmt: skip


@torch.no_grad()
def moved(tokenizer: ImageTokenizer, images: torch.Tensor, draws: int = 5) -> float:
    """How far a view's latent is from the picture's, of how far two pictures' are apart; means."""
    here = tokenizer.latents(images).flatten(1)
    views = [VIEWS(images, generators(range(draw * len(images), (draw + 1) * len(images))))
             for draw in range(draws)]  # fmt: skip
    apart = torch.stack([(tokenizer.latents(view).flatten(1) - here).norm(dim=1) for view in views])
    return (apart.mean() / torch.pdist(here).mean()).item()
