"""Train an image tokenizer from a named recipe, on any number of processes.

accelerate launch scripts/train_tokenizer.py ldm-kl-f8 data:folder --data.path images
"""

import sys

from calotype.cli import main

if __name__ == "__main__":
    main(["train-tokenizer", *sys.argv[1:]])
