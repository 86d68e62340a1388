"""How far what is read lies from its codes: of normal pictures a codebook has something near."""

from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import ResidualQuantizer, Table, VectorQuantizer
from calotype.uses.detection.encoded import Encoded
from calotype.uses.detection.score import Looked, Read


class CodeDistance(Read):
    """The squared distance of each site's vector to its code, or its codes' sum."""

    unit = "squared numbers of z"

    def look(self, pictures: Encoded) -> Looked:
        """Compare."""
        apart = pictures.features.float() - pictures.latents.float()
        return apart.square().sum(1, keepdim=True)


def has_distances(tokenizer: ImageTokenizer) -> bool:
    """Whether its codes are vectors that are looked for by their distance."""
    return isinstance(tokenizer.bottleneck, Table | VectorQuantizer | ResidualQuantizer)
