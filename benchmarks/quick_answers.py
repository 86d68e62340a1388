"""How long help and the answer to a mistake take beside `python -c "import torch"`.

    python benchmarks/quick_answers.py

Each is a process of its own that takes turns with the peer: by the clock, and by the processor's
time (user and system), which a busy neighbour changes less. The bar is 1.3.
"""

import os
import statistics
import subprocess
import sys
import time

from paired import in_turns

ROUNDS = 5
PEER = ("-c", "import torch")
ANSWERS = (
    "--help", "train-tokenizer --help", "train-tokenizer scenes-vq --help",
    "train-tokenizer scenes-vq --help-all", "train-generator small-ar --help", "generate --help",
    "evaluate --help", "compare --help", "score --help", "reconstruct --help", "demo --help",
    "quickstart --help", "doctor --help", "explain psnr_db",
    "train-tokenizer scenes-vq --run.stepz 3", "generate x --pipelin y",
    "train-tokenizer scenes-kl --model.backbone.groups 5", "cache-latents small --batch-size 0",
)  # fmt: skip
"""Help, mistyped flags, and recipes that cannot be."""


COMPILED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""The environment with bytecode kept, as a user's is: pip compiles torch when it installs it."""


def seconds(words: tuple[str, ...]) -> list[float]:
    """By the clock and of the processor, in one process."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=COMPILED)
    after, end = os.times(), time.perf_counter()
    if done.returncode not in (0, 2):
        sys.exit(done.stderr)
    user, system = (after[i] - before[i] for i in (2, 3))  # of children
    return [end - start, user + system]


def main() -> None:
    """Print the table."""
    peer = statistics.median(seconds(PEER)[0] for _ in range(ROUNDS))
    print(f'| beside `python -c "import torch"`, {peer:.2f} s | clock | processor |')
    print("|---|---|---|")
    for answer in ANSWERS:
        words = ("-m", "calotype", *answer.split())
        seconds(words)  # compiles what was not
        found = in_turns([PEER, words], seconds, ROUNDS)
        pairs = list(zip(found[words], found[PEER], strict=True))
        columns = ([own[i] / peer[i] for own, peer in pairs] for i in range(2))
        print(f"| `calotype {answer}` | " + " | ".join(map(spread, columns)) + " |", flush=True)


def spread(ratios: list[float]) -> str:
    """The median, and least to most."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
