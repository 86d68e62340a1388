"""How unlikely a transformer that was trained in a tokenizer's codes finds each of them."""

from calotype.pipelines.scores import token_bits
from calotype.pipelines.tokens import TokenPipeline
from calotype.training.devices import Precision
from calotype.uses.detection.encoded import Encoded
from calotype.uses.detection.score import Looked, Read


class TokenBits(Read):
    """Bits of each site's codes after those before it, under the null prompt (Wang et al. 2020).

    A likelihood has a blind side of its own: simple pictures are likely whatever was learnt
    (Nalisnick et al. 2019).

    Args:
        pipeline: With the tokenizer that pictures are encoded by.
        precision: Of the transformer.
    """

    unit = "bits a site"

    def __init__(self, pipeline: TokenPipeline, precision: Precision = "fp32") -> None:
        self.pipeline = pipeline
        self.precision: Precision = precision

    def look(self, pictures: Encoded) -> Looked:
        """Score all codes.

        Raises:
            ValueError: the transformer draws no images of this shape.
        """
        high, wide = pictures.images.shape[-2:]
        pipeline = self.pipeline.shaped(high, wide)
        layout = pipeline.layout
        codes = layout.flatten(pictures.codes)
        bits = token_bits(pipeline, codes, [""] * len(codes), self.precision)
        sites = bits.view(len(codes), layout.sites, layout.codebooks).sum(2)
        return sites.view(len(codes), 1, layout.height, layout.width)
