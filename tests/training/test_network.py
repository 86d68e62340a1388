"""Where a model is: a folder that is here, what is in one, or a name on the Hub."""

from pathlib import Path

import pytest

import tiny
from calotype.pipelines import load
from calotype.tokenizers import ImageTokenizer
from calotype.training.network import located, missed, reason


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A current folder with a whole way in it, and a run."""
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/way/tokenizer/model", "runs/way/pipeline", "runs/kl/model", "stock/model"):
        Path(folder).mkdir(parents=True)
    Path("stock/config.json").touch()
    Path("begun/kl").mkdir(parents=True)
    Path("begun/kl/recipe.json").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("runs/way", "runs/way/tokenizer/model"),
        ("runs/kl", "runs/kl/model"),
        ("runs/kl/model", "runs/kl/model"),
        ("stock", "stock"),  # a model itself, whatever else is in it
        ("stabilityai/sd-vae-ft-mse", "stabilityai/sd-vae-ft-mse"),
        ("owner/pipeline/vae", "owner/pipeline/vae"),
        ("gpt2", "gpt2"),
    ],
)
def test_a_model_is_found_in_what_made_it(here, path, found):
    assert located(path, "tokenizer/model", "model") == found
    assert located(Path(path), "tokenizer/model", "model") == found


@pytest.mark.parametrize("path", ["runs/km/model", "./kl", "../kl", "a/b/c/d", "begun/km"])
def test_what_can_be_no_name_on_the_hub_is_not_looked_for_there(here, path):
    """Bug: a mistyped folder was answered with what was wrong with the network."""
    for load_it in (ImageTokenizer.load, load):
        with pytest.raises(FileNotFoundError, match=f"there is no folder {path}"):
            load_it(path)


@pytest.mark.filterwarnings("ignore:.*local_dir_use_symlinks")  # of diffusers' own call
def test_what_is_there_instead_is_told(here, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(FileNotFoundError, match=r"no folder runs/km/model: in runs .* kl, way"):
        located("runs/km/model")
    assert missed("runs/km") == "; nor is there a folder runs/km: in runs there is kl, way"
    assert missed("runs/kl") == ""
    with pytest.raises(ValueError, match="nor is there a folder runs/km: in runs there is kl, way"):
        ImageTokenizer.load("runs/km")


def test_bug_diffusers_advice_contradicted_what_calotype_had_set(here, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    offline = OSError("outgoing traffic has been disabled: pass 'local_files_only=False'")
    said = reason("user/none", offline)
    assert said.startswith("; https://huggingface.co does not answer, or is not asked; nor is")
    assert "local_files_only" not in said
    assert reason("user/none", OSError("no\n config.json")).startswith(" (no config.json); https")
    assert reason("runs/kl", ValueError("broken")) == " (broken)"


def test_a_run_is_as_good_as_its_model(tmp_path):
    tiny.tokenizer().save(tmp_path / "run/model")
    for load_it in (ImageTokenizer.load,):
        load_it(tmp_path / "run")
