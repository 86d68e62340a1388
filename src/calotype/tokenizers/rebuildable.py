"""A decoder that is held near what an autoencoder can rebuild, as it plays an adversary."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.tokenizers.bottlenecks.base import check_weight
from calotype.tokenizers.terms.base import Counted, Term, counting
from calotype.tokenizers.tokenizer import ImageTokenizer
from calotype.training.images import Mode


@dataclass(frozen=True)
class Rebuildable:
    """The squared distance of a reconstruction from what another, trained autoencoder makes of it:
    near nothing for a picture like those that one was trained on, whatever it is a reconstruction
    of. So an adversary may ask for detail, and for none that no such picture has.
    """

    path: str
    """Folder of a trained tokenizer, of its run or of a pipeline, or a name on the Hub."""
    weight: float = 1.0
    """Beside an error that is a mean over the picture's values."""

    def __post_init__(self) -> None:
        check_weight("rebuildable.weight", self.weight)

    def build(self, size: int, mode: Mode) -> "RebuildableTerm":
        """Load the autoencoder, for images of `size` pixels a side in a mode.

        Raises:
            ValueError: there is none, or it takes other pictures.
        """
        try:
            tokenizer = ImageTokenizer.load(self.path)
            tokenizer.check(size)
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(f"rebuildable.path: {self.path}: {error}") from error
        tokenizer.check_mode(mode, self.path)
        return RebuildableTerm(tokenizer)


class RebuildableTerm(Term):
    """Frozen, and always in evaluation mode; the gradient goes through all of it to the picture."""

    def __init__(self, tokenizer: ImageTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "RebuildableTerm":
        """Stay in evaluation mode, whatever the module around it does."""
        return super().train(False)

    def forward(
        self, fake: Float[Tensor, "b c H W"], real: Float[Tensor, "b c H W"],
        counted: Counted = None,
    ) -> Float[Tensor, " b"]:  # fmt: skip
        """The mean square; `real` stands where a pixel does not count."""
        fake = counting(fake, real, counted)
        again = self.tokenizer(fake).float()
        with torch.autocast(fake.device.type, enabled=False):
            return (again - fake).square().mean((1, 2, 3))
