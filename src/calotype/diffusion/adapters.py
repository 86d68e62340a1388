"""What of a trained pipeline is learnt: all of its network, or small additions to it."""

from dataclasses import dataclass
from importlib.util import find_spec

from torch import nn

from calotype.lazy import diffusers, peft, transformers

UNET = ("to_q", "to_k", "to_v", "to_out.0")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")
"""Layers that are added to, as in diffusers' scripts: the projections of attention."""


@dataclass(frozen=True)
class Whole:
    """All of the network's weights."""

    def prepare(self, unet: nn.Module, text_encoder: "transformers.CLIPTextModel | None") -> None:
        """Let the UNet move, and the text encoder if one is given."""
        for network in (unet, text_encoder):
            if network is not None:
                network.requires_grad_(True)


@dataclass(frozen=True)
class LoRA:
    """Products of two narrow matrices, which are added to the projections of attention (Hu et al.
    2021); the network itself stays as it is. Saved as diffusers' LoRA weights: some MB.
    """

    rank: int = 16
    """Width of the matrices."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"learn.rank is {self.rank}: it must be at least 1")

    def prepare(self, unet: nn.Module, text_encoder: "transformers.CLIPTextModel | None") -> None:
        """Add to the UNet, and to the text encoder if one is given; nothing else moves. At first
        what is added is zero.

        Raises:
            ImportError: peft is not installed.
            ValueError: the UNet takes no such additions.
        """
        if find_spec("peft") is None:
            raise ImportError(
                "LoRA goes through peft, which is not installed: pip install 'calotype[lora]'"
            )
        if not isinstance(unet, diffusers.UNet2DConditionModel):
            raise ValueError(
                f"diffusers loads LoRA weights into no {type(unet).__name__}: choose learn:whole, "
                "or a pipeline with prompts"
            )
        unet.requires_grad_(False)
        unet.add_adapter(self._config(UNET))
        if text_encoder is not None:
            text_encoder.requires_grad_(False)
            text_encoder.add_adapter(self._config(TEXT))

    def _config(self, layers: tuple[str, ...]) -> "peft.LoraConfig":
        # As large as the rank, alpha scales by 1, and nobody need know of it who loads the weights.
        return peft.LoraConfig(r=self.rank, lora_alpha=self.rank, init_lora_weights="gaussian",
                               target_modules=list(layers))  # fmt: skip


Learnt = Whole | LoRA
