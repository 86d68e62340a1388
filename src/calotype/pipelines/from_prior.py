"""A tokenizer that draws by itself: its decoder, and a prior of its latents."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import nn

from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.priors import Components, Prior


class Held(nn.Module):
    """A prior's numbers, as a network's are held."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self._prior = prior
        for name, value in vars(prior.components).items():
            self.register_buffer(name, value)

    def prior(self) -> Prior:
        """The prior, on the CPU, so that a seed's latent is the same on every device."""
        parts = {name: value.cpu() for name, value in self.named_buffers()}
        return replace(self._prior, components=Components(**parts))


class PriorPipeline(diffusers.DiffusionPipeline):
    """Pictures of latents that are drawn from a fitted prior (Ghosh et al. 2020, section 4), called
    as any pipeline without prompts is. No stock class draws so: its folder is the tokenizer's.

    Args:
        tokenizer: Decodes them.
        prior: Fitted to its latents.
    """

    def __init__(self, tokenizer: ImageTokenizer, prior: Prior) -> None:
        super().__init__()
        self.tokenizer, self.prior = tokenizer.eval(), Held(prior)

    @property
    def components(self) -> dict[str, Any]:
        """Its parts by name."""
        return {"tokenizer": self.tokenizer, "prior": self.prior}

    @property
    def device(self) -> torch.device:
        """Where it decodes."""
        return self.tokenizer.weight.device

    def to(self, *arguments: Any, **named: Any) -> "PriorPipeline":
        """Move its network, as `nn.Module.to`."""
        self.tokenizer.to(*arguments, **named)
        return self

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Draw pictures.

        Args:
            batch_size: How many.
            generator: Chance of all of them, or of each; on the CPU.
            output_type: `pil`; `np`, [b, H, W, c] in [0, 1]; or `pt`, [b, c, H, W] in [0, 1].
            return_dict: An `ImagePipelineOutput`, or a tuple.
        """
        if not isinstance(generator, Sequence):
            generator = [generator or torch.default_generator] * batch_size
        latents = self.prior.prior().draw([*generator])
        images: Any = self.tokenizer.decode(latents.to(self.device)).float().clamp(-1, 1) / 2 + 0.5
        images = images.cpu()
        if output_type != "pt":
            images = images.permute(0, 2, 3, 1).numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images) if return_dict else (images,)


def from_prior(folder: Path) -> PriorPipeline:
    """The pipeline of a tokenizer's folder, beside which a prior lies.

    Raises:
        FileNotFoundError: there is no prior.
        ValueError: it was fitted to another tokenizer, or is not whole.
    """
    prior, tokenizer = Prior.load(folder), ImageTokenizer.load(folder)
    prior.check(tokenizer)
    return PriorPipeline(tokenizer, prior)
