"""The glossary: every name that is written somewhere is in it, and its page is current."""

import ast
import json
import re
from pathlib import Path

import pytest

from calotype import cli
from calotype.evaluation.glossary import GLOSSARY, SECTIONS, WORDS, explain, markdown

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src/calotype"
EMITTING = [
    *SRC.glob("tokenizers/bottlenecks/*.py"), SRC / "tokenizers/objectives.py",
    SRC / "tokenizers/masked.py", SRC / "diffusion/objectives.py",
    SRC / "autoregressive/objective.py",
    *(SRC / f"evaluation/{name}.py" for name in ("distortion", "generator", "health", "scenes",
                                                 "likelihood", "tokenizer")),
    SRC / "commands/score.py", SRC / "commands/validation.py",
]  # fmt: skip
"""Files whose dictionaries hold figures and terms."""
OTHERS = {"input_ids", "inputs_embeds", "key", "text_embeds", "time_ids"}
"""Of a network's or an objective's input."""
PARTS = {"quant_conv.weight", "quant_conv.bias", "height", "width", "square", "mode",
         "mode square", "power"}  # fmt: skip
"""Of a network or of its call, and sums that figures are made of."""
SETTINGS = {"batch_size", "device", "prompt", "prompts", "reconstructed", "two_objects_prompts",
            "protocol", "sampling", "seed", "resolution", "split", "tokenizer",
            "scheduler"}  # fmt: skip
"""Of how something was measured."""


def keys(file: Path) -> set[str]:
    """Every constant key of a dictionary that a file makes or fills."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Dict(keys=names):
                found |= {name.value for name in names if isinstance(name, ast.Constant)}
            case ast.Subscript(slice=ast.Constant(str(name)), ctx=ast.Store()):
                found.add(name)
    return found


@pytest.mark.parametrize("file", EMITTING, ids=lambda file: file.stem)
def test_every_name_that_is_emitted_is_explained(file):
    assert keys(file) - OTHERS - PARTS - SETTINGS <= GLOSSARY.keys()


def test_every_name_in_a_log_is_explained(artifacts):
    logs = [*artifacts.rglob("metrics.jsonl"), *(ROOT / "tests/kept").rglob("metrics.jsonl")]
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    names = set().union(*lines)
    assert len(names) > 10
    for name in names - {"step"}:
        assert explain(name)


def test_each_has_one_entry_of_one_sentence():
    assert len(GLOSSARY) == sum(map(len, SECTIONS.values()))
    for term in GLOSSARY.values():
        assert term.meaning[0].isupper() and term.meaning.endswith(".")
        assert ". " not in term.meaning, term.name


def test_each_figure_has_a_unit():
    figures = [term for terms in SECTIONS.values() if terms is not WORDS for term in terms]
    assert len(figures) > 40 and all(term.unit for term in figures)


def test_the_page_is_current():
    """Else: calotype explain --markdown > docs/glossary.md."""
    assert (ROOT / "docs/glossary.md").read_text() == markdown()


@pytest.mark.parametrize("name", ["psnr_db", "PSNR dB", "validation/psnr-db"])
def test_a_name_is_explained_as_it_stands_in_a_table_or_a_log(name, capsys):
    cli.main(["explain", name])
    said = capsys.readouterr().out
    assert said.startswith("psnr_db (dB); higher is better\n")
    assert GLOSSARY["psnr_db"].meaning in said


def test_all_are_listed(capsys):
    cli.main(["explain"])
    said = re.findall(r"^([\w/]+)", capsys.readouterr().out, re.MULTILINE)
    assert set(said) >= GLOSSARY.keys()


@pytest.mark.parametrize(("name", "answer"), [
    ("perplexty", "perhaps perplexity"), ("lpips_resnet", "perhaps lpips"),
    ("qqqq", "calotype explain lists all names"),
])  # fmt: skip
def test_an_unknown_name_is_answered_with_near_ones(name, answer, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["explain", name])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith("calotype: ") and answer in said
