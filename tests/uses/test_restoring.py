"""What was seen of pictures, and three ways to restore them from it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

import tiny
from calotype.data import Scenes
from calotype.diffusion import Epsilon, Flow, Velocity
from calotype.lazy import diffusers
from calotype.pipelines import load
from calotype.tokenizers import ImageTokenizer, psnr
from calotype.tokenizers.corruptions import Blur, Downsampling, Grey, Masking
from calotype.tokenizers.corruptions.filling import filled
from calotype.uses.restoration import (
    Colourise,
    Deblur,
    Denoise,
    Forward,
    Inpaint,
    Measurement,
    Optimise,
    Posterior,
    SuperResolve,
    Uncover,
    measured,
    restore,
)
from calotype.uses.restoration.baselines import FAMILIES, _going_round, as_seen, classical
from calotype.uses.restoration.comparing import compared
from calotype.uses.restoration.sampling import predicted

BOX = Inpaint(box=(4, 6, 10, 12)).of(tiny.SIZE, tiny.SIZE)
EVERY: list[Measurement] = [Denoise(0.1), Deblur(), SuperResolve(), Colourise(), BOX]
names = pytest.mark.parametrize("measurement", EVERY, ids=lambda m: type(m).__name__)


def chance(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


class Copying(ImageTokenizer):
    """Its latents are the pictures, or, where it is a poor one, half as bright."""

    scale = 1.0

    def latents(self, images, tiling=None):
        return images

    def decode(self, z, tiling=None):
        return self.scale * z


def copying(scale: float = 1.0) -> Copying:
    base = tiny.tokenizer()
    found = Copying(base.autoencoder, base.bottleneck)
    found.scale = scale
    return found


@names
def test_a_measurement_is_linear_with_gradients(measurement):
    a, b = tiny.images(2).requires_grad_(), tiny.images(2, 1)
    torch.testing.assert_close(
        measurement(2 * a - 3 * b), 2 * measurement(a) - 3 * measurement(b), atol=1e-5, rtol=0
    )
    seen = measurement(a)
    (slope,) = torch.autograd.grad((seen * seen.detach()).sum(), a)
    # <A^T A a, a> is <A a, A a>.
    torch.testing.assert_close((slope * a).sum(), seen.square().sum())
    assert measurement.lifted(seen).shape == a.shape


@names
def test_what_is_known_is_put_back_and_nothing_else_is(measurement):
    images, other = tiny.images(2), tiny.images(2, 1)
    seen = measurement(images)
    back = measurement.kept(other, seen)
    if not measurement.has_known:
        assert torch.equal(back, other)
        return
    torch.testing.assert_close(measurement(back), seen, atol=1e-6, rtol=0)
    # What A does not see of the other one is still there.
    unseen = other - measurement.kept(other * 0, measurement(other))
    torch.testing.assert_close(back - measurement.kept(other * 0, seen), unseen, atol=1e-5, rtol=0)


def test_pixels_that_are_seen_are_put_back_to_the_bit():
    images, other = tiny.images(2), tiny.images(2, 1)
    back = BOX.kept(other, BOX(images))
    assert torch.equal(back[..., :6, :], images[..., :6, :])
    assert torch.equal(back[..., 6:12, 4:10], other[..., 6:12, 4:10])
    assert torch.equal(back[..., 6:12, 10:], images[..., 6:12, 10:])


@pytest.mark.parametrize(
    ("measurement", "corruption"),
    [(Deblur(1.2, 0.0), Blur(1.2)), (SuperResolve(2), Downsampling(2)), (Colourise(), Grey())],
)
def test_an_encoder_is_shown_what_its_corruption_showed_it(measurement, corruption):
    images = tiny.images(3)
    shown = measurement.lifted(measurement(images))
    assert torch.equal(shown, corruption(images, []).images)
    assert type(corruption) in measurement.taught_by


def test_hidden_pixels_are_shown_as_in_training():
    images, hidden = tiny.images(2), torch.zeros(1, 1, tiny.SIZE, tiny.SIZE)
    hidden[..., ::2] = 1
    around = Uncover(hidden).lifted(images * (1 - hidden))
    told = classical([Uncover(hidden)], [Uncover(hidden)(images)[:1]], None)
    harmonic = next(each.images[0] for each in told if each.name == "harmonic")
    assert torch.allclose(harmonic, around[:1], atol=1e-5)
    assert torch.equal(around, filled(images, hidden.expand(2, -1, -1, -1), None))
    assert torch.equal(around[..., 1::2], images[..., 1::2])
    measurement = Uncover(hidden, value=-1.0)
    shown = measurement.lifted(measurement(images))
    assert torch.equal(shown[..., ::2], torch.full_like(shown[..., ::2], Masking().value))
    assert torch.equal(shown[..., 1::2], images[..., 1::2])


def test_noise_is_of_its_picture_and_as_strong_as_it_says():
    images = tiny.images(8)
    for measurement in (Denoise(0.3), replace(BOX, noise=0.3), SuperResolve(noise=0.3)):
        seen = measurement.drawn(images, chance(8))
        away = seen - measurement(images)
        assert away.std() == pytest.approx(0.3, rel=0.1)
        assert torch.equal(seen[3:4], measurement.drawn(images[3:4], chance(8)[3:4]))
    assert torch.equal(BOX.drawn(images, chance(8)), BOX(images))


def test_forward_is_the_tokenizer_and_has_gradients():
    tokenizer, images = tiny.tokenizer(), tiny.images(2)
    seen = SuperResolve(2)(images).requires_grad_()
    found = restore(tokenizer, seen, SuperResolve(2))
    expected = tokenizer.reconstruct(Downsampling(2)(images, []).images)
    torch.testing.assert_close(found, expected)
    (slope,) = torch.autograd.grad(found.sum(), seen)
    assert slope.abs().sum() > 0


def test_known_pixels_come_back_where_there_is_no_noise():
    tokenizer, images = tiny.tokenizer(), tiny.images(2)
    noisy = replace(BOX, noise=0.1)
    where = BOX.hidden.expand_as(images) == 0
    assert torch.equal(restore(tokenizer, BOX(images), BOX)[where], images[where])
    assert not torch.equal(restore(tokenizer, images, noisy)[where], images[where])
    assert torch.equal(restore(tokenizer, images, noisy, keep=True)[where], images[where])
    small = SuperResolve(2)(images)
    kept = restore(tokenizer, small, SuperResolve(2), keep=True)
    torch.testing.assert_close(SuperResolve(2)(kept), small, atol=1e-5, rtol=0)


def test_a_search_ends_at_the_likeliest_latent():
    """Of a decoder x = 2 z and y = x + n the likeliest z is 2 y / (4 + prior s^2)."""
    seen = tiny.images(2)
    way = Optimise(steps=300, lr=0.1, prior=4.0, deviation=0.5)
    found = way(copying(2.0), Denoise(0.1), seen)
    torch.testing.assert_close(found, 2 * 2 * seen / (4 + 4 * 0.5**2), atol=1e-3, rtol=0)
    without = replace(way, prior=0.0)(copying(2.0), Denoise(0.1), seen)
    torch.testing.assert_close(without, seen, atol=1e-3, rtol=0)


@pytest.mark.parametrize("bottleneck", ["kl", "vq"])
def test_a_search_explains_what_was_seen_better_than_the_encoder(bottleneck):
    tokenizer = tiny.tokenizer() if bottleneck == "kl" else tiny.tokenizer(0, tiny.VQ_BOTTLENECK)
    tokenizer = ImageTokenizer.around(tokenizer.export()).eval()
    images, way = tiny.images(2), Optimise(steps=60, lr=0.1, prior=0.0)
    for measurement in (BOX, SuperResolve(2), Colourise()):
        seen = measurement(images)
        by_encoder, found = (restore(tokenizer, seen, measurement, w, keep=False)
                             for w in (Forward(), way))  # fmt: skip
        apart = [(measurement(x) - seen).square().flatten(1).mean(1) for x in (by_encoder, found)]
        assert (apart[1] < 0.9 * apart[0]).all()
    assert all(p.grad is None for p in tokenizer.parameters())


def test_the_best_of_several_searches_counts():
    tokenizer, images = tiny.tokenizer().eval(), tiny.images(3)
    seen = BOX(images)
    one, three = (Optimise(steps=8, starts=n) for n in (1, 3))
    first = tokenizer.normalised(tokenizer.latents(BOX.lifted(seen))).detach()
    found = [three._searched(tokenizer, BOX, seen, three._begun(first, n)) for n in range(3)]
    best = torch.stack([cost for _, cost in found]).argmin(0).tolist()
    z = torch.stack([found[start][0][i] for i, start in enumerate(best)])
    wanted = tokenizer.decode(tokenizer.stored(z)).detach()
    restored = restore(tokenizer, seen, BOX, three, keep=False)
    torch.testing.assert_close(restored, wanted, atol=1e-4, rtol=0)
    alone = restore(tokenizer, seen[1:2], BOX, one)
    torch.testing.assert_close(restore(tokenizer, seen, BOX, one)[1:2], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("process", [Flow(), Flow(shift=3.0), Epsilon(), Velocity()])
def test_the_clean_latent_is_foretold_by_the_right_answer(process):
    clean, noise = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    noised = process.noised(clean, noise, torch.tensor([0.1, 0.5, 0.9]))
    for row in range(3):
        some = slice(row, row + 1)
        found = predicted(process.scheduler(), noised.target[some], noised.noisy[some],
                          noised.timestep[row])  # fmt: skip
        torch.testing.assert_close(found, clean[some], atol=2e-3, rtol=0)


@pytest.fixture(params=["generator", "unconditional"])
def pipeline(request, artifacts):
    return load(artifacts / request.param / "model")


def test_what_is_drawn_heeds_what_was_seen(pipeline):
    images = tiny.images(2)
    for measurement in (Denoise(0.1), BOX, SuperResolve(2)):
        seen = measurement.drawn(images, chance(2))
        apart = []
        for guidance in (0.0, 10.0):
            way = Posterior(steps=12, guidance=guidance)
            found = restore(pipeline, seen, measurement, way, keep=False)
            assert found.shape == images.shape and not found.requires_grad
            apart.append((measurement(found) - seen).square().mean())
        assert apart[1] < 0.98 * apart[0]


def test_what_is_drawn_is_of_its_seed_alone(artifacts):
    pipeline = load(artifacts / "unconditional/model")
    seen = BOX(tiny.images(2))
    way = Posterior(steps=4, gluing=0.1, scheduler="dpm++")
    both = restore(pipeline, seen, BOX, way)
    torch.testing.assert_close(restore(pipeline, seen[:1], BOX, way), both[:1], atol=1e-4, rtol=0)
    other = restore(pipeline, seen[1:], BOX, replace(way, seed=1))
    torch.testing.assert_close(other, both[1:], atol=1e-4, rtol=0)
    assert not torch.allclose(restore(pipeline, seen, BOX, replace(way, gluing=0.0)), both)
    stock: object = pipeline.scheduler  # type: ignore[reportAttributeAccessIssue]
    assert type(stock).__name__ == "DPMSolverMultistepScheduler"


def test_what_no_way_can_do_is_said(artifacts):
    tokenizer, seen = tiny.tokenizer(), tiny.images(1)
    with pytest.raises(ValueError, match="give a pipeline, not a tokenizer"):
        restore(tokenizer, seen, Denoise(), Posterior())
    parts: Any = load(artifacts / "unconditional/model")
    pixels = diffusers.DDPMPipeline(parts.unet, diffusers.DDPMScheduler())
    with pytest.raises(ValueError, match="way:posterior: a DDPMPipeline has no UNet in latents"):
        Posterior().check(pixels)
    with pytest.raises(ValueError, match="follows a flow"):
        Posterior(scheduler="ddim").check(load(artifacts / "unconditional/model"))
    with pytest.raises(ValueError, match="cannot be encoded by a factor of 2"):
        restore(tokenizer, seen[..., :15], Denoise())
    with pytest.raises(ValueError, match="for tokenizers of RGB"):
        Colourise()(seen[:, :1])


def test_total_variation_is_given_its_best_weight_or_one_that_fits_the_noise():
    truth = tiny.images(4)
    measurement = Denoise(0.3)
    seen = list(measurement.drawn(truth, chance(4))[:, None])
    each, real = [measurement] * 4, list(truth[:, None])
    known, foretold = (classical(each, seen, given)[0] for given in (real, None))
    quality = [torch.cat([psnr(a, b) for a, b in zip(c.images, real, strict=True)]).mean()
               for c in (known, foretold, as_seen(each, seen))]  # fmt: skip
    assert quality[0] >= quality[1] > quality[2] + 3
    assert known.name.startswith("total variation, weight ")


def test_each_classical_method_restores_something():
    real = Scenes(size=48).build().batch(range(1))["image"]
    inpaint = Inpaint(box=(20, 20, 28, 28)).of(48, 48)
    for measurement in (Denoise(0.2), Deblur(1.5, 0.005), inpaint):
        seen = [measurement.drawn(real, chance(1))]
        before = float(psnr(as_seen([measurement], seen).images[0], real))
        found = classical([measurement], seen, [real])
        assert len(found) == len(FAMILIES[type(measurement)])
        for each in found:
            assert float(psnr(each.images[0], real)) > before, each.name
    assert classical([SuperResolve()], [SuperResolve()(real)]) == []
    assert as_seen([SuperResolve()], [SuperResolve()(real)]).name == "bicubic"


@pytest.mark.parametrize("sigma", [0.7, 1.5, 4.0, 20.0])
@pytest.mark.parametrize("sides", [(16, 24), (9, 9), (40, 31)])
def test_to_methods_that_go_round_the_blur_does_too(sigma, sides):
    """What they take for the blur is the one that pictures were seen by, at their sides too."""
    images = torch.rand(1, 3, *sides) * 2 - 1
    again = _going_round(lambda x, k: ndimage.convolve(x, k, mode="wrap"), Deblur(sigma, 0.0))
    found = again(images[0].permute(1, 2, 0).double().numpy())
    seen = Deblur(sigma, 0.0)(images)[0].permute(1, 2, 0)
    np.testing.assert_allclose(found, seen, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "setting"), zip(FAMILIES[Deblur], (0.0, 0.01, 50.0), strict=True)
)
def test_bug_classical_methods_were_worse_at_the_sides(family, setting):
    """Of a wide blur what wraps, or is black around a picture, came in across a narrow frame."""
    real = Scenes(size=64, seed=3).build().batch(range(4))["image"]
    blur = Deblur(4.0, 0.02)
    seen = blur.drawn(real, chance(4))
    errors = []
    for place in range(4):
        levels = seen[place].permute(1, 2, 0).numpy() / 2 + 0.5
        found = family.of(blur, setting)(levels)
        errors.append((found - (real[place].permute(1, 2, 0).numpy() / 2 + 0.5)) ** 2)
    inner = np.zeros((64, 64), bool)
    inner[12:-12, 12:-12] = True
    error = np.mean(errors, axis=(0, 3))
    assert error[~inner].mean() < 1.25 * error[inner].mean()


def test_figures_are_of_each_picture():
    truth = list(tiny.images(3)[:, None])
    found = compared(truth, {"same": truth, "grey": [image * 0 for image in truth]}, {})
    assert found["same"].mean("psnr_db") == 100 and found["same"].mean("ssim") == 1
    own = torch.cat([psnr(image * 0, image) for image in truth])
    np.testing.assert_allclose(found["grey"].values["psnr_db"], own, atol=0.1)
    assert found["grey"].error("psnr_db") == pytest.approx(float(own.std() / 3**0.5), abs=0.1)


def test_one_exact_picture_does_not_rule_the_pooled_psnr():
    truth = list(tiny.images(3)[:, None])
    made = [truth[0], *(image * 0 for image in truth[1:])]
    found = compared(truth, {"one exact": made}, {})["one exact"]
    error = sum(float(((a - b) ** 2).mean()) for a, b in zip(made, truth, strict=True)) / 3
    assert found.figures["pooled_psnr_db"] == pytest.approx(10 * np.log10(4 / error), abs=0.1)
    assert found.mean("psnr_db") > found.pooled_psnr_db + 15


def test_a_box_and_a_mask_say_what_is_hidden(tmp_path):
    from PIL import Image

    whole = Inpaint().of(16, 24).hidden
    assert whole.sum() == 8 * 12 and whole[0, 0, 4, 6] == 1 and whole[0, 0, 3, 6] == 0
    mask = np.zeros((32, 48), np.uint8)
    mask[:16] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    found = Inpaint(mask=tmp_path / "mask.png").of(16, 24).hidden
    assert torch.equal(found[0, 0, :8], torch.ones(8, 24)) and found.sum() == 8 * 24
    for wrong, message in [
        (lambda: Inpaint(box=(4, 4, 4, 8)), "--task.box is 4 4 4 8"),
        (lambda: Inpaint(box=(0, 0, 99, 99)).of(16, 16), "--task.box hides all of"),
        (lambda: Inpaint(box=(40, 0, 50, 9)).of(16, 16), "--task.box hides nothing of"),
        (lambda: Inpaint((0, 0, 1, 1), tmp_path / "mask.png"), "give one of them"),
        (lambda: Inpaint(mask=tmp_path / "none.png"), "--task.mask: no picture"),
        (lambda: SuperResolve(1), "task.factor is 1"),
        (lambda: Denoise(0.0), "task.noise is 0.0"),
        (lambda: Deblur(0.0), "task.sigma is 0.0"),
        (lambda: Optimise(steps=0), "way.steps is 0"),
        (lambda: Optimise(prior=-1.0), "way.prior is -1.0"),
        (lambda: Posterior(guidance=-1.0), "way.guidance is -1.0"),
        (lambda: Posterior(scheduler="dpm"), "sampling.scheduler is 'dpm'"),
    ]:
        with pytest.raises(ValueError, match=message.replace("(", r"\(")):
            wrong()
    assert measured(Inpaint(), 16, 24).noise == 0 and measured(Denoise(), 1, 1) == Denoise()
