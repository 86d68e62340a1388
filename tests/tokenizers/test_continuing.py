"""A trained tokenizer goes on where it stood, with all that its stock export has no place for."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

import tiny
from calotype.commands import export
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.recipes.tokenizer import Continued, NewTokenizer, TokenizerRecipe
from calotype.tokenizers import ImageTokenizer, Reconstruction, fingerprint, go_on
from calotype.tokenizers.bottlenecks import FSQ, LFQ, VQ, BottleneckSpec
from calotype.tokenizers.bottlenecks.codebook import EMA, Codebook, Codes, Cosine, Uniform
from calotype.tokenizers.continuing import KEPT, Kept
from calotype.tokenizers.terms import L1, L2, LogitLaplace, Pixel
from calotype.tokenizers.tokenizer import OWN_WEIGHTS

pytestmark = pytest.mark.filterwarnings(
    "ignore:temperature",
    "ignore:no stock class",
    r"ignore:\d+% of .* codes are in use",
    "ignore:.*a latent channel departs",
)
"""Of three steps nothing is good."""
KINDS: dict[str, BottleneckSpec] = {
    "kl": replace(tiny.STILL, kl_weight=0.1),
    "ema": tiny.VQ_BOTTLENECK,
    "loss": tiny.BOTTLENECKS["vq-loss"],
    "dvae": tiny.BOTTLENECKS["dvae"],
    "fsq": FSQ((4, 4)),
}


def recipe(root: Path, model: Any, **changes: Any) -> TokenizerRecipe:
    return tiny.tokenizer_recipe(root, model=model, **changes)


def pixel(name: str) -> Pixel:
    return LogitLaplace() if name == "dvae" else L1()


def losses(tokenizer: ImageTokenizer, name: str, step: int) -> dict[str, float]:
    """Of a batch, each term, in training."""
    term = pixel(name)
    objective = Reconstruction(tokenizer, {"pixel": (1.0, term.build())}, tiny.adam(1e-3)).train()
    return {name: loss.item() for name, loss in objective(tiny.batch(8), step).items()}


@pytest.fixture(scope="module", params=KINDS)
def ended(request, tmp_path_factory) -> tuple[str, Path, ImageTokenizer]:
    """A kind, the folder of its export, and what was trained before it was normalised."""
    root, kept = tmp_path_factory.mktemp("ended"), []

    def finish(tokenizer: ImageTokenizer, how: Any) -> None:
        kept.append(copy.deepcopy(tokenizer))
        export.finish(tokenizer, how)

    made = recipe(root, NewTokenizer(tiny.BACKBONE, KINDS[request.param]),
                  pixel=pixel(request.param))  # fmt: skip
    with patch("calotype.commands.train_tokenizer.finish", finish):
        folder = train_tokenizer(made)
    return request.param, folder, kept[0]


def test_the_first_loss_is_the_last_ones(ended):
    """Each term, the rate of normalised latents and the codes' too. Taken as others' are, it is
    not."""
    name, folder, last = ended
    found = losses(go_on(folder), name, 0)
    assert found == pytest.approx(losses(copy.deepcopy(last), name, 3), rel=1e-4, abs=1e-7)
    if name == "kl":
        assert found["kl"] != pytest.approx(losses(ImageTokenizer.load(folder), name, 0)["kl"])


def test_what_is_remembered_of_codes_goes_on(ended):
    """Averages and frequencies; but for shift and scale, which are as before normalisation."""
    name, folder, last = ended
    state, was = go_on(folder).bottleneck.state_dict(), last.bottleneck.state_dict()
    assert state.keys() == was.keys()
    for key in was:
        torch.testing.assert_close(state[key], was[key], atol=1e-5, rtol=1e-5)
    if name == "ema":
        assert {"codebook.frequency", "codebook.total", "usage"} <= was.keys()


@pytest.mark.parametrize("ended", ["kl", "ema"], indirect=True)
def test_all_of_it_is_trained_and_normalised_again(ended, tmp_path):
    name, folder, _ = ended
    begun = go_on(folder)
    assert all(parameter.requires_grad for parameter in begun.parameters())
    size = 2 * tiny.SIZE
    again = recipe(tmp_path, Continued(str(folder)), pixel=pixel(name),
                   data=replace(tiny.SCENES, size=size))  # fmt: skip
    made = train_tokenizer(again)
    report = json.loads((made / "latent_statistics.json").read_text())
    assert report["reconstruction_moved"] < 1e-4
    mean_square = torch.tensor(report["latent_std"]).square().mean()
    assert mean_square.sqrt().item() == pytest.approx(1, abs=0.05)
    tokenizer = ImageTokenizer.load(made)
    assert tokenizer.autoencoder.config["sample_size"] == size
    learnt = begun.autoencoder.encoder.state_dict()
    now = tokenizer.autoencoder.encoder.state_dict()
    assert not any(torch.equal(now[key], learnt[key]) for key in learnt if key.endswith("weight"))
    assert Kept.read(made).steps == 6


def test_a_stock_vq_model_has_codes_that_learn(ended, tmp_path):
    """Where nothing stands beside it: as anybody's."""
    name, folder, _ = ended
    if name == "fsq":
        assert not (folder / "config.json").exists(), "it has no stock class"
        return
    shutil.copytree(folder, tmp_path / "stock")
    (tmp_path / "stock" / KEPT).unlink()
    stock, begun = ImageTokenizer.load(tmp_path / "stock"), go_on(tmp_path / "stock")
    images = tiny.images(4)
    assert torch.equal(begun.pack(images), stock.pack(images))
    torch.testing.assert_close(begun.reconstruct(images), stock.reconstruct(images))
    if name == "kl":
        return
    assert isinstance(begun.bottleneck.codebook, Codes)
    objective = Reconstruction(begun, {"pixel": (1.0, L1().build())}, tiny.adam(1e-3)).train()
    torch.stack(list(objective(tiny.batch(4), 0).values())).sum().backward()
    moved = begun.bottleneck.codebook.embedding.grad
    assert moved is not None and moved.abs().sum() > 0


def test_codes_of_others_can_follow_averages(tmp_path):
    """They stay where they are until they are chosen."""
    made = tiny.tokenizer(0, VQ(Codebook(16, 4, init=Uniform(), restart=None)))
    made.save(tmp_path)
    begun = go_on(tmp_path, VQ(Codebook(16, 4, EMA(), restart=None)))
    before = begun.bottleneck.codebook.codes.clone()
    torch.testing.assert_close(before, made.bottleneck.table())
    begun.bottleneck.codebook.step_end(begun.bottleneck.usage[0])
    torch.testing.assert_close(begun.bottleneck.codebook.codes, before)


def test_its_discriminator_goes_on_too(tmp_path):
    """And a run without one leaves none."""
    first = recipe(tmp_path, NewTokenizer(tiny.BACKBONE, tiny.STILL), adversary=tiny.adversary())
    folder = train_tokenizer(first)
    last = tiny.load_step(first.run.out, 3, "model-1")
    assert Kept.read(folder).part("critic.").keys() == last.keys()
    begun: list[dict[str, torch.Tensor]] = []

    def fit(objectives: Any, *_: Any) -> None:
        begun.append({n: t.clone() for n, t in objectives[1].state_dict().items()})
        raise ZeroDivisionError

    for discriminator in (True, False):
        again = recipe(tmp_path, Continued(str(folder), discriminator=discriminator),
                       adversary=tiny.adversary(),
                       run=tiny.run(tmp_path / f"again-{discriminator}"))  # fmt: skip
        with patch("calotype.commands.train_tokenizer.fit", fit), pytest.raises(ZeroDivisionError):
            train_tokenizer(again)
    kept, fresh = begun
    assert all(torch.equal(kept[key], last[key]) for key in last)
    assert not torch.equal(fresh["discriminator.0.weight"], last["discriminator.0.weight"])
    wider = replace(again, model=Continued(str(folder)), adversary=tiny.adversary(width=16))
    with pytest.raises(ValueError, match=r"discriminator of other adversary\.width or"):
        train_tokenizer(wider)


@pytest.mark.parametrize("ended", ["kl"], indirect=True)
def test_a_first_stage_without_an_adversary_says_that_there_is_none(ended, tmp_path, capsys):
    again = recipe(tmp_path, Continued(str(ended[1].parent)), adversary=tiny.adversary(),
                   pixel=L2())  # fmt: skip
    train_tokenizer(again)
    assert "keeps no discriminator: a fresh one begins" in capsys.readouterr().err


def test_what_it_began_with_is_recorded_and_compared(tmp_path):
    """A start that only moved is the same."""
    for seed, name in ((0, "source"), (0, "moved"), (1, "other")):
        tiny.tokenizer(seed, tiny.STILL).save(tmp_path / name)

    def trained(name: str, **changes: Any) -> Path:
        run = tiny.run(tmp_path / "run", **changes)
        return train_tokenizer(recipe(tmp_path, Continued(str(tmp_path / name)), run=run))

    trained("source")
    inputs = json.loads((tmp_path / "run/recipe.json").read_text())["inputs"]
    assert len(inputs["start"]) == 16
    trained("moved", resume=True)
    with pytest.raises(ValueError, match="begun with start"):
        trained("other", resume=True)


@pytest.mark.parametrize("ended", ["ema"], indirect=True)
def test_a_continued_run_resumes_bit_for_bit(ended, tmp_path):
    def trained(name: str, **changes: Any) -> dict[str, torch.Tensor]:
        run = tiny.run(tmp_path / name, steps=4, **changes)
        train_tokenizer(recipe(tmp_path, Continued(str(ended[1])), run=run))
        return load_file(tmp_path / name / "model" / KEPT) | load_file(
            tmp_path / name / "model/diffusion_pytorch_model.safetensors"
        )

    whole = trained("whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "halves")
    shutil.rmtree(tmp_path / "halves/model")
    shutil.rmtree(tmp_path / "halves/checkpoints/step-4")
    again = trained("halves", resume=True)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[key], again[key]) for key in whole)


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (VQ(Codebook(8, 2)), r"makes 8 codes of 2 channels of it, and it has 2 channels: give the"),
        (replace(tiny.STILL, channels=4), "makes 4 channels of it, and it has 2 channels"),
    ],
)
def test_another_latent_space_is_refused(asked, answer, tmp_path):
    tiny.tokenizer(0).save(tmp_path)
    with pytest.raises(ValueError, match=rf"model\.path: .*model\.bottleneck {answer}"):
        Continued(str(tmp_path), asked).build(tiny.SIZE)


def test_codes_that_another_bottleneck_cannot_take_over_are_refused(tmp_path):
    tiny.tokenizer(0, VQ(Codebook(16, 4, init=Uniform()))).save(tmp_path)
    with pytest.raises(ValueError, match="a SignQuantizer cannot take over the codes of a Table"):
        go_on(tmp_path, LFQ(bits=4))
    sphere = VQ(Codebook(16, 4, init=Uniform(), similarity=Cosine()))
    with pytest.raises(ValueError, match="its codes are on no sphere"):
        go_on(tmp_path, sphere)


def test_what_could_not_be_normalised_is_refused_before_it_trains(tmp_path):
    options: Any = {"block_out_channels": (8,), "norm_num_groups": 4, "use_quant_conv": False}
    AutoencoderKL(**options).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model\.path: .*latents cannot be folded"):
        Continued(str(tmp_path)).build(tiny.SIZE)


def test_a_likelihood_wants_maps_that_a_stock_decoder_has_not(tmp_path):
    tiny.tokenizer(0).save(tmp_path)
    with pytest.raises(ValueError, match=r"pixel reads 6 maps, and .* emits 3: choose pixel:l1"):
        Continued(str(tmp_path)).build(tiny.SIZE, maps=2)


def test_damaged_memories_are_named(tmp_path):
    tiny.tokenizer(0).save(tmp_path)
    (tmp_path / KEPT).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=rf"{KEPT} cannot be read .*put back a copy"):
        go_on(tmp_path)


def test_stock_classes_do_not_look_at_what_stands_beside(ended):
    """Nor does it change which latents they are."""
    name, folder, _ = ended
    assert (folder / KEPT).exists()
    if name != "fsq":
        kind = "VQModel" if name != "kl" else "AutoencoderKL"
        assert json.loads((folder / "config.json").read_text())["_class_name"] == kind
        assert not (folder / OWN_WEIGHTS).exists()
    report = json.loads((folder / "latent_statistics.json").read_text())
    assert report["tokenizer"] == fingerprint(ImageTokenizer.load(folder))
