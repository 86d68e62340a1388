"""What a run computes in: chosen by the device, kept on resume; float16 with its losses scaled."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import tiny
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.recipes.discrete import DISCRETE
from calotype.recipes.generators import GENERATORS
from calotype.recipes.tokenizers import TOKENIZERS
from calotype.training import DivergedError, Losses, Objective, fit
from calotype.training import checkpoint as checkpoints
from calotype.training import precision as precisions
from calotype.training.objective import Batch
from calotype.training.optimizer import AdamW
from calotype.training.precision import UNSCALED, chosen, gradient, slowness, suits

CPU = torch.device("cpu")
KINDS = ["tokenizer", "lecam", "r1", "vq", "vq-loss", "rvq", "lfq", "dvae", "generator",
         "transformer"]  # fmt: skip


@pytest.fixture
def cpu(monkeypatch):
    """Says which precisions the CPU multiplies in hardware."""

    def says(*names: str) -> None:
        monkeypatch.setattr(
            precisions, "in_hardware", lambda name, device: name == "fp32" or name in names
        )

    return says


@pytest.mark.parametrize(
    ("knows", "has", "name"),
    [(False, (), "fp32"), (True, (), "bf16"), (True, ("avx512",), "fp32"),
     (True, ("avx512", "avx512_bf16"), "bf16"), (True, ("avx512", "amx_tile"), "bf16")],
)  # fmt: skip
def test_auto_on_a_cpu_is_what_it_multiplies(knows, has, name, monkeypatch):
    """Bug: oneDNN knows bf16 on each CPU with AVX-512, and many of those multiply none."""
    asked = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: knows)
    monkeypatch.setattr(torch.ops, "mkldnn", asked)
    for each in ("avx512", "avx512_bf16", "amx_tile"):
        monkeypatch.setattr(
            torch.cpu, f"_is_{each}_supported", lambda each=each: each in has, raising=False
        )
    found = suits(CPU)
    assert found.name == name and "this CPU (" in found.reason


@pytest.mark.parametrize(
    ("capability", "name"), [((7, 0), "fp32"), ((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)
def test_auto_on_cuda_is_bf16_from_capability_8_on(capability, name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla")
    found = suits(torch.device("cuda"))
    major, minor = capability
    assert found.name == name and f"Tesla (capability {major}.{minor})" in found.reason


@pytest.mark.parametrize(("module", "name"), [
    (SimpleNamespace(is_bf16_supported=lambda: True), "bf16"),
    (SimpleNamespace(is_bf16_supported=lambda: False), "fp32"),
    (SimpleNamespace(), "fp32"),
])  # fmt: skip
def test_auto_on_other_devices_is_by_their_own_question(module, name, monkeypatch):
    monkeypatch.setattr(torch, "get_device_module", lambda kind: module)
    assert suits(torch.device("xpu")).name == name


@pytest.mark.parametrize("name", [*TOKENIZERS, *GENERATORS])
def test_every_recipe_is_auto(name):
    assert DISCRETE.keys() <= TOKENIZERS.keys()
    assert (TOKENIZERS | GENERATORS)[name]().run.precision == "auto"


@pytest.mark.parametrize(("asked", "begun", "real", "name"), [
    ("auto", None, ["bf16"], "bf16"), ("auto", None, [], "fp32"),
    ("auto", "fp32", ["bf16"], "fp32"), ("auto", "bf16", ["bf16"], "bf16"),
    ("auto", "fp16", ["fp16", "bf16"], "fp16"),
    ("fp16", "bf16", ["bf16"], "fp16"), ("fp32", "bf16", [], "fp32"), ("bf16", None, [], "bf16"),
])  # fmt: skip
def test_what_is_asked_for_goes_before_what_was_and_that_before_the_device(
    asked, begun, real, name, cpu, tmp_path
):
    cpu(*real)
    assert chosen(asked, begun, CPU, tmp_path).name == name


def test_a_device_that_lacks_what_a_run_began_in_says_what_to_do(cpu, tmp_path):
    cpu()
    with pytest.raises(ValueError, match=r"begun in bf16, which this CPU .*--run\.precision fp32"):
        chosen("auto", "bf16", CPU, tmp_path)


def test_a_resume_keeps_what_was_chosen(cpu, tmp_path, capfd):
    """And says what and why; by name it may be another, since weights are float32 in any."""

    def recorded() -> str:
        return json.loads((run.out / "recipe.json").read_text())["run"]["precision"]

    def train(**changes) -> None:
        settings = replace(run, resume=True, **changes)
        train_tokenizer(tiny.tokenizer_recipe(tmp_path, run=settings, measure=32))

    run = tiny.run(tmp_path / "tokenizer", steps=1, precision="auto")
    cpu()
    train()
    assert recorded() == "fp32" and ", in fp32: this CPU (" in capfd.readouterr().err
    cpu("bf16")
    train(steps=2)
    assert recorded() == "fp32" and ", in fp32: the run was begun in it" in capfd.readouterr().err
    train(steps=3, precision="bf16")
    assert recorded() == "bf16" and ", in bf16: asked for by name" in capfd.readouterr().err
    cpu()
    with pytest.raises(ValueError, match="begun in bf16"):
        train(steps=4)
    train(steps=4, precision="fp32")
    assert recorded() == "fp32"


def test_what_is_emulated_is_warned_of_by_a_measured_ratio(cpu, monkeypatch):
    cpu()
    monkeypatch.setattr(precisions, "seconds", lambda call, device: 8.0 if _is_low(call) else 2.0)
    with pytest.warns(UserWarning, match=r"a convolution took 4 times .* product 4 times"):
        precisions.warn_of_emulation("bf16", CPU)
    precisions.warn_of_emulation("fp32", CPU)


def _is_low(call) -> bool:
    return call().dtype == torch.bfloat16


def test_the_ratios_are_measured():
    assert all(math.isfinite(found) and found > 0 for found in slowness("bf16", CPU))


class Steep(Objective):
    """A loss whose gradient is the mean of `batch["x"]`; remembers what it is told."""

    def __init__(self) -> None:
        super().__init__(AdamW(0.1))
        self.w = torch.nn.Parameter(torch.zeros(1))
        self.calls: list[str] = []

    def forward(self, batch: Batch, step: int) -> Losses:
        x = batch["x"]
        return {"product": torch.nn.functional.linear(x, self.w[None]).float().mean()}

    def step_end(self, step: int):
        self.calls.append("end")
        return []

    def step_skipped(self) -> None:
        self.calls.append("skipped")


def slopes(*values: float) -> tiny.Repeating:
    return tiny.Repeating({"x": torch.tensor(values)[:, None]}, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_in_fp16(kind, tmp_path):
    """Beside float32: every term within a tenth, nothing that is kept in float16."""
    found = []
    for precision in ("fp32", "fp16"):
        out = tmp_path / precision
        tiny.train(kind, tiny.run(out, precision=precision, log_every=1, steps=2))
        found.append(json.loads((out / "metrics.jsonl").read_text().splitlines()[0]))
        groups, state = checkpoints.read(out / "checkpoints/step-2")
        assert torch.float16 not in {t.dtype for part in groups.values() for t in part.values()}
        assert state["skipped"] == 0 and ("scaler" in state) == (precision == "fp16")
    exact, cast = found
    assert any(exact[name] != cast[name] for name in exact)
    for name in exact:
        assert cast[name] == pytest.approx(exact[name], rel=0.1, abs=5e-3), name


@pytest.mark.parametrize("kind", ["lecam", "vq", "generator"])
def test_fp16_resumes_exactly(kind, tmp_path):
    """Scale, its growth and all."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    tiny.train(kind, tiny.run(whole, precision="fp16", steps=4))
    tiny.train(kind, tiny.run(parts, precision="fp16", steps=2))
    tiny.train(kind, tiny.run(parts, precision="fp16", steps=4, resume=True))
    for file in (whole / "checkpoints/step-4").iterdir():
        assert file.read_bytes() == (parts / "checkpoints/step-4" / file.name).read_bytes()


def test_the_scale_is_resumed_where_it_was(tmp_path):
    """Every other step overflows with the scale of 65536."""
    run = tiny.run(tmp_path / "whole", steps=4, batch_size=1, precision="fp16", clip=None)
    objective = Steep()
    fit([objective], slopes(60_000.0, 1.0), run)
    parts = replace(run, out=tmp_path / "parts")
    fit([Steep()], slopes(60_000.0, 1.0), replace(parts, steps=2))
    again = Steep()
    fit([again], slopes(60_000.0, 1.0), replace(parts, resume=True))
    states = [checkpoints.read(out.out / "checkpoints/step-4")[1] for out in (run, parts)]
    assert states[0] == states[1] and states[0]["scaler"]["scale"] < 65536
    assert torch.equal(objective.w, again.w)


def test_an_overflow_holds_back_both_learners_averages_and_codebook(tmp_path, capfd):
    """All but the scale, which is halved, stands where it stood before the step."""
    objectives = tiny.learners(
        lpips=False, adversary=tiny.adversary(), bottleneck=tiny.BOTTLENECKS["vq"]
    )
    critic = objectives[1]
    steps = 0

    def overflow(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        return gradient * torch.inf if steps == 3 else gradient

    next(critic.parameters()).register_hook(overflow)
    run = tiny.run(tmp_path, precision="fp16", steps=3, save_every=1, keep=3)
    fit(objectives, tiny.Repeating({"image": tiny.images(16)}, 4), run)
    before, after = (checkpoints.read(tmp_path / f"checkpoints/step-{n}") for n in (2, 3))
    assert before[0].keys() >= {"model-0", "model-1", "optimizer-0", "optimizer-1", "ema"}
    for group in before[0].keys() - {"means"}:
        for name, tensor in before[0][group].items():
            assert torch.equal(tensor, after[0][group][name]), (group, name)
    assert after[1]["scaler"]["scale"] == before[1]["scaler"]["scale"] / 2 == 2.0**15
    assert (after[1]["skipped"], after[1]["skipped_in_a_row"]) == (1, 0)
    assert "losses are scaled by 32768 from here on" in capfd.readouterr().err


def test_a_scale_that_has_nowhere_to_fall_is_divergence(tmp_path):
    """16 steps halve 65536 to 1; only what overflows then counts towards patience."""
    objective = Steep()
    objective.w.register_hook(lambda gradient: gradient * torch.inf)
    run = tiny.run(tmp_path, precision="fp16", steps=99, patience=3, ema=None)
    with pytest.raises(DivergedError, match="a gradient is not finite for 3 steps in a row"):
        fit([objective], slopes(1.0), run)
    assert objective.calls == ["skipped"] * (16 + 3)


def test_small_gradients_do_not_vanish_in_float16():
    """Differentiated within forward too, where the run's loss is not scaled yet."""
    kernel = torch.full((1, 1, 3, 3), 1e-4)
    image = torch.ones(1, 1, 8, 8, requires_grad=True)
    scaler = torch.amp.GradScaler("cpu")

    def value() -> torch.Tensor:
        with torch.autocast("cpu", torch.float16):
            return torch.conv2d(image, kernel, padding=1).float().mean() * 1e-5

    exact = torch.autograd.grad(1e-5 * torch.conv2d(image, kernel, padding=1).mean(), image)[0]
    assert gradient(value(), image, UNSCALED).count_nonzero() == 0
    torch.testing.assert_close(gradient(value(), image, scaler), exact, rtol=0.02, atol=0)


def test_the_scale_grows_again(tmp_path, monkeypatch):
    small = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
    monkeypatch.setattr("calotype.training.trainer.loss_scaling", lambda name, device: small)
    fit([Steep()], slopes(0.01), tiny.run(tmp_path, precision="fp16", steps=4, clip=None))
    state = checkpoints.read(tmp_path / "checkpoints/step-4")[1]
    assert state["scaler"]["scale"] == 16 and not state["skipped"]


def test_weights_of_a_run_in_fp16_are_float32(tmp_path):
    tiny.train("generator", tiny.run(tmp_path, precision="fp16", steps=1))
    kinds = {t.dtype for t in load_file(tmp_path / "checkpoints/step-1/ema.safetensors").values()}
    assert kinds == {torch.float32}
