"""How long help and the answer to a mistake take beside `python -c "import torch"`.

    python benchmarks/quick_answers.py

Each is a process of its own, and they take turns with the peer. What is measured is the processor's
time, user and system, which a busy neighbour changes little. The bar is 1.3.
"""

import os
import statistics
import subprocess
import sys

from paired import in_turns

ROUNDS = 9
PEER = ("-c", "import torch")
ANSWERS = (
    "--help", "train-tokenizer --help", "train-tokenizer scenes-vq --help",
    "train-tokenizer scenes-vq --help-all", "train-generator small-ar --help", "generate --help",
    "evaluate --help", "compare --help", "demo --help", "explain psnr_db",
    "train-tokenizer scenes-vq --run.stepz 3", "generate x --pipelin y",
    "train-tokenizer scenes-kl --model.backbone.groups 5", "cache-latents small --batch-size 0",
)  # fmt: skip
"""Help, mistyped flags, and recipes that cannot be."""


def seconds(words: tuple[str, ...]) -> list[float]:
    """Of the processor, in one process."""
    before = os.times()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    after = os.times()
    if done.returncode not in (0, 2):
        sys.exit(done.stderr)
    user, system = (after[i] - before[i] for i in (2, 3))  # of children
    return [user + system]


def main() -> None:
    """Print the table."""
    words = {answer: ("-m", "calotype", *answer.split()) for answer in ANSWERS}
    found = in_turns([PEER, *words.values()], seconds, ROUNDS)
    peer = [row[0] for row in found[PEER]]
    print(f'| `python -c "import torch"`: {statistics.median(peer):.2f} s | ratio, least to most |')
    print("|---|---|")
    for answer, arguments in words.items():
        ratios = [row[0] / one for row, one in zip(found[arguments], peer, strict=True)]
        middle = statistics.median(ratios)
        print(f"| `calotype {answer}` | {middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |")


if __name__ == "__main__":
    main()
