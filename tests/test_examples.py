"""The examples, in a small form: each ends in its picture. Trained for two steps, nothing is good
in it; what it is about is asserted in the examples themselves.
"""

import inspect
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
LESS = {"steps": 2, "count": 80, "captioning": 2, "drawing": 4, "each": 4, "targets": (0,)}
"""Of what takes time, where an example has it."""
SHARED = ("prepared", "learning")
"""Modules of the examples that are none."""
FILES = [file for folder in (EXAMPLES, EXAMPLES / "family") for file in sorted(folder.glob("*.py"))
         if file.stem not in SHARED]  # fmt: skip


@contextmanager
def imported(file: Path) -> Iterator[ModuleType]:
    """An example's module, as long as it is wanted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(file.parent)
        yield import_module(file.stem)
    for module in (file.stem, *SHARED):
        sys.modules.pop(module, None)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Where all of them keep what they train."""
    return tmp_path_factory.mktemp("examples")


@pytest.mark.filterwarnings("ignore")  # of two steps nothing is good
@pytest.mark.parametrize("example", FILES, ids=lambda file: file.stem)
def test_an_example_ends_in_its_picture(example, root):
    with imported(example) as module:
        asked = inspect.signature(module.main).parameters
        file = module.main(root, **{key: value for key, value in LESS.items() if key in asked})
    with Image.open(file) as picture:
        assert min(picture.size) > 100 and len(picture.convert("L").getcolors()) > 20
    assert file.relative_to(root).as_posix() in example.read_text()


@pytest.mark.filterwarnings("ignore")  # of two steps nothing is good
def test_bug_an_example_that_was_stopped_stopped_all_others(tmp_path):
    """What was trained and not saved yet goes on."""
    with imported(EXAMPLES / "prepared.py") as prepared:
        model = prepared.continuous(tmp_path, 2)
        shutil.rmtree(model)
        assert prepared.continuous(tmp_path, 2) == model and (model / "config.json").exists()


def test_each_is_told_of():
    docs = EXAMPLES.parent / "docs"
    pages = (docs / "reuse.md").read_text() + (docs / "family.md").read_text()
    assert all(file.relative_to(docs.parent).as_posix() in pages for file in FILES)
