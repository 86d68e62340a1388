"""A step of every objective on a device that is not there: nothing is on the wrong device, and the
device is waited for once.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException

import tiny
from calotype.autoregressive import Linear, Raster, TokenSampling, Transformer
from calotype.autoregressive.decoder import Decoder
from calotype.autoregressive.sampling import PromptTokens, draw_codes
from calotype.commands.validation import _losses, of_tokenizer
from calotype.data.cache.latents import LatentRows
from calotype.diffusion import Epsilon, Flow, Velocity
from calotype.diffusion.text import LearntText
from calotype.evaluation.codebook import codebook_health
from calotype.evaluation.judges import Judges
from calotype.evaluation.tokenizer import evaluate_tokenizer
from calotype.pipelines import (
    Sampling,
    TokenPipeline,
    sample,
    score,
    text_to_image,
    unconditional,
)
from calotype.tokenizers import ImageTokenizer, Reconstruction, fold, measure
from calotype.tokenizers.bottlenecks import BSQ, FSQ, Discrete
from calotype.tokenizers.bottlenecks.codebook import Cosine
from calotype.tokenizers.bottlenecks.vector_quantizer import Rotation
from calotype.tokenizers.encoder import Encoder
from calotype.tokenizers.terms import R1, LeCAM, PerceptualTerm
from calotype.training import Batch, Objective, Run
from calotype.training.log import Log
from calotype.training.noise import sent
from calotype.training.precision import autocast
from calotype.training.trainer import Asked, Trainer
from fake_cuda import CUDA, Watch, fake_cuda, moved

TEXT = LearntText(width=16, layers=1, heads=2, length=8, vocabulary=300)
ONE = {"trainer.py: update": 1}
"""The question whether the step was finite, which is asked with that for signals."""


def adversary(regulariser=None) -> list[Objective]:
    return tiny.learners(True, tiny.adversary(regulariser=regulariser))


def codes(name: str) -> list[Objective]:
    return tiny.learners(False, bottleneck=tiny.BOTTLENECKS[name])


ROTATED = replace(tiny.BOTTLENECKS["vq-loss"], estimator=Rotation())
ROTATED = replace(ROTATED, codebook=replace(ROTATED.codebook, similarity=Cosine()))
OBJECTIVES: dict[str, Callable[[], list[Objective]]] = {
    "kl, lpips": tiny.learners,
    "kl, lpips, adversary": adversary,
    "kl, lpips, adversary, r1": lambda: adversary(R1(0.1)),
    "kl, lpips, adversary, lecam": lambda: adversary(LeCAM(0.1, 0.9)),
    **{name: (lambda name=name: codes(name)) for name in tiny.BOTTLENECKS},
    "vq, on the sphere, rotated": lambda: tiny.learners(False, bottleneck=ROTATED),
    "bsq": lambda: tiny.learners(False, bottleneck=BSQ(bits=4)),
    "fsq": lambda: tiny.learners(False, bottleneck=FSQ((5, 5, 5))),
    "penalised": tiny.penalised,
    "sparse": tiny.sparse,
    "flow": lambda: [tiny.denoising()],
    "epsilon": lambda: [tiny.denoising(process=Epsilon(snr_gamma=5.0))],
    "velocity": lambda: [tiny.denoising(process=Velocity(snr_gamma=5.0))],
    "transformer": lambda: [tiny.next_token(order=Raster())],
    "transformer, random orders": lambda: [tiny.next_token()],
}


def rows(name: str) -> dict[str, torch.Tensor]:
    if "transformer" in name:
        return tiny.tokens()
    if name in ("flow", "epsilon", "velocity"):
        return tiny.latents()
    return {"image": torch.zeros(16, 3, tiny.SIZE, tiny.SIZE)}


def batches(watch: Watch, rows: dict[str, torch.Tensor]) -> Iterator[Batch]:
    """As the loader gives them to a run on a GPU: in pinned memory."""
    for batch in tiny.Repeating(rows, 4).batches():
        pinned = {k: watch.pin(v) for k, v in batch.items() if isinstance(v, torch.Tensor)}
        yield {**batch, **pinned, "longest": 8}


class Silent(Log):
    """Steps are all taken."""

    def say(self, line: str) -> None:
        """Say nothing."""
        raise AssertionError(line)


def trained(watch: Watch, name: str, run: Run) -> Iterator[dict[str, int]]:
    """The waits of each step."""
    objectives = [moved(o, CUDA) for o in OBJECTIVES[name]()]
    trainer = Trainer(objectives, run)
    assert {p.device for o in objectives for p in o.parameters()} == {CUDA}
    assert trainer.precision == run.precision
    log = Silent(run, trainer.accelerator, 0, 4, trainer.precision)
    each = batches(watch, rows(name))
    while True:
        watch.taken()
        trainer.gradients(each)
        trainer.update(log, Asked())
        yield watch.taken()


@pytest.fixture
def watch(monkeypatch) -> Iterator[Watch]:
    monkeypatch.setattr(tiny, "backbone", tiny.backbone.__wrapped__)  # the usual one has contents
    with fake_cuda() as found:
        yield found


@pytest.mark.parametrize(
    ("name", "precision"),
    [*((name, "bf16") for name in OBJECTIVES), ("kl, lpips, adversary, r1", "fp16"),
     ("flow", "fp32"), ("transformer", "fp16"), ("vq-loss", "fp32")],
)  # fmt: skip
def test_a_step_waits_for_the_device_once(name, precision, watch, tmp_path):
    """Of the last two, one restarts codes."""
    waits = trained(watch, name, tiny.run(tmp_path, precision=precision, steps=100))
    deque(islice(waits, 4), maxlen=0)  # what is asked once has then been asked
    assert [*islice(waits, 2)] == [ONE, ONE]


@pytest.mark.parametrize("name", ["kl, lpips, adversary", "vq", "lfq", "flow", "transformer"])
def test_a_step_of_several_micro_batches_waits_once(name, watch, tmp_path):
    """Adaptive weights and surveys look at all of them first."""
    waits = trained(watch, name, tiny.run(tmp_path, batch_size=12, micro_batch=4, steps=100))
    deque(islice(waits, 2), maxlen=0)
    assert next(waits) == ONE


def test_one_more_wait_is_seen(watch, tmp_path, monkeypatch):
    def asked(self, step: int) -> list:
        assert self.tokenizer.last_layer.weight.sum() > 0
        return []

    monkeypatch.setattr(Reconstruction, "step_end", asked)
    waits = trained(watch, "kl, lpips", tiny.run(tmp_path, steps=100))
    next(waits)
    assert next(waits) == {**ONE, "learner.py: update": 1}


def test_a_tensor_on_the_wrong_device_is_seen(watch, tmp_path, monkeypatch):
    monkeypatch.setattr("calotype.diffusion.objectives.sent", lambda tensor, device: tensor)
    with pytest.raises(RuntimeError, match="two devices, cpu and cuda:0"):
        next(trained(watch, "flow", tiny.run(tmp_path, steps=100)))


def test_what_waits_and_what_does_not(watch):
    """A device is waited for by whoever reads it, and by a copy that is not from pinned memory."""
    here, there = torch.zeros(3), torch.zeros(3, device=CUDA)
    sent(here, CUDA)
    there.new_full((), 2.0)
    there.masked_fill_(there > 0, 1.0)
    there[1:] += there.sum()
    assert watch.taken() == {}
    for wait in (
        there.sum().item, there.tolist, there.cpu, lambda: bool(there.any()), lambda: there[[0, 1]],
        lambda: here.to(CUDA), lambda: here.to(CUDA, non_blocking=True), lambda: there[there > 0],
        lambda: there.copy_(here), lambda: here.pin_memory().to(CUDA), there.nonzero,
        lambda: torch.tensor(1.0, device=CUDA),
    ):  # fmt: skip
        with suppress(DynamicOutputShapeException):  # how large it is nobody knows
            wait()
        assert watch.taken()


def tokenizer(name: str) -> ImageTokenizer:
    return moved(tiny.tokenizer(0, tiny.BOTTLENECKS.get(name, tiny.BOTTLENECK)), CUDA)


def pictures(count: int = 2) -> Iterator[Batch]:
    for i in range(count):
        yield {
            "image": torch.zeros(4, 3, tiny.SIZE, tiny.SIZE),
            "key": list(range(4 * i, 4 * i + 4)),
        }


def each(watch: Watch, act: Callable[[int], object]) -> dict[str, int]:
    """The waits of one more batch, or step."""
    found = []
    for count in (2, 3):
        watch.taken()
        act(count)
        found.append(Counter(watch.taken()))
    return dict(found[1] - found[0])


@pytest.mark.parametrize("name", ["kl", *tiny.BOTTLENECKS])
def test_the_ending_of_a_tokenizer(name, watch):
    """Moments are summed on the CPU, in float64; codes are counted where they are."""
    made = tokenizer(name)
    waits = each(watch, lambda count: measure(made, pictures(count)))
    assert waits == {"latent_space.py: measure": 1}
    fold(made, measure(made, pictures()))
    made.reconstruct(torch.zeros(2, 3, tiny.SIZE, tiny.SIZE, device=CUDA))
    if isinstance(made.bottleneck, Discrete):
        assert each(watch, lambda count: codebook_health(made, pictures(count))) == {}
    if (stock := made.export()) is not None:
        assert {tensor.device for tensor in stock.state_dict().values()} == {CUDA}


@pytest.mark.parametrize("name", ["kl", "vq", "rvq"])
def test_rows_of_a_cache(name, watch):
    encoder = Encoder(tokenizer(name), "f00d", tiny.SIZE, flipped=True)
    watch.taken()
    rows = encoder.rows(next(pictures())["image"])
    assert watch.taken() == {"encoder.py: _pack": 2}  # a picture and its mirror image
    assert {tensor.device.type for tensor in rows.values()} == {"cpu"}


@pytest.mark.parametrize("name", ["kl", "vq"])
def test_measures_of_a_tokenizer(name, watch):
    judges = Judges(None, {"vgg": moved(PerceptualTerm(tiny.backbone()), CUDA)})
    made = tokenizer(name)
    with patch("calotype.evaluation.tokenizer.throughput", lambda *_: {}):
        found = evaluate_tokenizer(made, pictures(), judges)
        waits = each(
            watch, lambda count: evaluate_tokenizer(made, pictures(count), judges, examples=1)
        )
    # Pictures, the first of what they became, moments and latents, or codes, and three measures;
    # torchmetrics asks twice.
    assert sum(waits.values()) == 10, waits
    assert found.protocol.device == "cuda" and {"psnr_db", "lpips_vgg"} <= found.figures.keys()


@pytest.mark.parametrize("name", ["flow", "transformer", "transformer, random orders"])
def test_measures_of_a_generator_while_it_trains(name, watch):
    class Rows(LatentRows):
        def __init__(self, count: int) -> None:
            self.count = count

        def __len__(self) -> int:
            return self.count

        def batch(self, places, keys):
            return {k: v[places] for k, v in rows(name).items()} | {"longest": 8}

        def buckets(self):
            return None

    (objective,) = OBJECTIVES[name]()
    assert "loss" in _losses(moved(objective, CUDA), Rows(6), 4)
    assert each(watch, lambda count: _losses(objective, Rows(4 * count), 4)) == {}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_measures_of_a_tokenizer_while_it_trains(precision, watch, monkeypatch):
    some = "calotype.commands.validation.some_of"
    monkeypatch.setattr(some, lambda data, count, *_: pictures(count // 4))
    objective = moved(OBJECTIVES["kl, lpips"]()[0], CUDA)
    objective.precision = precision

    def measured(count: int) -> dict[str, float]:
        return of_tokenizer(objective, tiny.SCENES.build(), None, 4 * count, {}, 4)()

    assert {"psnr_db", "ssim"} == measured(2).keys()
    assert sum(each(watch, measured).values()) == 4  # two measures, and two of torchmetrics' own


def test_averages_are_swapped_on_the_device(watch, tmp_path):
    objective = moved(OBJECTIVES["flow"]()[0], CUDA)
    trainer = Trainer([objective], tiny.run(tmp_path, ema=0.9))
    watch.taken()
    trainer.averaged(lambda: None)
    assert watch.taken() == {}


def test_drawing_of_noise_alone(watch):
    vae, unet = tiny.tokenizer().autoencoder, tiny.UNet((8, 16), (True, True), 1, 4, 4)
    network = moved(replace(unet, pooled_text=False).unconditional(4, 2), CUDA)
    pipeline = unconditional(moved(vae, CUDA), network, Flow().scheduler())

    def drawing(steps: int) -> torch.Tensor:
        return next(sample(pipeline, ["", ""], [0, 1], Sampling(steps=steps, guidance=1.0)))

    # The stock pipeline leaves its timesteps on the CPU.
    assert each(watch, drawing) == {"sampling.py: draw_batch": 1}
    assert drawing(2).shape == (2, 3, 8, 8)


def test_scores_of_a_transformer(watch):
    model = moved(Transformer(16, 2, 2).build(tiny.LAYOUT, 8), CUDA)
    pipeline = TokenPipeline(model, None, tokenizer("vq"), tiny.LAYOUT)
    codes = torch.zeros(2, tiny.LAYOUT.length, dtype=torch.long)
    assert score(pipeline, codes, ["", ""], "bf16").shape == (2,)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("process", [Flow(), Epsilon(), Velocity()])
def test_drawing_by_diffusion(process, precision, watch):
    objective = tiny.denoising(process=process)
    prompts = TEXT.tokenizer(tiny.CAPTIONS)
    parts = (tiny.tokenizer().autoencoder, objective.unet, objective.text_encoder)
    vae, unet, encoder = (moved(part, CUDA) for part in parts)
    pipeline = text_to_image(vae, unet, process.scheduler(), encoder, prompts)
    how = Sampling(steps=3, guidance=2.0, precision=precision)

    def drawing(steps: int) -> torch.Tensor:
        return next(sample(pipeline, ["a red circle"] * 2, [0, 1], replace(how, steps=steps)))

    assert each(watch, drawing) == {}
    assert drawing(3).shape == (2, 3, 8, 8)


def drawn(watch: Watch, sampling: TokenSampling, prompt: int = 3) -> dict[str, int]:
    model = moved(Transformer(16, 2, 2).build(tiny.LAYOUT, 8), CUDA)
    decoder = Decoder(model, tiny.LAYOUT)
    tokens = torch.zeros(2, prompt, dtype=torch.long, device=CUDA)
    watch.taken()
    codes = draw_codes(decoder, PromptTokens(tokens, tokens == 0), [0, 1], sampling)
    assert codes.shape == (2, tiny.LAYOUT.length) and codes.device == CUDA
    return watch.taken()


def test_bug_the_device_was_waited_for_at_each_token(watch):
    """Because what a prompt holds was asked of the device each time."""
    for sampling in (
        TokenSampling(guidance=2.0), TokenSampling(guidance=1.0),
        TokenSampling(guidance=2.0, top_k=3, top_p=0.9, temperature=0.5, ramp=Linear()),
        TokenSampling(temperature=0.0),
    ):  # fmt: skip
        waits = drawn(watch, sampling)
        assert sum(waits.values()) == 3, waits  # of 16 tokens


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float32)]
)
@pytest.mark.parametrize(
    ("name", "norms"),
    [("kl, lpips", (nn.GroupNorm, nn.SiLU)), ("flow", (nn.GroupNorm, nn.LayerNorm))],
)
def test_bug_norms_and_what_follows_them_were_float32_in_bf16(
    name, norms, precision, dtype, watch, tmp_path
):
    """As CUDA's autocast has them, and a CPU's does not: half of the memory again. fp16 has not the
    range.
    """
    (objective,) = (moved(each, CUDA) for each in OBJECTIVES[name]())
    Trainer([objective], tiny.run(tmp_path, precision=precision))
    network = objective.tokenizer if name == "kl, lpips" else objective.unet
    seen = set()
    for module in network.modules():
        if type(module) in norms:
            module.register_forward_hook(lambda *given: seen.add(given[2].dtype))
    batch = next(batches(watch, rows(name)))
    images = {k: v.to(CUDA) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    with autocast(precision, CUDA):
        sum(objective(images, 0).values()).backward()
    assert seen == {dtype}
    assert {p.grad.dtype for p in network.parameters()} == {torch.float32}
