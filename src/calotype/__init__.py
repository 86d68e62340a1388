"""Train image tokenizers, and the generators that live in their latents."""

__version__ = "0.1.0"
