"""What is unlike normal pictures: densities, maps at the right place, both directions."""

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.utils.estimator_checks import check_estimator
from torch.nn import functional

import tiny
from calotype.pipelines.scores import score, token_bits
from calotype.pipelines.tokens import TokenPipeline
from calotype.tokenizers.terms.perceptual import PerceptualTerm
from calotype.uses.detection import (
    Anywhere,
    CodeDistance,
    Detector,
    EachSite,
    Encoded,
    EncoderMaps,
    Gaussian,
    Mixture,
    Nearest,
    NegativeELBO,
    Patches,
    PerceptualError,
    Pictures,
    PixelError,
    Principal,
    PrincipalPixels,
    Rule,
    TokenBits,
    check_reverse,
    learning,
    of_pixels,
    of_tokenizer,
    of_transformer,
    one_way,
    read,
    tried,
    with_reverse,
)
from calotype.uses.detection.novelty import NoveltyDetector
from calotype.uses.detection.reconstruction import similarity

CHANCE = np.random.default_rng(0)
VQ = tiny.BOTTLENECKS["vq-loss"]


def cloud(count: int, width: int = 5) -> torch.Tensor:
    mix = torch.from_numpy(np.random.default_rng(1).normal(size=(width, width)))
    return torch.from_numpy(CHANCE.normal(size=(count, width))) @ mix + 3


@pytest.mark.parametrize("density", [None, Mixture(2), Principal(), Nearest(50, 100)], ids=str)
@pytest.mark.filterwarnings("ignore")  # of sets as small as some checks', too few are held out
def test_the_estimator_is_one_of_scikit_learns(density):
    check_estimator(NoveltyDetector(density, random_state=0), on_skip=None)


def test_covariances_are_shrunk_as_ledoit_and_wolf_have_it():
    """Each of several sets as if it were alone."""
    sets = torch.stack([cloud(n)[:12] for n in (12, 13, 14)])
    found = Gaussian().fit(sets)
    for i, x in enumerate(sets.numpy()):
        right, _ = ledoit_wolf(x)
        covariance = found.cholesky[i] @ found.cholesky[i].T
        assert np.allclose(covariance, right, rtol=1e-4, atol=1e-5 * np.trace(right))
        away = x - x.mean(0)
        distances = np.sqrt(np.einsum("ni,ij,nj->n", away, np.linalg.inv(right), away))
        assert np.allclose(found(sets)[i], distances, rtol=1e-3)


@pytest.mark.parametrize("density", [Gaussian(), Mixture(3), Principal(0.8), Nearest(40)], ids=str)
def test_what_is_far_is_more_unusual_than_what_is_learnt(density):
    unusual = density.fit(cloud(400).float())
    near, far = cloud(200).float(), cloud(200).float() + 40 * torch.eye(5)[0]
    assert unusual(far).min() > unusual(near).max()


def test_a_coreset_covers_what_it_is_of():
    """No vector lies as far from it as from as many drawn at random."""
    x = cloud(3000).float()
    x[:5] += 60
    kept = Nearest(30).fit(x)
    drawn = x[torch.randperm(3000, generator=torch.Generator().manual_seed(1))[:30]]
    assert kept(x).max() < torch.cdist(x, drawn).amin(1).max()
    assert len(kept.bank) == 30 and kept(kept.bank).max() < 0.1


def test_principal_components_leave_out_what_is_not_in_their_subspace():
    plane = torch.from_numpy(CHANCE.normal(size=(100, 2)) @ CHANCE.normal(size=(2, 6))).float()
    found = Principal(0.99).fit(plane)
    assert found(plane).max() < 1e-3 and len(found.directions) == 2
    across = torch.linalg.svd(found.directions, full_matrices=True).Vh[-1]
    assert torch.allclose(found(plane + 2 * across), torch.full((100,), 2.0), atol=1e-3)


def test_similarity_is_one_of_what_is_equal_and_scikit_images_else():
    metrics = pytest.importorskip("skimage.metrics")
    a, b = tiny.images(2)
    assert torch.allclose(similarity(a[None], a[None]), torch.ones(1, 1, 16, 16))
    _, right = metrics.structural_similarity(
        *((x.numpy() + 1) / 2 for x in (a, b)), channel_axis=0, data_range=1, full=True,
        use_sample_covariance=False, win_size=7,
    )  # fmt: skip
    inside = slice(3, -3)  # at the rim skimage repeats what is not there
    found = similarity(a[None], b[None])[0, 0, inside, inside]
    assert np.allclose(found, right.mean(0)[inside, inside], atol=1e-4)


def test_bug_similarity_held_mid_grey_for_special():
    """Of levels in [-1, 1] two greys a hair apart, one below 0 and one above, were as unlike as a
    picture and its negative. The same step of brightness counts less the brighter it is, and
    nowhere more than near black."""
    levels = torch.linspace(-0.9, 0.9, 37)
    flat = levels[:, None, None, None].expand(-1, 3, 16, 16)
    found = similarity(flat - 0.01, flat + 0.01).mean((1, 2, 3))
    assert found.diff().min() > -1e-3 and found.min() > 0.97
    # Beyond black there is black.
    assert similarity(flat[:1] * 0 - 1, flat[:1] * 0 - 1.2).min() == 1


SIDE = 32


def scene(seed: int) -> torch.Tensor:
    """A soft slope, another each time."""
    chance = torch.Generator().manual_seed(seed)
    slope = torch.randn(3, 2, 2, generator=chance) * 0.3
    wide = functional.interpolate(slope[None], (SIDE, SIDE), mode="bilinear")[0]
    return (wide + 0.02 * torch.randn(3, SIDE, SIDE, generator=chance)).clamp(-1, 1)


NORMAL = torch.stack([scene(i) for i in range(90)])
CORNERS = ((2, 4), (20, 6), (8, 20))


def planted() -> torch.Tensor:
    """Normal pictures with a bright square of 6 pixels a side at `CORNERS`."""
    found = torch.stack([scene(1000 + i) for i in range(len(CORNERS))])
    for image, (y, x) in zip(found, CORNERS, strict=True):
        image[:, y : y + 6, x : x + 6] = torch.tensor([1.0, -1.0, 1.0])[:, None, None]
    return found


SCORES = {
    "patches": lambda: EachSite(Patches(4)),
    "maps": lambda: EachSite(EncoderMaps()),
    "nearest": lambda: Anywhere(Patches(4), Nearest(500)),
    "mixture": lambda: Anywhere(Patches(4), Mixture()),
    "principal": lambda: PrincipalPixels(),
}


@pytest.mark.parametrize("name", SCORES)
def test_a_map_is_highest_where_the_defect_is(name):
    """Whatever the grid: maps lie as pictures do, and are as large."""
    detector = Detector(tiny.tokenizer(), SCORES[name](), Rule(false_alarm_rate=0.1)).fit(NORMAL)
    images = planted()
    maps = detector.maps(images)
    assert maps.shape == (3, SIDE, SIDE)
    for heat, (y, x) in zip(maps, CORNERS, strict=True):
        top = divmod(int(heat.argmax()), SIDE)
        assert y - 2 <= top[0] <= y + 7 and x - 2 <= top[1] <= x + 7
    assert detector.predict(images).tolist() == [-1, -1, -1]
    assert np.array_equal(detector.decision_function(images) < 0, detector.predict(images) < 0)
    assert detector.p_values(images).max() < 0.06


def test_an_error_of_reconstruction_is_where_it_is(monkeypatch):
    tokenizer = tiny.tokenizer()
    grey = torch.zeros(len(CORNERS), 3, SIDE, SIDE)
    monkeypatch.setattr(tokenizer, "decode", lambda z: grey)
    images = planted()
    looked = read(tokenizer, {"": PixelError()}, images)[""]
    assert torch.allclose(looked[:, 0], images.square().mean(1), atol=1e-6)


def test_scores_in_one_pass_are_those_of_each_alone(monkeypatch):
    """And a tokenizer encodes each picture once, however many scores look at its latents."""
    tokenizer = tiny.tokenizer()
    every = of_tokenizer(tokenizer).items()
    scores = {name: score for name, score in every if "encoder" not in name}
    encoded, features = list[int](), tokenizer.features

    def counted(images):
        encoded.append(len(images))
        return features(images)

    monkeypatch.setattr(tokenizer, "features", counted)
    together = read(tokenizer, scores, NORMAL[:10], 4)
    assert encoded == [4, 4, 2]
    for name, each in scores.items():
        assert torch.equal(read(tokenizer, {name: each}, NORMAL[:10], 4)[name], together[name])


def test_the_share_of_each_place_adds_up_to_the_bound():
    """-ELBO by hand, with the deviation that makes it least."""
    tokenizer, images = tiny.tokenizer(), tiny.images(3)
    score = NegativeELBO()
    looked = score.look(Encoded(tokenizer, images))
    score.learn(looked)
    with torch.no_grad():
        mean, log = tokenizer.features(images).chunk(2, 1)
        log = log.clamp(-30, 20)
        divergence = ((mean**2 + log.exp() - 1 - log) / 2).sum((1, 2, 3))
        errors = (images - tokenizer.decode(mean)).square()
        variance = errors.mean()
        nats = (errors / variance + (2 * np.pi * variance).log()).sum((1, 2, 3)) / 2
    found = score.judge(looked).sum((1, 2))
    assert torch.allclose(found, nats + divergence, rtol=1e-4)
    assert score.variance == pytest.approx(variance.item(), rel=1e-5)


def test_distances_to_codes_are_those_to_the_nearest():
    tokenizer, images = tiny.tokenizer(0, VQ), tiny.images(3)
    looked = CodeDistance().look(Encoded(tokenizer, images))
    with torch.no_grad():
        h = tokenizer.features(images).permute(0, 2, 3, 1).flatten(0, 2)
        codes = tokenizer.bottleneck.table()
        right = torch.cdist(h, codes).amin(1).square()
    assert torch.allclose(looked.flatten(), right, atol=1e-4)


@pytest.fixture
def pipeline() -> TokenPipeline:
    torch.manual_seed(0)
    tokenizer = tiny.tokenizer(0, VQ)
    side = tiny.SIZE // tokenizer.factor
    layout = tiny.Layout(text=0, codes=16, codebooks=1, height=side, width=side)
    model = tiny.Transformer(16, 2, 2).build(layout, 1)
    return TokenPipeline(model.eval(), None, tokenizer, layout)


def test_bits_of_sites_add_up_to_those_of_the_picture(pipeline):
    images = tiny.images(3)
    codes = pipeline.codes(images)
    looked = TokenBits(pipeline).look(Encoded(pipeline.tokenizer, images))
    bits = token_bits(pipeline, codes, [""] * 3)
    side = pipeline.layout.height
    assert torch.equal(looked, bits.view(3, 1, side, side)) and looked.min() >= 0
    assert torch.allclose(looked.sum((1, 2, 3)), score(pipeline, codes, [""] * 3), rtol=1e-5)


def test_maps_of_what_looks_different_average_to_lpips():
    term = PerceptualTerm(tiny.backbone())
    a, b = (tiny.images(2, seed).repeat_interleave(4, 2).repeat_interleave(4, 3) for seed in (0, 1))
    maps = term.everywhere(a, b)
    assert maps.shape == (2, 1, 64, 64)
    assert torch.allclose(maps.mean((1, 2, 3)), term(a, b), rtol=0.05)


def test_every_kind_of_tokenizer_has_scores_and_learns():
    for name, spec in {"kl": tiny.BOTTLENECK, **tiny.BOTTLENECKS}.items():
        tokenizer = tiny.tokenizer(0, spec)
        scores = of_tokenizer(tokenizer) | of_pixels(tokenizer)
        assert ("code distance" in scores) == (name in ("vq", "vq-loss", "rvq"))
        assert ("-ELBO" in scores) == (name == "kl")
        found = tried(tokenizer, scores, Pictures(NORMAL[:30], NORMAL[30:50], planted()), Rule())
        for each in found.values():
            assert np.isfinite(each.values).all() and each.learnt.threshold > -np.inf


def test_a_score_says_whether_it_learns(pipeline):
    """It does where it judges otherwise after other normal pictures."""
    images = tiny.images(24)
    for spec in (tiny.BOTTLENECK, VQ):
        tokenizer = tiny.tokenizer(0, spec)
        scores = of_tokenizer(tokenizer) | of_pixels(tokenizer)
        if spec is VQ:
            scores |= of_transformer(pipeline)
        looked = read(tokenizer, scores, images)
        for name, each in scores.items():
            judged = []
            for part in (slice(0, 12), slice(12, 24)):
                each.learn(looked[name][part])
                judged.append(each.judge(looked[name]))
            assert torch.equal(*judged) != each.learns, name
        assert set(learning(scores)) == {name for name, each in scores.items() if each.learns}
    assert not PerceptualError.learns


def test_bug_the_same_tokenizers_reverse_of_what_learns_nothing_said_one_way():
    """It is 1 - AUROC by itself: bright squares are rebuilt badly, and slopes never so."""
    tokenizer = tiny.tokenizer()
    test = torch.cat([NORMAL[70:], *[planted() for _ in range(8)]])
    pictures = Pictures(NORMAL[:50], NORMAL[50:70], test, np.arange(len(test)) >= 20)
    scores = lambda: {"pixel error": PixelError(), "patches": EachSite(Patches(4))}  # noqa: E731
    forward, turned = tried(tokenizer, scores(), pictures, Rule()), pictures.reversed()
    all_of_it = with_reverse(forward, tried(tokenizer, scores(), turned, Rule()))
    error = all_of_it["pixel error"]
    assert error.figures.auroc is not None and error.figures.auroc > 0.9
    assert error.reverse == pytest.approx(1 - error.figures.auroc, abs=0.05)
    assert "pixel error" in one_way(all_of_it)
    found = with_reverse(forward, tried(tokenizer, learning(scores()), turned, Rule()))
    assert found["pixel error"].reverse is None and "pixel error" not in one_way(found)
    assert found["patches"].reverse == all_of_it["patches"].reverse is not None


def test_both_directions_are_told_apart():
    """Bright squares among slopes are found; of slopes among pictures with squares it is said what
    does not find them."""
    tokenizer = tiny.tokenizer()
    squares = torch.cat([planted() for _ in range(8)])
    test = torch.cat([NORMAL[70:], squares])
    told = np.repeat([False, True], [20, len(squares)])
    pictures = Pictures(NORMAL[:50], NORMAL[50:70], test, told)
    scores = lambda: {"pixels": PrincipalPixels(), "places": EachSite(Patches(4))}  # noqa: E731
    forward = tried(tokenizer, scores(), pictures, Rule())
    found = with_reverse(forward, tried(tokenizer, scores(), pictures.reversed(), Rule()))
    assert all(each.figures.auroc == 1 for each in found.values())
    assert all(each.reverse is not None for each in found.values())
    fails = {name: each for name, each in found.items() if each.reverse <= 0.55}
    assert set(one_way(found)) == set(fails)
    reverse = pictures.reversed()
    assert reverse.anomalous is not None and reverse.anomalous.sum() == 20
    assert len(reverse.normal) + (~reverse.anomalous).sum() == len(squares)
    with pytest.raises(ValueError, match="3 anomalous and 20 normal pictures are too few"):
        Pictures(NORMAL, NORMAL, test[:23], told[:23]).reversed()
    with pytest.raises(ValueError, match="10 anomalous and 0 normal pictures are too few"):
        check_reverse([True] * 10)


def test_a_detector_says_what_is_missing():
    detector = Detector(tiny.tokenizer(), PixelError())
    with pytest.raises(ValueError, match="learnt nothing: call fit"):
        detector.predict(NORMAL)
    with pytest.raises(ValueError, match="takes 19 held-out normals, and there are 10"):
        detector.fit(NORMAL[:40])
    with pytest.raises(ValueError, match="learnt nothing"):
        EachSite(Patches(2)).judge(torch.zeros(1, 12, 4, 4))
    for bad, answer in (({"top": 0.0}, "rule.top"), ({"smoothing": 1.0}, "rule.smoothing"),
                        ({"false_alarm_rate": 1.0}, "false_alarm_rate")):  # fmt: skip
        with pytest.raises(ValueError, match=answer):
            Rule(**bad)
