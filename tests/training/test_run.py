"""A run's folder: recorded, never mixed with another run."""

import json
import shutil
from dataclasses import dataclass, field, replace

import pytest
import torch

import tiny
from calotype.commands.cache_latents import cache
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import AsStored, CenterCrop, Folder, Scenes, Transform
from calotype.pipelines import picture
from calotype.training import AdamW, Run, begin, checkpoint, has_ended


@dataclass(frozen=True)
class Recipe:
    optimizer: AdamW = field(default_factory=AdamW)
    run: Run = field(default_factory=Run)


def test_the_recipe_is_recorded(tmp_path):
    begin(Run(tmp_path / "r"), Recipe(run=Run(tmp_path / "r")))
    recorded = json.loads((tmp_path / "r/recipe.json").read_text())
    assert recorded["type"] == "Recipe"
    assert recorded["optimizer"]["lr"] == 1e-4 and recorded["run"]["type"] == "Run"


def saved(run: Run) -> None:
    """Leave a checkpoint's file: work that would be lost."""
    run.checkpoints.mkdir(parents=True)
    (run.checkpoints / "model.safetensors").touch()


def test_a_folder_holds_one_run(tmp_path):
    run = Run(tmp_path)
    begin(run, Recipe(run=run))
    begin(run, Recipe(AdamW(0.1), run))  # nothing has been saved that a new beginning could spoil
    saved(run)
    with pytest.raises(ValueError, match=r"already holds a run: pass --run\.resume"):
        begin(run, Recipe(run=run))


@dataclass(frozen=True)
class OfPictures(Recipe):
    transform: Transform = field(default_factory=lambda: Transform(CenterCrop(8)))


def test_a_run_of_a_version_that_left_colours_as_they_were(tmp_path):
    """It goes on as it began, or says so."""
    run = Run(tmp_path, resume=True)
    begin(run, OfPictures(run=run))
    saved(run)
    began = json.loads((tmp_path / "recipe.json").read_text())
    del began["transform"]["colour"]
    (tmp_path / "recipe.json").write_text(json.dumps(began))
    with pytest.raises(ValueError, match=r"transform\.colour\.type was AsStored when"):
        begin(run, OfPictures(run=run))
    begin(run, OfPictures(run=run, transform=Transform(CenterCrop(8), colour=AsStored())))


def test_a_run_with_fewer_steps_is_told_both_ways(tmp_path):
    """Bug: it was refused twice, for the folder and then for the steps."""
    run = Run(tmp_path, steps=4000)
    begin(run, Recipe(AdamW(schedule="cosine"), run))
    saved(run)
    fewer = replace(run, steps=40)
    both = r"--run\.resume to continue it \(as it was begun: --run\.steps 4000\), --run\.overwrite"
    with pytest.raises(ValueError, match=both):
        begin(fewer, Recipe(AdamW(schedule="cosine"), fewer))


def test_steps_that_are_taken_and_their_size_are_named_at_once_too(tmp_path):
    """Bug: with a constant rate they were refused where the checkpoint was read, by a second
    message.
    """
    run = Run(tmp_path, steps=4000)
    begin(run, Recipe(AdamW(), run))
    checkpoint.write(run.checkpoints / "step-50", {"model-0": {}}, {"step": 50})
    for changes, kept in (
        ({"steps": 40}, "--run.steps 4000"), ({"batch_size": 3}, "--run.batch-size 32")
    ):  # fmt: skip
        other = replace(run, **changes)
        with pytest.raises(ValueError, match=rf"continue it \(as it was begun: {kept}\), --run"):
            begin(other, Recipe(AdamW(), other))
    more = replace(run, steps=50)
    with pytest.raises(ValueError, match=r"--run\.resume to continue it, --run\.overwrite"):
        begin(more, Recipe(AdamW(), more))


def test_overwriting_deletes_the_run_and_nothing_else(tmp_path):
    run = Run(tmp_path)
    begin(run, Recipe(run=run))
    saved(run)
    for name in ("model", "samples", "calotype", "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    for name in ("metrics.jsonl", "history.jsonl", "index.html", "tracker.json"):
        (tmp_path / name).touch()
    (tmp_path / "calotype/events.out.tfevents.1").touch()
    again = replace(run, steps=7, overwrite=True)
    begin(again, Recipe(AdamW(0.1), again))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calotype", "notes", "recipe.json"]
    assert [path.name for path in (tmp_path / "calotype").iterdir()] == ["file"]
    assert json.loads((tmp_path / "recipe.json").read_text())["run"]["steps"] == 7


@pytest.mark.parametrize("file", ["model", "recipe.json"])
def test_overwriting_spares_what_is_no_run(file, tmp_path):
    """Neither a project's own model/ nor a cache, whose recipe.json is another."""
    if file == "model":
        (tmp_path / file).mkdir()
    else:
        begin(Run(tmp_path, resume=True), tiny.cache_recipe(tmp_path))
    (tmp_path / "00000.safetensors").touch()
    run = Run(tmp_path, overwrite=True)
    with pytest.raises(ValueError, match="no run: choose"):
        begin(run, Recipe(run=run))
    assert (tmp_path / "00000.safetensors").exists() and (tmp_path / file).exists()
    with pytest.raises(ValueError, match=r"continues a run, .* deletes it: choose one"):
        Run(resume=True, overwrite=True)


def test_resuming_another_recipe_is_refused_by_field(tmp_path):
    run = Run(tmp_path, resume=True)
    begin(run, Recipe(run=run), {"latents": "beef"})
    saved(run)
    begin(replace(run, workers=3), Recipe(run=replace(run, workers=3)), {"latents": "beef"})
    with pytest.raises(ValueError, match="was begun with latents beef, and now it is f00d"):
        begin(run, Recipe(run=run), {"latents": "f00d"})
    with pytest.raises(ValueError, match=r"optimizer\.lr was 0\.0001 .* is 0\.1"):
        begin(run, Recipe(AdamW(0.1), run))


@pytest.mark.parametrize("change", [{"steps": 20}, {"batch_size": 4}])
def test_bug_a_run_that_had_ended_was_taken_for_another(change, tmp_path):
    """What a resumed run may change is, of one that is over, another run."""
    run = Run(tmp_path, steps=10, batch_size=8, resume=True)
    begin(run, Recipe(run=run))
    assert not has_ended(run, Recipe(run=run))
    run.model.mkdir()
    assert has_ended(run, Recipe(run=run))
    other = replace(run, **change)
    with pytest.raises(ValueError, match=r"which has ended, and is .*: set it back, or choose"):
        has_ended(other, Recipe(run=other))
    shared_otherwise = replace(run, micro_batch=2)
    assert has_ended(shared_otherwise, Recipe(run=shared_otherwise))


def test_bug_a_run_that_had_ended_is_not_passed_off_as_one_of_another_precision(tmp_path):
    run = Run(tmp_path, precision="bf16", resume=True)
    begin(run, Recipe(run=run))
    run.model.mkdir()
    auto, other = replace(run, precision="auto"), replace(run, precision="fp32")
    assert has_ended(auto, Recipe(run=auto))
    with pytest.raises(ValueError, match=r"run\.precision was bf16 in .*, which has ended"):
        has_ended(other, Recipe(run=other))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_bug_a_longer_cosine_run_was_resumed_and_its_learning_rate_jumped(schedule, tmp_path):
    run = Run(tmp_path, steps=4000, resume=True)
    begin(run, Recipe(AdamW(schedule=schedule), run))
    saved(run)
    longer = replace(run, steps=8000)
    if schedule == "constant":
        begin(longer, Recipe(AdamW(), longer))
    else:
        refused = r"run\.steps was 4000 .* is 8000, and the learning rate is scheduled by it"
        with pytest.raises(ValueError, match=refused):
            begin(longer, Recipe(AdamW(schedule="cosine"), longer))
        begin(run, Recipe(AdamW(schedule="cosine"), run))


def test_a_cache_may_be_moved(tmp_path):
    """Bug: its recipe's field is `out` where a run's is `run.out`."""
    recipe = tiny.cache_recipe(tmp_path)
    begin(Run(recipe.out, resume=True), recipe)
    (recipe.out / "00000.safetensors").touch()
    moved = replace(recipe, out=recipe.out.rename(tmp_path / "moved"))
    begin(Run(moved.out, resume=True), moved)


def test_a_folder_of_other_things_is_refused(tmp_path):
    """Bug: --run.out . replaced a project's own model/."""
    run = Run(tmp_path)
    for name in (".gitkeep", ".recipe.json.partial"):  # an aborted start leaves the latter
        (tmp_path / name).touch()
    begin(run, Recipe(run=run))
    (tmp_path / "recipe.json").unlink()
    (tmp_path / "model").mkdir()
    with pytest.raises(ValueError, match=r"holds model and no run: choose a new folder"):
        begin(run, Recipe(run=run))
    assert not (tmp_path / "recipe.json").exists()


def test_trackers_are_known_and_installed_before_any_work(monkeypatch):
    """Bug: Accelerate did silently without one whose package is missing."""
    Run(trackers=("tensorboard",))
    with pytest.raises(ValueError, match=r"run\.trackers: no tracker .tensorbord.: choose from "):
        Run(trackers=("tensorbord",))
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [])
    with pytest.raises(ValueError, match=r"run\.trackers: wandb is not .* pip install wandb"):
        Run(trackers=("wandb",))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", 0.0), ("lr", float("nan")), ("betas", (0.9, 1.0)), ("betas", (-0.1, 0.9)),
        ("eps", 0.0), ("weight_decay", -0.1), ("warmup", -1),
    ],
)  # fmt: skip
def test_impossible_optimisers_are_named(field, value):
    with pytest.raises(ValueError, match=rf"^optimizer\.{field} is .*: (it|each) must"):
        AdamW(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"), [("steps", 0), ("ema", 1.0), ("clip", 0.0), ("batch_size", -1)]
)
def test_impossible_fields_are_named(field, value):
    with pytest.raises(ValueError, match=rf"run\.{field} is {value}"):
        Run(**{field: value})


def test_bug_a_run_of_an_older_version_could_not_be_resumed(tmp_path):
    """A field that recipes had not then is what it is by default, and nothing else."""
    run = Run(tmp_path, resume=True)
    begin(run, Recipe(run=run))
    saved(run)
    recorded = json.loads((tmp_path / "recipe.json").read_text())
    del recorded["optimizer"], recorded["run"]["ema"]
    (tmp_path / "recipe.json").write_text(json.dumps(recorded))
    begin(run, Recipe(run=run))
    (tmp_path / "recipe.json").write_text(json.dumps(recorded))
    with pytest.raises(ValueError, match=r"run\.ema was 0\.999 .* is 0\.5"):
        begin(run, Recipe(run=replace(run, ema=0.5)))
    with pytest.raises(ValueError, match=r"optimizer\.lr was 0\.0001 .* is 0\.1"):
        begin(run, Recipe(AdamW(0.1), run))


def test_a_run_that_is_half_done_is_known_to_be_another_before_any_work(tmp_path):
    """Bug: a journey of several runs found it out when it came to that one."""
    run = Run(tmp_path, seed=1, resume=True)
    begin(run, Recipe(run=run))
    other = replace(run, seed=2)
    assert not has_ended(other, Recipe(run=other)), "nothing of worth is there yet"
    (run.checkpoints / "step-1").mkdir(parents=True)
    (run.checkpoints / "step-1/weights.safetensors").touch()
    assert not has_ended(run, Recipe(run=run))
    with pytest.raises(ValueError, match=r"run\.seed was 1"):
        has_ended(other, Recipe(run=other))


def test_a_run_is_not_resumed_on_other_pictures(tmp_path):
    """Bug: 12 pictures became 19 without a word. A folder that only moved is the same."""
    for i, image in enumerate(tiny.images(19)):
        place = tmp_path / ("first" if i < 12 else "others")
        place.mkdir(exist_ok=True)
        picture(image).save(place / f"{i}.png")

    def trained(data: str, **changes) -> None:
        run = tiny.run(tmp_path / "run", save_every=1, **changes)
        source = {"data": Folder(tmp_path / data), "transform": Transform(CenterCrop(tiny.SIZE))}
        train_tokenizer(tiny.tokenizer_recipe(tmp_path, run=run, **source))

    trained("first", steps=2)
    (tmp_path / "first").rename(tmp_path / "moved")
    trained("moved", steps=3, resume=True)
    for file in (tmp_path / "others").iterdir():
        file.rename(tmp_path / "moved" / file.name)
    with pytest.raises(ValueError, match=r"begun with data 12 pictures, \w+, and now it is 19 pi"):
        trained("moved", steps=4, resume=True)


def test_a_run_is_not_resumed_on_other_rows(artifacts, tmp_path):
    """Bug: another cache by the same tokenizer was taken for its own."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "tokenizer").symlink_to(artifacts / "tokenizer")
    recipe = tiny.generator_recipe(root, text=None)
    recipe = replace(recipe, unet=replace(recipe.unet, pooled_text=False))

    def trained(scenes: Scenes, **changes) -> None:
        shutil.rmtree(root / "latents", ignore_errors=True)
        cache(tiny.cache_recipe(root, data=scenes, text=None))
        train_generator(replace(recipe, run=replace(recipe.run, save_every=1, **changes)))

    trained(tiny.SCENES, steps=2)
    trained(tiny.SCENES, steps=3, resume=True)
    with pytest.raises(ValueError, match=r"begun with rows 32 rows, \w+, and now it is 32 rows"):
        trained(replace(tiny.SCENES, seed=5), steps=4, resume=True)


def test_a_run_of_an_older_version_took_no_fingerprint_of_its_data(tmp_path):
    run = Run(tmp_path, resume=True)
    begin(run, Recipe(run=run), {"start": "f00d"})
    saved(run)
    begin(run, Recipe(run=run), {"start": "f00d", "data": "12 pictures, beef"})
    with pytest.raises(ValueError, match="begun with data 12 pictures, beef, and now it is 19"):
        begin(run, Recipe(run=run), {"start": "f00d", "data": "19 pictures, dead"})


def as_before(run: Run, batch_size: int, accumulate: int) -> None:
    """Make of a recipe.json what versions wrote whose batch was of one process."""
    file = run.out / "recipe.json"
    recorded = json.loads(file.read_text())
    del recorded["run"]["micro_batch"]
    recorded["run"] |= {"batch_size": batch_size, "accumulate": accumulate}
    file.write_text(json.dumps(recorded))


@pytest.mark.parametrize(("processes", "batch"), [(1, 6), (4, 24)])
def test_a_run_whose_batch_was_of_one_process_goes_on_with_the_same_samples(
    processes, batch, tmp_path
):
    """Micro-batches of 2, three of them a step on each process; how many there were its checkpoint
    tells.
    """
    run = Run(tmp_path, batch_size=batch, micro_batch=2, resume=True)
    begin(run, Recipe(run=run))
    taken = {"step": 50, "samples": 50 * batch}
    checkpoint.write(run.checkpoints / "step-50", {"model-0": {}}, taken)
    as_before(run, 2, 3)
    begin(run, Recipe(run=run))
    as_before(run, 2, 3)
    other = replace(run, batch_size=2)
    with pytest.raises(ValueError, match=rf"run\.batch_size was {batch} when .* and is 2"):
        begin(other, Recipe(run=other))


def test_a_run_of_before_takes_the_steps_that_it_would_have_taken(tmp_path):
    """Bit for bit: parts of 2, two a step, of the same samples."""
    halves = {"batch_size": 4, "micro_batch": 2}
    whole, parts = (tiny.run(tmp_path / name, steps=4, **halves) for name in ("whole", "parts"))
    for run, steps in ((whole, 4), (parts, 2)):
        train_tokenizer(tiny.tokenizer_recipe(tmp_path, run=replace(run, steps=steps)))
    as_before(parts, 2, 2)
    train_tokenizer(tiny.tokenizer_recipe(tmp_path, run=replace(parts, resume=True)))
    for group in ("model-0", "optimizer-0", "ema"):
        expected, found = (tiny.load_step(run.out, 4, group) for run in (whole, parts))
        assert all(torch.equal(expected[name], found[name]) for name in expected)
