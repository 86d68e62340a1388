"""The examples, in a small form: each ends in its picture. Trained for two steps, nothing is good
in it; what it is about is asserted in the examples themselves.
"""

import inspect
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
LESS = {"steps": 2, "count": 80, "captioning": 2, "drawing": 4}
"""Of what takes time, where an example has it."""
NAMES = sorted({file.stem for file in EXAMPLES.glob("*.py")} - {"prepared"})


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Where all of them keep what they train."""
    return tmp_path_factory.mktemp("examples")


@pytest.mark.filterwarnings("ignore")  # of two steps nothing is good
@pytest.mark.parametrize("name", NAMES)
def test_an_example_ends_in_its_picture(name, root, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    main = import_module(name).main
    asked = inspect.signature(main).parameters
    file = main(root, **{key: value for key, value in LESS.items() if key in asked})
    with Image.open(file) as picture:
        assert min(picture.size) > 100 and len(picture.convert("L").getcolors()) > 20
    assert file.relative_to(root).as_posix() in (EXAMPLES / f"{name}.py").read_text()
    for module in (name, "prepared"):
        sys.modules.pop(module, None)


@pytest.mark.filterwarnings("ignore")  # of two steps nothing is good
def test_bug_an_example_that_was_stopped_stopped_all_others(tmp_path, monkeypatch):
    """What was trained and not saved yet goes on."""
    monkeypatch.syspath_prepend(EXAMPLES)
    continuous = import_module("prepared").continuous
    model = continuous(tmp_path, 2)
    shutil.rmtree(model)
    assert continuous(tmp_path, 2) == model and (model / "config.json").exists()
    sys.modules.pop("prepared")


def test_each_is_told_of():
    page = (EXAMPLES.parent / "docs/reuse.md").read_text()
    assert all(f"examples/{name}.py" in page for name in NAMES)
