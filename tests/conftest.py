"""What several files of tests look at and none may change."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tiny
from calotype.commands.cache_latents import cache
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer

# What torch.compile keeps for one kind of CPU, it takes for another kind's too: where both are
# tried on one machine, networks then answer NaN or crash.
os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR",
    str(Path(tempfile.gettempdir()) / f"inductor-{torch.backends.cpu.get_cpu_capability()}"),
)
# Threads cost tiny networks more than they give, and most of all on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the recipes make: `tokenizer/`, `latents/`, and the generators
    `generator/` (text to image) and `unconditional/`."""
    root = tmp_path_factory.mktemp("artifacts")
    train_tokenizer(tiny.tokenizer_recipe(root))
    cache(tiny.cache_recipe(root))
    text = tiny.generator_recipe(root)
    train_generator(text)
    silent = replace(text.unet, pooled_text=False)
    train_generator(replace(text, text=None, unet=silent, run=tiny.run(root / "unconditional")))
    return root
