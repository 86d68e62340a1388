"""What README and docs/ tell people to type is understood, and works.

The commands of a page run in their order in one folder, with the recipes' own fields but for those
that say how much: networks are tiny, pictures small, and training takes two steps.
"""

import shlex
import tarfile
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tiny
from calotype import cli
from calotype.autoregressive import Transformer
from calotype.cli.commands import COMMANDS
from calotype.data import Buckets, Transform
from calotype.diffusion import LearntText, PretrainedText, UNet
from calotype.pipelines import Sampling
from calotype.recipes.cache import CacheRecipe
from calotype.recipes.caches import CACHES
from calotype.recipes.distil import DISTILLED
from calotype.recipes.generators import GENERATORS
from calotype.recipes.masked import MASKED
from calotype.recipes.tokenizer import TokenizerRecipe
from calotype.recipes.tokenizers import TOKENIZERS
from calotype.tokenizers import Backbone
from calotype.tokenizers.bottlenecks.codebook import Codebook
from calotype.tokenizers.distillation import NewTiny
from calotype.training import Run
from calotype.uses.compression.hyperprior import fit_network

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BEFORE = {"evaluation.md": "diffusion.md", "publishing.md": "diffusion.md"}
"""Pages whose commands use what another page's have made."""
LONG = {"demo", "quickstart", "doctor"}
"""Verbs that have tests of their own, and no recipe that could be shrunk."""
SIZE = 32
TEXT = LearntText(width=16, layers=2, heads=2, length=16, vocabulary=300)


def commands(page: Path) -> list[list[str]]:
    """The lines of a page that call calotype."""
    return [shlex.split(line, comments=True)[1:] for line in page.read_text().splitlines()
            if line.startswith("    calotype ")]  # fmt: skip


def work(command: str) -> str:
    """The function that a command calls, by its whole name."""
    return COMMANDS[command].work.replace(":", ".")


def shrunk(value: Any) -> Any:
    """A recipe, or a part of one, that is done in a moment."""
    match value:
        case Run():
            return replace(value, steps=2, batch_size=2, micro_batch=None, workers=0)
        case Backbone():
            return replace(value, widths=(8,) * len(value.widths), layers=1, attention=False,
                           last_attention=False, groups=4)  # fmt: skip
        case Codebook():
            return replace(value, size=16, channels=4)
        case UNet():
            return replace(value, widths=(8, 16), attention=(True, True), layers=1, head_width=4,
                           groups=4)  # fmt: skip
        case Transformer():
            return replace(value, width=16, layers=2, heads=2)
        case LearntText() | PretrainedText():
            return TEXT
        case Sampling():
            return replace(value, steps=2)
        case Transform():
            also = {"step": 4} if isinstance(value.crop, Buckets) else {}
            if getattr(value.crop, "resize", None):
                also = {"resize": 36}
            return replace(value, crop=replace(value.crop, size=SIZE, **also))
        case NewTiny():
            return replace(value, width=8, blocks=1)
        case TokenizerRecipe():
            value = replace(value, measure=16, examples=2, perceptual=None, adversary=None)
        case CacheRecipe():
            value = replace(value, batch_size=4, workers=0)
    parts = {f.name: getattr(value, f.name) for f in fields(value)}
    return replace(value, **{n: shrunk(part) for n, part in parts.items() if is_dataclass(part)})


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with the pictures that pages speak of, no network, and small recipes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", no_network)
    for recipes in (TOKENIZERS, CACHES, GENERATORS, DISTILLED, MASKED):
        for name, build in recipes.items():
            monkeypatch.setitem(recipes, name, lambda build=build: shrunk(build()))
    folders = ("photos/lighthouse", "photos/barn", "others", "birds/owl", "bottle/test/good",
               "bottle/test/scratch", "bottle/ground_truth/scratch", "bottle/train/good",
               "bottle/validation/good")  # fmt: skip
    for seed, folder in enumerate(folders):
        Path(folder).mkdir(parents=True)
        for i, image in enumerate(tiny.images(20 if "validation" in folder else 12, seed)):
            pixels = image.add(1).mul(127.5).byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).resize((48, 40)).save(f"{folder}/{i}.png")
    Image.open("others/0.png").save("begun.png")
    mask = Image.new("L", (48, 40), 255)
    mask.paste(0, (0, 0, 24, 40))
    mask.save("mask.png")
    Path("prompts.txt").write_text("a lighthouse\na barn\n")
    Path("shards").mkdir()
    for k in range(8):
        with tarfile.open(f"shards/{k:03}.tar", "w") as tar:
            tar.add(f"others/{k}.png", f"{k}.png")
            tar.add("prompts.txt", f"{k}.txt")
    whole = fit_network
    monkeypatch.setattr("calotype.uses.compression.kept.fit_network",
                        lambda latents, spec: whole(latents, replace(spec, steps=2)))  # fmt: skip
    tiny.tokenizer().save(Path("stabilityai/sd-vae-ft-mse"))  # in the place of the published one
    return tmp_path


def no_network(*arguments: Any, **options: Any) -> None:
    raise OSError("no network")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page, here, monkeypatch, capsys):
    """Each reaches the work with what it says, and nothing is left over."""
    begun: list[str] = []
    for command in COMMANDS:
        monkeypatch.setattr(work(command), lambda options, name=command: begun.append(name))
    said = [arguments for arguments in commands(page) if "--help" not in arguments]
    for arguments in said:
        cli.main(arguments)
    assert begun == [arguments[0] for arguments in said]


def test_there_are_commands_to_understand():
    verbs = {arguments[0] for page in PAGES for arguments in commands(page)}
    assert verbs == {*COMMANDS} - {"explain", "demo"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of two steps nothing is good
@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda page: page.name)
def test_commands_work(page, here, capsys):
    """As they stand, one after the other."""
    first = [ROOT / "docs" / BEFORE[page.name]] if page.name in BEFORE else []
    for arguments in (a for each in [*first, page] for a in commands(each)):
        if arguments[0] in LONG:
            continue
        try:
            cli.main(arguments)
        except SystemExit as stop:
            assert not stop.code, f"{shlex.join(arguments)}: {capsys.readouterr().err}"
