"""How an image's tokens are drawn: as likely as `generate()` draws them, and of its seed alone."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from calotype.autoregressive import (
    Constant,
    Decoder,
    Layout,
    Linear,
    PowerCosine,
    PromptTokens,
    Ramp,
    TokenSampling,
    Transformer,
    draw_codes,
)
from calotype.autoregressive.decoder import Memory
from calotype.autoregressive.sampling import choose, guide, probabilities

LAYOUT = Layout(text=20, codes=16, codebooks=1, height=3, width=4)
PAIRS = replace(LAYOUT, codebooks=2)
LENGTHS = [5, 2, 0, 4]
SEEDS = [3, 1, 4, 1]
PLAIN = TokenSampling(guidance=1.0)
WARPERS = {
    "temperature": {"temperature": 0.7},
    "top-k": {"top_k": 5},
    "top-p": {"top_p": 0.8},
    "all": {"temperature": 1.6, "top_k": 7, "top_p": 0.9},
}
RAMPS: dict[str, Ramp] = {"constant": Constant(), "linear": Linear(), "power": PowerCosine()}

both = pytest.mark.parametrize("layout", [LAYOUT, PAIRS], ids=["one codebook", "two codebooks"])
every_warper = pytest.mark.parametrize("warpers", WARPERS.values(), ids=WARPERS)
every_ramp = pytest.mark.parametrize("ramp", RAMPS.values(), ids=RAMPS)
with_and_without_guidance = pytest.mark.parametrize("guidance", [1.0, 3.0])


def model(layout: Layout = LAYOUT) -> LlamaForCausalLM:
    torch.manual_seed(0)
    made = Transformer(32, 2, 2).build(layout, 5, pad=0).eval()
    # Fresh weights hardly look back, and find all tokens about as likely.
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return made


def prompts() -> PromptTokens:
    """Of several lengths, one the null prompt."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(LAYOUT.text, (len(LENGTHS), 6), generator=generator)
    tokens[:, -1] = LAYOUT.begin
    return PromptTokens(tokens, torch.arange(6) >= 5 - torch.tensor(LENGTHS)[:, None])


def repeated(count: int) -> PromptTokens:
    """The first prompt so many times."""
    given = prompts()
    return PromptTokens(given.tokens[:1].repeat(count, 1), given.seen[:1].repeat(count, 1))


def logits(rows: int, codes: int = 32) -> torch.Tensor:
    return 3 * torch.randn(rows, codes, generator=torch.Generator().manual_seed(0))


@with_and_without_guidance
@every_warper
def test_probabilities_are_those_of_generate(warpers, guidance):
    """At each place of images that it drew itself, where it gives other tokens none."""
    made, given = model(), prompts()
    torch.manual_seed(5)
    stock = made.generate(  # type: ignore[reportAttributeAccessIssue]
        given.tokens, attention_mask=given.seen.long(), guidance_scale=guidance, output_scores=True,
        return_dict_in_generate=True, **{"top_k": 0, **warpers},
    )  # fmt: skip
    sampling = TokenSampling(guidance=guidance, **warpers)
    rows = given.guided() if guidance != 1 else given
    decoder = Decoder(made, LAYOUT)
    memory, read = Memory(decoder, rows.seen), rows.tokens
    for place, scores in enumerate(stock.scores):
        found = probabilities(guide(decoder.read(read, memory), sampling, 0.0), sampling)
        expected = scores.softmax(-1)
        assert not expected[:, : LAYOUT.first].any()
        torch.testing.assert_close(found, expected[:, LAYOUT.first :], atol=1e-4, rtol=0)
        torch.testing.assert_close(found.sum(1), torch.ones(4))
        read = stock.sequences[:, 6 + place, None].repeat(len(rows.tokens) // 4, 1)
    assert len(stock.scores) == LAYOUT.length


@pytest.mark.parametrize("warpers", [{}, *WARPERS.values()], ids=["none", *WARPERS])
def test_codes_are_chosen_as_often_as_they_are_likely(warpers):
    """Of chances that lie evenly, each code has as many as its probability says, and one or two."""
    sampling, one, count = replace(PLAIN, **warpers), logits(1), 20_000
    chances = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    chosen = choose(one.expand(count, -1), chances.float(), sampling)
    found = torch.bincount(chosen, minlength=one.shape[1])
    assert (found - count * probabilities(one, sampling)[0]).abs().max() < 2


@pytest.mark.parametrize("warpers", [{}, *WARPERS.values()], ids=["none", *WARPERS])
@pytest.mark.parametrize("codes", [2, 32, 5000])
def test_the_ends_of_chance_choose_what_may_be(codes, warpers):
    """Rounded sums of probabilities do not end at 1; a chance of 0 is before the first likely code,
    and the largest of torch's below that of the last.
    """
    many, sampling = logits(200, codes), replace(PLAIN, **warpers)
    many[:, :1] = many[:, -1:] = float("-inf") if codes > 2 else 0.0
    found = probabilities(many, sampling)
    for chance in (0.0, 0.5, 1 - 2**-24):
        chosen = choose(many, torch.full((200,), chance), sampling)
        assert found.gather(1, chosen[:, None]).min() > 0


def test_no_chance_is_left_to_the_likeliest_code_alone():
    many, chances = logits(500), torch.rand(500, generator=torch.Generator().manual_seed(1))
    best = many.argmax(1)
    for changes in ({"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}):
        assert torch.equal(choose(many, chances, replace(PLAIN, **changes)), best)
    assert not torch.equal(choose(many, chances, PLAIN), best)


@both
@with_and_without_guidance
def test_an_image_is_its_prompts_and_seeds_alone(guidance, layout):
    """In a batch, in another order, beside others, alone and then without padding."""
    decoder, given, sampling = Decoder(model(layout), layout), prompts(), TokenSampling(guidance)
    codes = draw_codes(decoder, given, SEEDS, sampling)
    assert codes.shape == (4, layout.length) and 0 <= codes.min() and codes.max() < layout.codes
    mixed = [2, 0, 3, 1, 0]
    others = PromptTokens(given.tokens[mixed], given.seen[mixed])
    found = draw_codes(decoder, others, [SEEDS[j] for j in mixed[:4]] + [9], sampling)
    assert torch.equal(found[:4], codes[mixed[:4]]) and not torch.equal(found[4], codes[0])
    for j, (tokens, seen) in enumerate(zip(given.tokens, given.seen, strict=True)):
        alone = PromptTokens(tokens[seen][None], seen[seen][None])
        assert torch.equal(draw_codes(decoder, alone, [SEEDS[j]], sampling)[0], codes[j])


def test_other_seeds_are_other_images_and_the_ambient_one_is_not_looked_at():
    decoder = Decoder(model(), LAYOUT)
    torch.manual_seed(0)
    codes = draw_codes(decoder, repeated(16), range(16), TokenSampling())
    assert len(codes.unique(dim=0)) == 16
    torch.manual_seed(1)
    assert torch.equal(draw_codes(decoder, repeated(16), range(16), TokenSampling()), codes)


def test_other_prompts_are_other_images():
    given = prompts()
    codes = draw_codes(Decoder(model(), LAYOUT), given, [0] * 4, TokenSampling())
    assert len(codes.unique(dim=0)) == 4


def test_images_are_drawn_as_likely_as_they_are():
    """First codes of many seeds, beside what the stock model says."""
    made, count = model(), 4000
    small = replace(LAYOUT, height=1, width=1)
    codes = draw_codes(Decoder(made, small), repeated(count), range(count), PLAIN)[:, 0]
    with torch.no_grad():
        answer = made(repeated(1).tokens).logits[0, -1, LAYOUT.first :].softmax(-1)
    deviation = (answer * (1 - answer) / count).sqrt()
    apart = codes.bincount(minlength=LAYOUT.codes) / count - answer
    assert (apart.abs() < 4 * deviation + 1e-3).all() and answer.max() < 0.9


@both
@with_and_without_guidance
@pytest.mark.parametrize("known", [1, 5, 8, 12])
def test_a_known_top_stays_and_the_rest_is_drawn_as_ever(known, guidance, layout):
    """What would have come behind it does."""
    decoder, given, sampling = Decoder(model(layout), layout), prompts(), TokenSampling(guidance)
    codes = draw_codes(decoder, given, SEEDS, sampling)
    again = draw_codes(decoder, given, SEEDS, sampling, top=codes[:, :known])
    assert torch.equal(again, codes)
    other = (codes[:, :known] + 1) % layout.codes
    found = draw_codes(decoder, given, SEEDS, sampling, top=other)
    assert torch.equal(found[:, :known], other) and found.shape == codes.shape
    if known < layout.length:
        assert not torch.equal(found[:, known:], codes[:, known:])


def test_of_an_image_that_is_all_known_nothing_is_drawn():
    every = torch.arange(12).expand(4, 12)
    assert torch.equal(draw_codes(Decoder(model(), LAYOUT), prompts(), SEEDS, PLAIN, every), every)


@pytest.mark.parametrize("known", [0, 5])
def test_progress_is_told_once_a_token(known):
    told, top = [], torch.zeros(4, known, dtype=torch.long)
    draw_codes(Decoder(model(), LAYOUT), prompts(), SEEDS, TokenSampling(), top, told.append)
    assert told == [4] * (LAYOUT.length - known)


def test_guidance_is_its_formula():
    """Rows with prompts, then as many without."""
    conditional, null = logits(6).chunk(2)
    for scale in (0.0, 1.5, 7.0):
        found = guide(torch.cat([conditional, null]), TokenSampling(scale), 0.5)
        torch.testing.assert_close(found, (1 - scale) * null + scale * conditional)
    assert torch.equal(guide(conditional, PLAIN, 0.5), conditional)


@every_ramp
def test_a_scale_of_1_is_no_guidance_whatever_the_ramp(ramp):
    assert [ramp.at(1.0, done / 8) for done in range(8)] == [1.0] * 8
    decoder, given = Decoder(model(), LAYOUT), prompts()
    expected = draw_codes(decoder, given, SEEDS, PLAIN)
    for scale in (1.0, 1 + 1e-6):  # the null prompt is then read, and does not count
        sampling = TokenSampling(scale, ramp)
        assert torch.equal(draw_codes(decoder, given, SEEDS, sampling), expected)


@every_ramp
def test_ramps_end_at_the_whole_scale(ramp):
    assert ramp.at(5.0, 1 - 1e-9) == pytest.approx(5, abs=1e-6)
    grown = [ramp.at(5.0, done / 100) for done in range(100)]
    assert grown == sorted(grown) and all(1 <= scale <= 5 for scale in grown)
    assert grown[0] == (5 if isinstance(ramp, Constant) else 1)


@pytest.mark.parametrize(
    "sampling", [PLAIN, TokenSampling(3.0, top_k=3, top_p=0.8), TokenSampling(temperature=0.0)]
)
@pytest.mark.parametrize("what", ["lm_head", "model.layers.1.mlp.down_proj"])
def test_logits_that_are_no_numbers_draw_nothing(sampling, what):
    """Bug: codes behind the last one were drawn, which no embedding has; or the first, always."""
    made = model()
    with torch.no_grad():
        made.get_submodule(what).weight[-1, -1] = torch.nan
    with pytest.raises(ValueError, match=r"^the transformer's logits are not finite: some of its"):
        draw_codes(Decoder(made, LAYOUT), prompts(), SEEDS, sampling)


def test_ramps_are_their_formulas():
    for done in (0.0, 0.25, 0.5, 0.9):
        assert Constant().at(16.0, done) == 16
        assert Linear().at(16.0, done) == pytest.approx(1 + 15 * done)
        rise = (1 - math.cos(math.pi * done**2.75)) / 2
        assert PowerCosine().at(16.0, done) == pytest.approx(1 + 15 * rise)
    assert PowerCosine(1.0).at(3.0, 0.5) == pytest.approx(2)


@pytest.mark.parametrize("ramp", [Linear(), PowerCosine()], ids=["linear", "power"])
def test_a_ramp_is_climbed_token_by_token(ramp):
    """At token t of n its scale is that at t / n: a place alone, behind what is known, shows it."""
    decoder, given = Decoder(model(), LAYOUT), prompts()
    codes = draw_codes(decoder, given, SEEDS, TokenSampling(9.0, ramp))
    for place in range(LAYOUT.length):
        scale = ramp.at(9.0, place / LAYOUT.length)
        again = draw_codes(decoder, given, SEEDS, TokenSampling(scale), top=codes[:, :place])
        assert torch.equal(again[:, place], codes[:, place])
    constant = draw_codes(decoder, given, SEEDS, TokenSampling(9.0))
    assert not torch.equal(codes, constant)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("top_k", 0, r"sampling\.top_k is 0: it must be at least 1"),
        ("batch_size", 0, r"sampling\.batch_size is 0: it must be at least 1"),
        ("temperature", -0.5, r"sampling\.temperature is -0\.5: it must be 0 or more"),
        ("temperature", math.nan, r"sampling\.temperature is nan: it must be 0 or more"),
        ("top_p", 0.0, r"sampling\.top_p is 0\.0: it lies in \(0, 1\]"),
        ("top_p", 1.5, r"sampling\.top_p is 1\.5: it lies in \(0, 1\]"),
    ],
)
def test_what_cannot_be_is_refused(field, value, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        TokenSampling(**{field: value})


@pytest.mark.parametrize("power", [0.0, -1.0, math.nan])
def test_a_ramp_that_cannot_be_is_refused(power):
    with pytest.raises(
        ValueError, match=rf"^sampling\.ramp\.power is {power}: it must be positive"
    ):
        PowerCosine(power)
