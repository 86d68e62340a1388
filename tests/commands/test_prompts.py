"""Prompts from wherever people have them, and what is none, said before anything is loaded."""

import io
import re
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from calotype import cli
from calotype.commands.drawings import _slug
from calotype.commands.paths import Latents, Prompts, frames, row
from calotype.commands.prompts import read_prompts


def test_a_file_has_one_a_line(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa red circle\r\n\n  ein grüner Kreis\u2028so \n青い四角".encode())
    assert read_prompts(file) == ("a red circle", "ein grüner Kreis\u2028so", "青い四角")


def test_standard_input_is_a_file(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\n")))
    assert read_prompts(Path("-")) == ("a", "b")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("calotype.commands.generate.load", lambda path: pytest.fail("it loads"))
    Path("bad.txt").write_bytes(b"good\nb\xffd\n")
    Path("empty.txt").write_text("\n \n")
    Image.new("RGB", (4, 4)).save("plain.png")
    Path("runs/x/model").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(("arguments", "answer"), [
    (["x", "--seed", str(2**64)], r"--seed is 18446744073709551616: seeds lie from 0 to 2\*\*64"),
    (["x", "--seed", str(2**64 - 1), "--images", "2"], r"--seed is .*with those that count up"),
    (["x", "--seed", "-1"], "--seed is -1: seeds lie from 0"),
    (["-a cat"], "unrecognized option -a cat: what begins with a dash is no prompt; put -- before"),
    (["fine", "half \udcff"], r"prompt 2 of 2 is no text: its character 6 is '\\udcff', half"),
    (["--prompts", "bad.txt"], "bad.txt is not UTF-8, at the latest in line 2: convert it"),
    (["--prompts", "empty.txt"], "empty.txt has no prompts: write one a line"),
    (["--prompts", "absent.txt"], "No such file.*absent.txt"),
    (["x", "--prompts", "bad.txt"], "prompts are on the command line too: give them in one way"),
    (["x", "--width", "0"], "--width is 0: it must be at least 1"),
    (["x", "--image", "absent.png"], "no picture absent.png"),
    (["x", "--image", "plain.png", "--image.strength", "1.5"],
     r"--image.strength is 1.5: it lies in \(0, 1\]"),
    (["x", "--image", "plain.png", "--image.strength", "0"], "--image.strength is 0.0: it lies in"),
    (["x", "--strength", "0.5"], "unrecognized .* --strength; perhaps you meant --image.strength"),
    (["x", "--sampling.scheduler", "plms"], r"sampling.scheduler is 'plms': choose from dpm\+\+, "),
    (["x", "--sampling.guidance-rescale", "2"], r"guidance_rescale is 2.0: it lies in \[0, 1\]"),
    (["a", "b", "between:prompts", "--between.images", "2"], "--between.images is 2: with both"),
    (["a", "between:latents", "--between.seeds", "3", "--seed", str(2**64 - 2)], "--seed is 1844"),
    (["a", "between:prompts"], "between:prompts goes from one prompt to the next: give two"),
    (["a", "between:latents", "--images", "2"], "how many lie between two is --between.images"),
    (["--like", "plain.png"], "plain.png does not say how it was drawn: give a PNG that `calotype"),
    (["--like", "bad.txt"], "bad.txt does not say how it was drawn"),
    (["--like", "plain.png", "--images", "3"], "--like draws what the PNG says: beside it only"),
    (["x", "--like", "plain.png"], "--like draws what the PNG says: beside it only --pipeline"),
])  # fmt: skip
def test_a_mistake_is_one_line_before_anything_is_loaded(arguments, answer, here, capsys):
    if "--like" not in arguments:
        arguments = ["--pipeline", "runs/x/model", *arguments]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["generate", *arguments])
    said = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and re.match(f"calotype: .*{answer}", said), said
    assert "\n" not in said and not Path("generated").exists()


@pytest.mark.parametrize(("between", "prompts", "columns"), [
    (Prompts(8), 2, 8), (Prompts(8), 3, 7), (Latents(8), 4, 8), (Latents(8, seeds=3), 1, 15),
])  # fmt: skip
def test_rows_of_a_grid_are_ways(between, prompts, columns):
    """Bug: from the second row on all were shifted by one."""
    assert row(between, prompts) == columns
    made = [*frames(between, [str(i) for i in range(prompts)], 0)]
    ends = [wanted.toward.part for wanted in made if wanted.toward]
    assert len(made) in (columns, (prompts - 1) * columns + 1, prompts * columns)
    assert ends[::columns] == [0.0] * len(ends[::columns])  # a row begins where a way does


def test_dashes_behind_two_dashes_are_a_prompt(here, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "calotype.commands.generate.generate", lambda options: asked.append(options)
    )
    cli.main(["generate", "--images", "2", "--", "-a cat", "--b"])
    assert asked[0].prompt == ("-a cat", "--b") and asked[0].images == 2


def test_a_picture_may_be_given_by_its_file_alone(here, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "calotype.commands.generate.generate", lambda options: asked.append(options)
    )
    cli.main(["generate", "x", "--image", "plain.png", "--image.strength", "0.5"])
    cli.main(["generate", "x", "--image=plain.png"])
    assert [one.image.path for one in asked] == [Path("plain.png")] * 2
    assert [one.image.strength for one in asked] == [0.5, None]


@pytest.mark.parametrize(("prompt", "slug"), [
    ("A red circle, at the top!", "a-red-circle-at-the-top"),
    ("Ein grüner Kreis über Grau", "ein-grüner-kreis-über-grau"),
    ("青い四角 3", "青い四角-3"),
    ("नीला वृत्त", "नीला-वृत्त"),
    ("../..", "empty"),
    ("", "empty"),
])  # fmt: skip
def test_file_names_keep_letters_of_every_script(prompt, slug):
    assert _slug(prompt) == slug == _slug(unicodedata.normalize("NFD", prompt))


def test_file_names_are_never_too_long(tmp_path):
    for letter in "aé青𒀀":
        name = f"000-{_slug(letter * 500)}-{2**64 - 1}.png"
        (tmp_path / f".{name}.partial").touch()
        assert _slug(letter * 500).strip(letter) == ""


def test_help_shows_what_pictures_are_drawn_from(capsys):
    with pytest.raises(SystemExit):
        cli.main(["generate", "--help"])
    said = capsys.readouterr().out
    for flag in ("--prompts PATH", "--image PATH", "--image.strength FLOAT", "--image.mask PATH",
                 "--top PATH", "--top.part FLOAT", "--like PATH", "--sampling.scheduler STR",
                 "between:{prompts,latents,none}"):  # fmt: skip
        assert f"  {flag}" in said, flag
    assert "image:{" not in said and "top:{" not in said
