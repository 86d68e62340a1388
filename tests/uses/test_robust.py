"""What attacks do to latents and classifiers, what chains mend, and what is no defence."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import tiny
from calotype import cli
from calotype.pipelines import picture
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import FSQ, Gaussian, Identity, Poisson
from calotype.tokenizers.bottlenecks.bernoulli import Bernoulli
from calotype.tokenizers.terms import FixedDeviation, GaussianLikelihood
from calotype.tokenizers.vector import Dense
from calotype.uses.classifiers import Convolutional, Logistic, is_right
from calotype.uses.robustness import (
    HMC,
    PGD,
    Purified,
    corrected,
    defended,
    fgsm,
    hmc,
    latents,
    likelihood_for,
    margin,
    moved,
    noise,
    pgd,
    prior_of,
    rebuilt,
    surprise,
)
from calotype.uses.robustness.purifying import NOTHING, verdict
from calotype.uses.robustness.shifting import Chain, OfLatents, OfReconstructions, shifted

QUICK = PGD(steps=10, step_size=0.25, restarts=1)


def linear(widths: int = 12) -> nn.Module:
    """A classifier whose strongest attack is known: the sign of its weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(widths, 2)).eval()


def grey(count: int, seed: int = 0) -> torch.Tensor:
    drawn = torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
    return drawn - 0.5


def test_nothing_goes_beyond_the_bound_and_what_is_a_picture():
    images = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    harm = surprise(linear(), torch.zeros(6, dtype=torch.long))
    for eps in (0.03, 0.4):
        for changed in (pgd(harm, images, eps, QUICK), fgsm(harm, images, eps),
                        noise(images, eps)):  # fmt: skip
            assert (changed - images).abs().max() <= 2 * eps + 1e-6
            assert changed.abs().max() <= 1 and not changed.requires_grad
        inside = noise(images * 0.1, 0.03) - images * 0.1
        assert torch.allclose(inside.abs(), torch.tensor(0.06), atol=1e-6)


def test_against_a_linear_classifier_the_strongest_attack_is_found():
    model, images, labels = linear(), grey(8), torch.arange(8) % 2
    harm = margin(model, labels)
    weight = model[1].weight
    slope = torch.stack([(weight[1 - y] - weight[y]).view(3, 2, 2) for y in labels.tolist()])
    best = harm(images + 0.1 * slope.sign())
    for found in (pgd(harm, images, 0.05, PGD(steps=20)), fgsm(harm, images, 0.05)):
        assert torch.allclose(harm(found), best, atol=1e-4)
    assert (harm(noise(images, 0.05)) < best).all()


def test_an_attack_does_no_less_than_what_it_is_given():
    """Even by steps that are as large as the bound."""
    harm = lambda images: -images.square().sum((1, 2, 3))  # noqa: E731
    images = torch.zeros(3, 1, 2, 2)
    assert torch.equal(pgd(harm, images, 0.1, PGD(steps=3, step_size=1.0)), images)


def test_weights_are_left_alone():
    model, tokenizer, images = linear(3 * 16 * 16), tiny.tokenizer().eval(), tiny.images(2)
    labels = torch.tensor([0, 1])
    pgd(margin(Purified(tokenizer, model), labels), images, 0.1, QUICK)
    pgd(moved(lambda some: latents(tokenizer, some), images), images, 0.1, QUICK)
    every = [*model.parameters(), *tokenizer.parameters()]
    assert all(weight.grad is None for weight in every)


SPECS = {
    "gaussian": Gaussian(4), "identity": Identity(4), "vq": tiny.VQ_BOTTLENECK, "fsq": FSQ((5, 5)),
    "gumbel": tiny.BOTTLENECKS["dvae"], "rvq": tiny.BOTTLENECKS["rvq"],
    "lfq": tiny.BOTTLENECKS["lfq"], "poisson": Poisson(8), "bits": Bernoulli(8),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(SPECS))
def test_gradients_reach_pictures_through_any_tokenizer(kind):
    """Through codes straight through: without, an attacker is blind and all looks safe."""
    tokenizer, images = tiny.tokenizer(bottleneck=SPECS[kind]).eval(), tiny.images(2)
    asked = images.clone().requires_grad_()
    found = rebuilt(tokenizer, asked)
    plain = tokenizer.reconstruct(images).clamp(-1, 1)
    assert torch.allclose(found, plain, atol=1e-4)
    (slope,) = torch.autograd.grad(found.square().sum(), [asked])
    assert slope.abs().max() > 0
    (slope,) = torch.autograd.grad(latents(tokenizer, asked).sum(), [asked])
    assert slope.abs().max() > 0


def test_an_attack_on_latents_is_worse_than_noise():
    tokenizer, images = tiny.tokenizer().eval(), tiny.images(4)
    harm = moved(lambda some: latents(tokenizer, some), images)
    with torch.no_grad():
        assert (harm(pgd(harm, images, 0.05, QUICK)) > 1.5 * harm(noise(images, 0.05))).all()
        assert harm(images).max() < 1e-4


@pytest.mark.parametrize(
    "goal", [OfLatents(), OfReconstructions()], ids=["latents", "reconstructions"]
)
def test_codes_are_attacked_where_noise_changes_none(goal):
    """Bug: among equal codes there is no slope, and the attack stood still."""
    tokenizer, images = tiny.tokenizer(bottleneck=tiny.VQ_BOTTLENECK).eval(), tiny.images(4)
    with torch.no_grad():
        features = tokenizer.features(images)
        sites = features.movedim(1, -1).flatten(0, 2)
        tokenizer.bottleneck.codebook.embedding.copy_(sites[:: len(sites) // 16][:16])
    found = shifted(tokenizer, images, 0.02, goal, PGD(steps=10, step_size=0.25))
    assert found.figures["attacked"].shift > found.figures["noise"].shift


def normal(z: torch.Tensor) -> torch.Tensor:
    """Log-density with means 1 and -2, deviations 0.5 and 2."""
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0])
    return -((z - mean) / std).square().sum(1) / 2


def test_chains_draw_from_the_density():
    """From steps that begin far too long and far too short."""
    for rate in (10.0, 1e-3):
        found = hmc(normal, torch.zeros(2000, 2), HMC(120, 10, rate, warm_up=80))
        assert torch.allclose(found.last.mean(0), torch.tensor([1.0, -2.0]), atol=0.2)
        assert torch.allclose(found.last.std(0), torch.tensor([0.5, 2.0]), rtol=0.1)
        assert 0.6 < found.accepted.mean() < 0.97


def test_a_chain_stays_where_nothing_is_accepted():
    start = torch.ones(3, 2)
    found = hmc(lambda z: torch.where(z.sum(1) == 2, 0.0, torch.nan) + 0 * z.sum(1), start,
                HMC(5, 2, warm_up=1))  # fmt: skip
    assert torch.equal(found.last, start) and found.accepted.max() == 0
    assert torch.allclose(found.mean, start)


def test_proposals_without_a_test_would_be_another_density():
    """Bug that it would be: long steps and no Metropolis test heat a chain up."""
    how = HMC(60, 3, 0.75, accepted=0.5, warm_up=0)
    found = hmc(normal, torch.tensor([[1.0, -2.0]]).repeat(2000, 1), how)
    assert found.accepted.mean() < 0.95
    assert found.last.std(0)[0] == pytest.approx(0.5, rel=0.12)


def flat(size: int = 4, channels: int = 1) -> ImageTokenizer:
    """A linear decoder of two numbers whose posterior is known."""
    torch.manual_seed(0)
    spec = Gaussian(2, kl_weight=1.0, keep_prior=True)
    tokenizer = ImageTokenizer(Dense((), "none").autoencoder(spec, size, channels), spec.build())
    return tokenizer.eval().requires_grad_(False)


def test_corrected_latents_are_the_posterior_whatever_the_encoder_says():
    """Of a linear decoder the mean is in closed form; the encoder knows nothing of it."""
    tokenizer, deviation = flat(), 0.3
    basis = torch.stack([tokenizer.decode(one.view(1, 2, 1, 1)).flatten() for one in torch.eye(2)])
    middle = tokenizer.decode(torch.zeros(1, 2, 1, 1)).flatten()
    basis = (basis - middle).T
    z = torch.tensor([[1.0, -0.5], [0.3, 0.8], [-1.0, 0.2]])
    images = tokenizer.decode(z.view(3, 2, 1, 1))
    precision = basis.T @ basis / deviation**2 + torch.eye(2)
    exact = torch.linalg.solve(precision, basis.T @ (images.flatten(1) - middle).T / deviation**2).T
    likelihood = GaussianLikelihood(deviation=FixedDeviation(deviation)).build()
    prior = prior_of(tokenizer, torch.randn(10, 2, 1, 1) * 7)
    assert prior.std.unique().item() == 1  # training kept it, whatever latents are
    chains = [corrected(tokenizer, images, likelihood, prior, HMC(400, 10, seed=seed)).mean
              for seed in range(3)]  # fmt: skip
    assert torch.allclose(torch.stack(chains).mean(0).flatten(1), exact, atol=0.12)
    assert (tokenizer.latents(images).flatten(1) - exact).norm() > 0.5


def test_codes_are_not_corrected():
    tokenizer = tiny.tokenizer(bottleneck=tiny.VQ_BOTTLENECK).eval()
    likelihood = GaussianLikelihood().build()
    with pytest.raises(ValueError, match=r"VectorQuantizer: its latents are not any numbers"):
        corrected(
            tokenizer, tiny.images(2), likelihood, prior_of(tokenizer, torch.ones(2, 4, 8, 8))
        )


def coloured(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Dark and light pictures: two classes."""
    labels = torch.arange(count) % 2
    shades = (labels * 2 - 1).float()[:, None, None, None]
    return (tiny.images(count, seed) * 0.2 + 0.3 * shades).clamp(-1, 1), labels


@pytest.mark.parametrize(
    "spec", [Logistic(), Convolutional(8, steps=80)], ids=["logistic", "convolutional"]
)
def test_classifiers_learn_and_repeat_themselves(spec):
    images, labels = coloured(40)
    torch.manual_seed(5)
    ambient = torch.get_rng_state()
    one, other = (spec.learn(images, labels, 2, seed=3) for _ in range(2))
    assert torch.equal(ambient, torch.get_rng_state())
    assert torch.equal(one(images), other(images))
    shown, right = coloured(20, 1)
    assert is_right(one, shown, right, 7).mean() == 1


def test_who_knows_of_a_defence_breaks_what_only_hides_gradients():
    """A tokenizer that changes nothing keeps no attack out, and its figure says so."""
    model = linear(3 * 16 * 16)
    images, labels = coloured(24)
    model = Logistic().learn(images, labels, 2)
    tokenizer = tiny.tokenizer(bottleneck=Identity(3)).eval()
    tokenizer.features = lambda images, tiling=None: images  # type: ignore[method-assign]
    tokenizer.decode = lambda z, tiling=None: z  # type: ignore[method-assign]
    told, seen = defended(model, {"same": tokenizer}, images, labels, 0.3, QUICK, 7)
    bare, same = told[NOTHING], told["same"]
    assert bare.clean == same.clean == 1 and bare.adaptive == same.adaptive < 0.5
    assert "no defence" in verdict("same", same, bare, 0.5)
    assert set(seen) == {"clean", "noise", "fgsm", "pgd", "same"}
    held = replace(same, adaptive=bare.adaptive + 0.5)
    assert "no defence" not in verdict("same", held, bare, 0.2)
    assert "0.900 by chance: no defence" in verdict("same", held, bare, 0.9)  # who sees nothing


def test_what_counts_is_right_under_every_attack():
    """An attack through codes may miss what the simplest of them finds."""
    images, labels = coloured(24)
    model = Logistic().learn(images, labels, 2)
    tokenizer = tiny.tokenizer(bottleneck=tiny.VQ_BOTTLENECK).eval().requires_grad_(False)
    told, _ = defended(model, {"vq": tokenizer}, images, labels, 0.2, QUICK)
    for each in told.values():
        assert each.adaptive <= min(each.clean, each.noise, each.fgsm, each.pgd)


def test_figures_of_shifts_say_what_they_should():
    tokenizer, images = tiny.tokenizer().eval().requires_grad_(False), tiny.images(6)
    found = shifted(tokenizer, images, 0.1, how=QUICK, batch_size=4)
    clean, noisy, attacked = (found.figures[name] for name in ("clean", "noise", "attacked"))
    assert clean.shift == clean.apart == 0 and found.restored is None
    assert attacked.shift > noisy.shift > 0 and attacked.apart > noisy.apart
    error = ((found.decoded["clean"] - images) / 2).square().mean().item()
    assert clean.error == pytest.approx(error)


def test_chains_need_no_more_than_they_are_given():
    tokenizer = flat(8)
    images, likelihood = tiny.digits()[:6], GaussianLikelihood().build()
    prior = prior_of(tokenizer, tokenizer.latents(images))
    found = shifted(tokenizer, images, 0.1, how=QUICK,
                    chain=Chain(likelihood, prior, HMC(20, 5, warm_up=10)))  # fmt: skip
    assert set(found.figures) == {"clean", "noise", "attacked", "corrected", "clean, corrected"}
    assert found.restored is not None and set(found.restored) == {"shift", "error", "apart"}
    assert found.accepted is not None and 0 < found.accepted <= 1


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Light and dark ones, by folders."""
    images, labels = coloured(48)
    for i, image in enumerate(images):
        folder = tmp_path / "photos" / ("light" if labels[i] else "dark")
        folder.mkdir(parents=True, exist_ok=True)
        picture(image).save(folder / f"{i}.png")
    return tmp_path / "photos"


FEW = ("--eps", "0.05", "0.2", "--attack.steps", "3", "--attack.restarts", "1", "--hmc.steps", "4",
       "--hmc.warm-up", "2", "--hmc.leapfrog", "2", "--device", "cpu", "--size", "16")  # fmt: skip


@pytest.mark.parametrize("kind", ["continuous", "codes"])
def test_the_page_says_what_was_attacked(kind, photos, tmp_path, capsys):
    spec = tiny.BOTTLENECK if kind == "continuous" else tiny.VQ_BOTTLENECK
    tiny.tokenizer(bottleneck=spec).eval().save(tmp_path / "model")
    out = tmp_path / "new/page.html"
    cli.main(["robust", str(tmp_path / "model"), "--data.path", str(photos), "--beside",
              str(tmp_path / "model/."), "--out", str(out), *FEW,
              "classifier:logistic"])  # fmt: skip
    page, said = out.read_text(), capsys.readouterr().out
    # The adaptive attack's figure stands first.
    assert 0 < page.index("<h2>A classifier</h2>") < page.index("<h2>Latents</h2>")
    assert "http" not in page.replace("http-equiv", "") and "who knows of it" in said
    found = json.loads(out.with_suffix(".json").read_text())
    assert set(found["latents"]) == set(found["classifier"]) == {"0.05", "0.2"}
    told = found["classifier"]["0.2"]
    assert next(iter(told["nothing"])) == "adaptive" and "untrained" in told
    assert ("corrected" in found["latents"]["0.2"]) == (kind == "continuous")
    assert "attacked, corrected" in page if kind == "continuous" else "Nothing is corrected" in page


def test_what_is_estimated_of_pictures_is_the_same_by_any_part_of_them():
    tokenizer, images = tiny.tokenizer().eval().requires_grad_(False), tiny.images(10)
    error = (tokenizer.reconstruct(images) - images).square().mean().sqrt().item()
    for batch_size in (1, 4, 10, 64):
        found = likelihood_for(tokenizer, images, batch_size)
        assert found.log_deviation.exp().item() == pytest.approx(error, rel=1e-5)


def test_bug_no_network_sees_more_pictures_than_a_batch(photos, tmp_path, monkeypatch):
    """Clean pictures by which deviations and priors are estimated, and those that are shown, went
    through all at once. What no batch draws, and all is alike but for that, is the same by any.
    """
    tiny.tokenizer().eval().save(tmp_path / "model")
    seen, said = list[int](), dict[int, dict]()
    for name in ("features", "decode_maps"):
        own = getattr(ImageTokenizer, name)
        monkeypatch.setattr(ImageTokenizer, name, lambda self, given, *rest, own=own, **named: (
            seen.append(len(given)), own(self, given, *rest, **named))[1])  # fmt: skip
    for batch_size in (3, 64):
        seen.clear()
        out = tmp_path / f"{batch_size}.html"
        cli.main(["robust", str(tmp_path / "model"), "--data.path", str(photos), "--out", str(out),
                  *FEW, "--batch-size", str(batch_size), "classifier:logistic"])  # fmt: skip
        said[batch_size] = json.loads(out.with_suffix(".json").read_text())
        assert seen and max(seen) <= batch_size
    few, many = said[3], said[64]
    assert few["told_right"] == many["told_right"]
    for eps in ("0.05", "0.2"):
        for kind in ("clean", "noise", "untrained, noise"):
            assert few["latents"][eps][kind] == pytest.approx(many["latents"][eps][kind], rel=1e-4)
        for who in many["classifier"][eps]:
            for kind in ("clean", "noise", "fgsm"):
                one, other = (each["classifier"][eps][who][kind] for each in (few, many))
                assert one == pytest.approx(other)


def test_without_classes_latents_alone_are_attacked(photos, tmp_path, capsys):
    tiny.tokenizer().eval().save(tmp_path / "model")
    for i, file in enumerate([*photos.rglob("*.png")]):
        file.with_suffix(".txt").write_text(f"picture {i}")
    out = tmp_path / "page.html"
    cli.main(["robust", str(tmp_path / "model"), "--data.path", str(photos), "--out", str(out),
              *FEW])  # fmt: skip
    assert "no classifier is attacked" in capsys.readouterr().err
    assert "<h2>A classifier</h2>" not in out.read_text() and "<h2>Latents</h2>" in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ("--eps 0", "--eps is 0.0: it lies above 0 and up to 1, black to white"),
        ("--attack.steps 0", "--attack.steps is 0: it must be at least 1"),
        ("--hmc.warm-up 100", "--hmc.warm-up is 100: it lies from 0 below --hmc.steps"),
        ("--hmc.accepted 1", "--hmc.accepted is 1.0: it lies between 0 and 1"),
        ("--attacked 1", "--attacked is 1: it must be at least 2"),
        ("--out page.txt", "--out is page.txt: name a page, such as robustness.html"),
        ("--count 16 --size 9", "images of 9 pixels"),
        ("classifier:logistic --classifier.decay -1", "--classifier.decay is -1.0"),
    ],
)
def test_a_mistake_is_one_line(arguments, answer, artifacts, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(["robust", str(artifacts / "tokenizer/model"), "--data.path", str(photos),
                  *arguments.split()])  # fmt: skip
    assert stop.value.code == 2 and answer in capsys.readouterr().err
    assert not list(tmp_path.glob("*.html"))


def test_tokenizers_of_other_pictures_are_refused(photos, tmp_path, capsys):
    tiny.tokenizer().eval().save(tmp_path / "colour")
    tiny.tokenizer(channels=1).eval().save(tmp_path / "grey")
    with pytest.raises(SystemExit):
        cli.main(["robust", str(tmp_path / "colour"), "--data.path", str(photos), "--beside",
                  str(tmp_path / "grey"), "--size", "16"])  # fmt: skip
    assert "grey takes L, and" in capsys.readouterr().err
