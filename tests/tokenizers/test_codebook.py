"""Learnt codes: who moves them, how they begin, and how they stay alive."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import tiny
from calotype.data import Loader, Scenes
from calotype.evaluation.codebook import codebook_health, draw_histogram
from calotype.tokenizers import (
    Backbone,
    ImageTokenizer,
    LatentStatistics,
    Reconstruction,
    fingerprint,
    fold,
)
from calotype.tokenizers.bottlenecks import VQ, Table, search
from calotype.tokenizers.bottlenecks.codebook import (
    EMA,
    Codebook,
    CodebookLoss,
    Cosine,
    KMeans,
    Normal,
    Restart,
    Uniform,
)
from calotype.tokenizers.bottlenecks.search import k_means, nearest
from calotype.tokenizers.bottlenecks.vector_quantizer import Rotation, StraightThrough
from calotype.tokenizers.terms import L2
from calotype.training import AdamW, Run, fit

PLAIN = Codebook(8, 3, init=Normal(), restart=None)
H = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def quantizer(seed: int = 0, **changes):
    torch.manual_seed(seed)
    return VQ(replace(PLAIN, **changes)).build()


def put(bottleneck, code: int, point: torch.Tensor) -> None:
    """Set one code anew."""
    which = torch.arange(8) == code
    bottleneck.codebook.place(which, point.expand(8, -1))


@pytest.mark.parametrize("block", [1, 50, 2**22])
def test_nearest_is_the_naive_search_and_never_holds_more_than_a_block(block, monkeypatch):
    points, codes = torch.randn(300, 5), torch.randn(40, 5)
    held = []
    scores = torch.addmm

    def watched(*arguments, **options):
        held.append(scores(*arguments, **options))
        return held[-1]

    monkeypatch.setattr(search, "BLOCK", block)
    monkeypatch.setattr(torch, "addmm", watched)
    found = nearest(points, codes)
    assert torch.equal(found, torch.cdist(points, codes).argmin(1))
    assert max(each.numel() for each in held) <= max(block, len(codes))


def test_nearest_is_searched_in_float32():
    """bf16 has eight bits: of close codes it takes any."""
    points, codes = torch.randn(200, 4), torch.randn(500, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest(points, codes), torch.cdist(points, codes).argmin(1))


def test_k_means_finds_clusters():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = (centres[:, None] + 0.1 * torch.randn(3, 50, 2)).flatten(0, 1)
    found = k_means(points[torch.tensor([0, 50, 100, *range(150)])], 3, iterations=5)
    torch.testing.assert_close(found, centres, atol=0.1, rtol=0)


def test_bug_beta_on_the_wrong_term():
    """Of diffusers' VQModel and taming's: 0.25 belongs to the pull of features to their codes. And
    each term moves its own side alone.
    """
    bottleneck = quantizer(learning=CodebookLoss(weight=1.0))
    h = H.clone().requires_grad_()
    penalties = bottleneck(h).penalties
    distance = (h - bottleneck.mode(h)).square().mean((1, 2, 3))
    torch.testing.assert_close(penalties["commitment"], 0.25 * distance)
    torch.testing.assert_close(penalties["codebook"], distance)
    codes = bottleneck.codebook.embedding
    for name, moved, still in (("commitment", h, codes), ("codebook", codes, h)):
        gradients = torch.autograd.grad(
            penalties[name].sum(), (moved, still), retain_graph=True, allow_unused=True
        )
        assert gradients[0].abs().sum() > 0 and gradients[1] is None


@pytest.mark.parametrize("learning", [CodebookLoss(), EMA()])
def test_penalties_are_batch_invariant(learning):
    bottleneck = quantizer(learning=learning)
    for name, value in bottleneck(H).penalties.items():
        repeated = bottleneck(H.repeat(3, 1, 1, 1)).penalties[name]
        torch.testing.assert_close(repeated, value.repeat(3))


def test_straight_through():
    bottleneck, h = quantizer(), H.clone().requires_grad_()
    z = bottleneck(h).z
    upstream = torch.randn_like(z)
    (gradient,) = torch.autograd.grad((z * upstream).sum(), h)
    assert torch.equal(gradient, upstream)
    torch.testing.assert_close(z, bottleneck.mode(h))


def test_rotation_turns_the_gradient_as_it_turns_the_feature():
    """Fifty et al. 2024: the angle between gradient and code is that of the feature's own."""
    x, q = H.clone().requires_grad_(), torch.randn(2, 3, 4, 4)
    z = Rotation().through(x, q)
    torch.testing.assert_close(z, q, atol=1e-5, rtol=0)
    upstream = torch.randn_like(z)
    (gradient,) = torch.autograd.grad((z * upstream).sum(), x)
    angles = [functional.cosine_similarity(a, b, dim=1) for a, b in ((upstream, q), (gradient, x))]
    torch.testing.assert_close(*angles, atol=1e-4, rtol=0)
    scale = q.norm(dim=1) / x.norm(dim=1)
    torch.testing.assert_close(gradient.norm(dim=1), scale * upstream.norm(dim=1))
    torch.testing.assert_close(StraightThrough().through(x, q), q)


def test_averages_are_their_formula():
    """From nothing: what was seen counts by its age alone, and a code that nobody chose stays."""
    bottleneck = quantizer(learning=EMA(0.9)).train()
    put(bottleneck, 7, torch.full((3,), 50.0))
    before = bottleneck.codebook.embedding.clone()
    sums, counts = torch.zeros(8, 3), torch.zeros(8)
    for h in (H, H.flip(0) * 1.5):
        ids, points = bottleneck(h).ids, h.movedim(1, -1).flatten(0, 2)
        bottleneck.step_end()
        sums, counts = 0.9 * sums, 0.9 * counts
        for k, point in zip(ids.flatten().tolist(), points, strict=True):
            sums[k] += point
            counts[k] += 1
        expected = torch.where(counts[:, None] > 0, sums / counts[:, None], before)
        torch.testing.assert_close(bottleneck.codebook.embedding, expected)
    assert counts[7] == 0


def test_codes_that_begin_at_k_means_weigh_one_step():
    """As if the averages had seen the features that the centres are of, once."""
    bottleneck = quantizer(learning=EMA(0.9), init=KMeans()).train()
    bottleneck.survey([H], [0, 1])
    codebook = bottleneck.codebook
    ids = bottleneck.find(H).flatten()
    share = ids.bincount(minlength=8) / len(ids)
    torch.testing.assert_close(codebook.frequency, 0.1 * share)
    torch.testing.assert_close(codebook.total, codebook.frequency[:, None] * codebook.embedding)


def test_a_code_that_is_dead_from_the_first_restarts_at_once():
    """Bug: all codes seemed used alike at first, and it took 230 steps to see that one is not."""
    restart = Restart(below=0.1, every=2)
    bottleneck = quantizer(learning=EMA(0.9), restart=restart).train()
    put(bottleneck, 2, torch.full((3,), 50.0))
    for step in range(2):
        bottleneck.step_begin(step)
        bottleneck(H)
        bottleneck.step_end()
    assert bottleneck.codebook.embedding[2].abs().max() < 10


def test_codes_of_cosine_lie_on_the_sphere_and_are_found_by_angle():
    for learning in (CodebookLoss(), EMA(0.5)):
        bottleneck = quantizer(similarity=Cosine(), learning=learning).train()
        latent = bottleneck(H)
        bottleneck.step_end()
        torch.testing.assert_close(bottleneck.codebook.codes.norm(dim=1), torch.ones(8))
        torch.testing.assert_close(latent.z.norm(dim=1), torch.ones(2, 4, 4))
        bottleneck.eval()
        angles = functional.normalize(H, dim=1).movedim(1, -1) @ bottleneck.codebook.codes.T
        assert torch.equal(bottleneck(H).ids, angles.argmax(-1))


def test_a_restart_forgets_all_of_a_code():
    """Bug elsewhere: its averages stayed, and threw it back to where it was dead."""
    far = torch.full((3,), 50.0)
    restart = Restart(below=0.5, every=1)
    bottleneck = quantizer(learning=EMA(0.9), restart=restart).train()
    put(bottleneck, 2, far)
    for step in range(80):
        bottleneck.step_begin(step)
        bottleneck(H)
        bottleneck.step_end()
    codebook = bottleneck.codebook
    assert codebook.embedding.abs().max() < 10, "it never lived again"
    assert (codebook.frequency > 1e-3).all() and (bottleneck.usage > 0.3 / 8).all()
    torch.testing.assert_close(codebook.total / codebook.frequency[:, None], codebook.embedding)


def test_a_restarted_code_begins_its_moments_and_its_average_anew(tmp_path):
    """Else Adam throws it on, and the exported average lies between where it died and lives."""
    spec = VQ(replace(PLAIN, size=64, init=Normal(50.0), restart=Restart(0.9999, every=3)))
    (objective,) = tiny.learners(lpips=False, bottleneck=replace(spec, features=4))
    codes = objective.tokenizer.bottleneck.codebook
    fit([objective], tiny.Repeating({"image": tiny.images(16)}, 4),
        tiny.run(tmp_path, steps=3, ema=0.999))  # fmt: skip
    raw = tiny.load_step(tmp_path, 3, "model-0")["tokenizer.bottleneck.codebook.embedding"]
    restarted = raw.norm(dim=1) < 5
    assert restarted.sum() > 50, "all but the chosen were dead"
    assert torch.equal(codes.embedding.detach()[restarted], raw[restarted])
    moments = [value for name, value in tiny.load_step(tmp_path, 3, "optimizer-0").items()
               if value.shape == raw.shape and "exp_avg" in name]  # fmt: skip
    assert len(moments) == 2
    for moment in moments:
        assert not moment[restarted].any() and moment.any()


def test_bug_a_step_that_looks_ahead_counts_once():
    """Bug: the adaptive weight of several micro-batches takes each of them twice, and restarts took
    two codes to one feature.
    """
    adversary = tiny.adversary()
    reconstruction, _ = tiny.learners(False, adversary, bottleneck=tiny.VQ_BOTTLENECK)
    batches = [tiny.batch(2), tiny.batch(2, 1) | {"key": [8, 9]}]
    reconstruction.train()
    reconstruction.survey(batches, 1)
    for batch in batches:
        reconstruction(batch, 1)
    bottleneck = reconstruction.tokenizer.bottleneck
    sites = 4 * bottleneck.own(reconstruction.tokenizer.features(batches[0]["image"]))[0, 0].numel()
    assert bottleneck.counts.sum() == bottleneck.codebook.counts.sum() == sites
    assert len(torch.cat(bottleneck.codebook.collected)[:, 0].unique()) == sites


def test_codes_begin_among_the_first_steps_features(tmp_path):
    (objective,) = tiny.learners(lpips=False, bottleneck=tiny.VQ_BOTTLENECK)
    bottleneck = objective.tokenizer.bottleneck
    assert bottleneck.wants_survey(1)
    batches = [tiny.batch(4, seed) for seed in (0, 1)]
    objective.train()
    objective.survey(batches, 0)
    assert not bottleneck.wants_survey(1)
    features = torch.cat([objective.tokenizer.features(b["image"]) for b in batches])
    points = bottleneck.own(features).movedim(1, -1).flatten(0, 2)
    nearest_point = torch.cdist(bottleneck.codebook.codes, points).amin(1)
    assert nearest_point.max() < points.std()


SMALL = Backbone((16, 32, 32), layers=1, attention=False, groups=8)


def trained(codebook: Codebook, out: Path) -> ImageTokenizer:
    torch.manual_seed(0)
    spec = VQ(codebook)
    tokenizer = ImageTokenizer(SMALL.autoencoder(spec, 16), spec.build())
    objective = Reconstruction(tokenizer, {"pixel": (1.0, L2().build())}, AdamW(1e-3))
    run = Run(out, steps=300, ema=None, log_every=100, save_every=300, sample_every=1000)
    fit([objective], Loader(Scenes(size=16).build(), 32, seed=0), run)
    return tokenizer


@pytest.mark.slow
def test_a_bad_beginning_collapses_and_restarts_mend_it(tmp_path):
    """All codes far off but one. A plain codebook keeps that one."""
    plain = Codebook(64, 4, CodebookLoss(), Normal(5.0), restart=None)
    alive = Restart(below=0.5, every=5)
    held_out = [{"image": Scenes(size=16, seed=1).build().batch(range(256))["image"]}]
    found = {}
    for name, codebook in {
        "plain": plain, "restart": replace(plain, restart=alive),
        "averages": replace(plain, learning=EMA(), restart=alive),
    }.items():  # fmt: skip
        found[name] = codebook_health(trained(codebook, tmp_path / name), held_out).perplexity
    assert found.pop("plain") < 4 and min(found.values()) > 40


def test_health_counts_every_code_once(tmp_path):
    tokenizer = tiny.tokenizer(0, VQ(replace(PLAIN, channels=4))).eval()
    batches = [tiny.batch(3, 0), tiny.batch(5, 1)]
    health = codebook_health(tokenizer, batches)
    ids = torch.cat([tokenizer.pack(batch["image"]) for batch in batches])
    assert torch.equal(health.counts[0], torch.bincount(ids.flatten(), minlength=8))
    assert health.use == (health.counts > 0).double().mean()
    draw_histogram(health, tmp_path / "codes.png")
    assert (tmp_path / "codes.png").stat().st_size > 100
    with pytest.raises(ValueError, match="has no codes to count"):
        codebook_health(tiny.tokenizer(), batches)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"size": 1}, "codebook.size"), ({"channels": 0}, "codebook.channels")],
)
def test_codebooks_that_cannot_be_are_named(change, named):
    with pytest.raises(ValueError, match=named):
        replace(PLAIN, **change)
    with pytest.raises(ValueError, match=r"codebook\.restart"):
        Restart(below=1.0)
    with pytest.raises(ValueError, match=r"codebook\.learning\.decay"):
        EMA(1.0)


def test_bug_cosine_codes_began_within_the_sphere():
    """From 1 / size of zero one step of Adam turned a code by 73 degrees."""
    spec = Codebook(512, 8, CodebookLoss(), Uniform(), restart=None, similarity=Cosine())
    bottleneck = VQ(spec).build().train()
    before = bottleneck.codebook.codes.detach().clone()
    torch.testing.assert_close(bottleneck.codebook.embedding.norm(dim=1), torch.ones(512))
    optimizer = torch.optim.Adam(bottleneck.parameters(), 1e-3)
    bottleneck(torch.randn(4, 8, 4, 4)).penalties["codebook"].mean().backward()
    optimizer.step()
    bottleneck.step_end()
    cosines = (bottleneck.codebook.codes * before).sum(1)
    assert cosines.min() > 0.9


def test_running_use_forgets_that_all_codes_began_alike():
    """Bug: the log said that all codes were in use for 230 steps, whatever happened."""
    bottleneck = VQ(replace(PLAIN, size=64, init=Normal(1e-3))).build().train()
    h = torch.full((2, 3, 4, 4), 5.0)
    for step in range(3):
        bottleneck.step_begin(step)
        bottleneck(h)
        bottleneck.step_end()
    bottleneck.step_begin(3)
    assert bottleneck.metrics["perplexity"].item() == pytest.approx(1, abs=1e-3)
    assert bottleneck.metrics["codes_alive"].item() == pytest.approx(1 / 64)
    assert bottleneck.warning() == "2% of 64 codes are alive: choose codebook.restart:restart"


def test_few_sites_say_nothing_of_many_codes():
    bottleneck = VQ(replace(PLAIN, size=4096)).build().train()
    bottleneck(torch.randn(1, 3, 4, 4))
    bottleneck.step_end()
    bottleneck.step_begin(1)
    assert bottleneck.metrics["codes_alive"] < 0.5 and bottleneck.warning() is None


def test_a_run_says_that_codes_die(tmp_path, capsys):
    (objective,) = tiny.learners(lpips=False, bottleneck=VQ(replace(PLAIN, init=Normal(50.0))))
    batches = tiny.Repeating({"image": tiny.images(16)}, 4)
    fit([objective], batches, tiny.run(tmp_path, steps=4, sample_every=2, ema=None))
    said = [line for line in capsys.readouterr().err.splitlines() if "codes are alive" in line]
    assert [line.split(":")[0] for line in said] == ["step 2", "step 4"]


@torch.no_grad()
def test_bug_a_loaded_vqmodel_was_folded_and_its_codes_were_not():
    """What was saved decoded otherwise, under the same fingerprint."""
    tokenizer = tiny.tokenizer(0, VQ(replace(PLAIN, channels=4))).eval()
    image = tiny.images(4)
    stock = tokenizer.export()
    loaded = ImageTokenizer(stock, Table(stock.quantize.embedding.weight))
    before, name = loaded.reconstruct(image), fingerprint(loaded)
    assert name == fingerprint(stock)
    fold(loaded, LatentStatistics(torch.ones(4), torch.full((4,), 2.0), 1))
    again = loaded.export()
    assert fingerprint(loaded) == fingerprint(again) != name
    torch.testing.assert_close(again(image).sample, before, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (lambda: KMeans(sites_per_code=0), "codebook.init.sites_per_code is 0"),
        (lambda: KMeans(iterations=-1), "codebook.init.iterations is -1"),
        (lambda: Normal(0.0), "codebook.init.std is 0.0"),
        (lambda: CodebookLoss(-1.0), "codebook.learning.weight is -1.0"),
        (lambda: VQ(commitment=-0.25), "bottleneck.commitment is -0.25"),
    ],
)
def test_impossible_numbers_are_named(made, error):
    with pytest.raises(ValueError, match=error):
        made()
