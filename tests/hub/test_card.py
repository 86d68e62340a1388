"""A card says what was measured, and nothing else; the Hub takes it, and what it shows runs."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import tiny
from calotype.data import Folder
from calotype.hub import Part, parts_of, places, write_folder
from calotype.hub.card import Rights
from calotype.hub.figures import check_evaluations
from calotype.hub.folder import Told, check_free, sizes
from calotype.hub.history import Recipe, known_on_hub, origin, public
from calotype.hub.licences import meant
from calotype.hub.pictures import samples
from calotype.hub.use import blocks, body, try_out, with_prompts
from calotype.pipelines.token_parts import MARK
from calotype.pipelines.token_readme import EXAMPLES
from calotype.recipes.distil import DISTILLED
from calotype.recipes.finetune import finetune
from calotype.recipes.tokenizers import TOKENIZERS
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.continuing import KEPT
from calotype.tokenizers.distillation import REPORT, NewTiny
from calotype.training.description import describe
from calotype.training.upload import Destination
from hub.server import card_errors

REPO = "somebody/circles"
EVALUATION = {
    "artifact": "", "figures": {"psnr_db": 21.5, "factors_right": {"shape": 0.5}, "bad": None},
    "standard_errors": {"psnr_db": 0.25},
    "notes": {"psnr_db": "of few pictures", "fid": "left out: /home/me/w cannot be read"},
    "protocol": {"images": 24, "size": 16, "digest": "8315e653d5cd18d6", "features": "net 39",
                 "sampling": {"steps": 2}, "clip": None},
}  # fmt: skip
HISTORY = [
    {"began": "2026-01-01T00:00:00+00:00", "device": "a GPU", "processes": 2, "precision": "bf16",
     "versions": {"calotype": "0.1.0", "torch": "2.9"}, "first": 0, "last": 2, "seconds": 1800.0,
     "images_per_second": 12.0, "warnings": [], "skipped": 0, "energy_joules": 1.8e6},
    {"began": "2026-01-02T00:00:00+00:00", "device": "a CPU", "processes": 1, "precision": "fp32",
     "versions": {"calotype": "0.1.0", "torch": "2.9"}, "first": 2, "last": 3, "seconds": 5400.0,
     "images_per_second": 3.0, "warnings": [], "skipped": 0, "energy_joules": 1.8e6},
]  # fmt: skip


@pytest.fixture
def runs(artifacts, tmp_path) -> Path:
    """Runs that a test may add to."""
    return shutil.copytree(artifacts, tmp_path / "runs")


@pytest.fixture
def written(runs, tmp_path, monkeypatch):
    """Writes the folder of a part, without running its card's lines, and returns the card."""
    monkeypatch.setattr("calotype.hub.folder.use.try_out", lambda code, root, repo: None)

    def write(*folders: Path, into: str = "", **told):
        parts = [part for folder in folders for part in parts_of(folder)]
        to, told = Destination(REPO), Told(**told)
        return write_folder(places(parts, into), to, told, tmp_path / "out")

    return write


def flowing(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("kind", ["generator", "unconditional", "tokenizer"])
def test_the_hub_takes_the_card(kind, runs, written, hub):
    (runs / kind / "figures.json").write_text(
        json.dumps(EVALUATION | {"artifact": str(runs / kind)})
    )
    card = written(runs / kind, rights=Rights("apache-2.0", "CC BY 4.0"))
    card.validate()  # as the client does, by a Hub
    assert "begin in this folder" not in card.text
    assert card_errors(str(card)) == []
    data = card.data.to_dict()
    assert data["license"] == "apache-2.0" and data["library_name"] == "diffusers"
    tags = {"generator": "text-to-image", "unconditional": "unconditional-image-generation"}
    assert data.get("pipeline_tag") == tags.get(kind) and "calotype" in data["tags"]
    # What the client reads of it is what it was made of.
    again = huggingface_hub.ModelCard(str(card)).data.eval_results
    values = {result.metric_type: result.metric_value for result in again}
    assert values == {"psnr_db": 21.5, "factors_right_shape": 0.5}
    assert again[0].dataset_args["digest"] == EVALUATION["protocol"]["digest"]
    assert again[0].metric_name == "psnr_db, dB ↑"


def test_a_tokenizer_without_a_stock_class_says_who_reads_it(written, tmp_path, hub):
    tiny.tokenizer(bottleneck=tiny.BOTTLENECKS["rvq"]).save(tmp_path / "rvq")
    card = written(tmp_path / "rvq")
    card.validate()
    assert card.data.library_name == "calotype" and blocks(card.text) == []
    assert f'ImageTokenizer.load("{REPO}")' in card.text and "calotype alone" in card.text


def test_what_training_goes_on_with_is_said_and_not_counted(runs, written, tmp_path):
    card = written(runs / "tokenizer")
    count = ImageTokenizer.load(runs / "tokenizer/model").autoencoder.num_parameters()
    assert f"| tokenizer | {count:,} |" in card.text and f"`{KEPT}` is not counted" in card.text
    assert (tmp_path / "out" / KEPT).exists()
    assert KEPT not in written(runs / "generator").text


def test_a_licence_that_has_no_name_is_another(runs, written, hub):
    card = written(runs / "tokenizer", rights=Rights("The Museum's Own 2.0"))
    card.validate()
    data = card.data.to_dict()
    assert (data["license"], data["license_name"]) == ("other", "the-museum-s-own-2.0")


@pytest.mark.parametrize(("said", "identifier", "near"), [
    ("mine", "other", None), ("Apache 2.0", "other", "apache-2.0"), ("cc-by-nc-4.0",) * 2 + (None,),
])  # fmt: skip
def test_bug_any_word_was_sent_as_a_licence(said, identifier, near):
    """Which the Hub refuses, when all else is sent."""
    assert (Rights(said).identifier, meant(said)) == (identifier, near)


def test_a_wrong_card_is_none_to_the_hub_of_these_tests(hub):
    for line in ("license: mine", "pipeline_tag: painting", "tags: [3]", "license: other",
                 "model-index: [{name: x, results: [{task: {type: a}, dataset: {name: a, type: "
                 "'a b'}, metrics: [{type: x, value: 1}]}]}]"):  # fmt: skip
        with pytest.raises(ValueError, match="errors"):
            huggingface_hub.ModelCard(f"---\n{line}\n---\n").validate()


def test_what_was_measured_stands_in_it(runs, written):
    file = runs / "elsewhere.json"
    file.write_text(json.dumps(EVALUATION | {"artifact": str(runs / "generator/model")}))
    history = "".join(json.dumps(line) + "\n" for line in HISTORY)
    (runs / "generator/history.jsonl").write_text(history)
    (runs / "tokenizer/history.jsonl").unlink()  # as of a version that kept none
    part = parts_of(runs / "generator")[0]
    text = flowing(written(runs / "generator", evaluations={file: part}).text)
    assert "| psnr_db, dB ↑ | 21.5 ± 0.25 |" in text and "psnr_db: of few pictures" in text
    assert "left out" not in text and "/home/me" not in text
    assert "images 24, size 16, digest 8315e653d5cd18d6" in text and "sampling steps 2" in text
    starts = "2 x a GPU; 1 x a CPU | bf16, fp32 | 2.00 h | 3 images/s | 1 kWh | calotype 0.1.0"
    assert f"| generator | {starts}" in text and "| tokenizer | unknown | fp32 | unknown" in text
    assert (
        "| generator | Scenes: size 16" in text and "| 32, of which it saw 12 | unknown |" in text
    )
    mark = json.loads((runs / "generator/model/calotype.json").read_text())["tokenizer"]
    assert f"Of the tokenizer {mark}" in text and "measured on 64 pictures" in text
    assert "The licence of this model is unknown, that of its data unknown" in text


def test_bug_a_source_without_an_end_counted_as_if_all_of_it_had_been_seen(runs, written):
    """Three steps of four pictures are twelve."""
    assert "| tokenizer | Scenes: size 16" in (text := flowing(written(runs / "tokenizer").text))
    assert "| 32, of which it saw 12 |" in text
    described = json.loads((runs / "tokenizer/recipe.json").read_text())
    described["run"]["steps"] = 100
    (runs / "tokenizer/recipe.json").write_text(json.dumps(described))
    assert "| 32 | unknown |" in flowing(written(runs / "tokenizer").text)


def test_what_holds_of_two_parts_is_said_once(runs, written):
    text = flowing(written(runs / "generator", runs / "unconditional").text)
    assert text.count("Its training pictures were drawn by a program") == 1


def test_lines_draw_what_was_learnt():
    """Of a diffusion model, and of a transformer, whose lines have two prompts."""
    prompts = ['a "red" circle', "x", "y"]
    assert with_prompts('pipeline("a prompt", 3)', prompts) == 'pipeline("a \\"red\\" circle", 3)'
    lines = f"tokenizer({[*EXAMPLES]})"
    assert with_prompts(lines, prompts[1:]) == 'tokenizer(["x", "y"])'
    assert with_prompts(lines, ["x"]) == "tokenizer([\"x\", 'another, which is longer'])"


def test_of_a_model_alone_nothing_is_made_up(runs, written, tmp_path):
    shutil.copytree(runs / "generator/model", tmp_path / "alone")
    card = written(tmp_path / "alone")
    text = flowing(card.text)
    assert "how it was trained is unknown" in text and "its quality is unknown" in text
    assert "| all | unknown | unknown | unknown |" in text and "no statistics are at hand" in text
    assert "Whether it repeats training pictures is unknown" in text
    assert card.data.license == "unknown" and card.data.eval_results is None
    assert not any((tmp_path / "out/card").iterdir())


def test_it_has_the_pictures_that_it_shows(runs, written, tmp_path):
    text = written(runs / "generator").text
    shown = re.findall(r"!\[[^]]*\]\((.*?)\)", text)
    assert {Path(each).name for each in shown} == {
        "pipeline-samples.png", "pipeline-tokenizer-curves.png", "pipeline-generator-curves.png"
    }  # fmt: skip
    for each in shown:
        with Image.open(tmp_path / "out" / each) as picture:
            assert picture.width > 30


def learnt_from_photographs(run: Path, **changes) -> None:
    """Let a run have been trained on somebody's pictures."""
    file = run / "recipe.json"
    recipe = json.loads(file.read_text())
    file.write_text(json.dumps(recipe | {"data": {"type": "Folder", "path": "photos"}} | changes))


def test_training_pictures_are_shown_only_if_asked(runs, written, tmp_path, capsys):
    def shown() -> bool:
        return (tmp_path / "out/card/vae-samples.png").exists()

    written(runs / "tokenizer")
    assert shown()  # a program drew them
    learnt_from_photographs(runs / "tokenizer")
    written(runs / "tokenizer")
    assert not shown() and "show training pictures: left out" in capsys.readouterr().err
    written(runs / "tokenizer", training_pictures=True)
    assert shown()


def test_captions_are_shown_only_if_the_recipe_has_them_or_one_asks(runs, written, capsys):
    """They say what is on training pictures."""
    folder, learnt = runs / "generator/samples", runs / "latents"
    folder.mkdir(exist_ok=True)
    for name in ("0000009.png", "0000009-sheet.png"):
        Image.new("RGB", (40, 40)).save(folder / name)

    def shown(asked: bool = False) -> str:
        (part,) = parts_of(runs / "generator")
        found = samples(part, origin(part).without_captions(), asked)
        assert found is not None
        return found.name

    learnt_from_photographs(learnt)
    assert shown() == "0000009.png" and "have captions of training" in capsys.readouterr().err
    assert shown(asked=True) == "0000009-sheet.png"
    learnt_from_photographs(runs / "generator", prompts=["my secret"])
    assert shown() == "0000009-sheet.png"
    (runs / "journey.json").write_text("{}")  # a quickstart's prompts are captions
    assert shown() == "0000009.png"
    assert "my secret" not in written(runs / "generator").text
    assert "my secret" in written(runs / "generator", training_pictures=True).text


def test_it_says_nothing_of_the_machine(runs, written, tmp_path, monkeypatch):
    """Neither where anything lay, nor a token."""
    monkeypatch.setenv("HF_TOKEN", "hf_a_secret")
    recipe = json.loads((runs / "generator/recipe.json").read_text())
    assert str(tmp_path.parent) in json.dumps(recipe)  # there is something to say
    written(runs / "generator")
    for file in (tmp_path / "out").rglob("*"):
        if file.suffix in (".md", ".json", ".txt"):
            said = file.read_text()
            assert str(tmp_path.parent) not in said and "hf_a_secret" not in said


@pytest.mark.parametrize(("value", "shown"), [
    ("/home/me/photos", "photos"), ("~/photos/", "photos"), ("../photos", "photos"),
    ("C:\\Users\\me\\photos", "photos"), ("runs/demo/model", "runs/demo/model"), (3, 3),
    ("https://me:secret@host/a.tar?key=secret", "https://host/a.tar"), ("user/name", "user/name"),
    (["/home/me/a", 3], ["a", 3]),
])  # fmt: skip
def test_paths_and_addresses_lose_what_is_ones_own(value, shown):
    assert public(value) == shown


def test_a_recipe_is_told_by_what_it_has_of_its_own():
    named = TOKENIZERS["small-kl"]()
    changed = replace(named, pixel=replace(named.pixel, weight=3.0))
    name, others, surely = Recipe(describe(changed)).nearest
    assert (name, others, surely) == ("small-kl", {"pixel.weight": (1.0, 3.0)}, True)
    elsewhere = replace(changed, run=replace(changed.run, out=Path("x")), data=Folder("/a/b"))
    assert Recipe(describe(elsewhere)).nearest == ("small-kl", {"pixel.weight": (1.0, 3.0)}, False)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Of the Hub, empty."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_it_began_from_is_told(runs, written, cache):
    (cache / "models--stabilityai--sd-vae-ft-mse").mkdir(parents=True)
    file = runs / "tokenizer/recipe.json"
    recipe = json.loads(file.read_text())
    recipe["model"]["start"], recipe["inputs"] = "stabilityai/sd-vae-ft-mse", {"start": "f00d"}
    file.write_text(json.dumps(recipe))
    card = written(runs / "tokenizer")
    assert "the weights of stabilityai/sd-vae-ft-mse (fingerprint f00d)" in flowing(card.text)
    assert card.data.base_model == ["stabilityai/sd-vae-ft-mse"]
    recipe["model"] = {"type": "Continued", "path": "stabilityai/sd-vae-ft-mse"}
    file.write_text(json.dumps(recipe))
    text = flowing(written(runs / "tokenizer").text)
    assert "sd-vae-ft-mse (fingerprint f00d of all its weights)" in text


def test_a_folder_that_is_gone_is_no_model_of_the_hub(runs, cache, monkeypatch):
    """Only what was fetched from there is, and has no folder's name."""
    (cache / "models--user--name").mkdir(parents=True)
    (cache / "models--runs--kl").mkdir()
    assert known_on_hub("user/name", None) and known_on_hub("user/name@v2/vae", runs / "tokenizer")
    for name in ("vaes/mine", "name", "/user/name", "../user/name"):
        assert not known_on_hub(name, None)
    monkeypatch.chdir(runs.parent)
    assert not known_on_hub("runs/kl", None)
    (runs / "user/name").mkdir(parents=True)
    assert not known_on_hub("user/name", runs / "tokenizer")


def described_run(run: Path, recipe: Any, **inputs: str) -> None:
    said = describe(replace(recipe, run=replace(recipe.run, out=run))) | {"inputs": inputs}
    (run / "recipe.json").write_text(json.dumps(said))


def test_what_was_distilled_is_told(runs, written, hub):
    run = runs / "small-tiny"
    student = NewTiny(width=8, blocks=1).build(2, 2)
    student.save_pretrained(run / "model", safe_serialization=True)
    described_run(run, DISTILLED["small-tiny"](), teacher="f00d")
    report = {"psnr_to_teacher_db": 30.5, "pictures": 16, "times_as_fast": 4.0}
    (run / "model" / REPORT).write_text(json.dumps(report))
    card = written(run)
    card.validate()
    text = flowing(card.text)
    assert "recipe `small-tiny`, as it stands" in text and "it resembles no" not in text
    assert "learnt to encode and decode as runs/small-kl/model does (fingerprint f00d)" in text
    assert "began from the weights" not in text and card.data.base_model is None
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values == {"psnr_to_teacher_db": 30.5, "times_as_fast": 4.0}


def test_what_a_pipeline_was_before_it_went_on_is_told(runs, written):
    """By the run that it began from, or as unknown."""
    run = runs / "finetune"
    shutil.copytree(runs / "generator/model", run / "model")
    recipe = replace(finetune(), pipeline=str(runs / "generator/model"), cache=runs / "latents")
    described_run(run, recipe, start="f00d")
    text = flowing(written(run).text)
    assert "The generator began from the weights of model (fingerprint f00d)" in text
    for whose in ("generator", "base-generator", "base-tokenizer"):
        assert f"| {whose} | Scenes: size 16" in text and f"**{whose.capitalize()}**" in text
    assert "no statistics are at hand" not in text and "drawn by a program" in text
    described_run(run, replace(recipe, pipeline="elsewhere/model"), start="f00d")
    text = flowing(written(run).text)
    assert origin(parts_of(run)[0]).own.is_drawn_by_a_program  # its samples are shown
    assert "| base-generator | unknown, see elsewhere/model | unknown |" in text
    assert "drawn by a program" not in text and "no statistics are at hand" in text


@pytest.fixture
def lora(tmp_path) -> Path:
    """LoRA weights as a run leaves them."""
    folder = tmp_path / "lora"
    folder.mkdir()
    save_file({"unet.a": torch.zeros(2, 3)}, folder / "pytorch_lora_weights.safetensors")
    mark = {"base": "/home/me/base/model", "start": "f00d", "tokenizer": "beef",
            "sampling": {"type": "Sampling", "steps": 7, "guidance": 2.0}}  # fmt: skip
    (folder / MARK).write_text(json.dumps(mark))
    (folder / "README.md").write_text("On /home/me/base/model")
    return folder


def test_lora_weights_say_what_they_are_added_to(lora, written, cache, hub, tmp_path):
    """In lines that run, where that is on the Hub; elsewhere by its fingerprint."""
    card = written(lora)
    card.validate()
    assert card.data.library_name == "diffusers" and card.data.pipeline_tag == "text-to-image"
    assert {"lora", "text-to-image"} < {*card.data.tags} and card.data.base_model is None
    said = flowing(card.text)
    assert f'`pipeline.load_lora_weights("{REPO}")`' in said and "weights is f00d." in said
    assert blocks(card.text) == [] and "| additions | 6 |" in said
    assert "began from the weights of model (fingerprint f00d)" in said
    mark = json.loads((lora / MARK).read_text())
    assert json.loads((tmp_path / "out" / MARK).read_text()) == mark | {"base": "model"}
    (cache / "models--me--base").mkdir(parents=True)
    (lora / MARK).write_text(json.dumps(mark | {"base": "me/base@v2"}))
    card = written(lora, into="x")
    assert card.data.base_model == ["me/base"]
    (block,) = blocks(card.text)
    assert 'DiffusionPipeline.from_pretrained("me/base", revision="v2")' in block
    assert f'load_lora_weights("{REPO}", subfolder="x")' in block
    assert "num_inference_steps=7, guidance_scale=2.0" in block


def test_older_figures_than_the_weights_are_left_out(runs, written, capsys):
    file = runs / "generator/figures.json"
    file.write_text(json.dumps(EVALUATION | {"artifact": str(runs / "generator")}))
    os.utime(file, (1, 1))
    assert "its quality is unknown" in flowing(written(runs / "generator").text)
    assert "is older than the weights of" in capsys.readouterr().err


def test_figures_of_another_model_are_refused(runs):
    file, parts = runs / "e.json", parts_of(runs / "generator")
    file.write_text(json.dumps(EVALUATION | {"artifact": str(runs / "unconditional")}))
    with pytest.raises(ValueError, match=r"e\.json is of .*unconditional and not of .*generator"):
        check_evaluations(parts, [file])
    file.write_text("{}")
    with pytest.raises(ValueError, match="is no evaluation"):
        check_evaluations(parts, [file])
    with pytest.raises(FileNotFoundError, match="no such file"):
        check_evaluations(parts, [runs / "absent.json"])


def test_each_of_several_has_its_place(artifacts):
    pipeline, tokenizer = parts_of(artifacts / "unconditional"), parts_of(artifacts / "tokenizer")
    assert places(pipeline) == {"": pipeline[0]} and places(tokenizer, "x") == {"x": tokenizer[0]}
    assert list(places(tokenizer + pipeline)) == ["", "vae"]
    assert list(places(pipeline + parts_of(artifacts / "generator"))) == ["", "pipeline"]
    with pytest.raises(ValueError, match="--into is for one model, and here are 2"):
        places(pipeline + tokenizer, "x")
    with pytest.raises(ValueError, match="would lie in vae/"):
        places(tokenizer + tokenizer)


def test_a_tokenizer_that_is_the_pipelines_own_goes_with_it(artifacts, tmp_path, capsys):
    """And one whose decoder is another does not take its place without a word."""
    parts = parts_of(artifacts / "generator") + parts_of(artifacts / "tokenizer")
    assert list(places(parts)) == [""] and "whose vae/ it is" in capsys.readouterr().err
    tiny.tokenizer(3).save(tmp_path / "another")
    with pytest.raises(ValueError, match="would lie in vae/"):
        places([parts[0], *parts_of(tmp_path / "another")])


def test_what_a_folder_is_is_seen(artifacts, tmp_path):
    model = artifacts / "generator/model"
    assert parts_of(model) == parts_of(artifacts / "generator")
    assert parts_of(model)[0] == Part(model, "pipeline", artifacts / "generator")
    assert parts_of(model / "vae") == [Part(model / "vae", "tokenizer")]
    with pytest.raises(ValueError, match="no tokenizer and no pipeline in"):
        parts_of(artifacts / "latents/text_tokenizer")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*absent: in .* there is "):
        parts_of(artifacts / "absent")
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="has no model/ yet"):
        parts_of(tmp_path)


def test_a_folder_of_somebody_elses_is_not_replaced(runs, written, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "diary.txt").write_text("mine")
    with pytest.raises(ValueError, match="not of an earlier push"):
        written(runs / "tokenizer")
    assert (out / "diary.txt").read_text() == "mine"
    (out / "diary.txt").unlink()
    written(runs / "tokenizer")
    names = [name for name, _ in sizes(out)]
    written(runs / "tokenizer")  # one of an earlier push is
    assert [name for name, _ in sizes(out)] == names
    check_free(out)


def test_no_part_has_a_card_of_its_own_beside_the_one_that_states_the_licence(
    runs, written, tmp_path
) -> None:  # fmt: skip
    (runs / "generator/model/vae/README.md").write_text("---\nlicense: unknown\n---\n")
    written(runs / "generator", rights=Rights("mit"))
    assert [*(tmp_path / "out").rglob("README.md")] == [tmp_path / "out/README.md"]


def test_weights_are_not_written_twice_and_configs_are_ones_own(runs, written, tmp_path):
    written(runs / "tokenizer")
    for name, same in (("diffusion_pytorch_model.safetensors", True), ("config.json", False)):
        assert (tmp_path / "out" / name).samefile(runs / "tokenizer/model" / name) is same


LINES = 'from a import B\n\nx = B.from_pretrained("."{})\n'


@pytest.mark.parametrize(("line", "revision", "place", "read"), [
    ("", None, "", '"u/n")'),
    (', subfolder="vq"', "v2", "", '"u/n", subfolder="vq", revision="v2")'),
    (', subfolder="vq"', None, "t", '"u/n", subfolder="t/vq")'),
])  # fmt: skip
def test_lines_read_what_is_on_the_hub(line, revision, place, read):
    text = f"---\na: b\n---\n\n# A heading\n\n```python\n{LINES.format(line)}```\n"
    assert blocks(body(text, Destination("u/n", revision), place)) == [
        LINES.replace('"."{})', read)
    ]


def test_what_calotype_alone_reads_is_named_by_its_place():
    text = "# A heading\n\n`calotype generate PROMPT --pipeline .` does.\n"
    said = body(text, Destination("u/n", "v2"), "t")
    assert said == "`calotype generate PROMPT --pipeline u/n@v2/t` does.\n"


def test_a_pipeline_in_a_folder_of_the_hub_is_fetched_first():
    code = 'from diffusers import DiffusionPipeline\n\np = DiffusionPipeline.from_pretrained(".")\n'
    (block,) = blocks(body(f"```python\n{code}```\n", Destination("u/n", "v2"), "p"))
    fetched = 'snapshot_download("u/n", allow_patterns="p/*", revision="v2") + "/p"'
    assert "from huggingface_hub import snapshot_download\n" in block and fetched in block


def test_lines_that_do_not_run_are_not_published(tmp_path):
    try_out(["import sys\n", 'open("picture.png").close()\n'], tmp_path, REPO)
    try_out([f'from pathlib import Path\nassert Path("{REPO}").is_dir()\n'], tmp_path, REPO)
    for line in ("import calotype", "from calotype.tokenizers import ImageTokenizer"):
        with pytest.raises(ValueError, match="do not run where calotype is not"):
            try_out([line], tmp_path, REPO)
