"""What the transformer is taught: the stock model's own errors, in raster and in other orders."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

import tiny
from calotype.autoregressive import Annealed, Layout, NextToken, Order, Raster, Transformer
from calotype.autoregressive.orders import draw_orders
from calotype.training import Batch, Losses, fit
from calotype.training.noise import generators

LAYOUT = Layout(text=20, codes=16, codebooks=1, height=2, width=3)
PAIRS = replace(LAYOUT, codebooks=2)
PROMPT = 5
"""Tokens of the longest."""
LENGTHS = torch.tensor([5, 3, 1, 4, 0, 2, 5, 2])
ALWAYS = Annealed(begin=1, end=2)
"""Whose first step shuffles all."""

both = pytest.mark.parametrize("layout", [LAYOUT, PAIRS], ids=["one codebook", "two codebooks"])


def objective(layout: Layout = LAYOUT, order: Order | None = None, **changes) -> NextToken:
    torch.manual_seed(0)
    model = Transformer(32, 2, 2).build(layout, PROMPT, pad=0)
    # Fresh weights hardly look back, and find all tokens about as likely.
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return NextToken(model, layout, order or Raster(), tiny.adam(1e-2), **{"drop": 0.0, **changes})


def batch(layout: Layout = LAYOUT, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    grid = (8, layout.codebooks, layout.height, layout.width)
    ids = torch.randint(layout.codes, grid, generator=generator).int()
    tokens = torch.randint(LAYOUT.text, (8, PROMPT), generator=generator)
    packed = ids[:, 0] if layout.codebooks == 1 else ids
    return {"packed": packed, "tokens": tokens, "lengths": LENGTHS, "key": list(range(100, 108))}


def total(losses: Losses) -> torch.Tensor:
    return torch.stack(list(losses.values())).sum()


def rows(batch: Batch, chosen: slice) -> Batch:
    return {name: values[chosen] for name, values in batch.items()}


def samples(batch: Batch) -> list[Batch]:
    """Each alone."""
    return [rows(batch, slice(j, j + 1)) for j in range(len(batch["key"]))]


def stock_errors(model: LlamaForCausalLM, layout: Layout, one: Batch) -> tuple[float, float]:
    """Mean errors of a sample's text and image, as transformers' user finds them: padded on the
    left, with a mask, token by token.
    """
    text = one["tokens"][0, : one["lengths"][0]].tolist() if "tokens" in one else []
    image = layout.tokens(layout.flatten(one["packed"]))[0].tolist()
    sequence = [*text, layout.begin, *image]
    left = 1 + PROMPT + layout.length - len(sequence)
    tokens, mask = torch.tensor([[0] * left + sequence]), torch.ones(1, left + len(sequence))
    mask[:, :left] = 0
    logits = model(input_ids=tokens, attention_mask=mask.long()).logits[0, left:]
    errors = {"text": [0.0], "image": []}
    for place, token in enumerate(sequence[1:]):
        if place < len(text):
            low, high, kind = 0, layout.first, "text"
        else:
            codebook = (place - len(text)) % layout.codebooks
            low, high, kind = layout.first + codebook * layout.codes, 0, "image"
            high = low + layout.codes
        target = torch.tensor(token - low)
        errors[kind].append(cross_entropy(logits[place, low:high], target).item())
    return sum(errors["text"]) / max(1, len(text)), sum(errors["image"]) / len(errors["image"])


@torch.no_grad()
@both
def test_losses_are_the_stock_models_errors(layout):
    """Text among text and begin-of-image, its first token not asked for; a site's codes each in its
    own codebook. Text weighs 1 and the image 7, of 8.
    """
    made, given = objective(layout), batch(layout)
    losses = made(given, 0)
    errors = [stock_errors(made.transformer.eval(), layout, one) for one in samples(given)]
    text, image = torch.tensor(errors).mean(0)
    torch.testing.assert_close(losses["text"], text / 8, atol=1e-5, rtol=0)
    torch.testing.assert_close(losses["image"], 7 * image / 8, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.metrics["bits_per_token"], image / math.log(2))
    made.image_weight = 1.0
    torch.testing.assert_close(made(given, 0)["text"], text / 2, atol=1e-5, rtol=0)


@torch.no_grad()
def test_without_prompts_begin_of_image_alone_is_before_an_image():
    layout = replace(LAYOUT, text=0)
    made, given = objective(layout, prompted=False, drop=0.5), batch(layout)
    given = {"packed": given["packed"], "key": given["key"]}
    losses = made(given, 0)
    errors = [stock_errors(made.transformer.eval(), layout, one)[1] for one in samples(given)]
    assert losses.keys() == {"image"}
    torch.testing.assert_close(losses["image"], torch.tensor(errors).mean(), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("order", [Raster(), ALWAYS], ids=["raster", "random"])
def test_a_batch_and_the_same_batch_repeated_score_alike(order):
    made, given = objective(order=order, drop=0.5), batch()
    twice = {
        name: values.repeat(3, *[1] * (values.ndim - 1)) if name != "key" else values * 3
        for name, values in given.items()
    }
    once, again = made(given, 0), made(twice, 0)
    for name, loss in once.items():
        torch.testing.assert_close(again[name], loss)
    alone = [made(one, 0)["image"] for one in samples(given)]
    torch.testing.assert_close(once["image"], torch.stack(alone).mean())


@torch.no_grad()
def test_padding_changes_nothing():
    """Neither what stands there nor how much there is."""
    made, given = objective(drop=0.5), batch()
    expected = made(given, 0)
    wider = torch.randint(LAYOUT.text, (8, PROMPT + 7))
    inside = torch.arange(PROMPT) < LENGTHS[:, None]
    wider[:, :PROMPT] = torch.where(inside, given["tokens"], wider[:, :PROMPT])
    assert not torch.equal(wider[:, :PROMPT], given["tokens"])
    for name, loss in made({**given, "tokens": wider}, 0).items():
        torch.testing.assert_close(loss, expected[name])


def lost(made: NextToken, given: Batch) -> list[bool]:
    """Which samples have no text to learn where each is alone."""
    assert (given["lengths"] > 0).all()
    return [made(one, 0)["text"].item() == 0 for one in samples(given)]


def own_tokens() -> Batch:
    """Of sample j the prompt is of tokens 2 j and 2 j + 1 alone."""
    tokens = 2 * torch.arange(8)[:, None] + torch.tensor([0, 1, 0, 1, 1])
    return {**batch(), "tokens": tokens, "lengths": LENGTHS.clamp(min=2)}


@torch.no_grad()
def test_a_lost_prompt_changes_nothing():
    made, given = objective(drop=0.5), own_tokens()
    dropped, expected = lost(made, given), made(given, 0)
    assert 0 < sum(dropped) < 8
    for j in range(8):
        tokens, lengths = given["tokens"].clone(), given["lengths"].clone()
        tokens[j], lengths[j] = 17, 4
        changed = made({**given, "tokens": tokens, "lengths": lengths}, 0)
        same = [torch.allclose(changed[name], expected[name]) for name in expected]
        assert same == [dropped[j]] * 2


def test_bug_the_token_that_pads_was_never_learnt():
    """CLIP pads with its end of text; a padding token's embedding is zero and stays so."""
    fresh = Transformer(32, 2, 2).build(LAYOUT, PROMPT, pad=3)
    assert fresh.model.embed_tokens.weight[3].any()
    made, given = objective(), batch()
    made.transformer = fresh
    given["tokens"][:, 0] = 3
    total(made(given, 0)).backward()
    gradient = fresh.model.embed_tokens.weight.grad
    assert gradient is not None and gradient[3].any()


def test_a_lost_prompt_gets_no_gradient():
    made, given = objective(drop=0.5), own_tokens()
    dropped = lost(made, given)
    total(made(given, 0)).backward()
    gradient = made.transformer.model.embed_tokens.weight.grad
    assert gradient is not None
    moved = gradient[:16].unflatten(0, (8, 2)).abs().sum(-1).bool().all(1)
    assert moved.tolist() == [not each for each in dropped]
    assert gradient[LAYOUT.begin].any()


@torch.no_grad()
def test_prompts_are_lost_by_their_keys():
    """In any batch, and about as many as asked for."""
    made, given = objective(drop=0.5), own_tokens()
    dropped = lost(made, given)
    assert lost(made, {**given, "packed": given["packed"].flip(0)}) == dropped
    assert lost(made, {**given, "key": given["key"][::-1]}) == dropped[::-1]
    count, tokens = 3000, torch.zeros(3000, 2, dtype=torch.long)
    small = replace(LAYOUT, height=1, width=1)
    made = objective(small, drop=0.1)
    # Then each kept sample's error is log 21.
    made.transformer.lm_head.weight.zero_()
    packed, lengths = torch.zeros(count, 1, 1, dtype=torch.int32), torch.full((count,), 2)
    losses = made(
        {"packed": packed, "tokens": tokens, "lengths": lengths, "key": list(range(count))}, 0
    )
    kept = 8 * losses["text"].item() / math.log(LAYOUT.first)
    assert kept == pytest.approx(0.9, abs=0.02)


def test_each_loss_moves_its_own_rows_of_the_head():
    for name, own in (("text", slice(LAYOUT.first)), ("image", slice(LAYOUT.first, None))):
        made = objective()
        made(batch(), 0)[name].backward()
        gradient = made.transformer.lm_head.weight.grad
        assert gradient is not None
        gradient = gradient.clone()
        assert gradient[own].abs().sum(1).all()
        gradient[own] = 0
        assert not gradient.any()


@both
@pytest.mark.parametrize("order", [Raster(), ALWAYS], ids=["raster", "random"])
def test_every_parameter_learns(order, layout):
    made = objective(layout, order)
    total(made(batch(layout), 0)).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@torch.no_grad()
def test_losses_are_float32_under_autocast():
    made, given = objective(order=ALWAYS), batch()
    plain = made(given, 0)
    with torch.autocast("cpu", torch.bfloat16):
        cast = made(given, 0)
    for name, loss in cast.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, plain[name], rtol=0.02, atol=0)


@pytest.mark.parametrize("order", [Raster(), Annealed(5, 40)], ids=["raster", "annealed"])
def test_fit_learns(order, tmp_path):
    """The bits of 8 images' tokens fall from those of chance by a half."""
    made, given = objective(order=order, drop=0.1), batch()
    data = {name: values for name, values in given.items() if name != "key"}
    fit([made], tiny.Repeating(data, 8), tiny.run(tmp_path, steps=60, batch_size=8, save_every=60))
    made.drop = 0.0
    made(given, 1000)
    assert made.metrics["bits_per_token"] < math.log2(LAYOUT.codes) / 2


def test_orders_are_permutations_drawn_by_key():
    keys = list(range(400))
    drawn = draw_orders(1.0, 6, generators(keys))
    assert torch.equal(drawn.sort(1).values, torch.arange(6).expand(400, 6))
    for place in range(6):  # each site's turn comes anywhere
        assert (drawn[:, place].bincount() - 400 / 6).abs().max() < 4 * math.sqrt(400 / 6)
    assert torch.equal(draw_orders(1.0, 6, generators(keys[::-1])), drawn.flip(0))
    assert torch.equal(draw_orders(0.0, 6, generators(keys)), torch.arange(6).expand(400, 6))
    half = draw_orders(0.3, 6, generators(keys))
    random = (half != torch.arange(6)).any(1)
    assert random.float().mean().item() == pytest.approx(0.3, abs=0.07)
    assert torch.equal(half[random], drawn[random])


def test_random_orders_end_as_published():
    """Yu et al. 2024: all of them until step 125,000 of 250,000, none from 187,500 on."""
    steps = [0, 125_000, 140_625, 156_250, 171_875, 187_500, 250_000]
    assert [Annealed().shuffled(step) for step in steps] == [1, 1, 0.75, 0.5, 0.25, 0, 0]
    assert {Raster().shuffled(step) for step in steps} == {0}


@pytest.mark.parametrize(("begin", "end"), [(-1, 5), (5, 5), (6, 5)])
def test_an_order_that_cannot_be_is_refused(begin, end):
    with pytest.raises(ValueError, match=f"^order: begin is {begin} and end 5; 0 <= begin < end$"):
        Annealed(begin, end)


ORDERS: list[tuple[Order, int]] = [(Raster(), 0), (Annealed(2, 4), 0), (Annealed(2, 4), 3),
                                   (Annealed(2, 4), 4)]  # fmt: skip

every_order = pytest.mark.parametrize(
    ("order", "step"), ORDERS, ids=["raster", "random", "half", "over"]
)


@every_order
@both
def test_every_turn_sees_all_that_came_before_and_nothing_else(layout, order, step):
    """Bug: without a mask transformers takes positions that do not count up by one for several
    sequences packed in a row, so that attention ended wherever the order jumps.
    """
    made, seen = objective(layout, order), {}
    base = made.transformer.model
    base.embed_tokens.register_forward_hook(lambda _, __, out: seen.update(embedded=out))
    base.register_forward_hook(lambda _, __, out: seen.update(hidden=out.last_hidden_state))
    made(batch(layout), step)
    probe = torch.randn(32, generator=torch.Generator().manual_seed(1))
    for place in range(PROMPT + 1 + layout.length):
        told = (seen["hidden"][:, place] @ probe).sum()
        (gradient,) = torch.autograd.grad(told, seen["embedded"], retain_graph=True)
        heeded = gradient.abs().sum(-1).bool()
        assert heeded[:, : place + 1].all() and not heeded[:, place + 1 :].any()


def turns(made: NextToken, given: Batch, step: int) -> torch.Tensor:
    """By a loop, the mean error of the images: a sequence by hand, a mask by hand."""
    layout, transformer, fraction = made.layout, made.transformer, made.order.shuffled(step)
    assert made.asked is not None
    errors = []
    for one in samples(given):
        sites = draw_orders(fraction, layout.sites, generators(one["key"]))[0].tolist()
        order = [site * layout.codebooks + d for site in sites for d in range(layout.codebooks)]
        length = int(one["lengths"])
        codes = layout.flatten(one["packed"])[0]
        image = layout.tokens(codes[None])[0, order]
        tokens = torch.cat([one["tokens"][0, :length], torch.tensor([layout.begin]), image])
        embedded = transformer.model.embed_tokens(tokens)
        embedded[length:-1] += fraction * made.asked.weight[order]
        places = torch.tensor([*range(length + 1), *(length + 1 + place for place in order)])
        causal = torch.full((len(tokens), len(tokens)), float("-inf")).triu(1)
        logits = transformer(
            inputs_embeds=embedded[None], attention_mask=causal[None, None],
            position_ids=places[None],
        ).logits[0, length:-1]  # fmt: skip
        for answer, place in zip(logits, order, strict=True):
            own = answer[layout.first :].view(layout.codebooks, -1)[place % layout.codebooks]
            errors.append(cross_entropy(own, codes[place]))
    return torch.stack(errors).view(len(given["key"]), -1).mean()


@torch.no_grad()
@both
@pytest.mark.parametrize("step", [0, 3])
def test_the_loss_of_other_orders_is_that_of_a_loop(layout, step):
    """Told which place comes next, a token turned by where it stands in the image."""
    made, given = objective(layout, Annealed(2, 4)), batch(layout)
    assert made.asked is not None
    torch.nn.init.normal_(made.asked.weight)
    raster, found = objective(layout)(given, step)["image"], made(given, step)["image"]
    torch.testing.assert_close(found, 7 / 8 * turns(made, given, step), atol=1e-5, rtol=0)
    assert abs(found - raster) > 1e-3


@torch.no_grad()
@both
def test_annealed_ends_as_raster(layout):
    """Whatever the vectors have learnt."""
    made, given = objective(layout, Annealed(2, 4), drop=0.5), batch(layout)
    assert made.asked is not None
    torch.nn.init.normal_(made.asked.weight)
    expected = objective(layout, drop=0.5)(given, 0)
    for step in (4, 5, 1000):
        for name, loss in made(given, step).items():
            torch.testing.assert_close(loss, expected[name], atol=1e-6, rtol=0)
    assert not torch.allclose(made(given, 3)["image"], expected["image"])


@pytest.mark.parametrize("step", [0, 3, 4])
def test_the_vectors_learn_while_they_are_heard(step):
    """Then their gradient is zeros, not none: ranks exchange gradients of all parameters."""
    made = objective(order=Annealed(2, 4))
    total(made(batch(), step)).backward()
    assert made.asked is not None and made.asked.weight.grad is not None
    assert made.asked.weight.grad.any(1).tolist() == [step < 4] * LAYOUT.length


def test_the_vectors_are_trained_and_not_exported(tmp_path):
    made, plain = objective(order=Annealed()), objective()
    assert made.asked is not None
    extra = {id(p) for p in made.parameters()} - {id(p) for p in made.transformer.parameters()}
    assert extra == {id(made.asked.weight)} and plain.asked is None
    made.transformer.save_pretrained(tmp_path)
    stock = LlamaForCausalLM(made.transformer.config).state_dict()
    assert load_file(tmp_path / "model.safetensors").keys() == stock.keys()
