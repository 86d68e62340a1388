"""The Python of the pages on uses runs as it stands, one block after the other."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("uses.md", "exploration.md", "robustness.md", "augmentation.md", "compression.md")


@pytest.mark.parametrize("page", PAGES)
def test_its_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), found)
