"""What several files of tests look at and none may change."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hypothesis import settings

import tiny
from calotype.commands.cache_latents import cache
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.recipes.tokenizer import NewTokenizer
from hub import server

RANKS = {"ranks", "together", "hosts"}
"""What a file of tests with ranks imports."""

# On a busy machine any example may take long; tests that hang are seen as such.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# What torch.compile keeps for one kind of CPU, it takes for another kind's too: where both are
# tried on one machine, networks then answer NaN or crash. It names its folder when it is imported.
CAPABILITY = torch.backends.cpu.get_cpu_capability()
os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{tempfile.gettempdir()}/inductor-{CAPABILITY}"
# Threads cost tiny networks more than they give, and most of all on a busy machine; sums of several
# have other last bits, so the processes that a test starts have as many as it.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests first: at the end they would keep one worker busy when others have ended. Those
    of files with ranks, which take turns, on one worker; `worksteal` gives each a stretch.
    """
    workers = getattr(config, "workerinput", {"workercount": 1})["workercount"]
    slow = [item for item in items if item.get_closest_marker("slow")]
    rest = [item for item in items if item not in slow]
    heads: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for number, item in enumerate(slow):
        with_ranks = RANKS & {*vars(getattr(item, "module", None) or object)}
        heads[0 if with_ranks else -1 - number % max(1, workers - 1)].append(item)
    each = len(items) // workers
    items.clear()
    for head in heads:
        count = max(0, each - len(head))
        items += head + rest[:count]
        rest = rest[count:]
    items += rest


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


@pytest.fixture(scope="session")
def inpainter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image pipeline in latents of four channels, which stock inpainting insists on."""
    root = tmp_path_factory.mktemp("inpainter")
    model = NewTokenizer(tiny.BACKBONE, replace(tiny.STILL, channels=4))
    train_tokenizer(tiny.tokenizer_recipe(root, model=model))
    cache(tiny.cache_recipe(root))
    return train_generator(tiny.generator_recipe(root))


@pytest.fixture(autouse=True)
def no_silence_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """That one test's Hub was silent is none of the next one's business."""
    monkeypatch.setattr("calotype.training.network._SILENT", [])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[server.State]:
    """What a Hub at a port of this machine holds; the client has its token and asks it alone."""
    with server.serving() as (address, state):
        files = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for name, value in (("ENDPOINT", address), ("HUGGINGFACE_CO_URL_TEMPLATE", files),
                            ("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):  # fmt: skip
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setenv("HF_TOKEN", server.TOKEN)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        yield state
        huggingface_hub.close_session()
