"""What a trained diffusion pipeline is trained on by: the recipe, and two by name."""

from dataclasses import dataclass, field
from pathlib import Path

from calotype.diffusion import Learnt, LogitNormal, LoRA, Uniform, Whole
from calotype.pipelines import Sampling
from calotype.recipes.cached import check_drop
from calotype.training import AdamW, Run


@dataclass(frozen=True)
class FinetuneRecipe:
    """Train a diffusion pipeline on in cached latents: its network, text encoder and process are
    what they are.
    """

    pipeline: str
    """Folder of a trained pipeline, or of its run, or a name on the Hub: a StableDiffusionPipeline,
    ours or stock, or an LDMPipeline."""
    cache: Path
    """Folder of the latents, encoded by the pipeline's own tokenizer: `cache-latents RECIPE
    --tokenizer PIPELINE text:pretrained-text --text.path PIPELINE`."""
    learn: Learnt = field(default_factory=Whole)
    """What moves."""
    learn_text: bool = False
    """Train the text encoder too; no: it stays frozen."""
    times: LogitNormal | Uniform | None = None
    """Which timesteps are trained; None: as the pipeline was, where it says; of others uniform
    ones, or of flows mostly the middle."""
    snr_gamma: float | None = None
    """Errors weigh by min(SNR, gamma), where it is no flow; None: as the pipeline was trained, or
    all alike."""
    drop: float = 0.1
    """Fraction of prompts that are replaced by the empty one, so that guidance can be used."""
    optimizer: AdamW = field(default_factory=AdamW)
    gradient_checkpointing: bool = False
    """Compute activations twice to hold fewer of them."""
    held_out: int = 0
    """Samples of the cache, evenly spread, that are not trained on: their losses are measured every
    `run.evaluate_every` steps."""
    prompts: tuple[str, ...] = ()
    """Prompts of the pictures in samples/; none: captions from all over
    the cache."""
    sampling: Sampling | None = None
    """How those pictures are drawn, and `calotype generate` unless told otherwise; None: as the
    pipeline is best called, or as its author chose."""
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        check_drop(self.drop)
        if self.snr_gamma is not None and self.snr_gamma <= 0:
            raise ValueError(f"snr_gamma is {self.snr_gamma}: it must be positive, or None")

    @property
    def tokenizer(self) -> str:
        """The pipeline has its own."""
        return self.pipeline


def finetune() -> FinetuneRecipe:
    """Train a pipeline's UNet on with your captioned pictures; one of Stable Diffusion's size, on
    512 pixels. Takes 26 GiB in bf16.
    """
    return FinetuneRecipe(
        "runs/text-diffusion/model", Path("runs/finetune-latents"),
        optimizer=AdamW(lr=1e-5, warmup=100, weight_decay=0.01),
        run=Run(Path("runs/finetune"), steps=5_000, batch_size=8, ema=0.999, workers=4),
    )  # fmt: skip


def lora() -> FinetuneRecipe:
    """Add LoRA weights to a pipeline for your captioned pictures, some MB that stock diffusers
    loads; to one of Stable Diffusion's size, on 512 pixels. Takes 15 GiB in bf16.
    """
    return FinetuneRecipe(
        "runs/text-diffusion/model", Path("runs/finetune-latents"), LoRA(),
        optimizer=AdamW(lr=1e-4, warmup=50),
        run=Run(Path("runs/lora"), steps=2_000, batch_size=8, ema=0.99, workers=4,
                save_every=250, sample_every=250),
    )  # fmt: skip
