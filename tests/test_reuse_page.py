"""The Python of docs/reuse.md runs as it stands, one block after the other."""

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import calotype
import tiny

PAGE = Path(__file__).parents[1] / "docs/reuse.md"


def test_its_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.tokenizer().save(Path("runs/small-kl/model"))
    tiny.tokenizer(bottleneck=tiny.VQ_BOTTLENECK).save(Path("runs/small-vq/model"))
    Path("photos/barn").mkdir(parents=True)
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (160, 192, 3), np.uint8)
        Image.fromarray(pixels).save(f"photos/barn/{i}.png")
    found: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), found)
    assert found["pictures"].shape == found["images"].shape
    assert found["again"].shape == found["pictures"][:1].shape
    assert found["wanted"].grad is not None
    assert found["decoded"].shape == found["large"].shape == (1, 3, 160, 192)
    whole = found["tokenizer"].latents(found["large"])
    assert torch.allclose(found["latents"], whole, atol=0.5)


def test_it_tells_of_the_whole_face():
    page = PAGE.read_text()
    assert all(f"`{name}" in page for name in calotype.__all__)
