"""Named generator recipes."""

from collections.abc import Callable
from pathlib import Path

from calotype.autoregressive import RowPeriodic, Sequential, TokenSampling, Transformer
from calotype.diffusion import Flow, LogitNormal, PretrainedText, UNet, Uniform
from calotype.pipelines import Sampling
from calotype.recipes.any_shape import small_any_diffusion
from calotype.recipes.caches import SCENES_TEXT
from calotype.recipes.finetune import FinetuneRecipe, finetune, lora
from calotype.recipes.generator import GeneratorRecipe
from calotype.recipes.small import small_ar, small_diffusion, small_unconditional
from calotype.recipes.stable import small_stable_diffusion, stable_diffusion
from calotype.recipes.transformer import TransformerRecipe
from calotype.training import AdamW, Run


def scenes_diffusion() -> GeneratorRecipe:
    """Text to 32-pixel scenes, text encoder and all from scratch, in a layout of its own. Takes 0.5
    GiB in bf16.
    """
    return GeneratorRecipe(
        "runs/scenes-kl/model", Path("runs/scenes-latents"),
        # With attention alone the caption's place went unheeded for a thousand steps.
        UNet((64, 128, 192), (False, True, True), layers=1, head_width=32, pooled_text=True,
             resnet_time_scale_shift="scale_shift"),
        # So plain an image is legible in 90 % noise, where the middle-heavy default hardly looks:
        # trained by it, the model drew all but never learnt to heed the caption's place.
        process=Flow(Uniform(), shift=3.0),
        text=SCENES_TEXT, sampling=Sampling(steps=20, guidance=1.5),
        optimizer=AdamW(lr=1.5e-3, betas=(0.9, 0.99), warmup=100, schedule="cosine"),
        run=Run(Path("runs/scenes-diffusion"), steps=4_000, batch_size=128, ema=0.998),
    )  # fmt: skip


def text_diffusion() -> GeneratorRecipe:
    """Text to image in 32x32x4 latents of your captioned images, by flow matching; 320 to 1280
    channels, as LDM's text-to-image UNet (Rombach et al. 2022, table 15), with heads of 40: a
    layout of its own; stable-diffusion has that of Stable Diffusion. Takes 36 GiB in bf16.
    """
    return GeneratorRecipe(
        "runs/ldm-kl-f8/model", Path("runs/latents"), UNet(),
        Flow(LogitNormal()), PretrainedText(),
        optimizer=AdamW(lr=1e-4, warmup=10_000, weight_decay=0.01),
        run=Run(Path("runs/text-diffusion"), steps=400_000, batch_size=256, micro_batch=64,
                ema=0.9999, workers=8, save_every=5000),
    )  # fmt: skip


def unconditional_diffusion() -> GeneratorRecipe:
    """Images like yours, without a prompt, in 32x32x4 latents; an LDMPipeline. Takes 9.4 GiB in
    bf16.
    """
    return GeneratorRecipe(
        "runs/ldm-kl-f8/model", Path("runs/latents"),
        UNet((224, 448, 672), (False, True, True), head_width=32),
        text=None,
        optimizer=AdamW(lr=1e-4, warmup=1000),
        run=Run(Path("runs/unconditional-diffusion"), steps=400_000, batch_size=64, ema=0.9999,
                workers=8, save_every=5000),
    )  # fmt: skip


def scenes_ar() -> TransformerRecipe:
    """Text to the tokens of 32-pixel scenes; about half an hour of two cores. Takes 0.5 GiB in
    bf16.
    """
    return TransformerRecipe(
        "runs/scenes-vq/model", Path("runs/scenes-tokens"), Transformer(192, 4, 6),
        sampling=TokenSampling(guidance=1.5, temperature=0.3, batch_size=64),
        optimizer=AdamW(lr=1.5e-3, betas=(0.9, 0.95), warmup=100, schedule="cosine"),
        run=Run(Path("runs/scenes-ar"), steps=8_000, batch_size=64, ema=0.998),
    )  # fmt: skip


def dalle_small() -> TransformerRecipe:
    """Text to image tokens as DALL-E is trained (Ramesh et al. 2021, sections 2.2 and B.2:
    weights of 1/8 and 7/8, batch 1024, 430,000 steps), at 12 layers of 1024 and 16x16
    tokens. Takes 21 GiB in bf16.

    The published rate is halved by hand when the loss stands still, and here falls along half a
    cosine; gradients are clipped throughout, and not in the warm-up alone; a tenth of the prompts
    is left out, so that guidance can be used. The published text is read with BPE dropout.
    """
    return TransformerRecipe(
        "runs/vqgan-f16/model", Path("runs/tokens"), Transformer(1024, 12, 16, Sequential()),
        optimizer=AdamW(4.5e-4, betas=(0.9, 0.96), weight_decay=4.5e-2, warmup=5_000,
                        schedule="cosine"),
        run=Run(Path("runs/dalle-small"), steps=430_000, batch_size=1024, micro_batch=32, clip=4.0,
                # The published average follows by 0.01 once in 25 steps.
                ema=0.9996, workers=8, save_every=5000),
    )  # fmt: skip


def llamagen_b() -> TransformerRecipe:
    """Classes to image tokens as LlamaGen-B is trained (Sun et al. 2024: 12 layers of 768, 300
    epochs of ImageNet in batches of 256, guidance 2). Takes 54 GiB in bf16.

    Stock Llama drops attention weights at random and nothing else, where the published model drops
    activations; its rotary positions of two axes are `RowPeriodic` here. All weights decay, and the
    last layer does not begin at zero.
    """
    return TransformerRecipe(
        "runs/llamagen-vq-f16/model", Path("runs/class-tokens"),
        Transformer(768, 12, 12, RowPeriodic(), dropout=0.1),
        sampling=TokenSampling(guidance=2.0),
        optimizer=AdamW(1e-4, betas=(0.9, 0.95), weight_decay=0.05),
        run=Run(Path("runs/llamagen-b"), steps=1_501_200, batch_size=256, micro_batch=128, ema=None,
                workers=8, save_every=5000),
    )  # fmt: skip


GENERATORS: dict[str, Callable[[], GeneratorRecipe | TransformerRecipe | FinetuneRecipe]] = {
    "small-diffusion": small_diffusion,
    "small-unconditional": small_unconditional,
    "small-any-diffusion": small_any_diffusion,
    "small-ar": small_ar,
    "small-stable-diffusion": small_stable_diffusion,
    "scenes-diffusion": scenes_diffusion,
    "text-diffusion": text_diffusion,
    "stable-diffusion": stable_diffusion,
    "unconditional-diffusion": unconditional_diffusion,
    "scenes-ar": scenes_ar,
    "dalle-small": dalle_small,
    "llamagen-b": llamagen_b,
    "finetune": finetune,
    "lora": lora,
}
