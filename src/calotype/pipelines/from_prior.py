"""A tokenizer that draws by itself: its decoder, and a prior of its latents."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from jaxtyping import Float
from torch import Tensor, nn

from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.likelihood import kept_likelihood
from calotype.tokenizers.priors import FILE, Components, Prior
from calotype.training.noise import Generators


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


@dataclass(frozen=True)
class OwnPrior:
    """What a tokenizer's latents were held to as it was trained: N(0, 1), counts, bits, points of a
    sphere, factors and what follows of them.
    """

    tokenizer: ImageTokenizer

    def draw(self, chance: Generators) -> Float[Tensor, "b c h w"]:
        """Latents of the size that it was trained with, one for each generator."""
        tokenizer = self.tokenizer
        side = tokenizer.sample_size // tokenizer.factor
        return tokenizer.bottleneck.sample_prior(side, side, chance)  # type: ignore[operator]


class HeldOwn(nn.Module):
    """A tokenizer's own prior, whose numbers are among the tokenizer's."""

    def __init__(self, prior: OwnPrior) -> None:
        super().__init__()
        self.prior = lambda: prior


class PriorPipeline(diffusers.DiffusionPipeline):
    """Pictures of latents that are drawn from a prior, fitted (Ghosh et al. 2020, section 4) or the
    one that the tokenizer was trained with, called as any pipeline without prompts is. No stock
    class draws so: its folder is the tokenizer's.

    Args:
        tokenizer: Decodes them.
        prior: Of its latents.
    """

    def __init__(self, tokenizer: ImageTokenizer, prior: Prior | OwnPrior) -> None:
        super().__init__()
        held = Held(prior) if isinstance(prior, Prior) else HeldOwn(prior)
        self.tokenizer, self.prior = tokenizer.eval(), held

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


def from_prior(folder: Path) -> PriorPipeline | None:
    """The pipeline of a tokenizer's folder: by the prior that lies beside it, or else by that which
    it was trained with; None: it has neither.

    Raises:
        ValueError: a prior was fitted to another tokenizer, or is not whole.
    """
    tokenizer = ImageTokenizer.load(folder)
    if (folder / FILE).is_file():
        prior = Prior.load(folder)
        prior.check(tokenizer)
        return PriorPipeline(tokenizer, prior)
    # A likelihood is kept of those alone that keep their prior; a stock class does not say so.
    own = tokenizer.bottleneck.has_prior or kept_likelihood(folder) is not None
    return PriorPipeline(tokenizer, OwnPrior(tokenizer)) if own else None
