"""What is pushed is read back by stock classes where calotype is not, and draws the same."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch

import tiny
from calotype import cli
from calotype.commands.cache_latents import cache
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.pipelines import Sampling, load, picture, sample
from calotype.tokenizers import ImageTokenizer
from hub.server import TOKEN, USER, Fault, card_errors

PROMPT, SEED, STEPS = "a red circle", 11, 3
SCENES, PLAIN = f"{USER}/scenes", f"{USER}/plain"
STRANGER = f"""
import sys
sys.modules["calotype"] = None
import numpy, torch
torch.set_num_threads(1)
from diffusers import AutoencoderKL, DiffusionPipeline, VQModel
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer
def draw(place, *prompts):
    pipe = DiffusionPipeline.from_pretrained(place, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe(*prompts, num_inference_steps={STEPS}, output_type="np",
                generator=[torch.Generator().manual_seed({SEED})]).images
scenes, inside = {SCENES!r}, "token-pipeline"
numpy.save("text.npy", draw(scenes, [{PROMPT!r}]))
within = snapshot_download(scenes, allow_patterns="pipeline/*") + "/pipeline"
numpy.save("plain.npy", draw(within, 1))
images = torch.from_numpy(numpy.load("images.npy"))
with torch.no_grad():
    vae = AutoencoderKL.from_pretrained(scenes, subfolder="vae")
    numpy.save("latents.npy", vae.encode(images).latent_dist.mode())
    tokenizer = AutoTokenizer.from_pretrained(scenes, subfolder=inside)
    said = tokenizer([{PROMPT!r}], return_tensors="pt")
    model = AutoModelForCausalLM.from_pretrained(scenes, subfolder=inside)
    ids = model.generate(**said, do_sample=False)[:, said.input_ids.shape[1]:]
    vq = VQModel.from_pretrained(scenes, subfolder=inside + "/vqvae")
    numpy.save("ids.npy", ids - (model.config.vocab_size - vq.config.num_vq_embeddings))
assert not any(name.startswith("calotype.") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def way(artifacts, tmp_path_factory) -> Path:
    """A folder as a demo leaves it."""
    root = tmp_path_factory.mktemp("ways") / "demo"
    shutil.copytree(artifacts, root, ignore=shutil.ignore_patterns("unconditional"))
    tokenizer, cached, recipe = tiny.token_recipes(root)
    train_tokenizer(tokenizer)
    cache(cached)
    train_generator(recipe)
    shutil.copytree(root / "generator/model", root / "pipeline")
    shutil.copytree(root / "transformer/model", root / "token-pipeline")
    (root / "journey.json").write_text("{}")
    protocol = {"seed": 0, "resolution": 16, "split": "held-out", "sampling": {"steps": 2}}
    judged = {"all_factors_right": 0.5, "factors_right": {"shape": 0.75}, "prompts": 8,
              "protocol": protocol}  # fmt: skip
    report = {"diffusion": judged, "transformer": judged | {"bits_per_token": 3.5}, "minutes": 1}
    (root / "report.json").write_text(json.dumps(report))
    return root


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CALOTYPE_TRACEBACK", raising=False)
    return tmp_path


def refused(arguments: str, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments.split())
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_what_is_pushed_draws_the_same_where_calotype_is_not(way, artifacts, hub, here):
    told = ["--private", "--message", "all of it"]
    cli.main(
        ["push", str(way), f"{artifacts}/tokenizer", f"{artifacts}/unconditional", SCENES, *told]
    )
    assert hub.repositories[SCENES].private and hub.repositories[SCENES].messages == ["all of it"]
    images = tiny.images(2)
    np.save("images.npy", images.numpy())
    # All else as here: what a processor is told to do without decides on the last bits.
    environment = os.environ | {
        "HF_ENDPOINT": huggingface_hub.constants.ENDPOINT, "HF_TOKEN": TOKEN,
        "HF_HOME": str(here / "home"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0",
    }  # fmt: skip
    command = [sys.executable, "-I", "-c", STRANGER]
    done = subprocess.run(command, env=environment, cwd=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    how = Sampling(steps=STEPS, guidance=7.5)
    for name, file, prompt in ((way / "pipeline", "text.npy", PROMPT),
                               (artifacts / "unconditional/model", "plain.npy", "")):  # fmt: skip
        (ours,) = sample(load(name), [prompt], [SEED], how)
        theirs = torch.from_numpy(np.load(file)).permute(0, 3, 1, 2)
        assert torch.equal(2 * theirs - 1, ours) and ours.std() > 0
    tokenizer = ImageTokenizer.load(artifacts / "tokenizer/model")
    with torch.no_grad():
        mode = tokenizer.bottleneck.mode(tokenizer.features(images))
    torch.testing.assert_close(torch.from_numpy(np.load("latents.npy")), mode)
    pipeline = load(way / "token-pipeline")
    ids = torch.from_numpy(np.load("ids.npy"))
    assert pipeline.decode(ids).shape == (1, 3, tiny.SIZE, tiny.SIZE)
    said = pipeline.prompts([PROMPT], return_tensors="pt")
    own = pipeline.transformer.generate(**said, do_sample=False)[:, said.input_ids.shape[1] :]
    assert torch.equal(ids, own - (pipeline.transformer.config.vocab_size - 16))
    card = huggingface_hub.ModelCard.load(
        huggingface_hub.hf_hub_download(SCENES, "README.md", local_dir=here / "card")
    )
    card.validate()
    assert card_errors(str(card)) == []
    kinds = {result.metric_type for result in card.data.eval_results}
    assert kinds == {"all_factors_right", "factors_right_shape", "bits_per_token"}
    assert card.text.count("```python") == 3 and card.data.pipeline_tag == "text-to-image"


@pytest.fixture
def untried(monkeypatch) -> None:
    """That a card's lines run is seen elsewhere, and takes its time."""
    monkeypatch.setattr("calotype.hub.folder.use.try_out", lambda code, root, repo: None)


def test_a_dry_run_writes_and_asks_nobody(artifacts, hub, here, untried, capsys):
    cli.main(["push", f"{artifacts}/generator", SCENES, "--dry-run"])
    said = capsys.readouterr()
    assert hub.asked == [] and (here / "published/scenes/model_index.json").exists()
    assert re.search(r"^ +\d.* [kM]B  unet/diffusion_pytorch_model.safetensors$", said.out, re.M)
    files = [file for file in (here / "published/scenes").rglob("*") if file.is_file()]
    assert f"{len(files) - 1} files of " in said.out and f"would go to {SCENES}" in said.out
    assert "licence is unknown: --licence says which" in said.err
    assert "data licence is unknown: --data-licence says which" in said.err


def test_a_push_that_stops_says_which_command_to_run_again(
    artifacts, hub, here, untried, capsys
) -> None:  # fmt: skip
    command = f"push {artifacts}/generator {SCENES} --licence mit --private"
    hub.faults.append(Fault("POST .*/commit", 500))
    said = refused(command, capsys)
    assert "the Hub failed (500, injected); run `calotype push" in said
    (again,) = [each for each in said.split("`") if each.startswith("calotype push")]
    before = hub.sent
    cli.main(again.split()[1:])
    assert hub.sent == before > 0 and len(hub.repositories[SCENES].messages) == 1
    assert again.split()[1:] == command.replace(
        " --licence mit --private", " --private --licence mit"
    ).split()  # fmt: skip


def test_a_second_goes_into_a_folder_and_what_is_there_stays(artifacts, hub, here, untried):
    cli.main(["push", f"{artifacts}/unconditional", SCENES])
    before = hub.repositories[SCENES].at("main")[1]
    cli.main(["push", f"{artifacts}/tokenizer", SCENES, "--into", "vae"])
    after = hub.repositories[SCENES].at("main")[1]
    assert after.items() > before.items() and after["README.md"] == before["README.md"]
    new = after.keys() - before.keys()
    assert {"vae/config.json", "vae/README.md"} < new and all(n.startswith("vae/") for n in new)
    card = after["vae/README.md"].content.decode()
    assert f'from_pretrained("{SCENES}", subfolder="vae")' in card
    shown = re.findall(r"!\[[^]]*\]\((.*?)\)", card)
    assert shown and all(f"vae/{each}" in after for each in shown)


MISTAKES = [
    ("push runs/x", "say what to push and where to"),
    ("push absent somebody/x", "there is no folder ./absent"),
    ("push {model} x", "does not say whose repository it is: write user/name"),
    ("push {model} a/b/c", "names no repository: write user/name"),
    ("push {model} somebody/x --into ../y", "--into is ../y: name a folder of the repository"),
    ("push {model} somebody/x --evaluation absent.json", "no such file"),
    ("push {model} stranger/x", "stranger/x is stranger's, and the token is of somebody"),
    ("push {model}/unet somebody/x", "no tokenizer and no pipeline in"),
    ("push {runs} somebody/x", "which holds generator, latents, tokenizer, unconditional:"),
    ("push {runs}/latents somebody/x", "is a cache, which nobody publishes: push what was trained"),
    ("push {runs}/tokenizer somebody/x --nearest", "--nearest is for what draws, and a tokenizer"),
    ("push {model} somebody/x --nearest", "were drawn by a program, and are nobody's: leave it"),
]


@pytest.mark.parametrize(("command", "answer"), MISTAKES)
def test_a_mistake_is_one_line_before_anything_is_written(
    command, answer, artifacts, hub, here, capsys
) -> None:  # fmt: skip
    assert answer in refused(
        command.format(model=f"{artifacts}/generator/model", runs=artifacts), capsys
    )
    assert [*here.iterdir()] == [] and hub.repositories == {}


def test_no_network_and_no_login_are_told_at_once(artifacts, hub, here, capsys, monkeypatch):
    command = f"push {artifacts}/generator {SCENES}"
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(here / "none"))
    monkeypatch.delenv("HF_TOKEN")
    assert "nobody is logged in to the Hub" in refused(command, capsys)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    said = refused(command, capsys)
    assert "http://127.0.0.1:9 does not answer" in said and f"run `calotype {command}`" in said
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "the Hub may not be asked: unset HF_HUB_OFFLINE" in refused(command, capsys)
    assert [*here.iterdir()] == []


def test_drawings_are_shown_beside_the_nearest_training_pictures_if_asked(
    artifacts, here, untried, capsys
) -> None:  # fmt: skip
    runs = shutil.copytree(artifacts, here / "runs")
    (here / "photos").mkdir()
    for i, image in enumerate(tiny.images(8)):
        picture(image).save(here / f"photos/{i}.png")
        (here / f"photos/{i}.txt").write_text(tiny.CAPTIONS[i])
    command = ["push", "runs/generator", SCENES, "--dry-run"]
    file = runs / "latents/recipe.json"
    recipe = json.loads(file.read_text())
    for folder in ("elsewhere", str(here / "photos")):
        file.write_text(json.dumps(recipe | {"data": {"type": "Folder", "path": folder}}))
        if folder == "elsewhere":
            assert "the pictures that runs/generator/model learnt from are not here" in (
                refused(" ".join([*command, "--nearest"]), capsys)
            )
    cli.main(command)
    assert "--nearest shows drawings beside the nearest" in capsys.readouterr().err
    assert not (here / "published/scenes/card/pipeline-nearest.png").exists()
    cli.main([*command, "--nearest"])
    card = (here / "published/scenes/README.md").read_text()
    assert "(card/pipeline-nearest.png)" in card and str(here) not in card
    assert (here / "published/scenes/card/pipeline-nearest.png").stat().st_size > 1000


def test_models_push_themselves(way, hub, here):
    """With a card that names no run, and is read back by calotype too."""
    tokenizer = ImageTokenizer.load(way / "tokenizer/model")
    assert tokenizer.push_to_hub(PLAIN, private=True, revision="v2").endswith("/plain/tree/v2")
    load(way / "token-pipeline").push_to_hub("tokens", commit_message="of tokens")
    assert hub.repositories[f"{USER}/tokens"].messages == ["of tokens"]
    for repo, revision, library in ((PLAIN, "v2", "diffusers"),
                                    (f"{USER}/tokens", "main", "transformers")):  # fmt: skip
        root = Path(huggingface_hub.snapshot_download(repo, revision=revision, cache_dir=here))
        card = huggingface_hub.ModelCard.load(root / "README.md")
        assert card.data.library_name == library and card.data.license == "unknown"
        if revision == "v2":
            again = ImageTokenizer.load(root)
            images = tiny.images(1)
            assert torch.equal(again.reconstruct(images), tokenizer.reconstruct(images))
        else:
            assert load(root).layout == load(way / "token-pipeline").layout
    with pytest.raises(OSError, match="call push_to_hub again"):
        tokenizer.push_to_hub(PLAIN, token="hf_nobody_s")
