"""Products of float32 are as exact as was asked for, whatever was chosen before."""

import pytest
import torch

import tiny
from calotype.training import Objective, fit
from calotype.training.products import exact_products, products

FLAGS = {
    "matmul": torch.backends.cuda.matmul, "conv": torch.backends.cudnn.conv,
    "rnn": torch.backends.cudnn.rnn, "cpu": torch.backends.mkldnn.matmul,
}  # fmt: skip


def flags() -> dict[str, str]:
    return {name: flag.fp32_precision for name, flag in FLAGS.items()}


@pytest.fixture(autouse=True)
def as_before():
    before, older_way = flags(), torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(older_way)
    for name, value in before.items():
        FLAGS[name].fp32_precision = value


def newer() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "ieee"


def older() -> None:
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True


def neither() -> None:
    pass


@pytest.mark.parametrize("choose", [newer, older, neither])
def test_bug_torchs_newer_way_to_choose_broke_exact_products(choose):
    """Asked by the older one what had been chosen, torch raised."""
    choose()
    chosen = flags()
    with exact_products():
        assert set(flags().values()) == {"ieee"}
        with products("tf32"):
            assert flags() == {"matmul": "tf32", "conv": "tf32", "rnn": "tf32", "cpu": "ieee"}
        assert set(flags().values()) == {"ieee"}
    assert flags() == chosen


def test_an_error_within_leaves_what_was_chosen():
    before = flags()
    with pytest.raises(KeyError), products("tf32"):
        raise KeyError
    assert flags() == before


@pytest.mark.parametrize(("how", "conv"), [("exact", "ieee"), ("tf32", "tf32")])
def test_a_run_computes_by_the_products_that_it_names(how, conv, tmp_path):
    """cuDNN's convolutions would otherwise be in TF32, as torch has them."""
    seen = set()

    class Seeing(tiny.Repeating):
        def batches(
            self,
            position: int = 0,
            rank: int = 0,
            world: int = 1,
            micro_batch: int | None = None,
        ):
            for batch in super().batches(position, rank, world, micro_batch):
                seen.add(flags()["conv"])
                yield batch

    objectives: list[Objective] = [tiny.denoising()]
    fit(objectives, Seeing(tiny.latents(), 4), tiny.run(tmp_path, products=how))
    assert seen == {conv}
