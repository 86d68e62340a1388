"""Train a diffusion model or a transformer in a cache of latents, on any number of processes.

accelerate launch scripts/train_generator.py text-diffusion --cache runs/latents
"""

import sys

from calotype.cli import main

if __name__ == "__main__":
    main(["train-generator", *sys.argv[1:]])
