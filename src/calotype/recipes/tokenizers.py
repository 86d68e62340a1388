"""Named tokenizer recipes. A run is one of these; flags only override its fields."""

from collections.abc import Callable
from pathlib import Path

from calotype.data import Folder, RandomResizedCrop, Scenes, Transform
from calotype.data.reading.transforms import Flip, RandomCrop
from calotype.recipes.any_shape import small_any
from calotype.recipes.discrete import DISCRETE
from calotype.recipes.family import FAMILY
from calotype.recipes.small import (
    small_alpha,
    small_grey,
    small_inpaint,
    small_kl,
    small_restore,
    small_vq,
)
from calotype.recipes.stable import small_kl_f8
from calotype.recipes.tokenizer import NewTokenizer, PretrainedDecoder, TokenizerRecipe
from calotype.tokenizers import Backbone, Gaussian
from calotype.tokenizers.terms import L1, L2, LPIPS, Adversary
from calotype.training import AdamW, Run


def scenes_kl() -> TokenizerRecipe:
    """Scenes of 32 pixels to 8x8 latents of 4 channels; needs no download. Takes 0.2 GiB in
    bf16.
    """
    return TokenizerRecipe(
        data=Scenes(size=32),
        model=NewTokenizer(
            Backbone(widths=(32, 64, 128), layers=1, attention=False, groups=8),
            # Four, because stock inpainting takes no other number. The weight keeps posteriors of
            # a long run from narrowing, in which details shrink below a generator's errors.
            Gaussian(channels=4, kl_weight=1e-4),
        ),
        pixel=L2(), perceptual=None, adversary=None,
        optimizer=AdamW(lr=6e-4, betas=(0.9, 0.99), warmup=50, schedule="cosine"),
        measure=20_000,
        run=Run(Path("runs/scenes-kl"), steps=4_000, ema=0.99),
    )  # fmt: skip


def ldm_kl_f4() -> TokenizerRecipe:
    """LDM's KL-f4: 64x64x3 latents of 256-pixel crops (Rombach et al. 2022; batch and steps of
    the released checkpoint: 10 and 176,991 on OpenImages; reconstruction FID 0.27 on
    ImageNet). Takes 20 GiB in bf16.
    """
    return _ldm("ldm-kl-f4", (128, 256, 512), channels=3, batch_size=10, steps=176_991)


def ldm_kl_f8() -> TokenizerRecipe:
    """LDM's KL-f8: 32x32x4 latents of 256-pixel crops (Rombach et al. 2022; batch and steps of
    the released checkpoint: 4 and 246,803 on OpenImages; reconstruction FID 0.90 on
    ImageNet). Takes 8.4 GiB in bf16.
    """
    return _ldm("ldm-kl-f8", (128, 256, 512, 512), channels=4, batch_size=4, steps=246_803)


def ldm_kl_f16() -> TokenizerRecipe:
    """LDM's KL-f16: 16x16x16 latents of 256-pixel crops, attention at 16 sites a side too
    (Rombach et al. 2022; batch and steps of the released checkpoint: 6 and 442,998; rFID
    0.87 on ImageNet). Takes 9.4 GiB in bf16.
    """
    widths = (128, 128, 256, 256, 512)
    return _ldm("ldm-kl-f16", widths, 16, batch_size=6, steps=442_998, last_attention=True)


def finetune_decoder() -> TokenizerRecipe:
    """Train the decoder of any stock AutoencoderKL on your images and keep its latent space: L2
    and a tenth of LPIPS, as Stable Diffusion's ft-MSE decoder was. Takes 11 GiB in bf16.
    """
    return TokenizerRecipe(
        data=Folder(Path("images")),
        transform=Transform(RandomResizedCrop(256), Flip()),
        model=PretrainedDecoder(),
        pixel=L2(), perceptual=LPIPS(weight=0.1), adversary=None,
        optimizer=AdamW(lr=1e-5, warmup=500),
        run=Run(Path("runs/finetune-decoder"), steps=20_000, batch_size=24, micro_batch=8),
    )  # fmt: skip


def _ldm(
    name: str, widths: tuple[int, ...], channels: int, batch_size: int, steps: int,
    last_attention: bool = False,
) -> TokenizerRecipe:  # fmt: skip
    # The published base rate of 4.5e-6 is per image of the batch.
    lr = 4.5e-6 * batch_size
    return TokenizerRecipe(
        data=Folder(Path("images")),
        transform=Transform(RandomCrop(256, resize=384), None),
        model=NewTokenizer(Backbone(widths, last_attention=last_attention), Gaussian(channels)),
        pixel=L1(), perceptual=LPIPS(),
        adversary=Adversary(start=50_001, effect_start=50_001, lr=lr),
        optimizer=AdamW(lr=lr, betas=(0.5, 0.9)),
        run=Run(Path("runs") / name, steps=steps, batch_size=batch_size, clip=None, ema=None,
                save_every=5000, workers=8),
    )  # fmt: skip


TOKENIZERS: dict[str, Callable[[], TokenizerRecipe]] = {
    "small-kl": small_kl,
    "small-vq": small_vq,
    "small-kl-f8": small_kl_f8,
    "small-grey": small_grey,
    "small-alpha": small_alpha,
    "small-restore": small_restore,
    "small-inpaint": small_inpaint,
    "small-any": small_any,
    "scenes-kl": scenes_kl,
    "ldm-kl-f4": ldm_kl_f4,
    "ldm-kl-f8": ldm_kl_f8,
    "ldm-kl-f16": ldm_kl_f16,
    "finetune-decoder": finetune_decoder,
    **DISCRETE,
    **FAMILY,
}
