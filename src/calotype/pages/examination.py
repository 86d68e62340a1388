"""The page about a machine: what was found of it, in words."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from calotype.evaluation.hub import Hub, Weights
from calotype.evaluation.machine import Disk, Machine
from calotype.evaluation.needs import Needs
from calotype.evaluation.throughput import Throughput
from calotype.pages.checkup import Line, Section

GIB = 2**30
PROGRAM = GIB
"""Bytes that Python and its libraries take, or a context of CUDA."""
LONG, YEAR = 60 * 24, 365 * 24
"""Hours that nobody waits, and those from which on it does not matter how many they are."""
LITTLE_DISK, LEAST_DISK = 10 * GIB, GIB // 4
"""A run of a published recipe does not fit into the one, nor any checkpoint into the other."""


@dataclass(frozen=True)
class Recipe:
    """What a named recipe takes."""

    name: str
    command: str
    precision: str
    needs: Needs
    steps: int
    count: int
    """Micro-batches of a step, of one process."""


@dataclass(frozen=True)
class Examination:
    """What was found of a machine on which calotype can run."""

    machine: Machine
    throughput: Throughput
    """Of the device that training would take."""
    precision: str
    """What `auto` chooses there."""
    disks: tuple[Disk, ...]
    """Of the folder of runs, and of what is fetched."""
    hub: Hub
    cache: Path
    """Where torch looks for weights that were fetched."""
    weights: tuple[Weights, ...]


RECIPES = "Recipes"
HOW_TO_READ = (
    "Parameters trained, memory of training, expected speed and length: estimates from one step "
    "that is rehearsed without contents, and the speeds above."
)


def sections(found: Examination) -> list[Section]:
    """All of it but the recipes."""
    return [
        Section("Machine", tuple(_machine(found.machine))),
        Section("Precision", tuple(_precision(found)),
                "A convolution and a matrix product, forward and back, in GFLOP/s."),
        Section("Disk and Hub", (*map(_disk, found.disks), *_hub(found.hub))),
        Section("Public weights", tuple(map(_weights, found.weights)),
                f"What is fetched by hand belongs into {found.cache}, or by hf download where it "
                "is of the Hub."),
    ]  # fmt: skip


def _machine(machine: Machine) -> Iterator[Line]:
    yield Line("ok", "system", machine.system)
    yield Line("ok", "processor", f"{machine.processor}, {machine.instructions}")
    threads = f"{machine.cores} usable, torch computes on {machine.threads}"
    if machine.threads < machine.cores:
        yield Line("warning", "cores", threads, "unset OMP_NUM_THREADS, or set it higher")
    else:
        yield Line("ok", "cores", threads)
    if machine.load > 0.75 * machine.cores:
        busy = f"{machine.load:.1f} programs compute at once: speeds below are what they leave"
        yield Line("warning", "load", busy, "ask again when they are done")
    yield Line("ok", "memory", f"{_gib(machine.memory)}, {_gib(machine.free)} free")
    for number, device in enumerate(machine.devices):
        capability = ".".join(map(str, device.capability)) if device.capability else ""
        said = f"{device.name}, {_gib(device.memory)}, {_gib(device.free)} free"
        yield Line("ok", f"{device.kind}:{number}",
                   f"{said}, capability {capability}" if capability else said)  # fmt: skip
    if machine.driver and not machine.devices:
        built = f"CUDA {machine.cuda}" if machine.cuda else "no CUDA"
        yield Line(
            "warning", "GPU", f"NVIDIA's driver {machine.driver} is here, but torch, built with "
            f"{built}, finds no GPU", "install the torch for this driver, as https://pytorch.org "
            "says; or check CUDA_VISIBLE_DEVICES",
        )  # fmt: skip
    elif machine.driver:
        yield Line("ok", "CUDA", f"{machine.cuda}, driver {machine.driver}")
    elif not machine.devices:
        yield Line("note", "GPU", "none: training runs on the processor")


def _precision(found: Examination) -> Iterator[Line]:
    speed = found.throughput
    for name in ("fp32", "bf16", "fp16"):
        if (ratio := speed.ratio(name)) is None:
            yield Line("note", name, "this device does not compute in it")
            continue
        each = speed.products[name]
        rates = f"{each.convolution / 1e9:,.1f} and {each.matrix / 1e9:,.1f}"
        if name == "fp32":
            yield Line("ok", name, rates)
        elif speed.is_real(name):
            yield Line("ok", name, f"{rates}: real, {ratio:.1f} times fp32 where it gains least")
        else:
            slower = f", {1 / ratio:.0f} times slower than fp32" if ratio < 0.7 else ""
            yield Line("note", name, f"{rates}: emulated{slower}")
    yield Line("ok", "auto", f"--run.precision auto means {found.precision} here")


def _disk(disk: Disk) -> Line:
    what, free = str(disk.folder), f"{_gib(disk.free)} free"
    if not disk.writable:
        return Line("missing", what, "cannot be written to",
                    "go to a folder of your own, or name one by --runs, or by HF_HOME for what is "
                    "fetched")  # fmt: skip
    if disk.free < LEAST_DISK:
        return Line("missing", what, free, "make room: not even a small run fits")
    if disk.free < LITTLE_DISK:
        return Line("warning", what, free, "published recipes want more: make room, or keep fewer "
                                           "checkpoints by --run.keep 1")  # fmt: skip
    return Line("ok", what, free)


def _hub(hub: Hub) -> Iterator[Line]:
    for name in hub.offline:
        yield Line("note", name, "is set: libraries ask nobody for what is not here",
                   f"unset {name} to let them")  # fmt: skip
    if hub.reached:
        yield Line("ok", "Hub", f"{hub.endpoint} answers")
    elif not hub.offline:
        yield Line("warning", "Hub", f"{hub.endpoint} does not answer",
                   "nothing can be fetched: give folders in place of names; the scenes and small "
                   "recipes fetch nothing")  # fmt: skip
    if hub.user:
        yield Line("ok", "login", f"as {hub.user}")
    elif hub.logged_in:
        yield Line("note", "login", "there is a token; whose it is could not be asked")
    else:
        yield Line("note", "login", "none; public models and data sets need none",
                   "hf auth login, for private ones")  # fmt: skip


def _weights(weights: Weights) -> Line:
    if weights.where:
        return Line("ok", weights.name, f"{weights.purpose}: {weights.where}")
    return Line("note", weights.name, f"{weights.purpose}: not here", weights.source)


def of_recipe(found: Examination, recipe: Recipe) -> Line:
    """What a recipe takes on the machine, and whether that is there."""
    needs, machine = recipe.needs, found.machine
    taken = found.throughput.seconds(needs, recipe.precision)
    hours = recipe.steps * recipe.count * taken / 3600
    said = (
        f"{needs.parameters / 1e6:,.1f} M, {_gib(needs.memory)}, "
        f"{_short(needs.micro_batch / taken)} images/s in {recipe.precision}, {_long(hours)}"
    )
    free = max((d.free for d in machine.devices), default=machine.free) - PROGRAM
    if needs.memory <= free:
        if hours > LONG:
            return Line("note", recipe.name, f"{said}: fits, but wants a faster machine")
        return Line("ok", recipe.name, f"{said}: fits")
    fits = needs.largest_batch(free)
    if batch := max((n for n in range(1, fits + 1) if needs.micro_batch % n == 0), default=0):
        return Line("note", recipe.name, f"{said}: too large for this memory",
                    f"--run.micro-batch {batch}")  # fmt: skip
    return Line("note", recipe.name, f"{said}: too large for this machine")


def _gib(size: int) -> str:
    return f"{size / GIB:,.1f} GiB"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _long(hours: float) -> str:
    if hours < 2:
        return f"{60 * hours:.0f} minutes"
    if hours < 72:
        return f"{hours:.0f} hours"
    return f"{hours / 24:,.0f} days" if hours < YEAR else "more than a year"
