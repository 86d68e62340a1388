"""What examples/cluster/ has people type is understood, by launchers and by calotype, and does on
this machine, with two nodes of one process each, what it says; torchrun.sh does in test_two_hosts.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from torch.distributed.run import get_args_parser

import tiny
from calotype import cli
from calotype.training import Run, checkpoint
from calotype.training.division import Division
from calotype.training.launcher import asks_for_shares, check_launcher

FOLDER = Path(__file__).parents[1] / "examples/cluster"
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix != ".md")
BY_ACCELERATE = {"accelerate.yaml": (2, 16), "fsdp.yaml": (1, 8)}
"""Accelerate's own files: machines and processes."""
VALUES = {"NODES:-2": "2", "CARDS:-8": "8", "SLURM_JOB_NUM_NODES": "2", "SKYPILOT_NUM_NODES": "2",
          "SKYPILOT_NUM_GPUS_PER_NODE": "8"}  # fmt: skip
TINY = ["train-tokenizer", "small-kl", "--model.backbone.widths", "8", "8", "--run.out", "run",
        "--run.requeue", "--run.precision", "fp32", "--run.batch-size", "2",
        "--run.save-every", "1", "--measure", "8"]  # fmt: skip


def container() -> dict:
    """Of Kubernetes."""
    job = yaml.safe_load((FOLDER / "pytorchjob.yaml").read_text())
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    return worker["template"]["spec"]["containers"][0]


def words(path: Path) -> list[str]:
    """The command that a file runs, its variables filled in, as its first lines say."""
    if path.name == "pytorchjob.yaml":
        return container()["command"]
    text = path.read_text()
    said = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    (given,) = re.findall(r"train-tokenizer .*?--run\.requeue", said.replace("\\", "")) or [""]
    if path.name in BY_ACCELERATE:
        (text,) = re.findall(r"accelerate launch .*?--run\.requeue", said)
    text = text.replace('"$@"', given).replace("\\\n", " ").replace("\\", " ")
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
    share = Division.of(recipe.run, 16).share
    assert share == (16 if path.name == "fsdp.yaml" else 4), "as many as one card takes"


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


@pytest.fixture
def nodes(tmp_path, monkeypatch) -> Path:
    """Two folders beside pictures, with this environment's programs and few threads."""
    tiny.mixed(tmp_path / "photos", 12)
    monkeypatch.setenv("PATH", f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    for name, value in {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CARDS": "1",
                        "CALOTYPE_TIMEOUT": "60"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    return tmp_path


def port() -> int:
    with socket.create_server(("localhost", 0)) as free:
        return free.getsockname()[1]


def start(root: Path, name: str, said: list[str], **variables: str) -> subprocess.Popen:
    with (root / f"{name}.log").open("a") as log:
        return subprocess.Popen(said, cwd=root / name, env={**os.environ, **variables},
                                stdout=log, stderr=subprocess.STDOUT)  # fmt: skip


def of_tiny(root: Path, steps: int) -> list[str]:
    """In place of what a file has people type."""
    return [*TINY, "--data.path", str(root / "photos"), "--run.steps", str(steps)]


def trained(root: Path, *processes: subprocess.Popen) -> None:
    """Both have ended well: the first keeps checkpoints, and each has the model."""
    codes = [process.wait(300) for process in processes]
    assert not any(codes), "".join(log.read_text() for log in root.glob("*.log"))
    assert (root / "one/run/checkpoints/step-2").exists()
    assert not (root / "two/run/checkpoints").exists()
    for name in ("one", "two"):
        assert (root / name / "run/model/config.json").exists()


def as_torchrun(root: Path, said: list[str], name: str, **variables: str) -> subprocess.Popen:
    """What a file has torchrun do, on one process per node and by a free port."""
    start_at = next(i for i, word in enumerate(said) if word.endswith("torchrun"))
    own = ["torchrun", *said[start_at + 1 : said.index("calotype") + 1]]
    for flag, value in (("--nproc-per-node", "1"), ("--rdzv-endpoint", f"localhost:{PORT}")):
        if flag in own:
            own[own.index(flag) + 1] = value
    return start(root, name, [*own, *of_tiny(root, 2)], **variables)


PORT = port()


@pytest.mark.slow
def test_kubernetes_command_as_its_operator_starts_it(nodes):
    """Which says by the environment how many there are, and where."""
    given = {each["name"]: each["value"] for each in container()["env"]}
    operator = {"PET_NNODES": "2:2", "PET_NPROC_PER_NODE": "1", "PET_RDZV_BACKEND": "c10d",
                "PET_RDZV_ENDPOINT": f"localhost:{PORT}", "PET_RDZV_ID": "calotype"}  # fmt: skip
    said = container()["command"]
    trained(nodes, *(as_torchrun(nodes, said, n, **given, **operator) for n in ("one", "two")))


@pytest.mark.slow
def test_sky_command(nodes):
    said = words(FOLDER / "sky.yaml")
    trained(nodes, *(as_torchrun(nodes, said, name) for name in ("one", "two")))


@pytest.mark.slow
def test_accelerate_by_its_config(nodes):
    """All of it is the file's but for the port, and eight processes a machine."""
    text = (FOLDER / "accelerate.yaml").read_text().replace("29500", str(port()))
    (nodes / "accelerate.yaml").write_text(text.replace("processes: 16", "processes: 2"))
    processes = []
    for rank, name in enumerate(("one", "two")):
        said = ["accelerate", "launch", "--config_file", str(nodes / "accelerate.yaml"),
                "--machine_rank", str(rank), "--main_process_ip", "127.0.0.1", "-m", "calotype",
                *of_tiny(nodes, 2)]  # fmt: skip
        processes.append(start(nodes, name, said))
    trained(nodes, *processes)


@pytest.mark.slow
def test_fsdp_by_its_config(nodes):
    """All of it is the file's but for the port, and eight cards: here two processes on CPUs."""
    text = (FOLDER / "fsdp.yaml").read_text().replace("29500", str(port()))
    (nodes / "fsdp.yaml").write_text(text.replace("processes: 8", "processes: 2"))
    said = ["accelerate", "launch", "--config_file", str(nodes / "fsdp.yaml"), "-m", "calotype"]
    process = start(nodes, "one", [*said, *of_tiny(nodes, 2)])
    assert process.wait(300) == 0, (nodes / "one.log").read_text()
    last = nodes / "one/run/checkpoints/step-2"
    assert len([*last.glob("shard-*.safetensors")]) == 2, "each process wrote its share"
    assert (nodes / "one/run/model/config.json").exists()


SRUN = """#!{python}
import os, signal, subprocess, sys
words = [word for word in sys.argv[1:] if word != "--kill-on-bad-exit=1"]
tasks = [subprocess.Popen(words, cwd=os.path.join("{root}", name)) for name in ("one", "two")]
signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
open("{root}/srun.pid", "w").write(str(os.getpid()))
sys.exit(max(abs(task.wait()) for task in tasks))
"""
SCONTROL = """#!/bin/sh
[ "$1" = show ] && echo localhost && exit
echo "$@" >> {root}/asked
"""


@pytest.mark.slow
def test_slurm_script_saves_is_requeued_and_goes_on(nodes, monkeypatch):
    """With srun and scontrol that do here what SLURM's do."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (nodes / name).write_text(text.format(root=nodes, python=sys.executable))
        (nodes / name).chmod(0o755)
    for name, value in {"JOB_ID": str(port()), "JOB_NUM_NODES": "2", "JOB_NODELIST": "x"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    script = (FOLDER / "slurm.sbatch").read_text().replace("29500", str(port()))
    (nodes / "slurm.sbatch").write_text(script)
    said = ["bash", str(nodes / "slurm.sbatch"), *of_tiny(nodes, 100)]
    first = start(nodes, "one", said)
    for _ in range(3000):
        if checkpoint.complete(nodes / "one/run/checkpoints") or first.poll() is not None:
            break
        time.sleep(0.1)
    os.kill(int((nodes / "srun.pid").read_text()), signal.SIGTERM)
    assert first.wait(120), "SLURM is to see that it was stopped"
    log = (nodes / "one.log").read_text()
    assert "finishing this step and saving" in log and "stopped at step" in log, log
    assert (nodes / "asked").read_text() == f"requeue {os.environ['SLURM_JOB_ID']}\n"
    done = int(re.findall(r"stopped at step (\d+), saved", log)[-1])
    assert done < 100 and (nodes / f"one/run/checkpoints/step-{done}").exists()
    assert start(nodes, "one", said).wait(300) == 0
    for name in ("one", "two"):
        assert (nodes / name / "run/model/config.json").exists()
