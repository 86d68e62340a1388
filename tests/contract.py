"""What every bottleneck with codes promises: each function keeps a spec to one promise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import tiny
from calotype.tokenizers import ImageTokenizer, Reconstruction, fold, measure
from calotype.tokenizers.bottlenecks import Discrete
from calotype.tokenizers.terms import L2
from calotype.training import Objective, Run, fit

Spec = Any
"""One of `BottleneckSpec`, with few codes."""
KEYS = list(range(8))


def features(spec: Spec, seed: int = 0, count: int = 8) -> torch.Tensor:
    """What a bottleneck reads, at unit scale."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, spec.inputs, 4, 4, generator=generator)


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(key) for key in KEYS]


def bottleneck(spec: Spec) -> Discrete:
    """In training, its codes begun."""
    torch.manual_seed(0)
    built = spec.build()
    assert isinstance(built, Discrete)
    if built.wants_survey(1):
        built.survey([features(spec)], KEYS)
    return built


def tokenizer(spec: Spec) -> ImageTokenizer:
    """Fresh, but for features at unit scale and codes that have begun among them."""
    torch.manual_seed(0)
    made = ImageTokenizer(tiny.BACKBONE.autoencoder(spec, tiny.SIZE), spec.build()).eval()
    conv, image = made.autoencoder.quant_conv, tiny.images(8)
    assert conv is not None and conv.bias is not None
    with torch.no_grad():
        h = made.features(image)
        conv.weight /= h.std((0, 2, 3))[:, None, None, None]
        conv.bias.copy_((conv.bias - h.mean((0, 2, 3))) / h.std((0, 2, 3)))
        if made.bottleneck.wants_survey(1):
            made.bottleneck.survey([made.features(image)], KEYS)
    return made


def trained(spec: Spec, out: Path, batch_size: int = 8, **changes) -> Reconstruction:
    torch.manual_seed(0)
    made = ImageTokenizer(tiny.BACKBONE.autoencoder(spec, tiny.SIZE), spec.build())
    objective = Reconstruction(made, {"pixel": (1.0, L2().build())}, tiny.adam(3e-3))
    fixed = {"out": out, "ema": None, "save_every": 2, "precision": "fp32"}
    run = Run(**{**fixed, **changes}, batch_size=batch_size)
    fit([objective], tiny.Repeating({"image": tiny.images(16)}, batch_size), run)
    return objective


def distance(a: Objective, b: Objective) -> float:
    """Largest difference between what two objectives hold."""
    mine, other = a.state_dict(), b.state_dict()
    return max(float((mine[n].float() - other[n].float()).abs().max()) for n in mine)


def looks_up_what_it_packs(spec: Spec, out: Path) -> None:
    made, h = bottleneck(spec).eval(), features(spec)
    packed = made.pack(h)
    assert packed.dtype == torch.int32 and packed.min() >= 0 and packed.max() < made.codes
    assert torch.equal(made.mode(h), made.unpack(packed))
    torch.testing.assert_close(made(h).z, made.mode(h), atol=1e-5, rtol=0)
    assert torch.equal(made(h).ids.int(), packed)


def is_the_same_for_every_sample_of_a_repeated_batch(spec: Spec, out: Path) -> None:
    made, h = bottleneck(spec), features(spec)
    fresh = [each for _ in range(3) for each in generators()]
    once, thrice = made(h, generators()), made(h.repeat(3, 1, 1, 1), fresh)
    assert torch.equal(once.ids.repeat(3, *[1] * (once.ids.ndim - 1)), thrice.ids)
    for name, term in once.penalties.items():
        assert term.shape == (8,)
        torch.testing.assert_close(thrice.penalties[name], term.repeat(3), rtol=1e-4, atol=1e-6)
    assert once.rates.keys() == thrice.rates.keys()
    for name, term in once.rates.items():
        assert term.shape == (8,)
        torch.testing.assert_close(thrice.rates[name], term.repeat(3))
    torch.testing.assert_close(once.z.repeat(3, 1, 1, 1), thrice.z)


def ignores_autocast(spec: Spec, out: Path) -> None:
    made, h = bottleneck(spec), features(spec).bfloat16()
    plain = made(h, generators())
    with torch.autocast("cpu", torch.bfloat16):
        cast, packed = made(h, generators()), made.pack(h)
    assert cast.z.dtype == torch.float32 and torch.equal(cast.z, plain.z)
    assert torch.equal(cast.ids, plain.ids) and torch.equal(packed.long(), plain.ids)
    for terms, others in ((plain.penalties, cast.penalties), (plain.rates, cast.rates)):
        assert terms.keys() == others.keys()
        assert all(torch.equal(others[name], term) for name, term in terms.items())


def counts_use_in_training_only(spec: Spec, out: Path) -> None:
    made, h = bottleneck(spec), features(spec)
    before = made.usage.clone()
    ids = made(h).ids
    assert made.counts.sum(1).tolist() == [8.0 * 16] * made.codebooks
    made.step_skipped()
    made.eval()(h)
    made.pack(h)
    assert not made.counts.any() and torch.equal(made.usage, before)
    made.train()(h)
    made.step_end()
    assert not made.counts.any()
    torch.testing.assert_close(made.usage.sum(1), torch.ones(made.codebooks))
    each = ids.reshape(8, made.codebooks, -1).unbind(1)
    for was, now, chosen in zip(before, made.usage, each, strict=True):
        used = torch.bincount(chosen.flatten(), minlength=made.codes) > 0
        assert (now[used] > was[used]).any() and (now[~used] <= was[~used]).all()


def gives_its_codes_vectors(spec: Spec, out: Path) -> None:
    made = bottleneck(spec).eval()
    packed = made.pack(features(spec)).long()
    vectors = made.code_vectors()
    assert vectors.shape[:2] == (made.codebooks, made.codes)
    torch.testing.assert_close(vectors.square().mean((1, 2)), torch.ones(made.codebooks))
    torch.testing.assert_close(
        vectors.mean(1), torch.zeros_like(vectors.mean(1)), atol=1e-5, rtol=0
    )
    # Between two codes there is as much as between what they are decoded from, in one unit.
    for book in range(made.codebooks):
        other = packed if made.codebooks == 1 else packed[:, book]
        first = packed.clone()
        (first if made.codebooks == 1 else first[:, book]).zero_()
        apart = (made.unpack(packed) - made.unpack(first)).square().sum(1).flatten()
        told = (vectors[book, other.flatten()] - vectors[book, 0]).square().sum(1)
        some = apart > 1e-6
        assert some.any()
        ratio = told[some] / apart[some]
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=0)


@torch.no_grad()
def survives_folding(spec: Spec, out: Path) -> None:
    made, image = tokenizer(spec), tiny.images(8)
    ids, before = made.pack(image), made.reconstruct(image)
    statistics = measure(made, [{"image": image, "key": KEYS}])
    fold(made, statistics)
    after = measure(made, [{"image": image, "key": KEYS}])
    assert torch.equal(made.pack(image), ids)
    torch.testing.assert_close(made.reconstruct(image), before, atol=1e-4, rtol=0)
    assert after.mean.abs().max() < 1e-4 and abs(after.std.square().mean() - 1) < 1e-4


@torch.no_grad()
def is_saved_and_loaded(spec: Spec, out: Path) -> None:
    made, image = tokenizer(spec), tiny.images(8)
    fold(made, measure(made, [{"image": image, "key": KEYS}]))
    made.save(out / "model")
    loaded = ImageTokenizer.load(out / "model")
    assert torch.equal(loaded.pack(image), made.pack(image))
    torch.testing.assert_close(loaded.reconstruct(image), made.reconstruct(image))


def continues_exactly(spec: Spec, out: Path) -> None:
    whole = trained(spec, out / "whole", steps=4)
    trained(spec, out / "parts", steps=2)
    parts = trained(spec, out / "parts", steps=4, resume=True)
    assert distance(whole, parts) == 0


def accumulates(spec: Spec, out: Path) -> None:
    whole = trained(spec, out / "whole", steps=3)
    parts = trained(spec, out / "parts", batch_size=8, micro_batch=4, steps=3)
    assert distance(whole, parts) < 1e-5


def learns(spec: Spec, out: Path) -> None:
    """The error falls below that of grey pictures by a half."""
    objective, image = trained(spec, out, steps=60, save_every=60), tiny.images(16)
    made = objective.tokenizer.eval()
    grey = (image - image.mean((0, 2, 3), keepdim=True)).square().mean()
    assert (made.reconstruct(image) - image).square().mean() < grey / 2
    ids = made.pack(image)
    assert len(ids.unique()) > 4


PROMISES: list[Callable[[Spec, Path], None]] = [
    looks_up_what_it_packs,
    is_the_same_for_every_sample_of_a_repeated_batch,
    ignores_autocast,
    counts_use_in_training_only,
    gives_its_codes_vectors,
    survives_folding,
    is_saved_and_loaded,
    continues_exactly,
    accumulates,
    learns,
]
