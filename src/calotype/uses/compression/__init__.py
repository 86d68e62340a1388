"""Pictures to small files and back: a tokenizer's latents, sent in as few bits as a learnt model of
them finds.
"""

from calotype.uses.compression.codec import Codec, Size
from calotype.uses.compression.container import (
    SUFFIX,
    Compressed,
    DamagedError,
    OtherModelError,
)
from calotype.uses.compression.hyperprior import Hyperprior
from calotype.uses.compression.kept import (
    fit_entropy_model,
    load_entropy_model,
    read_latents,
    save_entropy_model,
)

__all__ = [
    "SUFFIX", "Codec", "Compressed", "DamagedError", "Hyperprior", "OtherModelError", "Size",
    "fit_entropy_model", "load_entropy_model", "read_latents", "save_entropy_model",
]  # fmt: skip
