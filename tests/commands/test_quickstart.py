"""The whole way with one's own pictures, in the time that is named, and further with more."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import tiny
from calotype.cli.parsing import named_recipe
from calotype.commands import journey, legs, own_pictures, quickstart_result
from calotype.commands import quickstart as module
from calotype.commands import quickstart_plan as plan
from calotype.commands.journey import Journey, Part
from calotype.commands.own_pictures import Looked
from calotype.commands.quickstart import Quickstart, quickstart
from calotype.commands.timing import Speed
from calotype.data.drawn.scenes import Scenes
from calotype.pipelines import load, reads_prompts
from calotype.recipes.caches import CACHES
from calotype.recipes.generators import GENERATORS
from calotype.recipes.tokenizers import TOKENIZERS

LOOKED = Looked("/photos", 80, 80, 80, 40, True, (100, 100), (400, 300), {}, {})
SPEED = Speed(tokenizer_step=0.4, encoded=0.01, generator_step=0.5, drawn=0.1)


def slower(speed: Speed, factor: float) -> Speed:
    return Speed(*(factor * each for each in vars(speed).values()))


def by_pixels(speed: Speed, asked: list[int]):
    """A machine on which a step takes as long as it has pixels; notes what it was asked for."""

    def measured(size: int) -> Speed:
        asked.append(size)
        return slower(speed, (size / 32) ** 2)

    return measured


@pytest.mark.parametrize(("factor", "size"), [(100.0, 32), (1.0, 32), (0.6, 48), (0.01, 128)])
def test_a_faster_machine_takes_larger_pictures(factor, size):
    asked: list[int] = []
    chosen, speed, why = plan.choose(1200.0, LOOKED, by_pixels(slower(SPEED, factor), asked))
    assert chosen == size and str(size) in why
    assert vars(speed) == pytest.approx(vars(slower(SPEED, factor * (size / 32) ** 2)))
    assert len(asked) <= 2  # each costs seconds of what is to be used


def test_a_size_that_is_slower_than_it_seemed_is_not_taken():
    def measured(size: int) -> Speed:
        return SPEED if size == 32 else slower(SPEED, 50.0)

    assert plan.choose(20_000.0, LOOKED, measured)[0] == 32


def test_what_is_allotted_is_what_there_is():
    allotted = plan.allot(1000.0, SPEED, LOOKED)
    assert sum(vars(allotted).values()) == pytest.approx(1000.0)
    tokenizer, generator = allotted.steps(SPEED)
    assert tokenizer * SPEED.tokenizer_step < allotted.tokenizer
    assert generator * SPEED.generator_step <= allotted.generator


def test_too_few_minutes_are_refused_with_how_many_would_do():
    slow = slower(SPEED, 20.0)
    with pytest.raises(ValueError, match=r"--minutes 3 is too few .* give (\d+) or more") as told:
        plan.check(3.0, 170.0, slow, LOOKED)
    enough = float(str(told.value).split("give ")[1].split()[0])
    plan.check(enough, 170.0 + 60 * (enough - 3), slow, LOOKED)


@pytest.mark.parametrize("changes", [{}, {"captioned": 0}, {"tell_sides": False}])
def test_the_single_commands_mean_what_is_done(changes):
    looked = replace(LOOKED, **changes)
    way = plan.recipes(Path("runs/my own"), looked, ("a cat", "a dog"), 48, 3).trained(70, 90)
    found = [
        named_recipe(command, recipes, words)
        for said, recipes in zip(way.commands(), (TOKENIZERS, CACHES, GENERATORS), strict=True)
        for _, command, *words in [shlex.split(said)]
    ]
    assert found == [way.tokenizer, way.cache, replace(way.generator, prompts=())]
    exact = plan.recipes(Path("runs"), looked, (), 48, 3, "fp32")
    assert exact.tokenizer.run.precision == exact.generator.run.precision == "fp32"
    assert way.generator.run.steps == 90 and (way.cache.text is None) == ("captioned" in changes)


def test_rates_do_not_depend_on_how_long_it_takes():
    """So that more minutes go on from what is there."""
    way = plan.recipes(Path("runs/x"), LOOKED, (), 32, 0)
    for optimizer in (way.tokenizer.optimizer, way.generator.optimizer):
        assert optimizer.rate(500, 501) == optimizer.rate(500, 100_000)


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"minutes": 1.0}, "--minutes is 1: choose 2 or more"),
        ({"minutes": float("nan")}, "--minutes is nan"),
        ({"size": 40}, "--size is 40: choose 32 or more, in steps of 16"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_what_cannot_be_is_refused(changes, answer):
    with pytest.raises(ValueError, match=answer):
        Quickstart(Path("photos"), **changes)


def test_a_folder_without_pictures_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    with pytest.raises(FileNotFoundError, match="no images in photos"):
        quickstart(Quickstart(Path("photos")))
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_legs_end_in_time_on_a_machine_that_is_slower_than_measured(tmp_path, monkeypatch):
    now, taken = [0.0], []
    monkeypatch.setattr(legs, "time", SimpleNamespace(monotonic=lambda: now[0]))
    recipe = tiny.tokenizer_recipe(tmp_path)

    def train(leg):
        taken.append(leg.run.steps)
        now[0] += 1.8 * (taken[-1] - (taken[-2] if taken[1:] else 0))
        return leg.run.model

    way = Journey(tmp_path / "gallery.html", "", [Part("all")])
    monkeypatch.setattr(Journey, "gone", property(lambda way: now[0]))
    with way.part("all") as part:
        trained = legs.train_until(way, part, recipe, train, 100.0, 1.0)
    assert part.run == trained.run and not part.undecided
    assert taken == [25, 43, 55] and trained.run.steps == 55
    assert 95 < now[0] <= 100


def clocked(train, now: list[float]):
    """Training whose steps take half a second each."""

    def trained(recipe):
        before = legs._step(recipe.run)
        model = train(recipe)
        now[0] += 0.5 * (legs._step(recipe.run) - before)
        return model

    return trained


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    """A folder of pictures, networks so small that a step is nothing, and a clock on which each
    takes half a second and all else no time."""
    monkeypatch.chdir(tmp_path)
    now = [0.0]
    for each in (legs, journey, own_pictures):
        monkeypatch.setattr(each, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for name in ("train_tokenizer", "train_generator"):
        monkeypatch.setattr(module, name, clocked(getattr(module, name), now))
    tokenizer = replace(tiny.tokenizer_recipe(tmp_path), optimizer=tiny.adam(1e-3))
    monkeypatch.setitem(plan.TOKENIZERS, plan.KL, lambda: tokenizer)
    monkeypatch.setitem(plan.CACHES, plan.CACHED, lambda: tiny.cache_recipe(tmp_path))
    generator = replace(tiny.generator_recipe(tmp_path), optimizer=tiny.adam(1e-3))
    monkeypatch.setitem(plan.GENERATORS, plan.DIFFUSION, lambda: generator)
    for name, value in (("DRAWN", 2), ("MEASURED", 16), ("ENDING", 0.0),
                        ("LEAST", (0, 0))):  # fmt: skip
        monkeypatch.setattr(plan, name, value)
    for each in (module, quickstart_result):
        monkeypatch.setattr(each, "DRAWN", 2)
    monkeypatch.setattr(module, "LEAST_MINUTES", 0.0)

    def measured(*recipes) -> Speed:
        now[0] += 1.0
        return Speed(tokenizer_step=0.5, encoded=0.0, generator_step=0.5, drawn=0.0)

    monkeypatch.setattr(module, "measure", measured)
    folder = tmp_path / "photos"
    scenes = Scenes(size=32).build()
    for i in range(6):
        place = folder / ("circles" if i % 2 else "squares")
        place.mkdir(parents=True, exist_ok=True)
        picture = scenes[i]["image"]
        assert isinstance(picture, Image.Image)
        picture.save(place / f"{i}.png")
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*latent_statistics.json")  # of a handful of steps
def test_it_ends_in_a_pipeline_and_goes_on_with_more_minutes(small, tmp_path, monkeypatch, capsys):
    out = tmp_path / "runs/quickstart-photos"
    assert quickstart(Quickstart(small, minutes=0.2)) == Path("runs/quickstart-photos/gallery.html")
    said, page = capsys.readouterr().out, (out / "gallery.html").read_text()
    assert "6 pictures in" in said and "calotype train-tokenizer" in said
    assert "The same by single commands" in page and "refresh" not in page
    assert "circles" in page and "original" in page
    report = json.loads((out / "report.json").read_text())
    assert (report["pictures"], report["minutes"]) == (6, 0.2)  # 0.96 of 12 seconds are 23 steps
    assert report["tokenizer_steps"] + report["generator_steps"] == 21  # but for a second
    for word in ("runs/quickstart-photos-by-hand/tokenizer/model",
                 f"--run.steps {report['generator_steps']}", "nearest to it"):  # fmt: skip
        assert word in page, "bug: commands told of other steps, and went on in the folder itself"
    assert "--run.resume" not in page
    load(out / "pipeline")
    weights = (out / "tokenizer/model/diffusion_pytorch_model.safetensors").read_bytes()

    measure = module.measure
    monkeypatch.setattr(module, "measure", None)  # bug: the machine was measured each time
    quickstart(Quickstart(small, minutes=0.2))
    assert json.loads((out / "report.json").read_text()) == report, "bug: run.steps is 0"
    quickstart(Quickstart(small, minutes=0.5))
    again = json.loads((out / "report.json").read_text())
    assert again["tokenizer_steps"] == report["tokenizer_steps"]
    assert again["tokenizer_steps"] + again["generator_steps"] == 55, "bug: measuring was forgotten"
    kept = (out / "tokenizer/model/diffusion_pytorch_model.safetensors").read_bytes()
    assert kept == weights
    assert "The tokenizer stays as it is" in capsys.readouterr().out
    record = json.loads((out / "quickstart.json").read_text())
    del record["speed"], record["measured_on"]  # as the version before left it
    (out / "quickstart.json").write_text(json.dumps(record))
    monkeypatch.setattr(module, "measure", measure)
    quickstart(Quickstart(small, minutes=0.6))
    assert (
        json.loads((out / "report.json").read_text())["generator_steps"] > again["generator_steps"]
    )
    with pytest.raises(ValueError, match=r"--size is 64, and .* was begun with 32"):
        quickstart(Quickstart(small, minutes=0.1, size=64))


@pytest.mark.filterwarnings("ignore:.*latent_statistics.json")
def test_pictures_without_captions_are_drawn_without_a_prompt(small, tmp_path, capsys):
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in small.rglob("*.png"):
        file.rename(flat / file.name)
    page = quickstart(Quickstart(flat, minutes=0.1, out=tmp_path / "out", size=32)).read_text()
    assert "none of them has a caption" in page and "as you asked" in page
    assert "new pictures that it draws" in page
    assert not reads_prompts(load(tmp_path / "out/pipeline"))
    said = capsys.readouterr().out
    assert f"calotype generate --pipeline {tmp_path}/out/pipeline" in said
    assert f"--minutes 0.3 --out {tmp_path}/out" in said
