"""The example that runs diffusers' own LoRA script, where a checkout of diffusers is named."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLE = Path(__file__).parents[1] / "examples/lora_by_diffusers.sh"
CHECKOUT = os.environ.get("DIFFUSERS_CHECKOUT")


def start(*words: object) -> subprocess.CompletedProcess[str]:
    """As somebody types it, with this Python and the `calotype` beside it."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["sh", str(EXAMPLE), *map(str, words)]
    environment = {**os.environ, "PATH": path}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_without_a_checkout_it_says_so(tmp_path):
    done = start(tmp_path, tmp_path / "out")
    assert done.returncode == 2 and "choose a checkout of diffusers" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not CHECKOUT, reason="DIFFUSERS_CHECKOUT names no checkout of diffusers")
def test_a_lora_by_diffusers_script_moves_what_is_drawn(tmp_path):
    done = start(CHECKOUT, tmp_path / "out", 20)
    assert done.returncode == 0, done.stderr[-2000:]
    with Image.open(tmp_path / "out/drawn.png") as sheet:
        before, after = np.split(np.asarray(sheet, dtype=float), 2)
    assert np.abs(before - after).mean() > 1, "of 255"
