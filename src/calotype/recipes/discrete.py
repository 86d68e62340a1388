"""Named recipes of tokenizers with codes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from calotype.data import Folder, Scenes, Transform
from calotype.data.reading.transforms import Flip, RandomCrop
from calotype.recipes.tokenizer import NewTokenizer, TokenizerRecipe
from calotype.tokenizers import Backbone
from calotype.tokenizers.bottlenecks import FSQ, LFQ, VQ, BottleneckSpec, Gumbel
from calotype.tokenizers.bottlenecks.codebook import (
    EMA,
    Codebook,
    Cosine,
    KMeans,
    Restart,
    Uniform,
)
from calotype.tokenizers.terms import (
    L1,
    L2,
    LPIPS,
    Adaptive,
    Adversary,
    Fixed,
    HingeNonSaturating,
    LeCAM,
    LogitLaplace,
    Pixel,
)
from calotype.training import AdamW, Run, schedules

F16 = Backbone((128, 128, 256, 256, 512), last_attention=True)
"""VQGAN's: attention in the middle and at the sixteenth of the image's side."""
HELD_OUT = Scenes(size=32, split="held-out", count=2048)


def scenes_vq() -> TokenizerRecipe:
    """Scenes of 32 pixels to 8x8 codes of 512; needs no download. Takes 0.2 GiB in bf16."""
    codebook = Codebook(512, 8, EMA(), KMeans(), Restart())
    return _scenes("scenes-vq", VQ(codebook, features=32), L2())


def scenes_dvae() -> TokenizerRecipe:
    """Scenes of 32 pixels to 8x8 codes of 512, by DALL-E's objective; needs no download. Takes
    0.2 GiB in bf16.

    The scale of the likelihood has a least value, because scenes are flat; the KL weight, 6.6 as
    published for 192 values behind each site and 1.65 for 48, is a quarter of that beside it.
    """
    bottleneck = Gumbel(
        codes=512, channels=32,
        temperature=schedules.Cosine(1.0, 1 / 16, 3_000),
        kl_weight=schedules.Cosine(0.0, 0.4, 1_000),
    )  # fmt: skip
    return _scenes("scenes-dvae", bottleneck, LogitLaplace(least_scale=0.2))


def ldm_vq_f4() -> TokenizerRecipe:
    """LDM's VQ-f4: 64x64 codes of 8192, of 3 channels (Rombach et al. 2022; batch and steps of
    the released checkpoint: 8 and 533,066 on OpenImages; reconstruction FID 0.58 on
    ImageNet). Takes 16 GiB in bf16.

    The released code weighs the two halves of the codebook's loss the wrong way round; here 0.25 is
    on the commitment, as van den Oord et al. 2017 have it.
    """
    codebook = Codebook(8192, 3, init=Uniform(), restart=None)
    run = Run(Path("runs/ldm-vq-f4"), steps=533_066, batch_size=8)
    backbone = Backbone((128, 256, 512))
    return _vqgan(run, RandomCrop(256, resize=384), backbone, VQ(codebook), 0.75)


def vqgan_f16() -> TokenizerRecipe:
    """VQGAN's f16: 16x16 codes of 1024, of 256 channels (Esser et al. 2021; the published
    ImageNet configuration, which begins its adversary at step 250,001; reconstruction FID
    7.94 there). How many steps it took is not published. Takes 18 GiB in bf16.

    Codes begin at k-means and restart, which the published ones do not: many of those die.
    """
    run = Run(Path("runs/vqgan-f16"), steps=500_000, batch_size=12)
    vq = VQ(Codebook(1024, 256))
    return _vqgan(run, RandomCrop(256), F16, vq, 0.8, start=250_001)


def llamagen_vq_f16() -> TokenizerRecipe:
    """LlamaGen's VQ-16: 16x16 codes of 16384, of 8 channels on the unit sphere (Sun et al. 2024;
    40 epochs of ImageNet in batches of 128; reconstruction FID 2.19 there, 97 % of codes in
    use). Takes 45 GiB in bf16.

    Crops are of one size in pictures of one size, where the published vary from 0.8 to 1 of them.
    """
    codebook = Codebook(16384, 8, init=Uniform(), restart=None, similarity=Cosine())
    return TokenizerRecipe(
        data=Folder(Path("images")),
        transform=Transform(RandomCrop(256, resize=280), Flip()),
        model=NewTokenizer(F16, VQ(codebook, features=256)),
        pixel=L2(), perceptual=LPIPS(),
        adversary=Adversary(balance=Fixed(0.5), start=20_000, effect_start=20_000, lr=1e-4),
        optimizer=AdamW(1e-4, betas=(0.9, 0.95)),
        run=Run(Path("runs/llamagen-vq-f16"), steps=400_000, batch_size=128, micro_batch=32,
                ema=None, save_every=5000, workers=8),
    )  # fmt: skip


def dalle_dvae_f8() -> TokenizerRecipe:
    """DALL-E's dVAE: 32x32 codes of 8192 (Ramesh et al. 2021, appendix A; batch 512 over
    3,000,000 steps; its crops of a short side between 256 and 288 are of 272 here). Takes 42
    GiB in bf16.

    Widths are the published ones. The blocks between are stock ones, with two full 3x3 convolutions
    where the published have narrow ones: 10 times the parameters (`ldm-dvae-f8` has a tenth).
    """
    return _dvae("dalle-dvae-f8", Backbone((256, 512, 1024, 2048), attention=False))


def ldm_dvae_f8() -> TokenizerRecipe:
    """DALL-E's objective and schedules with the encoder and decoder of LDM's f8: 32x32 codes of
    8192 (Ramesh et al. 2021, appendix A; Rombach et al. 2022). Takes 15 GiB in bf16.
    """
    return _dvae("ldm-dvae-f8", Backbone((128, 256, 512, 512)))


def magvit2_lfq_f16() -> TokenizerRecipe:
    """Open-MAGVIT2's: 16x16 codes of 2 ** 18, without a codebook (Luo et al. 2024; 270 epochs of
    ImageNet in batches of 256; reconstruction FID 1.17 there). Loads in calotype only. Takes
    69 GiB in bf16.

    The published rate falls in two steps at the end; here it falls along half a cosine, and the
    entropy's weights stay what they are, which are published to begin four times as high.
    """
    return TokenizerRecipe(
        data=Folder(Path("images")),
        transform=Transform(RandomCrop(256), Flip()),
        model=NewTokenizer(
            Backbone((128, 128, 256, 256, 512), layers=4, attention=False), LFQ(bits=18)
        ),
        pixel=L1(), perceptual=LPIPS(),
        adversary=Adversary(loss=HingeNonSaturating(), balance=Fixed(0.1), regulariser=LeCAM(0.05),
                            start=0, effect_start=0, lr=1e-4),
        optimizer=AdamW(1e-4, betas=(0.5, 0.9), schedule="cosine"),
        run=Run(Path("runs/magvit2-lfq-f16"), steps=1_351_000, batch_size=256, micro_batch=32,
                clip=None, save_every=5000, workers=8),
    )  # fmt: skip


def fsq_f8() -> TokenizerRecipe:
    """Finite scalars in place of the 16384 codes of LDM's VQ-f8: 32x32 codes of 15360 (levels of
    Mentzer et al. 2023, appendix A.4.1; all else of Rombach et al. 2022). Loads in calotype
    only. Takes 16 GiB in bf16.
    """
    run = Run(Path("runs/fsq-f8"), steps=500_000, batch_size=8)
    backbone, fsq = Backbone((128, 256, 512, 512)), FSQ((8, 8, 8, 6, 5), features=4)
    return _vqgan(run, RandomCrop(256, resize=384), backbone, fsq, 0.75)


def _scenes(name: str, bottleneck: BottleneckSpec, pixel: Pixel) -> TokenizerRecipe:
    return TokenizerRecipe(
        data=Scenes(size=32), validation=HELD_OUT,
        model=NewTokenizer(
            Backbone(widths=(32, 64, 128), layers=1, attention=False, groups=8), bottleneck
        ),
        pixel=pixel, perceptual=None, adversary=None,
        optimizer=AdamW(lr=6e-4, betas=(0.9, 0.99), warmup=50, schedule="cosine"),
        measure=20_000,
        run=Run(Path("runs") / name, steps=4_000, ema=0.99),
    )  # fmt: skip


def _vqgan(
    run: Run, crop: RandomCrop, backbone: Backbone, bottleneck: BottleneckSpec, weight: float,
    start: int = 0,
) -> TokenizerRecipe:  # fmt: skip
    """L1, LPIPS and an adversary in proportion, as VQGAN's and LDM's code has them."""
    # The published base rate of 4.5e-6 is per image of the batch.
    lr = 4.5e-6 * run.batch_size
    balance = Adaptive(weight, largest=1e4)  # of means already
    return TokenizerRecipe(
        data=Folder(Path("images")),
        transform=Transform(crop, None),
        model=NewTokenizer(backbone, bottleneck),
        pixel=L1(), perceptual=LPIPS(),
        adversary=Adversary(balance=balance, start=start, effect_start=start, lr=lr),
        optimizer=AdamW(lr=lr, betas=(0.5, 0.9)),
        run=replace(run, clip=None, ema=None, save_every=5000, workers=8),
    )  # fmt: skip


def _dvae(name: str, backbone: Backbone) -> TokenizerRecipe:
    return TokenizerRecipe(
        data=Folder(Path("images")),
        transform=Transform(RandomCrop(256, resize=272), Flip()),
        model=NewTokenizer(backbone, Gumbel()),
        pixel=LogitLaplace(), perceptual=None, adversary=None,
        optimizer=AdamW(1e-4, betas=(0.9, 0.999), weight_decay=1e-4, schedule="cosine",
                        cosine_steps=1_200_000, min_lr_factor=0.0125),
        run=Run(Path("runs") / name, steps=3_000_000, batch_size=512, micro_batch=8, ema=0.999,
                clip=None, save_every=5000, workers=8),
    )  # fmt: skip


DISCRETE: dict[str, Callable[[], TokenizerRecipe]] = {
    "scenes-vq": scenes_vq,
    "scenes-dvae": scenes_dvae,
    "ldm-vq-f4": ldm_vq_f4,
    "vqgan-f16": vqgan_f16,
    "llamagen-vq-f16": llamagen_vq_f16,
    "dalle-dvae-f8": dalle_dvae_f8,
    "ldm-dvae-f8": ldm_dvae_f8,
    "magvit2-lfq-f16": magvit2_lfq_f16,
    "fsq-f8": fsq_f8,
}
