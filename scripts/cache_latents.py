"""Encode images and captions once; processes share the shards.

accelerate launch scripts/cache_latents.py folder --tokenizer TOKENIZER --out runs/latents
"""

import sys

from calotype.cli import main

if __name__ == "__main__":
    main(["cache-latents", *sys.argv[1:]])
