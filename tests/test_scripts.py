"""The scripts, under what users start them by."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops

SCRIPTS = Path(__file__).parents[1] / "scripts"
ONE = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
"""On CPUs `accelerate launch` starts one process; this is what starts several."""


def start(launch: list[str], script: str, *arguments: object) -> None:
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launch, SCRIPTS / script, *arguments]
    subprocess.run([str(word) for word in command], check=True, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("launch", [ONE, TWO])
def test_train_tokenizer_with_a_tracker_on_any_number_of_processes(launch, tmp_path):
    """Bug: the tracker's end was that of the ranks' group, and two of them could not export."""
    small = "--model.backbone.widths 8 16 --model.backbone.groups 4 --measure 32 --run.steps 2"
    start(launch, "train_tokenizer.py", "scenes-kl", *small.split(), "--run.log-every", 1,
          "--run.out", tmp_path, "--run.trackers", "tensorboard")  # fmt: skip
    assert (tmp_path / "model/diffusion_pytorch_model.safetensors").exists()
    assert any(file.stat().st_size > 100 for file in tmp_path.rglob("events.out.tfevents.*"))
    (line,) = (tmp_path / "history.jsonl").read_text().splitlines()
    assert json.loads(line)["processes"] == (2 if launch is TWO else 1)
    assert "training is done, the model is in" in (tmp_path / "index.html").read_text()


def test_text_to_image_answers_mistakes_in_one_line(tmp_path):
    for words, said in (
        (["--prompts", tmp_path / "absent.txt"], "no file .*absent.txt"),
        (["--prompts", __file__, "--pipeline", tmp_path], "no pipeline in"),
    ):
        command = [str(word) for word in (sys.executable, SCRIPTS / "text_to_image.py", *words)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        assert re.match(rf"text_to_image: {said}", done.stderr.splitlines()[-1])


@pytest.mark.slow
def test_text_to_image_draws_each_line_on_any_number_of_processes(artifacts, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na blue square\na green cross\n")
    pictures = []
    for launch, out in ((ONE, tmp_path / "one"), (TWO, tmp_path / "two")):
        start(launch, "text_to_image.py", "--prompts", prompts, "--sampling.steps", 2,
              "--pipeline", artifacts / "generator/model", "--out", out)  # fmt: skip
        assert sorted(file.name for file in out.iterdir()) == [f"0000{i}.png" for i in range(3)]
        pictures.append([Image.open(file) for file in sorted(out.iterdir())])
    for one, two in zip(*pictures, strict=True):
        # Batches of other sizes round otherwise.
        assert max(high for _, high in ImageChops.difference(one, two).getextrema()) <= 2
