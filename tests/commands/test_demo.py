"""The demo ends in what it promises, and does not do again what is done. What it reaches at full
length is written in benchmarks/README.md.
"""

import json
from dataclasses import replace

import pytest
from PIL import Image

from calotype.commands import demo as module
from calotype.commands import demo_plan
from calotype.commands.demo import demo
from calotype.commands.demo_plan import SIZES, Demo, both_ways, is_trained
from calotype.commands.timing import Speed
from calotype.data.drawn.scenes import held_out_scenes
from calotype.pipelines import load
from calotype.training import begin

SHORT = Demo(
    tokenizer_steps=3, generator_steps=2, codes_steps=3, transformer_steps=2, scenes=256, prompts=8
)  # fmt: skip
PICTURES = 2 * (8 + 32 + 2)
"""Each way unseen prompts, reconstructions, prompts of two objects; what was made on the way has
given place to them."""
QUICK = Speed(tokenizer_step=0.1, encoded=0.001, generator_step=0.1, drawn=0.01)
SLOW = Speed(tokenizer_step=2.0, encoded=0.01, generator_step=2.0, drawn=1.0)


@pytest.fixture(autouse=True)
def measured(monkeypatch) -> list[Speed]:
    """What the machine is found to be: tests/commands/test_timing.py measures it."""
    found = [QUICK]

    def measure(tokenizer, *others, threads_after):
        assert tokenizer.model.start is None, "what it begins with is not there yet"
        return found[0]

    monkeypatch.setattr(demo_plan, "measure", measure)
    return found


class Begun(Exception):  # noqa: N818
    """Training has begun."""


@pytest.fixture
def begins(monkeypatch):
    """No training: all before it has been said."""

    def begin(recipe):
        raise Begun

    monkeypatch.setattr(module, "train_tokenizer", begin)


def test_it_says_how_long_it_takes_and_its_page_is_there_before_it_trains(tmp_path, begins, capsys):
    with pytest.raises(Begun):
        demo(replace(SHORT, out=tmp_path))
    said, page = capsys.readouterr().out, (tmp_path / "gallery.html").read_text()
    assert "diffusion: tokenizer: about 8 s" in said  # most of it to measure latents
    assert "on this machine, all together" in said and "--size small" not in said
    assert page.count("<li") == 1 + 2 * 4
    assert "Stopped. The same command goes on" in page and "refresh" not in page


def test_where_it_takes_long_a_smaller_one_is_offered(tmp_path, begins, measured, capsys):
    measured[0] = SLOW
    with pytest.raises(Begun):
        demo(Demo(out=tmp_path / "full"))
    assert "`calotype demo --size small` takes about" in capsys.readouterr().out
    with pytest.raises(Begun):
        demo(Demo("small", out=tmp_path / "small"))
    assert "--size small" not in capsys.readouterr().out


def test_numbers_that_are_given_stand_before_the_sizes():
    small, chosen = Demo("small").sized(), Demo("small", codes_steps=7).sized()
    assert small == SIZES["small"] and chosen == replace(small, codes_steps=7)
    assert Demo().sized().out != small.out  # one folder holds one of them


def test_generators_draw_what_training_never_shows_while_they_train():
    for way in both_ways(Demo(seed=3)):
        unseen = {scene.caption() for scene in held_out_scenes(way.tokenizer.data, 5000)}
        asked = {scene.caption() for scene in held_out_scenes(way.tokenizer.data, 16, 3)}
        assert len(set(way.generator.prompts)) == 16 and asked <= unseen


def test_two_ways_side_by_side_take_as_long_as_the_longer(tmp_path, begins, monkeypatch, capsys):
    def said_of_all() -> tuple[float, str]:
        _, _, rest = capsys.readouterr().out.rpartition("\nabout ")
        minutes, _, rest = rest.partition(" min on this machine, ")
        return float(minutes), rest.splitlines()[0]

    long = replace(SHORT, generator_steps=3000, transformer_steps=6000)  # 5 and 10 minutes
    monkeypatch.setattr(module, "threads_for_two", lambda: None)
    with pytest.raises(Begun):
        demo(replace(long, out=tmp_path / "one"))
    assert said_of_all() == (15, "all together")
    monkeypatch.setattr(module, "threads_for_two", lambda: 1)
    with pytest.raises(Begun):
        demo(replace(long, out=tmp_path / "two"))
    assert said_of_all() == (10, "all together; diffusion and transformer side by side")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* codes are in use")  # after three steps
@pytest.mark.filterwarnings("ignore:.*latent_statistics.json")
@pytest.mark.parametrize("side_by_side", [False, True])
def test_the_demo_ends_in_its_gallery_and_is_not_begun_again(tmp_path, monkeypatch, side_by_side):
    monkeypatch.setattr(module, "threads_for_two", lambda: 1 if side_by_side else None)
    monkeypatch.setitem(SIZES, "full", replace(SIZES["full"], measure=512))
    options = replace(SHORT, out=tmp_path / "demo")
    page = demo(options)
    assert page.read_text().count("<figure>") == PICTURES
    report = json.loads((options.out / "report.json").read_text())
    for way in ("diffusion", "transformer"):
        with Image.open(options.out / f"{way}.png") as sheet:
            assert sheet.width > 8 * 128
        found = report[way]
        assert found["prompts"] == 8 and found["two_objects_prompts"] == 2
        assert 0 <= found["all_factors_right"] <= min(found["factors_right"].values())
    assert 0 < report["transformer"]["unigram_bits_per_token"] < 9
    for name in ("pipeline", "token-pipeline"):
        load(options.out / name)

    assert side_by_side == (options.out / "beside.log").exists()

    made = {file: file.stat().st_mtime_ns for file in options.out.rglob("*.safetensors")}
    demo(options)
    kept = {file: time for file, time in made.items() if "pipeline" not in file.parent.as_posix()}
    assert kept == {file: file.stat().st_mtime_ns for file in kept}
    again = json.loads((options.out / "report.json").read_text())
    assert {**again, "minutes": 0} == {**report, "minutes": 0}


def test_a_precision_is_that_of_all_that_is_trained():
    for way in both_ways(Demo(precision="fp16")):
        assert way.tokenizer.run.precision == way.generator.run.precision == "fp16"


def test_what_was_trained_in_another_precision_is_not_trained_again(tmp_path):
    recipe = both_ways(Demo(out=tmp_path, precision="bf16"))[0].tokenizer
    begin(recipe.run, recipe)
    recipe.run.model.mkdir()
    assert is_trained(both_ways(Demo(out=tmp_path, precision="fp32"))[0].tokenizer)
