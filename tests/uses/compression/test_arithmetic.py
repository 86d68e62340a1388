"""Sums that are the same bits in any order, by any library, on any machine."""

import hashlib
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

import coded
import tiny
from calotype.autoregressive import Layout, Transformer, log_likelihood
from calotype.tokenizers import ImageTokenizer
from calotype.uses.compression import (
    Codec,
    Hyperprior,
    Size,
    arithmetic,
    fit_entropy_model,
    read_latents,
    save_entropy_model,
)
from calotype.uses.compression.arithmetic import ExactLinear, masses, on_grid, silu, summed
from calotype.uses.compression.exact_transformer import ExactTransformer

LAYOUT = Layout(3, 24, 1, 6, 8)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def codes(count: int, layout: Layout = LAYOUT) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(layout.codes, (count, layout.length), generator=generator)


def weights(network, layout: Layout, some: Tensor) -> Tensor:
    return torch.cat(list(ExactTransformer(network, layout).weights(layout, some)), dim=1)


def test_a_matrix_product_is_that_of_whole_numbers_in_any_order_and_by_any_library():
    x, linear = on_grid(3 * drawn(40, 500)), ExactLinear(drawn(60, 500, seed=1).float())
    units = 2.0**-arithmetic.FRACTION, linear.weight.abs()[linear.weight != 0].min() / 2**20
    whole = [(each / unit).long() for each, unit in zip((x, linear.weight), units, strict=True)]
    truth = (whole[0] @ whole[1]).double() * units[0] * units[1]
    assert torch.equal(linear(x), truth)
    order = torch.randperm(500)
    assert torch.equal(x[:, order] @ linear.weight[order], truth)
    assert np.array_equal(x.numpy() @ linear.weight.numpy(), truth.numpy())
    rough = drawn(40, 500) @ drawn(500, 60, seed=1)
    assert not torch.equal(drawn(40, 500)[:, order] @ drawn(500, 60, seed=1)[order], rough)


def test_the_largest_numbers_are_summed_exactly_and_wider_sums_refused():
    most = 2 ** (arithmetic.EXACT - arithmetic.WHOLE - arithmetic.FRACTION - arithmetic.WEIGHT)
    linear = ExactLinear(torch.full((1, most), 1 - 2.0**-10))
    x = on_grid(torch.full((1, most), 1e9, dtype=torch.float64))
    x[0, 0] -= 2.0**-arithmetic.FRACTION
    total = x[0].long().sum().item()  # whole numbers but for the first
    assert linear(x).item() == (total + 1 - 2.0**-arithmetic.FRACTION) * (1 - 2.0**-10)
    with pytest.raises(ValueError, match="not exact"):
        ExactLinear(torch.ones(1, most + 1))
    with pytest.raises(ValueError, match="not finite"):
        ExactLinear(torch.full((1, 2), float("nan")))


def test_tables_are_the_functions_that_they_stand_for():
    x = torch.linspace(-40, 40, 1001, dtype=torch.float64)
    assert (silu(x) - torch.nn.functional.silu(x)).abs().max() < 5e-4
    likely = masses(x[None, :300], 24)
    assert (likely / 2**24 - (x[:300] - x[299]).exp()).abs().max() < 2e-4
    assert likely.max() == 2**24 and torch.equal(likely, likely.round())
    assert math.isclose(summed(drawn(7, 37)).sum().item(), drawn(7, 37).sum().item(), abs_tol=1e-9)


@pytest.mark.parametrize(
    "layout", [LAYOUT, Layout(0, 16, 2, 4, 4), Layout(5, 9, 1, 4, 6, ((4, 6), (6, 4)))]
)
def test_codes_cost_what_the_float_model_says(layout):
    network, some = coded.transformer(layout), codes(8, layout)
    likely = weights(network, layout, some)
    exact = (likely / likely.sum(-1, keepdim=True)).gather(2, some[..., None])[..., 0].log()
    none = some.new_zeros(8, 0)
    real = log_likelihood(network, layout, none, none.sum(1), some)
    assert exact.mean().item() == pytest.approx(real.mean().item(), rel=1e-3)
    assert (exact - real).abs().max() < 0.05 and real.std() > 0.5


def test_how_many_are_read_at_once_changes_no_bit():
    network, some = coded.transformer(LAYOUT), codes(6)
    truth = weights(network, LAYOUT, some)
    assert torch.equal(weights(network, LAYOUT, some[2:3]), truth[2:3])
    exact = ExactTransformer(network, LAYOUT)
    memory, read = exact.memory(6), torch.full((6, 1), LAYOUT.begin)
    for place in range(LAYOUT.length):
        assert torch.equal(exact.read(read, memory)[:, 0], truth[:, place])
        read = LAYOUT.tokens(some)[:, place : place + 1]


ELSEWHERE = """
import hashlib, sys, torch
from transformers import LlamaForCausalLM
from calotype.autoregressive import Layout
from calotype.uses.compression.exact_transformer import ExactTransformer
layout = Layout(3, 24, 1, 6, 8)
exact = ExactTransformer(LlamaForCausalLM.from_pretrained(sys.argv[1]), layout)
codes = torch.arange(3 * 48).view(3, 48) * 7 % 24
found = torch.cat(list(exact.weights(layout, codes)), dim=1)
print(torch.get_num_threads(), hashlib.sha256(found.numpy().tobytes()).hexdigest())
"""


def elsewhere(script: str, *arguments: str) -> list[str]:
    """What a process with two threads prints. `ATEN_CPU_CAPABILITY` and `MKL_ENABLE_INSTRUCTIONS`
    make it compute as old processors do.
    """
    old = {"OMP_NUM_THREADS": "2", "MKL_DYNAMIC": "FALSE", "ATEN_CPU_CAPABILITY": "default",
           "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script, *arguments],
                          env={**os.environ, **old}, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def digest(found: Tensor) -> str:
    return hashlib.sha256(found.numpy().tobytes()).hexdigest()


def test_another_process_with_other_threads_and_instructions_finds_the_same_bits(tmp_path):
    network = coded.transformer(LAYOUT)
    network.save_pretrained(tmp_path)
    own = weights(network, LAYOUT, torch.arange(3 * 48).view(3, 48) * 7 % 24)
    assert elsewhere(ELSEWHERE, str(tmp_path)) == ["2", digest(own)]


DECODED_ELSEWHERE = """
import hashlib, sys, torch
from pathlib import Path
from calotype.uses.compression import Codec
codec = Codec.load(sys.argv[1])
files = [file.read_bytes() for file in sorted(Path(sys.argv[2]).iterdir())]
found = codec.unpack([codec.read(file) for file in files])
if hasattr(codec.models, "synthesis"):
    hyper = torch.arange(6 * 12 * 60).view(6, 12, 6, 10) * 7.0 % 65 - 32
    found = torch.cat([found.double(), *codec.models.synthesis(hyper.double(), (24, 40))])
print(torch.get_num_threads(), hashlib.sha256(found.numpy().tobytes()).hexdigest())
"""


@pytest.mark.parametrize("bottleneck", [tiny.VQ_BOTTLENECK, None], ids=["counted", "hyperprior"])
def test_files_are_decoded_to_the_same_bits_by_another_process(bottleneck, tmp_path):
    """By frequencies, and by a hyperprior, of whose sums all bits are compared: rounding to steps
    and tables would hide most of them.
    """
    tokenizer = tiny.tokenizer(bottleneck=bottleneck) if bottleneck else tiny.tokenizer()
    tokenizer.save(tmp_path / "model")
    tokenizer = ImageTokenizer.load(tmp_path / "model")
    latents = read_latents(tokenizer, [tiny.images(8)])
    fitted = fit_entropy_model(tokenizer, latents, Hyperprior(steps=20))
    save_entropy_model(fitted, tokenizer, 8, tmp_path / "model")
    codec, chance = Codec.load(tmp_path / "model"), torch.Generator().manual_seed(0)
    some = torch.randn(3, *latents.shape[1:-2], 24, 40, generator=chance) * 3
    if bottleneck:
        some = some.abs().mul(2).long() % 16
    files = codec.pack(some, Size(80, 48, 2))
    (tmp_path / "files").mkdir()
    for i, file in enumerate(files):
        (tmp_path / "files" / f"{i}.calo").write_bytes(file)
    own = codec.unpack([codec.read(file) for file in files])
    if bottleneck is None:
        hyper = torch.arange(6 * 12 * 60).view(6, 12, 6, 10) * 7.0 % 65 - 32
        own = torch.cat([own.double(), *codec.models.synthesis(hyper.double(), (24, 40))])
    told = elsewhere(DECODED_ELSEWHERE, str(tmp_path / "model"), str(tmp_path / "files"))
    assert told == ["2", digest(own)]


def test_networks_of_other_kinds_are_refused():
    for name, value in (("hidden_act", "gelu"), ("num_key_value_heads", 1)):
        network = Transformer(16, 2, 2).build(LAYOUT, 0)
        setattr(network.config, name, value)
        with pytest.raises(ValueError, match=r"gelu|another width"):
            ExactTransformer(network, LAYOUT)
    network = Transformer(16, 2, 2).build(LAYOUT, 0)
    network.config.rope_parameters["rope_type"] = "yarn"
    with pytest.raises(ValueError, match="rotary"):
        ExactTransformer(network, LAYOUT)
