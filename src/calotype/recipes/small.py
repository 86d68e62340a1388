"""Recipes for any folder of pictures at 64 pixels, on two cores and with nothing to download.

On two cores with AVX2 and no bf16 small-kl takes 24 images/s and small-diffusion about 130
latents/s: 22 and 20 minutes, with the cache and drawing less than an hour.
"""

from dataclasses import replace
from pathlib import Path

from calotype.autoregressive import FromCodes, TokenSampling, Transformer
from calotype.data import CenterCrop, Folder, Transform
from calotype.data.reading.transforms import Flip, RandomCrop
from calotype.diffusion import Flow, LearntText, UNet
from calotype.pipelines import Sampling
from calotype.recipes.cache import CacheRecipe
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.tokenizer import NewTokenizer, TokenizerRecipe
from calotype.recipes.transformer import TransformerRecipe
from calotype.tokenizers import Backbone, Gaussian
from calotype.tokenizers.bottlenecks import VQ, BottleneckSpec, Identity
from calotype.tokenizers.bottlenecks.codebook import EMA, Codebook, KMeans, Restart
from calotype.tokenizers.corruptions import CorruptionSpec, GaussianNoise, HiddenBox
from calotype.tokenizers.terms import L1, L2
from calotype.training import AdamW, Run

SIZE = 64
TEXT = LearntText(width=128, layers=1, heads=4, length=48, vocabulary=4096)
"""One layer: a second one blurs the words before they are pooled."""


def small_kl() -> TokenizerRecipe:
    """Your pictures at 64 pixels to 16x16 latents of 4 channels, in 22 minutes of two cores;
    colours and large shapes come back, fine texture does not. Needs no download. Takes 0.2
    GiB in bf16.
    """
    return _tokenizer("small-kl", Gaussian(channels=4, kl_weight=1e-4, orthogonal=True))


def small_vq() -> TokenizerRecipe:
    """Your pictures at 64 pixels to 16x16 codes of 512, in 25 minutes of two cores; somewhat
    coarser than small-kl. Needs no download. Takes 0.2 GiB in bf16.
    """
    return _tokenizer("small-vq", VQ(Codebook(512, 8, EMA(), KMeans(), Restart()), features=32))


def small_grey() -> TokenizerRecipe:
    """Your pictures in grey at 64 pixels, such as scans, X-rays or drawings, to 16x16 latents of 4
    channels, by a network of small-kl's size with one channel; unmirrored, as scans must stay.
    Needs no download. Takes 0.2 GiB in bf16.
    """
    base, crop = small_kl(), RandomCrop(SIZE, resize=72)
    run = replace(base.run, out=Path("runs/small-grey"))
    return replace(base, transform=Transform(crop, mode="L"), run=run)


def small_alpha() -> TokenizerRecipe:
    """Your pictures with their alpha at 64 pixels, such as stickers, sprites or emoji, to 16x16
    latents of 4 channels, by a network of small-kl's size; of four channels, colours over white and
    alpha. Needs no download. Takes 0.2 GiB in bf16.
    """
    base = small_kl()
    transform = Transform(CenterCrop(SIZE), Flip(), mode="RGBA")
    return replace(base, transform=transform, run=replace(base.run, out=Path("runs/small-alpha")))


def small_restore() -> TokenizerRecipe:
    """Your pictures at 64 pixels, spoilt and given back clean, in half an hour of two cores: noise,
    or what another corruption does, for `calotype restore`. Halves their sides alone, and its
    latents hold more numbers than they, so that no detail is lost by them. Needs no download.
    Takes 0.3 GiB in bf16.
    """
    blocks = Backbone(widths=(32, 64), layers=1, attention=False, groups=8)
    return _restoring("small-restore", NewTokenizer(blocks, Identity(32, orthogonal=True)),
                      GaussianNoise())  # fmt: skip


def small_inpaint() -> TokenizerRecipe:
    """Your pictures at 64 pixels with a hole that is filled in, for `calotype restore`, by
    small-restore's network: latents of a quarter of the side fill a hole less well. Half an hour of
    two cores; needs no download. Takes 0.3 GiB in bf16.
    """
    base = small_restore()
    run = replace(base.run, out=Path("runs/small-inpaint"))
    return replace(base, corruption=HiddenBox(16, 28), run=run)


def small_cache() -> CacheRecipe:
    """Latents of your captioned pictures at 64 pixels, by small-kl, in a minute for a thousand."""
    return CacheRecipe(
        "runs/small-kl/model", Path("runs/small-latents"), Folder(Path("images")),
        Transform(CenterCrop(SIZE)), TEXT,
    )  # fmt: skip


def small_plain() -> CacheRecipe:
    """Latents of your pictures at 64 pixels without captions, by small-kl."""
    return replace(small_cache(), out=Path("runs/small-plain-latents"), text=None)


def small_tokens() -> CacheRecipe:
    """Tokens of your captioned pictures at 64 pixels, by small-vq, in a minute for a thousand."""
    return CacheRecipe(
        "runs/small-vq/model", Path("runs/small-tokens"), Folder(Path("images")),
        Transform(CenterCrop(SIZE)), TEXT,
    )  # fmt: skip


def small_diffusion() -> GeneratorRecipe:
    """Text to your pictures at 64 pixels by diffusion, in 20 minutes of two cores: of some
    thousand pictures blurred ones of the right kind, of a hundred ones much like those. A layout
    of its own, by flow matching. Takes 0.4 GiB in bf16.
    """
    return GeneratorRecipe(
        "runs/small-kl/model", Path("runs/small-latents"),
        UNet((32, 64, 128), (False, True, True), layers=1, head_width=32, groups=16,
             pooled_text=True, resnet_time_scale_shift="scale_shift"),
        process=Flow(), text=TEXT, sampling=Sampling(steps=20, guidance=2.0),
        optimizer=AdamW(lr=1.5e-3, betas=(0.9, 0.99), warmup=100, schedule="cosine"),
        run=Run(Path("runs/small-diffusion"), steps=2_500, batch_size=64, ema=0.998,
                save_every=250, sample_every=250),
    )  # fmt: skip


def small_unconditional() -> GeneratorRecipe:
    """Pictures like yours at 64 pixels by diffusion, of nothing but noise: small-diffusion for
    pictures without captions. Takes 0.2 GiB in bf16.
    """
    prompted = small_diffusion()
    return replace(
        prompted, cache=small_plain().out, text=None,
        unet=replace(prompted.unet, pooled_text=False),
        run=replace(prompted.run, out=Path("runs/small-unconditional")),
    )  # fmt: skip


def small_ar() -> TransformerRecipe:
    """Text to your pictures at 64 pixels by a transformer, in half an hour of two cores; as
    small-diffusion, and it completes pictures and says how likely they are. Takes 0.4 GiB in
    bf16.
    """
    return TransformerRecipe(
        "runs/small-vq/model", Path("runs/small-tokens"), Transformer(192, 4, 6), FromCodes(),
        sampling=TokenSampling(guidance=2.0, temperature=0.9, batch_size=16),
        optimizer=AdamW(lr=1.5e-3, betas=(0.9, 0.95), warmup=100, schedule="cosine"),
        run=Run(Path("runs/small-ar"), steps=2_000, batch_size=16, ema=0.998,
                save_every=250, sample_every=250),
    )  # fmt: skip


def _restoring(
    name: str, model: NewTokenizer, corruption: CorruptionSpec
) -> TokenizerRecipe:  # fmt: skip
    base = small_kl()
    run = replace(base.run, out=Path("runs") / name, steps=3_000, ema=0.995)
    return replace(base, corruption=corruption, model=model, pixel=L2(), run=run)


def _tokenizer(name: str, bottleneck: BottleneckSpec) -> TokenizerRecipe:
    return TokenizerRecipe(
        data=Folder(Path("images")),
        transform=Transform(RandomCrop(SIZE, resize=72), Flip()),
        model=NewTokenizer(
            Backbone(widths=(24, 48, 96), layers=1, attention=False, groups=8), bottleneck
        ),
        pixel=L1(), perceptual=None, adversary=None,
        optimizer=AdamW(lr=1.5e-3, betas=(0.9, 0.99), warmup=50, schedule="cosine"),
        measure=2_000,
        run=Run(Path("runs") / name, steps=2_000, batch_size=16, ema=0.99,
                save_every=250, sample_every=250),
    )  # fmt: skip
