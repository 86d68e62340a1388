"""What the doctor says of a machine, and that what it says of recipes holds."""

import json
import re
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import huggingface_hub
import pytest
import torch
from rich.console import Console

import tiny
from calotype.commands import doctor as verb
from calotype.commands import examine
from calotype.commands.doctor import Doctor, doctor
from calotype.commands.rehearsal import needs
from calotype.evaluation import hub
from calotype.evaluation.hub import Asking, Hub, Weights
from calotype.evaluation.installed import Package, pinned_versions
from calotype.evaluation.machine import Device, Disk, Machine, disk, machine
from calotype.evaluation.needs import Needs, Rehearsal, rehearse
from calotype.evaluation.throughput import Products, Throughput
from calotype.pages.checkup import Line, Section, show, verdict
from calotype.pages.examination import GIB, Examination, Recipe, of_recipe, sections
from calotype.recipes.distil import DISTILLED
from calotype.recipes.family import FAMILY
from calotype.recipes.generators import GENERATORS
from calotype.recipes.tokenizers import TOKENIZERS
from calotype.tokenizers.contraction import Jacobian
from calotype.tokenizers.contrast import InfoNCE
from calotype.tokenizers.corruptions import JPEG
from calotype.tokenizers.rebuildable import Rebuildable
from calotype.training.precision import Chosen

ROOT = Path(__file__).parents[2]
TERA = 10.0**12
GPU = Device("cuda", "NVIDIA A100", 80 * GIB, 79 * GIB, (8, 0))
MACHINE = Machine(
    "3.12.1", "Linux 6.1", "a processor", 16, 16, "AVX2", False, 128 * GIB, 100 * GIB, 0.5, (GPU,),
    "12.8", "570.1",
)  # fmt: skip
SPEED = Throughput(
    {"fp32": Products(50 * TERA, 20 * TERA), "bf16": Products(200 * TERA, 250 * TERA),
     "fp16": Products(5 * TERA, 250 * TERA)},
    1.5 * TERA, 1e-5,
)  # fmt: skip
NEEDS = Needs(
    parameters=10**8, state=2 * GIB, step=10 * GIB, gradients=GIB // 2, micro_batch=8,
    convolution_flops=8 * 10**12, product_flops=0, moved=0, operations=0,
)  # fmt: skip
FOUND = Examination(
    MACHINE, SPEED, "bf16", (Disk(Path("runs"), 100 * GIB, True),),
    Hub("https://hub", (), True, True, "ada"), Path("cache"),
    (Weights("LPIPS vgg", "figures", None, "fetch it"),),
)  # fmt: skip
RECIPE = Recipe("kl", "train-tokenizer", "bf16", NEEDS, steps=1000, count=1)


def shown(*those: Section) -> str:
    console = Console(width=200, record=True, force_terminal=False, quiet=False)
    with console.capture() as captured:
        show(those, console)
    return captured.get()


def test_the_page_of_one_gpu():
    text = shown(*sections(FOUND))
    assert "NVIDIA A100, 80.0 GiB, 79.0 GiB free, capability 8.0" in text
    assert "12.8, driver 570.1" in text
    assert "200,000.0 and 250,000.0: real, 4.0 times fp32" in text
    assert "emulated, 10 times slower than fp32" in text, "fp16, whose convolutions are"
    assert "auto means bf16" in text and "as ada" in text
    assert verdict(sections(FOUND)).said == "all is well"


def test_devices_are_asked_of_torch():
    """As many as there are, by a fake of torch's functions for CUDA."""
    properties = type("Properties", (), {"name": "NVIDIA T4"})()
    cuda = {"get_device_properties": properties, "get_device_capability": (7, 5),
            "mem_get_info": (14 * GIB, 15 * GIB)}  # fmt: skip
    accelerator = {"is_available": True, "device_count": 2,
                   "current_accelerator": torch.device("cuda")}  # fmt: skip
    with (
        patch.multiple(torch.cuda, **{k: lambda *_, v=v: v for k, v in cuda.items()}),
        patch.multiple(torch.accelerator, **{k: lambda v=v: v for k, v in accelerator.items()}),
    ):
        found = machine().devices
    assert found == (Device("cuda", "NVIDIA T4", 15 * GIB, 14 * GIB, (7, 5)),) * 2


def test_a_gpu_that_torch_does_not_see_is_told_of():
    blind = replace(FOUND, machine=replace(MACHINE, devices=(), cuda=None))
    text = shown(*sections(blind))
    assert "driver 570.1 is here, but torch, built with no CUDA, finds no GPU" in text


def test_the_precision_is_what_a_run_would_choose(monkeypatch, tmp_path):
    """Bug: the doctor had a rule of its own beside that of training."""
    for choice in ("bf16", "fp32"):
        monkeypatch.setattr(examine, "suits", lambda device, name=choice: Chosen(name, ""))
        monkeypatch.setattr(examine, "throughput", lambda device: SPEED)
        monkeypatch.setattr(examine, "_recipes", lambda precision: iter(()))
        _, found = examine.examine(tmp_path, None, Console(quiet=True))
        assert found["precision"] == choice


def test_a_recipe_that_is_too_large_is_told_a_batch_that_fits():
    assert of_recipe(FOUND, RECIPE).said.startswith("100.0 M, 16.0 GiB, 200 images/s in bf16")
    small = replace(FOUND, machine=replace(MACHINE, devices=(replace(GPU, free=12 * GIB),)))
    line = of_recipe(small, RECIPE)
    assert "too large" in line.said and line.mend == "--run.micro-batch 4"
    tiny_one = replace(FOUND, machine=replace(MACHINE, devices=(replace(GPU, free=2 * GIB),)))
    assert not of_recipe(tiny_one, RECIPE).mend, "no batch is small enough"


def test_a_larger_batch_takes_more_in_proportion_and_state_stays():
    """State is all that AdamW and the average hold: 16 bytes for each number, of float32."""
    recipe = tiny.tokenizer_recipe(Path("unused"))
    one = needs(recipe, torch.float32)
    two = needs(replace(recipe, run=replace(recipe.run, batch_size=8)), torch.float32)
    built = recipe.model.build(recipe.size)
    assert one.parameters == sum(p.numel() for p in built.parameters())
    assert one.state == two.state == 16 * one.parameters and one.gradients == 4 * one.parameters
    assert two.convolution_flops == 2 * one.convolution_flops > 0
    grown = (two.step - two.gradients) / (one.step - one.gradients)
    assert grown == pytest.approx(2, rel=0.2)


def test_a_step_holds_what_autograd_saves():
    """What is rehearsed is at least what a real step keeps for its way back, and not far more."""
    objectives = tiny.learners(lpips=False)
    images = tiny.batch(32)
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        losses = objectives[0](images, 0)
    kept = sum(saved.values())
    del losses

    def build() -> Rehearsal:
        images = torch.zeros(32, 3, tiny.SIZE, tiny.SIZE)
        return Rehearsal(tiny.learners(lpips=False), {"image": images, "key": list(range(32))})

    found = rehearse(build, tiny.run(Path("unused"), batch_size=32), torch.float32)
    assert kept < found.step < 2.5 * kept


BUILDERS = {**TOKENIZERS, **GENERATORS, **DISTILLED}
SMALL = ("scenes-dvae", "scenes-diffusion", "scenes-ar", "small-tiny")


@pytest.mark.parametrize(
    "name",
    [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in BUILDERS],
)
def test_every_named_recipe_can_be_rehearsed(name):
    recipe = BUILDERS[name]()
    found = needs(recipe, torch.bfloat16)
    assert found.parameters > 0 and found.memory > 16 * found.parameters
    assert found.convolution_flops + found.product_flops > 0
    doc = " ".join((BUILDERS[name].__doc__ or "").split())
    (stated,) = re.findall(r"Takes ([\d.]+) GiB in bf16\.", doc)
    assert float(stated) * GIB == pytest.approx(found.memory, rel=0.15, abs=0.06 * GIB)
    assert found.memory < 80e9, "it fits no card at its published batch: choose a micro-batch"


def test_bug_what_an_encoder_sees_and_pays_was_not_rehearsed():
    """Neither a corruption nor a term of the encoder was in what a recipe was said to take; nor can
    all of these be had on tensors without contents, which JPEG and crops look into.
    """
    base = FAMILY["scenes-ae"]()
    plain = needs(base, torch.float32)
    spoilt = needs(replace(base, corruption=JPEG()), torch.float32)
    contrast = needs(replace(base, contrast=InfoNCE()), torch.float32)
    contracted = needs(replace(base, contraction=Jacobian()), torch.float32)
    image = 4 * 3 * base.size**2 * plain.micro_batch
    assert plain.step + image <= spoilt.step < plain.step + 4 * image
    assert contrast.step > 1.2 * plain.step
    assert contracted.step > 1.5 * plain.step
    assert contracted.convolution_flops > 1.3 * plain.convolution_flops
    held = replace(base, rebuildable=Rebuildable("runs/scenes-kl"))
    more = needs(held, torch.float32)
    assert more.parameters == plain.parameters and more.state > plain.state
    assert more.step > 1.2 * plain.step


@pytest.mark.slow
def test_bug_gradient_checkpointing_saved_a_tenth_of_activations():
    """Of ldm-kl-f8's step: whole levels were computed again, of which one holds most."""
    recipe = TOKENIZERS["ldm-kl-f8"]()
    plain, saving = (
        needs(replace(recipe, gradient_checkpointing=on), torch.bfloat16) for on in (False, True)
    )
    assert saving.parameters == plain.parameters and saving.state == plain.state
    assert saving.step - saving.gradients < 0.6 * (plain.step - plain.gradients)


def run(there: list[Package], capsys, **examined) -> tuple[int, str]:
    found = ([Section("Machine", (Line("ok", "system", "fake"),))], {"fake": True})
    module = type("Module", (), {"examine": staticmethod(lambda *_: found)})
    with (
        patch.object(verb, "packages", lambda: there),
        patch.object(verb, "import_module", lambda _: module),
    ):
        code = doctor(Doctor(**examined))
    return code, capsys.readouterr().out


GOOD = Package("torch", ">=2.6", None, "2.14.1+cpu", "2.14.1")


def test_what_is_missing_or_too_old_fails(capsys):
    assert run([GOOD], capsys)[0] == 0
    for found, said in ((None, "not installed"), ("2.5", "2.5 is too old: it needs >=2.6")):
        code, text = run([replace(GOOD, found=found)], capsys)
        assert code == 1 and said in text and "pip install 'torch==2.14.1'" in text


def test_what_is_merely_different_or_optional_does_not_fail(capsys):
    code, text = run([replace(GOOD, found="2.20")], capsys)
    assert code == 0 and "2.20; tested with 2.14.1" in text
    code, text = run([replace(GOOD, extra="offline", found=None)], capsys)
    assert code == 0 and "pip install 'calotype[offline]'" in text


def test_json_is_all_that_is_printed(capsys):
    _, text = run([GOOD], capsys, json=True)
    found = json.loads(text)
    assert found["machine"] == {"fake": True} and found["versions"][0]["name"] == "torch"


def test_versions_are_those_of_the_constraints():
    """The wheel holds the one file there is, where `pinned_versions` looks for it."""
    assert pinned_versions()["torch"] in (ROOT / "constraints.txt").read_text()
    assert pinned_versions()["resvg-py"]
    built = (ROOT / "pyproject.toml").read_text()
    assert '"constraints.txt" = "calotype/constraints.txt"' in built


def test_a_folder_that_cannot_be_written_to_is_missing(tmp_path):
    assert disk(tmp_path / "runs/deep").writable
    shut = replace(FOUND, disks=(Disk(tmp_path, 100 * GIB, False),))
    assert verdict(sections(shut)).mark == "missing"


def test_offline_nobody_is_asked_and_no_token_is_shown():
    with (
        patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True),
        patch.dict("os.environ", HF_HUB_OFFLINE="1"),
        patch.object(huggingface_hub, "get_token", lambda: "secret"),
        patch.object(huggingface_hub, "get_session", side_effect=AssertionError("it was asked")),
    ):
        found = Asking().answer()
    assert found.logged_in and not found.reached and found.offline == ("HF_HUB_OFFLINE",)
    assert "secret" not in shown(*sections(replace(FOUND, hub=found)))


def test_a_hub_that_is_silent_is_not_waited_for():
    class Silent:
        def head(self, *_, **__):
            raise TimeoutError

    with (
        patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", False),
        patch.object(huggingface_hub, "get_token", lambda: None),
        patch.object(huggingface_hub, "get_session", Silent),
    ):
        assert not Asking().answer().reached


def test_a_config_without_weights_is_no_weights(monkeypatch):
    """Bug: a config that was fetched alone counted as the whole model."""
    cached = {"config.json": "/cache/config.json"}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache",
                        lambda path, file: cached.get(file))  # fmt: skip
    assert hub._of_hub(hub.DECODER).where is None
    cached["diffusion_pytorch_model.safetensors"] = "/cache/model.safetensors"
    assert hub._of_hub(hub.DECODER).where == "/cache"
