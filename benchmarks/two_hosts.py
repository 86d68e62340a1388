"""Two hosts, really two: what examples/cluster/torchrun.sh does, on machines that share no disk, of
which one is cut off and one is killed.

    python benchmarks/two_hosts.py           `make cluster`: a tokenizer, a cache, a generator
    python benchmarks/two_hosts.py --small   the tokenizer alone, as the suite runs it

Each host is a network namespace with a name, an address and a folder of its own (`namespaces.py`).
What is trained has to equal what one process trains, within 1e-5.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from namespaces import ADDRESSES, Host, enter, machines
from safetensors.torch import load_file

from calotype.data import Scenes
from calotype.training import checkpoint

TORCHRUN = Path(__file__).parents[1] / "examples/cluster/torchrun.sh"
PATIENCE = 10
"""Seconds that a process waits for another."""
SETTINGS = {"HEAD": ADDRESSES["first"], "CARDS": "1", "OMP_NUM_THREADS": "1",
            "CALOTYPE_TIMEOUT": str(PATIENCE)}  # fmt: skip
STEPS, AT = 16, 6
"""Of each run, and from which on a host is lost."""
# Adam divides by the gradient's size: with its usual eps one that vanishes but for rounding moves a
# weight as far as any other.
COMMON = ["--optimizer.eps", "1e-3", "--run.steps", str(STEPS), "--run.save-every", "2",
          "--run.precision", "fp32", "--run.sample-every", "1000", "--run.requeue",
          "--run.batch-size", "8"]  # fmt: skip
TOKENIZER = ["train-tokenizer", "small-kl", "--data.path", "photos", "--model.backbone.widths",
             "8", "16", "16", "--measure", "32", *COMMON, "adversary:adversary",
             "--adversary.width", "8", "--adversary.layers", "2", "--adversary.start", "0",
             "--adversary.effect-start", "0"]  # fmt: skip
CACHE = ["cache-latents", "small", "--data.path", "photos", "--precision", "fp32"]
GENERATOR = ["train-generator", "small-diffusion", "--unet.widths", "16", "32", "32",
             "--unet.groups", "8", "--unet.head-width", "8", *COMMON]  # fmt: skip
WITHIN = 1e-5


def pictures(folder: Path) -> None:
    """Scenes and their captions."""
    folder.mkdir(parents=True)
    scenes = Scenes(size=64).build()
    for number in range(48):
        scene = scenes[number]
        scene["image"].save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(scene["caption"])


def calotype(words: Sequence[str]) -> list[str]:
    """As one process."""
    return [sys.executable, "-m", "calotype", *words]


class Stage:
    """One run on both machines, and what happens to them on the way."""

    def __init__(self, hosts: Sequence[Host], out: str, words: Sequence[str]) -> None:
        self.hosts, self.out, self.words = hosts, Path(out), words
        self.log = f"{self.out.name}.log"
        self.processes: dict[str, subprocess.Popen] = {}

    def start(self, *hosts: Host) -> None:
        """Type the command on each of them."""
        for host in hosts:
            words = ["bash", str(TORCHRUN), *self.words]
            self.processes[host.name] = host.start(words, self.log, RUN=self.out.name, **SETTINGS)

    def reached(self, step: int) -> int:
        """Wait for a checkpoint of a step or a later one, which the first host keeps."""
        folder = self.hosts[0].disk / self.out / "checkpoints"

        def newest() -> int:
            found = checkpoint.complete(folder)
            return int(found[-1].name.removeprefix("step-")) if found else 0

        self._wait(lambda: newest() >= step, f"came to step {step}")
        return newest()

    def said(self, host: Host, line: str, times: int = 1) -> None:
        """Wait until a line was said there."""
        log = host.disk / self.log
        self._wait(lambda: log.read_text().count(line) >= times, f"{host.name} said {line!r}")

    def ended(self, *hosts: Host) -> list[int]:
        """Wait until their parts have ended; the exit codes."""
        parts = [self.processes[host.name] for host in hosts]
        for host, part in zip(hosts, parts, strict=True):
            self._wait(lambda part=part: part.poll() is not None, f"{host.name} ended")
        return [part.returncode for part in parts]

    def _wait(self, come: Callable[[], bool], what: str, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not come():
            if time.monotonic() > end:
                raise RuntimeError(f"not so after {seconds:g} s: {what}\n{self.logs()}")
            time.sleep(0.02)

    def logs(self) -> str:
        """What was said on both."""
        return "\n".join((host.disk / self.log).read_text() for host in self.hosts)


def cut_off(stage: Stage, step: int) -> None:
    """The second host loses its cable; torchrun begins again when it has it back."""
    reached = stage.reached(step)
    stage.hosts[1].link("down")
    began = time.monotonic()
    for host in stage.hosts:
        stage.said(host, f"calotype: no word from another process for {PATIENCE} s")
    row(stage, f"second host cut off at step {reached}", "both say so", began)
    stage.hosts[1].link("up")


def killed(stage: Stage, host: Host, step: int, again: Sequence[Host], line: str) -> None:
    """A host dies at once with all that runs on it; the command is typed again where it ended."""
    reached = stage.reached(step)
    found = subprocess.run(["ip", "netns", "pids", host.name], capture_output=True, check=True)
    for process in found.stdout.split():
        os.kill(int(process), signal.SIGKILL)
    began = time.monotonic()
    other = next(each for each in stage.hosts if each is not host)
    stage.said(other, line)
    row(stage, f"{host.name} host killed at step {reached}", "the other says so", began)
    stage.ended(*again)
    stage.start(*again)


def whole(stage: Stage, began: float) -> None:
    """Wait for its end on both, and compare it with one process's."""
    if any(codes := stage.ended(*stage.hosts)):
        raise RuntimeError(f"{stage.out} ended with {codes}\n{stage.logs()}")
    row(stage, "trained to the end", f"differs by {difference(stage):.1g}", began)


def difference(stage: Stage) -> float:
    """The largest one between the first host's weights and one process's; the second host's model
    is the first one's, bit for bit.
    """
    one, other = (host.disk / stage.out for host in stage.hosts)
    for file in (one / "model").rglob("*.safetensors"):
        assert file.read_bytes() == (other / file.relative_to(one)).read_bytes(), file
    last, found = Path(f"checkpoints/step-{STEPS}"), []
    for name in [path.name for path in (one / last).glob("*.safetensors")]:
        if name.startswith(("model", "ema")):
            mine = load_file(one / last / name)
            alone = load_file(stage.hosts[0].root / "alone" / stage.out / last / name)
            assert mine.keys() == alone.keys()
            found += [(mine[key].float() - alone[key].float()).abs().max() for key in mine]
    worst = float(max(found))
    assert worst < WITHIN, f"{stage.out}: differs by {worst}"
    return worst


def row(stage: Stage, what: str, came: str, began: float) -> None:
    """Of the table."""
    seconds = time.monotonic() - began
    print(f"| {stage.out.name} | {what} | {came} | {seconds:.0f} |", flush=True)


def alone(root: Path, *commands: Sequence[str]) -> None:
    """What one process makes, in a folder of its own."""
    folder = root / "alone"
    for words in commands:
        with (folder / "log").open("ab") as log:
            done = subprocess.run(calotype(words), cwd=folder, stdout=log, stderr=log,
                                  env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
        if done.returncode:
            raise RuntimeError((folder / "log").read_text())


def tokenizer(hosts: Sequence[Host]) -> None:
    """With its adversary."""
    stage, began = Stage(hosts, "runs/small-kl", TOKENIZER), time.monotonic()
    stage.start(*hosts)
    cut_off(stage, AT)
    whole(stage, began)


def cache(hosts: Sequence[Host]) -> None:
    """Each machine makes its own, of the same pictures by the same tokenizer."""
    stage, began = Stage(hosts, "runs/small-latents", CACHE), time.monotonic()
    for host in hosts:
        stage.processes[host.name] = host.start(calotype(CACHE), stage.log, **SETTINGS)
    assert stage.ended(*hosts) == [0, 0]
    row(stage, "made on each host", "", began)


def generator(hosts: Sequence[Host]) -> None:
    """Two are lost: one that serves, then the one that keeps checkpoints and the rendezvous."""
    stage, began = Stage(hosts, "runs/small-diffusion", GENERATOR), time.monotonic()
    first, second = hosts
    stage.start(*hosts)
    killed(stage, second, AT, [second], "calotype: another process has ended and left no word")
    killed(stage, first, AT + 4, hosts, "calotype: another process has ended and left no word")
    whole(stage, began)


def main() -> None:
    """Do all of it in namespaces that end with this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    small = parser.parse_args().small
    enter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        hosts = machines(root)
        for folder in [*(host.disk for host in hosts), root / "alone"]:
            pictures(folder / "photos")
        alone(root, *([TOKENIZER] if small else [TOKENIZER, CACHE, GENERATOR]))
        print("| run | what happened | what came of it | seconds |\n|---|---|---|---|")
        for work in [tokenizer] if small else [tokenizer, cache, generator]:
            work(hosts)


if __name__ == "__main__":
    main()
