"""Names on the Hub: their parts, what is read of a copy on this machine, and a Hub that is silent.

Nothing is fetched: a cache is laid out by hand as huggingface_hub lays it out.
"""

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

import calotype
import tiny
from calotype.autoregressive.text import HubTokenizer
from calotype.data import Hub
from calotype.diffusion import LoRA, PretrainedText
from calotype.evaluation.prompts import ClipScore
from calotype.pipelines import Sampling, TokenPipeline, load, save_adapter
from calotype.pipelines.folders import fingerprint
from calotype.recipes.tokenizer import NewTokenizer
from calotype.tokenizers import ImageTokenizer, go_on
from calotype.tokenizers.continuing import Kept
from calotype.training import network
from calotype.training.network import Place, named, place

# Of diffusers' own call.
pytestmark = pytest.mark.filterwarnings("ignore:.*local_dir_use_symlinks")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("gpt2", ("gpt2", "", None)),
        ("user/name", ("user/name", "", None)),
        ("user/name/vae", ("user/name", "vae", None)),
        ("user/name@v1", ("user/name", "", "v1")),
        ("user/name@v1/pipeline/vae", ("user/name", "pipeline/vae", "v1")),
        ("user/name@refs/pr/7/vae", ("user/name", "vae", "refs/pr/7")),
        ("user/name@feature%2Fx/vae", ("user/name", "vae", "feature/x")),
    ],
)
def test_a_name_has_parts(name, parts):
    found = named(name)
    assert (found.root, found.inside, found.revision) == parts


@pytest.mark.parametrize("name", ["user/name@", "user/na@me@v1", "@v1/vae"])
def test_what_is_no_name_is_told(name):
    with pytest.raises(FileNotFoundError, match="user/name@revision/folder"):
        named(name)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A cache of the Hub, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def fetched(hub: Path, name: str, folder: Path, inside: str = "", revision: str = "main") -> None:
    """Lay a folder into the cache as if it had been fetched: blobs, and links to them."""
    root = hub / f"models--{name.replace('/', '--')}"
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / revision).write_text(COMMIT)
    for file in filter(Path.is_file, folder.rglob("*")):
        blob = root / "blobs" / f"{abs(hash((inside, file))):064x}"
        shutil.copyfile(file, blob)
        link = root / "snapshots" / COMMIT / inside / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)


@pytest.mark.parametrize(
    ("path", "inside", "revision"),
    [("me/kl", "", "main"), ("me/kl/vae", "vae", "main"), ("me/kl", "vae", "main"),
     ("me/kl@v2/parts/vae", "parts/vae", "v2")],
)  # fmt: skip
def test_a_tokenizer_is_read_from_a_copy(hub, tmp_path, path, inside, revision):
    made = tiny.tokenizer()
    made.save(tmp_path / "made")
    fetched(hub, "me/kl", tmp_path / "made", inside, revision)
    for found in (ImageTokenizer.load(path), calotype.load(path)):
        assert torch.equal(found.last_layer.weight, made.last_layer.weight)
    recipe = NewTokenizer(tiny.BACKBONE, tiny.BOTTLENECK, start=path)
    assert torch.equal(recipe.build(tiny.SIZE).last_layer.weight, made.last_layer.weight)


def test_a_tokenizer_without_a_stock_class_is_read_from_a_copy(hub, tmp_path):
    made = tiny.tokenizer(bottleneck=tiny.BOTTLENECKS["rvq"])
    made.save(tmp_path / "made")
    fetched(hub, "me/rvq", tmp_path / "made", "tokenizer")
    assert ImageTokenizer.load("me/rvq/tokenizer").bottleneck.spec == made.bottleneck.spec


@pytest.mark.parametrize(("path", "inside"), [("me/kl@v1", ""), ("me/all", "vae")])
def test_what_training_goes_on_with_is_read_from_a_copy(hub, artifacts, path, inside):
    fetched(
        hub, named(path).root, artifacts / "tokenizer/model", inside, named(path).revision or "main"
    )
    assert go_on(path).bottleneck.taken == Kept.read(path).steps == 3


def test_another_revision_is_not_at_hand(hub, tmp_path):
    tiny.tokenizer().save(tmp_path / "made")
    fetched(hub, "me/kl", tmp_path / "made")
    with pytest.raises(ValueError, match=r"in me/kl@v9: .* does not answer, or is not asked"):
        ImageTokenizer.load("me/kl@v9")


@pytest.mark.parametrize("path", ["me/scenes", "me/scenes@v1/pipeline"])
def test_a_pipeline_is_read_from_a_copy(hub, artifacts, path):
    where = named(path)
    fetched(hub, where.root, artifacts / "generator/model", where.inside, where.revision or "main")
    found = load(path)
    assert type(found).__name__ == "StableDiffusionPipeline"
    assert type(calotype.load(path)) is type(found)
    # Text encoder and tokenizer are found in it too.
    text = PretrainedText(path)
    assert text.encoder(text.tokenizer([])).config.hidden_size == tiny.TEXT.width
    within = PretrainedText(f"{named(path).root}@{where.revision or 'main'}/"
                            f"{where.inside}/text_encoder".replace("//", "/"))  # fmt: skip
    with pytest.raises(ValueError, match="no CLIP tokenizer"):
        within.tokenizer([])


@pytest.mark.parametrize("path", ["me/tokens", "me/tokens/pipeline"])
def test_a_pipeline_of_tokens_is_read_from_a_copy(hub, path):
    kept = Path(__file__).parents[1] / "kept/0.1.0/transformer/model"
    fetched(hub, "me/tokens", kept, named(path).inside)
    found = calotype.load(path)
    assert isinstance(found, TokenPipeline) and found.layout.height == 8


def test_a_text_tokenizer_is_read_from_a_copy(hub, artifacts):
    fetched(hub, "me/words", artifacts / "generator/model/tokenizer", "tokenizer", "v3")
    assert HubTokenizer("me/words@v3/tokenizer", 16).tokenizer([]).model_max_length == 16


ASKED: dict[str, Callable[[], object]] = {
    "tokenizer": lambda: ImageTokenizer.load("me/nowhere/vae"),
    "anything": lambda: calotype.load("me/nowhere@v1/vae"),
    "pipeline": lambda: load("me/nowhere"),
    "text": lambda: PretrainedText("me/nowhere").tokenizer([]),
    "prompts": lambda: HubTokenizer("me/nowhere").tokenizer([]),
    "clip": lambda: ClipScore("me/nowhere", torch.device("cpu")),
    "data": lambda: Hub("me/nowhere").build(),
}
"""Everything that takes a name on the Hub."""


@pytest.fixture(params=["silent", "refused"])
def endpoint(request, hub, monkeypatch) -> Iterator[str]:
    """A server that accepts and says nothing, or none at all."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        if request.param == "refused":
            server.close()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(network, "PATIENCE", 0.2)
        yield address


@pytest.mark.parametrize("kind", ASKED)
def test_a_hub_that_does_not_answer_is_told_in_one_line(endpoint, kind):
    """Bug: some tried again for nearly two minutes."""
    began = time.monotonic()
    with pytest.raises(ValueError, match="me/nowhere"):
        ASKED[kind]()
    assert time.monotonic() - began < 3  # most of it first imports


def silent(*asked: object, **options: object) -> None:
    time.sleep(2)
    raise OSError


def test_a_name_server_that_is_silent_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(network, "PATIENCE", 0.1)
    monkeypatch.setattr("huggingface_hub.utils.get_session", silent)
    began = time.monotonic()
    assert place("me/nowhere") == Place("me/nowhere")
    assert time.monotonic() - began < 1.5


def test_clip_text_of_its_own_repository_is_read_from_a_copy(hub, artifacts, tmp_path):
    source = artifacts / "generator/model"
    shutil.copytree(source / "tokenizer", tmp_path / "clip")
    encoder = CLIPTextModel.from_pretrained(source / "text_encoder")
    assert isinstance(encoder.config, CLIPTextConfig)
    encoder.save_pretrained(tmp_path / "clip")
    fetched(hub, "me/clip", tmp_path / "clip", revision="v1")
    text = PretrainedText("me/clip@v1")
    assert text.encoder(text.tokenizer([])).config.hidden_size == tiny.TEXT.width


def test_lora_weights_and_their_pipeline_are_read_from_copies(hub, artifacts, tmp_path):
    """Of folders of the Hub; their README.md says how anybody reads them."""
    base = artifacts / "generator/model"
    pipeline: Any = load(base)
    start = fingerprint(pipeline)
    LoRA(rank=2).prepare(pipeline.unet, None)
    save_adapter(pipeline, tmp_path / "lora", Sampling(2), "me/base@v2/deep", start, "unknown")
    fetched(hub, "me/base", base, "deep", "v2")
    fetched(hub, "me/lora", tmp_path / "lora", "small/lora", "v1")
    found: Any = load("me/lora@v1/small/lora")
    added = {name: w for name, w in pipeline.unet.named_parameters() if "lora_A" in name}
    again = dict(found.unet.named_parameters())
    assert added
    for name, weight in added.items():
        assert torch.equal(again[name.replace("default", "default_0")], weight)
    text = (tmp_path / "lora/README.md").read_text()
    code = text.split("```python")[1].split("```")[0].replace('(".")', '("lora")')
    exec(code, {})
    assert 'allow_patterns="deep/*", revision="v2")' in code and Path("drawn.png").exists()
