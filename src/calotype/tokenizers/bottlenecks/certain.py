"""No bottleneck at all, as of stock autoencoders whose latents are what their encoder emits."""

from jaxtyping import Float, Num
from torch import Tensor

from calotype.tokenizers.bottlenecks.base import Bottleneck, Latent
from calotype.training.noise import Generators


class Certain(Bottleneck):
    """Nothing is squeezed: the encoder's output is the latent."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.z_channels = channels

    def forward(self, h: Float[Tensor, "b c h w"], generator: Generators | None = None) -> Latent:
        """The same."""
        return Latent(h)

    def mode(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The same."""
        return h

    def pack(self, h: Float[Tensor, "b c h w"]) -> Num[Tensor, "b ..."]:
        """The same."""
        return h

    def unpack(
        self, packed: Num[Tensor, "b ..."], generator: Generators | None = None
    ) -> Float[Tensor, "b c h w"]:
        """The same."""
        return packed
