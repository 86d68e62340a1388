"""What examples/cluster/ has people type is understood, by launchers and by calotype."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from torch.distributed.run import get_args_parser

from calotype import cli
from calotype.training import Run
from calotype.training.division import Division
from calotype.training.launcher import asks_for_shares, check_launcher

FOLDER = Path(__file__).parents[1] / "examples/cluster"
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix != ".md")
BY_ACCELERATE = {"accelerate.yaml": (2, 16), "fsdp.yaml": (1, 8)}
"""Accelerate's own files: machines and processes."""
VALUES = {"NODES:-2": "2", "CARDS:-8": "8", "SLURM_JOB_NUM_NODES": "2", "SKYPILOT_NUM_NODES": "2",
          "SKYPILOT_NUM_GPUS_PER_NODE": "8"}  # fmt: skip


def words(path: Path) -> list[str]:
    """The command that a file runs, its variables filled in."""
    if path.name == "pytorchjob.yaml":
        spec = yaml.safe_load(path.read_text())["spec"]["pytorchReplicaSpecs"]["Worker"]
        return spec["template"]["spec"]["containers"][0]["command"]
    if path.name in BY_ACCELERATE:
        text = " ".join(line.lstrip("# ") for line in path.read_text().splitlines()[:2])
    else:
        text = path.read_text()
    text = text.replace("\\\n", " ").replace("\\", " ")
    line = next(line for line in text.splitlines() if re.search(r"-m\s+calotype", line))
    filled = re.sub(r"\$\{?([A-Z_]+(?::-\w+)?)\}?", lambda v: VALUES.get(v[1], "x"), line)
    return shlex.split(filled)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_calotype_understands_its_part(path, monkeypatch):
    said = words(path)
    given = []
    for verb in ("train_tokenizer", "train_generator"):
        monkeypatch.setattr(f"calotype.commands.{verb}.{verb}", given.append)
    cli.main(said[said.index("calotype") + 1 :])
    (recipe,) = given
    assert isinstance(recipe.run, Run) and recipe.run.requeue and recipe.run.resume
    assert Division.of(recipe.run, 16).share == 4, "as many pictures as one card takes"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_launchers_understand_theirs(path):
    said = words(path)
    if path.name in BY_ACCELERATE:
        config = load_config_from_file(str(path))
        assert (config.num_machines, config.num_processes) == BY_ACCELERATE[path.name]
        assert config.mixed_precision == "no"
        assert (config.fsdp_config.get("fsdp_version") == 2) == (path.name == "fsdp.yaml")
        return
    start = next(i for i, word in enumerate(said) if word.endswith("torchrun"))
    options = get_args_parser().parse_args(said[start + 1 :])
    assert options.module and options.training_script == "calotype"
    if path.name == "pytorchjob.yaml":  # whose operator says the rest by the environment
        return
    assert (options.nnodes, options.nproc_per_node, options.rdzv_backend) == ("2", "8", "c10d")


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix in (".sh", ".sbatch")],
                         ids=lambda path: path.name)  # fmt: skip
def test_scripts_are_bash(path):
    subprocess.run(["bash", "-n", path], check=True)


def test_calotype_does_what_the_fsdp_file_asks_of_it(monkeypatch):
    """As `accelerate launch` hands it on, by the environment."""
    options = ["--config_file", str(FOLDER / "fsdp.yaml"), "-m", "calotype"]
    given, config, _ = _validate_launch_command(launch_command_parser().parse_args(options))
    assert given.use_fsdp and config is not None
    for name, value in prepare_multi_gpu_env(given).items():
        if name.startswith(("FSDP_", "ACCELERATE_USE_", "ACCELERATE_MIXED")):
            monkeypatch.setenv(name, value)
    check_launcher()
    assert asks_for_shares()
