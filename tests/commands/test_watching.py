"""Training keeps its page: while it goes on, when it was killed, and when it has ended."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import tiny
from calotype.cli.parsing import named_recipe
from calotype.commands import watching
from calotype.commands.cache_latents import cache
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.commands.watching import SHARE, Watcher, about
from calotype.hub.history import Recipe
from calotype.pages.run import RunPage
from calotype.recipes.demo import demo_kl
from calotype.recipes.generators import GENERATORS
from calotype.recipes.tokenizers import TOKENIZERS
from calotype.training import Run, log
from calotype.training.description import describe


def pages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every page that is written from here on."""
    written: list[str] = []
    write = RunPage.write

    def kept(self: RunPage, finished: bool, cost: str = "") -> None:
        write(self, finished, cost)
        written.append((self.out / "index.html").read_text())

    monkeypatch.setattr(RunPage, "write", kept)
    monkeypatch.setattr(log, "SHOWN_EVERY", 0.0)
    monkeypatch.setattr(watching, "SHARE", 1e9)  # as if a page took no time
    return written


def state(page: str) -> str:
    found = re.search(r"<p><strong>(.*)</strong></p>", page)
    assert found
    return found[1]


def test_a_tokenizer_has_a_page_from_its_first_to_its_last_moment(tmp_path, monkeypatch):
    written = pages(monkeypatch)
    recipe = tiny.tokenizer_recipe(tmp_path, adversary=tiny.adversary())
    run = replace(recipe.run, steps=6, log_every=1, sample_every=2, out=tmp_path / "named")
    train_tokenizer(replace(recipe, run=run))
    first, last = written[0], written[-1]
    assert state(first).startswith("Step 0 of 6: how much time is left")
    assert any(state(page).startswith("Step 3 of 6, ") for page in written)
    assert state(last) == "Step 6 of 6: training is done, the model is in model."
    assert "<svg" not in first and last.count("<svg") == last.count("<strong>") - 1
    assert re.findall(r'data-step="(\d)"', last) == ["2", "4", "6"]
    for name in ("psnr", "told_apart", "critic_gradient", "adversarial_weight"):
        assert f"<strong>{name}" in last
    assert "32 pictures, 16 pixels a side" in last and str(tmp_path) not in last
    assert '"type": "TokenizerRecipe"' in last.replace("&#34;", '"')


def test_a_generator_has_a_page_too(artifacts, tmp_path):
    for kind in ("generator", "unconditional"):
        said = (artifacts / kind / "index.html").read_text()
        assert "training is done, the model is in" in said and "<strong>denoising" in said


def test_a_resumed_run_has_one_page_of_all_its_starts(tmp_path):
    recipe = tiny.tokenizer_recipe(tmp_path)
    train_tokenizer(recipe)
    more = replace(recipe.run, steps=5, resume=True)
    train_tokenizer(replace(recipe, run=more))
    said = (more.out / "index.html").read_text()
    assert "<td>0 to 3</td>" in said and "<td>3 to 5</td>" in said
    assert state(said).startswith("Step 5 of 5: training is done")


def test_pages_take_their_share_of_time_and_no_more(tmp_path, monkeypatch):
    now, written = [0.0], []
    monkeypatch.setattr(watching.time, "monotonic", lambda: now[0])

    def write(self: RunPage, finished: bool, cost: str = "") -> None:
        now[0] += 2.0
        written.append((now[0], cost))

    monkeypatch.setattr(RunPage, "write", write)
    watcher = Watcher(tiny.tokenizer_recipe(tmp_path), "a network")
    watcher(True)
    while now[0] < 5000:
        now[0] += 1.0
        watcher()
    assert len(written) == pytest.approx(5000 * SHARE / 2, abs=2)
    assert 2.0 * len(written) / now[0] < SHARE + 2.0 / now[0]
    assert written[-1][1].startswith("This page has taken ")
    before = len(written)
    watcher(True)
    assert len(written) == before + 1, "the last one at once"


@pytest.mark.parametrize("recipe", [demo_kl(Path("kl"), 10), TOKENIZERS["small-vq"]()], ids=str)
def test_bug_page_and_card_named_different_recipes(recipe):
    told = Recipe(describe(recipe)).nearest
    assert told and about(recipe, "a network").recipe == told[0]


def test_a_recipe_is_told_by_the_one_that_it_comes_from():
    given = ["--data.path", "mine", "--run.steps", "300", "--model.bottleneck.kl-weight", "0.5"]
    recipe = named_recipe("train-tokenizer", {"small-kl": TOKENIZERS["small-kl"]},
                          ["small-kl", *given])  # fmt: skip
    told = about(recipe, "a network")
    assert told.recipe == "small-kl"
    assert {(each.name, each.now) for each in told.overrides} == {
        ("data.path", "mine"), ("run.steps", "300"), ("model.bottleneck.kl_weight", "0.5")
    }  # fmt: skip
    verb, name, *flags = told.command.split()[1:]
    again = named_recipe(verb, TOKENIZERS, [name, *flags])
    assert again == recipe, "what is typed gives the same recipe"
    over = replace(recipe, run=replace(recipe.run, overwrite=True))
    assert about(over, "a network") == told, "whoever types it again deletes nothing"


@pytest.mark.parametrize("recipes", [TOKENIZERS, GENERATORS], ids=["tokenizers", "generators"])
def test_a_named_recipe_is_told_as_it_is(recipes):
    for name, build in recipes.items():
        assert (told := about(build(), "")).overrides == [] and told.recipe in recipes
        assert recipes[told.recipe]() == recipes[name]()


def test_a_recipe_like_none_that_has_a_name_has_a_page(tmp_path):
    assert about(tiny.cache_recipe(tmp_path), "what").recipe == ""


def test_what_has_begun_anew_has_none_of_the_old_page(tmp_path):
    recipe = tiny.tokenizer_recipe(tmp_path)
    train_tokenizer(recipe)
    train_tokenizer(replace(recipe, run=replace(recipe.run, steps=2, overwrite=True)))
    said = (recipe.run.out / "index.html").read_text()
    assert "Step 2 of 2" in said and "<td>0 to 3</td>" not in said


def test_a_transformer_over_codes_has_pages_with_what_its_codes_are_chosen_for(tmp_path):
    tokenizer, cached, transformer = tiny.token_recipes(tmp_path)
    train_tokenizer(tokenizer)
    cache(cached)
    train_generator(transformer)
    assert "How often each code is chosen" in (tokenizer.run.out / "index.html").read_text()
    assert "<strong>bits_per_token" in (transformer.run.out / "index.html").read_text()
    lines = (transformer.run.out / "history.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["last"] == transformer.run.steps


def test_where_a_page_cannot_be_written_training_goes_on(tmp_path, monkeypatch, capfd):
    def write(self: RunPage, finished: bool, cost: str = "") -> None:
        raise OSError(28, "No space left on device", str(self.out / "index.html"))

    monkeypatch.setattr(RunPage, "write", write)
    recipe = tiny.tokenizer_recipe(tmp_path)
    assert (train_tokenizer(recipe) / "config.json").exists()
    said = capfd.readouterr().err
    assert "what is shown of the run could not be written" in said
    assert f"the page of {recipe.run.out} could not be written" in said


def test_the_page_is_no_obstacle_to_a_run_that_saved_nothing(tmp_path):
    """A folder with a page, and without weights, gives way as before."""
    recipe = tiny.tokenizer_recipe(tmp_path)
    recipe.run.out.mkdir()
    (recipe.run.out / "recipe.json").write_text(json.dumps({"run": {}}))
    for name in ("index.html", "history.jsonl"):
        (recipe.run.out / name).write_text("")
    assert isinstance(recipe.run, Run) and isinstance(train_tokenizer(recipe), Path)
