"""The family of autoencoders by name, each as small as shows what it is (docs/family.md).

Digits are scikit-learn's of 8 pixels and take seconds to a minute of one core, scenes are drawn and
take some minutes of two; nothing is downloaded.
"""

from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

from calotype.data import CenterCrop, Digits, Pendulum, Scenes, Shapes, Source, Transform
from calotype.recipes.tokenizer import NewTokenizer, TokenizerRecipe
from calotype.tokenizers import Backbone, Gaussian
from calotype.tokenizers.bottlenecks import (
    RBM,
    Bernoulli,
    BottleneckSpec,
    Causal,
    Identity,
    Poisson,
    Sparse,
)
from calotype.tokenizers.bottlenecks.divergences import Decomposed
from calotype.tokenizers.bottlenecks.sparsity import KLRate
from calotype.tokenizers.contraction import Jacobian
from calotype.tokenizers.corruptions import GaussianNoise
from calotype.tokenizers.terms import (
    L2,
    BernoulliLikelihood,
    FixedDeviation,
    GaussianLikelihood,
    LearntDeviation,
    Pixel,
)
from calotype.tokenizers.vector import Dense, Pooled
from calotype.training import AdamW, Run
from calotype.training.schedules import Cosine

BLOCKS = Backbone(widths=(32, 64, 128), layers=1, attention=False, groups=8)
"""scenes-kl's."""
GREY = Transform(CenterCrop(Digits.size), mode="L")


def digits_ae() -> TokenizerRecipe:
    """Digits to 8 numbers and back by plain layers (Hinton & Salakhutdinov 2006): half the error of
    as many principal components, 20 dB of held-out ones. Takes 0.003 GiB in bf16.
    """
    return _digits("digits-ae", Identity(8), L2())


def digits_vae() -> TokenizerRecipe:
    """Digits to 8 numbers that are drawn (Kingma & Welling 2014): what is decoded from N(0, 1) are
    digits. The likelihood has a deviation of 0.2 in [-1, 1]; held-out digits take 16 nats and are
    rebuilt to 20 dB. Takes 0.003 GiB in bf16.
    """
    pixel = GaussianLikelihood(deviation=FixedDeviation(0.2))
    return _digits("digits-vae", Gaussian(8, kl_weight=1.0, keep_prior=True), pixel)


def digits_dae() -> TokenizerRecipe:
    """Digits of which the encoder sees noise of deviation 0.6 in [-1, 1] (Vincent et al. 2008):
    5 dB of it are gone again, of 13 that held-out ones have. Takes 0.003 GiB in bf16.
    """
    base = _digits("digits-dae", Identity(32), L2())
    return replace(base, corruption=GaussianNoise(0.6))


def scenes_ae() -> TokenizerRecipe:
    """Scenes of 32 pixels to 8x8 latents of 4 channels by convolutions alone, with no prior: the
    plainest of tokenizers, saved as a stock AutoencoderKL; scenes of unseen combinations are
    rebuilt to 39 dB. Takes 0.2 GiB in bf16.
    """
    return _scenes("scenes-ae", NewTokenizer(BLOCKS, Identity(4, orthogonal=True)), L2())


def scenes_vae() -> TokenizerRecipe:
    """Scenes of 32 pixels to 32 numbers that are drawn, by the likelihood with a deviation that is
    learnt (Rybkin et al. 2021): what is decoded from N(0, 1) are blurred scenes. Unseen ones take
    45 nats and are rebuilt to 23 dB. Takes 0.3 GiB in bf16.
    """
    neck = Gaussian(32, kl_weight=1.0, keep_prior=True)
    pixel = GaussianLikelihood(deviation=LearntDeviation())
    return _scenes("scenes-vae", NewTokenizer(Pooled(BLOCKS), neck), pixel)


def scenes_dae() -> TokenizerRecipe:
    """Scenes of which the encoder sees noise of deviation 0.5 in [-1, 1]: restores pictures that
    are noisy, of unseen combinations from 14 dB to 34, and its latents are those of the clean.
    Takes 0.2 GiB in bf16.
    """
    base = _scenes("scenes-dae", NewTokenizer(BLOCKS, Identity(4, orthogonal=True)), L2())
    return replace(base, corruption=GaussianNoise(0.5))


def digits_sparse() -> TokenizerRecipe:
    """Digits to 256 units of which each responds to a twentieth of them (Ng 2011, section 3): more
    units than pixels, and still no copy: 22 dB of held-out ones. Takes 0.01 GiB in bf16.
    """
    base = _digits("digits-sparse", Sparse(256, KLRate()), L2())
    return replace(base, model=NewTokenizer(Dense((256,)), Sparse(256, KLRate())))


def digits_contractive() -> TokenizerRecipe:
    """Digits to 32 numbers that change little where a digit does (Rifai et al. 2011): 23 dB of
    held-out ones. Takes 0.01 GiB in bf16.
    """
    return replace(_digits("digits-contractive", Identity(32), L2()), contraction=Jacobian())


def digits_poisson() -> TokenizerRecipe:
    """Digits to 32 counts, most of them 0 (Vafaii et al. 2024): held-out ones take 16 nats and are
    rebuilt to 17 dB. Takes 0.01 GiB in bf16.
    """
    counts = Poisson(32, temperature=Cosine(1.0, 0.05, 1500))
    pixel = GaussianLikelihood(deviation=FixedDeviation(0.2))
    return _digits("digits-poisson", counts, pixel)


def digits_rbm() -> TokenizerRecipe:
    """Digits to 12 bits whose prior is a restricted Boltzmann machine, normalised by listing all
    4096 (Khoshaman et al. 2018, the classical half): held-out ones take 6 nats and are rebuilt to
    16 dB. Takes 0.01 GiB in bf16.
    """
    bits = Bernoulli(12, RBM(16), temperature=Cosine(1.0, 0.1, 1500))
    pixel = GaussianLikelihood(deviation=FixedDeviation(0.2))
    return _digits("digits-rbm", bits, pixel)


def shapes_btcvae() -> TokenizerRecipe:
    """Shapes of 16 pixels to 6 numbers that pay for what they say of one another (Chen et al. 2018,
    beta-TCVAE): each comes to stand for a factor, with a MIG of 0.7 in the mean of five seeds
    after two minutes of a core (benchmarks/README.md). Takes 0.01 GiB in bf16.
    """
    shapes = Shapes()
    parts = Decomposed(prod(shapes.levels), total_correlation=8.0)
    neck = Gaussian(6, kl_weight=1.0, divergence=parts, keep_prior=True, kl_warmup=2000)
    run = Run(steps=8000, batch_size=128, micro_batch=None, ema=None)
    return _recipe(
        "shapes-btcvae", shapes, None, NewTokenizer(Dense((128, 128)), neck),
        BernoulliLikelihood(), AdamW(2e-3, schedule="cosine"), run,
        Transform(CenterCrop(shapes.size), mode="L"),
    )  # fmt: skip


def pendulum_causal() -> TokenizerRecipe:
    """Pendulums and their shadows to their four factors, each a function of its causes, whose order
    is given (Yang et al. 2021, CausalVAE): to set one moves what follows from it, and nothing else.
    Pendulums that were held out are rebuilt to 48 dB. Takes 0.3 GiB in bf16.
    """
    return _recipe(
        "pendulum-causal", Pendulum(), Pendulum(seed=1, count=512),
        NewTokenizer(Pooled(BLOCKS), Causal()), L2(),
        AdamW(6e-4, (0.9, 0.99), warmup=50, schedule="cosine"), Run(steps=2000, ema=0.99),
    )  # fmt: skip


def tiny(recipe: TokenizerRecipe, out: Path) -> TokenizerRecipe:
    """A recipe's twin that takes a second: as it is, but for how long."""
    run = replace(recipe.run, out=out, steps=4, batch_size=8, precision="fp32", save_every=2,
                  sample_every=4, evaluate_every=4)  # fmt: skip
    neck = getattr(recipe.model, "bottleneck", None)
    if isinstance(neck, Poisson | Bernoulli) and isinstance(recipe.model, NewTokenizer):
        neck = replace(neck, temperature=replace(neck.temperature, steps=2))
        recipe = replace(recipe, model=replace(recipe.model, bottleneck=neck))
    return replace(recipe, measure=16, validate=8, examples=2, run=run)


def _digits(name: str, bottleneck: BottleneckSpec, pixel: Pixel) -> TokenizerRecipe:
    return _recipe(
        name, Digits(), Digits("test"), NewTokenizer(Dense((256, 256)), bottleneck), pixel,
        AdamW(1e-3, schedule="cosine"), Run(steps=3000, batch_size=64, ema=None), GREY,
    )  # fmt: skip


def _scenes(name: str, model: NewTokenizer, pixel: Pixel) -> TokenizerRecipe:
    return _recipe(
        name, Scenes(size=32), Scenes(size=32, split="held-out", count=512), model, pixel,
        AdamW(6e-4, (0.9, 0.99), warmup=50, schedule="cosine"), Run(steps=2000, ema=0.99),
    )  # fmt: skip


def _recipe(
    name: str, data: Source, validation: Source | None, model: NewTokenizer, pixel: Pixel,
    optimizer: AdamW, run: Run, transform: Transform | None = None,
) -> TokenizerRecipe:  # fmt: skip
    return TokenizerRecipe(
        data=data, transform=transform, model=model, pixel=pixel, perceptual=None, adversary=None,
        optimizer=optimizer, measure=2048, validation=validation,
        run=replace(run, out=Path("runs") / name),
    )  # fmt: skip


FAMILY: dict[str, Callable[[], TokenizerRecipe]] = {
    "digits-ae": digits_ae, "digits-vae": digits_vae, "digits-dae": digits_dae,
    "digits-sparse": digits_sparse, "digits-contractive": digits_contractive,
    "digits-poisson": digits_poisson, "digits-rbm": digits_rbm,
    "scenes-ae": scenes_ae, "scenes-vae": scenes_vae, "scenes-dae": scenes_dae,
    "shapes-btcvae": shapes_btcvae, "pendulum-causal": pendulum_causal,
}  # fmt: skip
