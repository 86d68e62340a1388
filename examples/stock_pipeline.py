"""A StableDiffusionPipeline of diffusers with our tokenizer in it, and our UNet with a stock VAE of
equal latents.

    python examples/stock_pipeline.py

ends in runs/examples/stock-pipeline.png: the same prompts and seeds through each.
"""

from dataclasses import replace
from pathlib import Path

import torch
import tyro
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from finetune_decoder import finetuned
from prepared import ROOT, STEPS, continuous

import calotype
from calotype.pages.sheet import write_sheet
from calotype.recipes.demo import demo_diffusion, demo_kl, demo_latents

PROMPTS = ["a large red circle at the centre on a white background",
           "a large blue square at the top left on a black background",
           "a large yellow triangle at the right on a grey background"]  # fmt: skip


def drawn(pipeline: StableDiffusionPipeline) -> torch.Tensor:
    """Images in [-1, 1]."""
    generator = [torch.Generator().manual_seed(i) for i in range(len(PROMPTS))]
    images = pipeline(PROMPTS, num_inference_steps=15, guidance_scale=1.5, generator=generator,
                      output_type="pt").images  # fmt: skip
    return 2 * images.float() - 1


def main(root: Path = ROOT, steps: int = STEPS, drawing: int = 250) -> Path:
    """Train what there is not yet, and put parts together as anybody does."""
    continuous(root, steps)
    latents = demo_latents(root / "latents", demo_kl(root / "kl", steps), 10 * drawing)
    recipe = demo_diffusion(root / "diffusion", drawing, latents)
    recipe = replace(recipe, run=replace(recipe.run, batch_size=32, resume=True))
    if not recipe.run.model.exists():
        calotype.cache_latents(latents)
        calotype.train_generator(recipe)

    # Our tokenizer is a part like any other: put together by hand, as diffusers' pages do.
    ours = StableDiffusionPipeline.from_pretrained(recipe.run.model)
    vae = calotype.load(root / "kl").autoencoder
    theirs = StableDiffusionPipeline(
        vae=vae, unet=UNet2DConditionModel.from_pretrained(recipe.run.model, subfolder="unet"),
        text_encoder=ours.text_encoder, tokenizer=ours.tokenizer, scheduler=ours.scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pictures = [drawn(ours), drawn(theirs)]
    assert torch.equal(*pictures)

    # Any stock VAE of equal latents serves the UNet: this decoder was trained further.
    theirs.vae = AutoencoderKL.from_pretrained(finetuned(root, steps))
    pictures.append(drawn(theirs))
    names = ["as exported", "by hand", "another decoder"]
    captions = [f"{name}: {prompt}" for name in names for prompt in PROMPTS]
    write_sheet(root / "stock-pipeline.png", torch.cat(pictures), captions, columns=3, side=192)
    return root / "stock-pipeline.png"


if __name__ == "__main__":
    tyro.cli(main)
