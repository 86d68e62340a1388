"""What is unlike normal pictures, and where: scores by a tokenizer, thresholds, figures."""

from calotype.uses.detection.choices import of_pixels, of_tokenizer, of_transformer
from calotype.uses.detection.codes import CodeDistance
from calotype.uses.detection.dense import Anywhere, EachSite
from calotype.uses.detection.densities import Gaussian, Mixture, Nearest, Principal
from calotype.uses.detection.detector import Detector, Learnt, parted, read
from calotype.uses.detection.encoded import Encoded
from calotype.uses.detection.evidence import NegativeELBO
from calotype.uses.detection.features import EncoderMaps, Patches
from calotype.uses.detection.figures import Figures, area_under_overlap, figures
from calotype.uses.detection.likelihood import TokenBits
from calotype.uses.detection.maps import Rule
from calotype.uses.detection.pixels import PrincipalPixels
from calotype.uses.detection.reconstruction import PerceptualError, PixelError, StructuralError
from calotype.uses.detection.score import Score, learning
from calotype.uses.detection.trial import (
    Pictures,
    Tried,
    check_reverse,
    one_way,
    tried,
    with_reverse,
)

__all__ = [
    "Anywhere",
    "CodeDistance",
    "Detector",
    "EachSite",
    "Encoded",
    "EncoderMaps",
    "Figures",
    "Gaussian",
    "Learnt",
    "Mixture",
    "Nearest",
    "NegativeELBO",
    "Patches",
    "PerceptualError",
    "Pictures",
    "PixelError",
    "Principal",
    "PrincipalPixels",
    "Rule",
    "Score",
    "StructuralError",
    "TokenBits",
    "Tried",
    "area_under_overlap",
    "check_reverse",
    "figures",
    "learning",
    "of_pixels",
    "of_tokenizer",
    "of_transformer",
    "one_way",
    "parted",
    "read",
    "tried",
    "with_reverse",
]
