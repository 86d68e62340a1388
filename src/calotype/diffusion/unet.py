"""The denoiser: diffusers' UNets, sized."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from calotype.lazy import diffusers


@dataclass(frozen=True)
class UNet:
    """Width, depth and attention of the UNet (Rombach et al. 2022, section 3.3)."""

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    """Channels of each resolution; each after the first halves the latent's side."""
    attention: tuple[bool, ...] = (True, True, True, False)
    """Which resolutions have transformer blocks; the middle one has always."""
    layers: int = 2
    """Residual blocks per resolution."""
    head_width: int = 40
    """Channels of an attention head; must divide every width."""
    groups: int = 32
    """Groups of each GroupNorm; must divide every width."""
    pooled_text: bool = False
    """Tell every block the pooled prompt together with the timestep, besides what attention reads
    (Saharia et al. 2022, section 2.4)."""
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    """Blocks add the embedding of the timestep, or scale and shift by it (Dhariwal & Nichol 2021,
    section 3.1)."""
    heads: int | None = None
    """Attention heads of every resolution, as Stable Diffusion 1 has 8; must divide every width.
    None: as many as `head_width` makes."""

    def __post_init__(self) -> None:
        if len(self.attention) != len(self.widths):
            raise ValueError(
                f"unet.attention has {len(self.attention)} entries and unet.widths "
                f"{len(self.widths)}: give one for each resolution"
            )
        for name in ("layers", "head_width", "heads", "groups"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"unet.{name} is {value}: it must be at least 1")
        name = "head_width" if self.heads is None else "heads"
        parts = getattr(self, name)
        for width in self.widths:
            if width % self.groups or width % parts:
                raise ValueError(
                    f"unet.widths: {width} must be a multiple of unet.groups {self.groups} and "
                    f"of unet.{name} {parts}"
                )

    def conditional(
        self, size: int, channels: int, text_width: int, frames: "Frames | None" = None
    ) -> "diffusers.UNet2DConditionModel":
        """A UNet for latents [B, channels, size, size] that attends to text [B, L, text_width], and
        is told frames if there are such.

        Raises:
            ValueError: the pooled prompt, which is told with frames, is to be told twice.
        """
        self.check(size)
        if frames and self.pooled_text:
            raise ValueError(
                "unet.pooled_text: with frames the pooled prompt is told too; add "
                "--unet.no-pooled-text"
            )
        down = ["CrossAttnDownBlock2D" if on else "DownBlock2D" for on in self.attention]
        up = ["CrossAttnUpBlock2D" if on else "UpBlock2D" for on in reversed(self.attention)]
        # diffusers' `attention_head_dim` is, for this class, the number of heads.
        heads: Any = self.heads or tuple(width // self.head_width for width in self.widths)
        return diffusers.UNet2DConditionModel(
            down_block_types=tuple(down), up_block_types=tuple(up),
            attention_head_dim=heads, cross_attention_dim=text_width,
            **(frames.told(text_width) if frames else self._told(text_width)),
            **self._common(size, channels),
        )  # fmt: skip

    def _told(self, text_width: int) -> dict[str, Any]:
        return {"addition_embed_type": "text" if self.pooled_text else None,
                "addition_embed_type_num_heads": _pooling_heads(text_width)}  # fmt: skip

    def unconditional(self, size: int, channels: int) -> "diffusers.UNet2DModel":
        """A UNet for latents [B, channels, size, size].

        Raises:
            ValueError: there is no prompt that it could be told, or heads are counted.
        """
        if self.pooled_text:
            raise ValueError(
                "unet.pooled_text: without a text there is no prompt; add --unet.no-pooled-text"
            )
        if self.heads is not None:
            raise ValueError(
                "unet.heads: without a text all heads are of one width; add --unet.heads None"
            )
        self.check(size)
        down = ["AttnDownBlock2D" if on else "DownBlock2D" for on in self.attention]
        up = ["AttnUpBlock2D" if on else "UpBlock2D" for on in reversed(self.attention)]
        return diffusers.UNet2DModel(
            down_block_types=tuple(down), up_block_types=tuple(up),
            attention_head_dim=self.head_width, **self._common(size, channels),
        )  # fmt: skip

    def places(self, size: int) -> int:
        """Sites of the largest feature map that attends to itself, of a latent of `size` a side."""
        return places(self.attention, size)

    def _common(self, size: int, channels: int) -> dict[str, Any]:
        return {
            "sample_size": size, "in_channels": channels, "out_channels": channels,
            "block_out_channels": self.widths, "layers_per_block": self.layers,
            "norm_num_groups": self.groups,
            "resnet_time_scale_shift": self.resnet_time_scale_shift,
        }  # fmt: skip

    def check(self, size: int) -> None:
        """As `check_halved`, of its resolutions."""
        check_halved(size, len(self.widths) - 1)


@dataclass(frozen=True)
class Frames:
    """The UNet is told the size of the picture that an image is of, where that was cropped, and the
    image's own size (Podell et al. 2023, section 2.2), with the pooled prompt: small pictures and
    crops do not teach it to blur and to cut off. Saved as a StableDiffusionXLPipeline of one text
    encoder.
    """

    width: int = 256
    """Channels of the sinusoids of each of the six numbers."""

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise ValueError(f"frames.width is {self.width}: choose an even number, 2 or more")

    def told(self, text_width: int) -> dict[str, Any]:
        """What of a UNet's config says so, where the pooled prompt has so many channels."""
        return {"addition_embed_type": "text_time", "addition_time_embed_dim": self.width,
                "projection_class_embeddings_input_dim": 6 * self.width + text_width}  # fmt: skip


def check_halved(size: int, times: int) -> None:
    """Refuse latents that do not come back from all resolutions with the size they went in.

    Raises:
        ValueError: `size` sites a side cannot be halved so often.
    """
    if size % 2**times:
        raise ValueError(
            f"latents of {size} sites a side cannot be halved {times} times: use fewer "
            "unet.widths, or larger images, in buckets of a larger step"
        )


def places(attention: Sequence[bool], size: int) -> int:
    """Sites of the largest feature map that attends to itself, of a latent of `size` a side.

    Args:
        attention: Which resolutions do; the middle, of the last resolution, always.
        size: Sites a side.
    """
    levels = [level for level, on in enumerate(attention) if on]
    largest = size // 2 ** min([*levels, len(attention) - 1])
    return largest**2


def attend_plainly(unet: "diffusers.UNet2DModel | diffusers.UNet2DConditionModel") -> None:
    """Compute attention by plain products, until the UNet is loaded again."""
    for module in unet.modules():
        if isinstance(module, diffusers.models.attention_processor.Attention):
            module.set_processor(diffusers.models.attention_processor.AttnProcessor())


def is_of_stable_diffusion(unet: "diffusers.UNet2DConditionModel") -> bool:
    """Whether a UNet has the layout of Stable Diffusion 1, whatever its widths are: the one that
    converters and other programs know.
    """
    return all(_plain(unet.config[name]) == value for name, value in STABLE_DIFFUSION.items())


STABLE_DIFFUSION = {
    "down_block_types": [*3 * ["CrossAttnDownBlock2D"], "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *3 * ["CrossAttnUpBlock2D"]],
    "layers_per_block": 2, "attention_head_dim": 8, "transformer_layers_per_block": 1,
    "addition_embed_type": None, "class_embed_type": None, "resnet_time_scale_shift": "default",
    "use_linear_projection": False,
}  # fmt: skip
"""What its layout is, in a UNet's config."""


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _pooling_heads(width: int) -> int:
    """Heads that pool the prompt: the most of 64 channels or more that divide its width."""
    return next(heads for heads in range(max(1, width // 64), 0, -1) if width % heads == 0)
