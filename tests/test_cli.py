"""The command: what it lists, what it refuses in one line, what it writes."""

import contextlib
import errno
import re
from dataclasses import is_dataclass, replace
from functools import reduce
from operator import attrgetter
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
from PIL import Image

import tiny
from calotype import cli, mistakes
from calotype.autoregressive import Annealed, Sequential, TokenSampling
from calotype.autoregressive.ramps import Linear, PowerCosine
from calotype.autoregressive.text import Classes, HubTokenizer
from calotype.cli.commands import COMMANDS, FromOptions
from calotype.cli.help import COMMON
from calotype.cli.parsing import named_recipe, parse
from calotype.data import Folder, Parquet
from calotype.recipes.caches import CACHES
from calotype.recipes.distil import DISTILLED
from calotype.recipes.generators import GENERATORS
from calotype.recipes.masked import MASKED
from calotype.recipes.tokenizers import TOKENIZERS


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """An empty working folder, no network, and no training should a mistake go unseen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("CALOTYPE_TRACEBACK", raising=False)
    for module in ("train_tokenizer", "train_encoder", "cached", "distil_decoder"):
        monkeypatch.setattr(f"calotype.commands.{module}.fit", lambda *_: pytest.fail("it trains"))
    return tmp_path


def refused(arguments: str, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments.split())
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == ""
    assert said.err.startswith("calotype: ") and said.err.endswith("\n")
    assert said.err.count("\n") == 1
    return said.err


def work(command: str) -> str:
    """The function that a command calls, by its whole name."""
    return COMMANDS[command].work.replace(":", ".")


def listed(arguments: str, capsys) -> str:
    try:
        cli.main(arguments.split())
    except SystemExit as stop:
        assert stop.code == 0
    return capsys.readouterr().out


def test_help_lists_the_commands(capsys):
    for arguments in ("", "--help", "-h"):
        said = listed(arguments, capsys)
        assert all(name in said and command.help in said for name, command in COMMANDS.items())


def test_it_says_its_version(capsys):
    assert listed("--version", capsys) == "calotype 0.1.0\n"


@pytest.mark.parametrize(
    ("command", "recipes"),
    [
        ("train-tokenizer", TOKENIZERS),
        ("cache-latents", CACHES),
        ("train-generator", GENERATORS),
        ("distil-decoder", DISTILLED),
        ("train-encoder", MASKED),
    ],
)
def test_help_lists_recipes_and_their_fields(command, recipes, capsys):
    assert all(name in listed(f"{command} --help", capsys) for name in recipes)
    assert listed(command, capsys) == listed(f"{command} --help", capsys)
    for name in recipes:
        said = listed(f"{command} {name} --help", capsys)
        assert ("--out" if command == "cache-latents" else "--run.steps") in said


@pytest.mark.parametrize("command", [n for n, e in COMMANDS.items() if isinstance(e, FromOptions)])
def test_help_explains_the_others(command, capsys):
    assert f"usage: calotype {command}" in listed(f"{command} --help", capsys)


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ("nonsense", "no command 'nonsense': choose from train-tokenizer, cache-latents"),
        ("train-tokenizer nonsense", "no recipe 'nonsense': choose from small-kl, small-vq"),
        ("train-tokenizer scenes-kl --run.stepz 3",
         "unrecognized option --run.stepz; perhaps you meant --run.steps"),
        ("generate x --pipelin y", "unrecognized option --pipelin; perhaps you meant --pipeline"),
        ("train-tokenizer scenes-kl --data.path X",
         "unrecognized option --data.path: it belongs to data:folder, data:parquet, "
         "data:web-dataset"),
        ("train-tokenizer scenes-kl perceptual:nonsense",
         "unrecognized option perceptual:nonsense: choose from perceptual:lpips, perceptual:none"),
        ("demo --nonsense 3", "unrecognized option --nonsense"),
        ("train-tokenizer scenes-kl --run.steps three", "--run.steps: .*'three'"),
        ("train-tokenizer scenes-kl --run.precision fp8", "'fp8' .*run.precision.*'fp16', 'fp32'"),
        ("train-tokenizer scenes-kl --run.steps", "Missing value for argument '--run.steps'"),
        ("train-tokenizer scenes-kl --run.steps 0", "run.steps is 0: it must be at least 1"),
        ("train-tokenizer ldm-kl-f8 --data.path absent", "no folder absent"),
        ("train-tokenizer ldm-kl-f8 --data.path .", "no images in .: expected pictures"),
        ("train-tokenizer scenes-kl data:folder --data.path .",
         "Folder pictures come in any size: choose transform:transform and --transform.crop.size"),
        ("train-tokenizer scenes-vq data:folder --data.path . --transform.crop.size 64",
         "validation is scenes and data is not.*choose validation:none"),
        ("train-tokenizer scenes-kl --data.size 33", "images of 33 pixels cannot be encoded"),
        ("train-tokenizer scenes-kl --model.backbone.groups 5", "groups that divide every"),
        ("train-tokenizer scenes-kl --model.backbone.groups 0", "backbone.groups .* at least 1"),
        ("train-generator scenes-diffusion --unet.head-width 0", "unet.head_width is 0"),
        ("demo --scenes 0", "--scenes is 0: choose 1 or more"),
        ("reconstruct absent --count 0", "--count is 0: it must be at least 1"),
        ("reconstruct absent --out pairs.xyz", "--out is pairs.xyz: name a picture"),
        ("cache-latents scenes --tokenizer absent", "no AutoencoderKL or VQModel in absent: exp"),
        ("train-generator scenes-diffusion --cache absent",
         "no finished cache in absent: run `calotype cache-latents`"),
        ("generat x", "no command 'generat', perhaps generate: choose from"),
        ("train-tokenizer smal-kl", "no recipe 'smal-kl', perhaps small-kl: choose from"),
        ("train-tokenizer small-kl --run.steps ten", ".*'ten' is no whole number"),
        ("generate x --size 128", "unrecognized option --size$"),
        ("generate x --images 0", "--images is 0: it must be at least 1"),
        ("generate x --pipeline absent", "no pipeline in absent: expected a folder with"),
        ("train-tokenizer scenes-kl model:continued --model.path absent",
         "model.path: absent: no AutoencoderKL or VQModel in absent: expected"),
        ("train-generator lora --pipeline absent --cache absent",
         "no finished cache in absent: run `calotype cache-latents`"),
        ("train-generator lora --learn.rank 0", "learn.rank is 0: it must be at least 1"),
        ("distil-decoder small-tiny --student.width 0", "student.width is 0: it must be at"),
        ("reconstruct absent", "no AutoencoderKL, VQModel, .* in absent: expected a folder"),
        ("reconstruct", "Missing from calotype reconstruct: STR Folder of a tokenizer"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_before_any_work(arguments, answer, here, capsys):
    assert re.match(f"calotype: .*{answer}", refused(arguments, capsys))
    assert list(here.iterdir()) == []


def test_a_cache_may_be_called_latents_as_before():
    for said in ("--cache elsewhere", "--latents elsewhere", "--latents=elsewhere"):
        recipe = named_recipe("train-generator", GENERATORS, ["small-ar", *said.split()])
        assert recipe.cache == Path("elsewhere")


def test_a_generator_without_its_tokenizer_is_refused(artifacts, here, capsys):
    said = refused(
        f"train-generator scenes-diffusion --latents {artifacts}/latents --tokenizer absent", capsys
    )
    assert "no AutoencoderKL or VQModel in absent" in said and list(here.iterdir()) == []


def test_a_mistake_shows_where_it_came_from_if_asked(monkeypatch):
    monkeypatch.setenv("CALOTYPE_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError, match="no folder absent"):
        cli.main("train-tokenizer ldm-kl-f8 --data.path absent".split())


@pytest.mark.parametrize(
    "arguments",
    [
        "data:folder --data.path X --run.steps 3 perceptual:none pixel:l1 --pixel.weight 2",
        "--run.steps 3 --data.path X data:folder --pixel.weight 2 pixel:l1 perceptual:none",
        "perceptual:none --pixel.weight 2 --data.path X pixel:l1 --run.steps 3 data:folder",
    ],
)
def test_fields_and_types_are_overridden_in_any_order(arguments):
    recipe = named_recipe("train-tokenizer", TOKENIZERS, ["ldm-kl-f8", *arguments.split()])
    default = TOKENIZERS["ldm-kl-f8"]()
    assert isinstance(recipe.data, Folder) and str(recipe.data.path) == "X"
    assert recipe.perceptual is None and recipe.pixel == replace(default.pixel, weight=2.0)
    assert recipe.run == replace(default.run, steps=3)
    assert recipe.model == default.model and recipe.adversary == default.adversary


def test_types_within_types_are_chosen():
    arguments = "adversary:adversary adversary.regulariser:r1 --adversary.regulariser.gamma 3"
    recipe = named_recipe("train-tokenizer", TOKENIZERS, ["scenes-kl", *arguments.split()])
    assert recipe.adversary and recipe.adversary.regulariser == tiny.R1(3.0)


@pytest.mark.parametrize("name", ["scenes-vq", "scenes-dvae", "magvit2-lfq-f16"])
def test_help_lists_all_choices_and_each_can_be_made(name, capsys):
    said = listed(f"train-tokenizer {name} --help", capsys)
    assert ("model.bottleneck:{gaussian,identity,sparse,poisson,bernoulli,sphere,circle,causal,"
            "vq,gumbel,lfq,bsq,fsq,rvq}") in said  # fmt: skip
    for field, words in re.findall(r"^  ([a-z.-]+):\{(.*)\}", said, re.MULTILINE):
        for word in words.split(",") if "." in field else ():
            needs = {"constant": "value", "linear": "first last steps"}.get(word, "").split()
            needed = [given for each in needs for given in (f"--{field}.{each}", "1")]
            made = named_recipe("x", TOKENIZERS, [name, f"{field}:{word}", *needed])
            chosen = reduce(getattr, field.replace("-", "_").split("."), made)
            assert type(chosen).__name__.lower().removesuffix("type") == word.replace("-", "")


RECIPES = {"train-tokenizer": TOKENIZERS, "cache-latents": CACHES, "train-generator": GENERATORS,
           "distil-decoder": DISTILLED, "train-encoder": MASKED}  # fmt: skip
EVERY = [name for name in COMMANDS if name not in RECIPES] + [
    f"{command} {name}" for command, recipes in RECIPES.items() for name in recipes
]


def test_help_has_the_common_fields_and_all_help_every_one(capsys):
    """Bug: 150 lines of help, half of them about drawn scenes."""
    seen = set()
    for words in EVERY:
        short = listed(f"{words} --help", capsys)
        flags = re.findall(r"^  --([\w.-]+)", short, re.MULTILINE)
        seen |= set(flags)
        assert len(flags) <= 26 and not {"data.shapes", "data.colours", "run.patience"} & set(flags)
        assert "--help-all lists every field" in short
    assert seen >= COMMON  # none is a slip of the pen
    assert "--run.patience" in listed("train-tokenizer scenes-kl --help-all", capsys)


def test_help_lists_the_fields_of_a_choice_that_is_given(capsys):
    said = listed("train-tokenizer ldm-kl-f8 data:parquet --help", capsys)
    assert "--data.caption-column" in said and "--data.caption-template" not in said


@pytest.mark.parametrize("words", [
    "train-tokenizer small-kl", "cache-latents small", "reconstruct model", "score model",
    "evaluate model", "compare one two",
])  # fmt: skip
@pytest.mark.parametrize(("chosen", "data"), [
    ("--data.path photos", Folder("photos")),
    ("data:folder --data.path photos", Folder("photos")),
    ("data:scenes --data.size 16", tiny.Scenes(size=16)),
    ("--data.path photos data:parquet", Parquet("photos")),
])  # fmt: skip
def test_pictures_are_named_alike_everywhere(words, chosen, data, monkeypatch):
    given = []
    command, *rest = words.split()
    monkeypatch.setattr(work(command), given.append)
    cli.main([command, *rest, *chosen.split()])
    (options,) = given
    assert repr(options.data).replace("PosixPath('photos')", "'photos'") == repr(data)


@pytest.mark.parametrize(("words", "paths"), [
    ("reconstruct model --data.path=~/photos --out=~/page", ["data.path", "out"]),
    ("cache-latents small data:parquet --data.path ~/a/*.parquet --out ~/x", ["data.path", "out"]),
    ("train-tokenizer small-kl --data.path=~/photos --run.out=~/run", ["data.path", "run.out"]),
])  # fmt: skip
def test_a_tilde_is_the_home_in_every_path(words, paths, monkeypatch):
    """A shell replaces none behind an equals sign."""
    given = []
    command, *rest = words.split()
    monkeypatch.setattr(work(command), given.append)
    monkeypatch.setenv("HOME", "/at/home")
    cli.main([command, *rest])
    for path in paths:
        assert str(attrgetter(path)(given[0])).startswith("/at/home/")


def test_every_command_has_its_work():
    for entry in COMMANDS.values():
        if isinstance(entry, FromOptions):
            assert is_dataclass(resolve_name(f"calotype.commands.{entry.options}"))
    for name in COMMANDS:
        assert callable(resolve_name(work(name)))


def broken_in_a_library(*_) -> None:
    error = ValueError("operands could not be broadcast")
    error.__notes__ = ["at step 3 of 10; --run.resume goes on from step 2"]
    raise error


@pytest.mark.parametrize(
    "command", ["push runs/vq user/vq --dry-run", "data photos", "demo", "quickstart photos"]
)
def test_bug_what_one_process_does_was_done_by_each_of_several(command, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    name, said = command.split()[0], refused(command, capsys)
    assert said.startswith(f"calotype: {name} is done by one process: start it without a launcher")
    with pytest.raises(SystemExit) as helped:
        cli.main([name, "--help"])
    assert not helped.value.code


def test_an_error_in_a_library_shows_its_traceback_and_where_the_run_stands(monkeypatch):
    """Bug: it read "operands could not be broadcast" and nothing more."""
    monkeypatch.setattr("calotype.commands.explain.explain_names", broken_in_a_library)
    with pytest.raises(ValueError, match="operands") as caught:
        cli.main(["explain"])
    assert "step 3" in "".join(caught.value.__notes__)


def as_ours(code: str, **names: object) -> Exception:
    """What comes of code that stands in calotype's own."""
    try:
        exec(code, {"__name__": "calotype.commands.x", "np": np, **names})
    except Exception as error:
        return error
    pytest.fail("nothing was raised")


@pytest.mark.parametrize(("code", "told"), [
    ("raise ValueError('--size is 0')", True),
    ("raise FileNotFoundError('no folder X')", True),
    ("raise ImportError('pip install X')", True),
    ("with suppress(KeyError):\n  raise ValueError('within')", True),
    ("try:\n  int('three')\nexcept ValueError as e:\n  raise ValueError('x') from e", True),
    ("try:\n  np.zeros(2) + np.zeros(3)\nfinally:\n  pass", False),
    ("np.zeros(2) + np.zeros(3)", False),
    ("int('three')", False),
    ("broken_in_a_library()", False),
    ("import no_such_library", False),
    ("raise RuntimeError('ours too')", False),
    ("open('/no/such/file')", True),
    ("raise_full()", True),
])  # fmt: skip
def test_what_a_raise_of_ours_says_is_told_and_nothing_else(code, told):
    def raise_full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    names = {"broken_in_a_library": broken_in_a_library, "raise_full": raise_full,
             "suppress": contextlib.suppress}  # fmt: skip
    assert mistakes.is_told(as_ours(code, **names)) is told


def test_what_was_noted_of_a_mistake_stands_under_it(monkeypatch, capsys):
    monkeypatch.setattr("calotype.cli.is_told", lambda error: True)
    monkeypatch.setattr("calotype.commands.explain.explain_names", broken_in_a_library)
    with pytest.raises(SystemExit) as stop:
        cli.main(["explain"])
    said = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and said == [
        "calotype: operands could not be broadcast",
        "at step 3 of 10; --run.resume goes on from step 2",
    ]


@pytest.mark.parametrize(("words", "field", "value"), [
    ("order:annealed --order.begin 1 --order.end 2", "order", Annealed(1, 2)),
    ("transformer.positions:sequential", "transformer.positions", Sequential()),
    ("sampling.ramp:linear", "sampling.ramp", Linear()),
    ("sampling.ramp:power-cosine", "sampling.ramp", PowerCosine()),
    ("--sampling.top-k 5", "sampling.top_k", 5),
    ("--sampling.compiled", "sampling.compiled", True),
    ("--no-prompted", "prompted", False),
    ("--gradient-checkpointing", "gradient_checkpointing", True),
])  # fmt: skip
def test_a_transformer_is_trained_as_its_flags_say(words, field, value):
    recipe = named_recipe("train-generator", GENERATORS, ["scenes-ar", *words.split()])
    assert reduce(getattr, field.split("."), recipe) == value


@pytest.mark.parametrize(("words", "field", "value"), [
    ("sampling.ramp:linear", "ramp", Linear()),
    ("--sampling.temperature 0.5", "temperature", 0.5),
    ("--sampling.top-k 5", "top_k", 5),
    ("--sampling.top-p 0.9", "top_p", 0.9),
    ("--sampling.guidance 2", "guidance", 2.0),
    ("--sampling.compiled True", "compiled", True),
])  # fmt: skip
def test_a_transformer_draws_as_its_flags_say(words, field, value):
    """What is not said stays as the recipe had it."""
    from calotype.commands.generate import Generate

    options = parse(Generate, "calotype generate", ["a cat", *words.split()])
    default = TokenSampling(guidance=1.5, temperature=0.3)
    chosen = options.sampling.over(default)
    assert getattr(chosen, field) == value != getattr(default, field)
    assert replace(chosen, **{field: getattr(default, field)}) == default


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("text:classes", Classes()),
        ("--text.length 9 --text.path P text:hub-tokenizer", HubTokenizer("P", 9)),
        ("text:none", None),
    ],
)
def test_captions_become_any_tokens(words, text):
    assert named_recipe("cache-latents", CACHES, ["scenes", *words.split()]).text == text


def test_a_text_tokenizer_is_missed_before_any_work(artifacts, here, capsys):
    made = f"cache-latents scenes --data.size 16 --tokenizer {artifacts}/tokenizer/model"
    said = refused(f"{made} --out made text:hub-tokenizer --text.path absent", capsys)
    assert "text.path: no fast tokenizer in absent" in said and list(here.iterdir()) == []


def test_an_option_chooses_the_only_type_that_has_it():
    """Bug: `--transform.crop.size` alone was unknown, and the answer named another option."""
    words = "scenes-kl data:folder --data.path X --transform.crop.size 64".split()
    recipe = named_recipe("train-tokenizer", TOKENIZERS, words)
    assert recipe.transform and recipe.transform.crop.size == 64
    words = "ldm-kl-f8 transform:none --transform.crop.size 64".split()
    with pytest.raises(SystemExit):  # what is said stands
        named_recipe("train-tokenizer", TOKENIZERS, words)


def test_prompts_keep_their_order():
    from calotype.commands.generate import Generate

    prompts = ["a: b", "images: a thing", "c"]
    options = parse(Generate, "calotype generate", [*prompts, "--images", "2"])
    assert options.prompt == tuple(prompts) and options.images == 2


def test_every_recipe_can_be_made():
    for recipes in (TOKENIZERS, CACHES, GENERATORS):
        for name, build in recipes.items():
            assert named_recipe("x", recipes, [name]) == build()


def test_generate_writes_its_images(artifacts, here, capsys):
    said = listed(
        f"generate red circle --pipeline {artifacts}/generator/model --images 2 --seed 5 "
        "--sampling.steps 2 --out drawn", capsys,
    )  # fmt: skip
    names = sorted(file.name for file in (here / "drawn").glob("0*.png"))
    assert names == ["000-red-5.png", "001-red-6.png", "002-circle-5.png", "003-circle-6.png"]
    for name in names:
        with Image.open(here / "drawn" / name) as picture:
            assert picture.size == (16, 16)
    assert said.splitlines() == [
        "2 prompts of one word each; one of several words stands in quotes",
        "seeds 5 to 6 of each prompt; --seed 7 draws others", "images: drawn",
    ]  # fmt: skip


def test_pictures_are_not_drawn_over(artifacts, here, capsys):
    """Bug: another model's pictures of the same prompt and seed replaced the first one's."""
    for steps in (1, 2, 1):  # what is there is not drawn again
        listed(f"generate red --pipeline {artifacts}/generator/model --sampling.steps {steps}",
               capsys)  # fmt: skip
    names = sorted(file.name for file in (here / "generated").glob("0*.png"))
    assert names == ["000-red-0.png", "001-red-0.png"]


def test_generate_draws_without_prompts_too(artifacts, here):
    cli.main(["generate", "--pipeline", f"{artifacts}/unconditional/model", "--sampling.steps", "2",
              "--out", "drawn"])  # fmt: skip
    assert [file.name for file in (here / "drawn").glob("0*.png")] == ["000-empty-0.png"]


def test_a_prompt_that_cannot_be_read_is_refused(artifacts, here, capsys):
    """Bug: it was ignored, and the picture was called after it."""
    said = refused(f"generate lighthouse --pipeline {artifacts}/unconditional/model", capsys)
    assert "trained without captions and reads no prompts" in said
    assert list(here.iterdir()) == []


def test_a_pipeline_that_reads_prompts_wants_one(artifacts, here, capsys):
    with pytest.raises(SystemExit):
        cli.main(["generate", "--pipeline", f"{artifacts}/generator/model"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "calotype: no prompts: say what to draw, in quotes" and not any(here.iterdir())


def test_reconstruct_writes_pairs(artifacts, here, capsys):
    (here / "photos").mkdir()
    for i in range(3):
        Image.new("RGB", (20, 30), (80 * i, 0, 0)).save(here / f"photos/{i}.png")
    said = listed(
        f"reconstruct {artifacts}/tokenizer/model --data.path photos --out a/pairs.png",
        capsys,
    )
    assert "dB over 3 pictures of 16 pixels" in said
    with Image.open(here / "a/pairs.png") as picture:
        assert picture.width > 16


def test_a_run_is_not_begun_twice(artifacts, capsys):
    run = f"train-tokenizer scenes-kl --data.count 32 --run.out {artifacts}/tokenizer"
    assert "already holds a run: pass --run.resume to continue it" in refused(run, capsys)
    assert "data.size was 16 when" in refused(f"{run} --run.resume", capsys)
