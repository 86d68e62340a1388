"""The transformer a token at a time answers as the stock one does at once."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import linear, pad
from transformers import LlamaConfig, LlamaForCausalLM

from calotype.autoregressive import (
    Decoder,
    Layout,
    PromptTokens,
    RowPeriodic,
    Sequential,
    TokenSampling,
    Transformer,
    draw_codes,
    log_likelihood,
    unigram_bits,
)
from calotype.autoregressive.decoder import Memory
from calotype.autoregressive.packed import PackedLinear

LAYOUT = Layout(text=20, codes=16, codebooks=1, height=3, width=4)
PAIRS = replace(LAYOUT, codebooks=2)
LENGTHS = [4, 2, 0, 3]
PROMPT = 5
"""Tokens of the longest and begin-of-image: an odd number, which no two codebooks divide."""
GREEDY = TokenSampling(guidance=1.0, temperature=0.0)

both = pytest.mark.parametrize("layout", [LAYOUT, PAIRS], ids=["one codebook", "two codebooks"])
both_positions = pytest.mark.parametrize(
    "positions", [RowPeriodic(), Sequential()], ids=["rows", "sequential"]
)


def model(
    layout: Layout = LAYOUT, positions: RowPeriodic | Sequential | None = None, layers: int = 2
) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = Transformer(32, layers, 2, positions or RowPeriodic())
    made = shape.build(layout, PROMPT, pad=0).eval()
    # Fresh weights hardly look back, and find all tokens about as likely.
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return made


def prompts() -> PromptTokens:
    """Of several lengths, one the null prompt."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(LAYOUT.text, (len(LENGTHS), PROMPT), generator=generator)
    tokens[:, -1] = LAYOUT.begin
    return PromptTokens(tokens, torch.arange(PROMPT) >= PROMPT - 1 - torch.tensor(LENGTHS)[:, None])


def images(layout: Layout = LAYOUT) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(layout.codes, (len(LENGTHS), layout.length), generator=generator)


@both_positions
@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("guidance", ["none", "by default", "begin-of-image"])
def test_greedy_tokens_are_those_of_generate(guidance, cache, positions):
    """To the token, for a batch of prompts padded on their left."""
    made, given = model(positions=positions), prompts()
    options: dict = {} if guidance == "none" else {"guidance_scale": 3.0}
    if guidance == "begin-of-image":
        options |= {"negative_prompt_ids": torch.full((len(LENGTHS), 1), LAYOUT.begin)}
    stock = made.generate(  # type: ignore[reportAttributeAccessIssue]
        given.tokens, attention_mask=given.seen.long(), do_sample=False, cache_implementation=cache,
        **options,
    )  # fmt: skip
    sampling = replace(GREEDY, guidance=options.get("guidance_scale", 1.0))
    codes = draw_codes(Decoder(made, LAYOUT), given, range(4), sampling)
    assert torch.equal(torch.cat([given.tokens, LAYOUT.tokens(codes)], 1), stock)
    assert all(len(image.unique()) >= 4 for image in codes) and len(codes.unique(dim=0)) == 4


@torch.no_grad()
def test_greedy_tokens_of_two_codebooks_are_those_of_a_loop():
    """Each the likeliest of its own codebook, found by the stock model, alone and unpadded."""
    made, given = model(PAIRS), prompts()
    codes = draw_codes(Decoder(made, PAIRS), given, range(4), GREEDY)
    for tokens, seen, drawn in zip(given.tokens, given.seen, codes, strict=True):
        row = tokens[seen]
        for place, code in enumerate(drawn):
            low = PAIRS.first + place % 2 * PAIRS.codes
            best = low + made(row[None]).logits[0, -1, low : low + PAIRS.codes].argmax()
            assert best == low + code
            row = torch.cat([row, best[None]])


def answers(decoder: Decoder, given: PromptTokens, tokens: torch.Tensor, steps: list[int]) -> list:
    """What a decoder answers when it has read the prompts and then so many tokens each time."""
    memory = Memory(decoder, given.seen)
    return [
        decoder.read(part, memory)
        for part in torch.cat([given.tokens, tokens], 1).split([given.tokens.shape[1], *steps], 1)
    ]


@torch.no_grad()
@both
@both_positions
@pytest.mark.parametrize("several", [1, 3, 7])
def test_answers_are_the_stock_models(several, positions, layout):
    """At every place, for tokens read one by one and several at once."""
    made, given = model(layout, positions), prompts()
    tokens = layout.tokens(images(layout))[:, :-1]
    mask = torch.cat([given.seen, torch.ones_like(tokens, dtype=torch.bool)], 1)
    stock = made(torch.cat([given.tokens, tokens], 1), attention_mask=mask.long()).logits[
        :, PROMPT - 1 :
    ]
    rest = tokens.shape[1] % several
    steps = [several] * (tokens.shape[1] // several) + [rest] * bool(rest)
    found = answers(Decoder(made, layout), given, tokens, steps)
    read = 0
    for answer, step in zip(found, [*steps, 0], strict=True):
        low = layout.first + read % layout.codebooks * layout.codes
        expected = stock[:, read, low : low + layout.codes]
        torch.testing.assert_close(answer, expected, atol=1e-4, rtol=0)
        read += step


@torch.no_grad()
def test_a_whole_sequence_is_read_at_once():
    made, given, tokens = model(), prompts(), LAYOUT.tokens(images())
    decoder = Decoder(made, LAYOUT)
    whole = decoder.read(torch.cat([given.tokens, tokens], 1), Memory(decoder, given.seen))
    last = answers(decoder, given, tokens, [1] * LAYOUT.length)[-1]
    torch.testing.assert_close(whole, last, atol=1e-4, rtol=0)


@torch.no_grad()
def test_padding_is_not_seen():
    """Neither what stands there nor how much of it; and no row's answer is not a number."""
    decoder, given, tokens = Decoder(model(), LAYOUT), prompts(), LAYOUT.tokens(images())
    found = answers(decoder, given, tokens, [1] * LAYOUT.length)
    other = torch.where(given.seen, given.tokens, 7)
    wider = PromptTokens(pad(other, (3, 0), value=9), pad(given.seen, (3, 0)))
    again = answers(decoder, wider, tokens, [1] * LAYOUT.length)
    torch.testing.assert_close(torch.stack(again), torch.stack(found), atol=1e-4, rtol=0)
    assert torch.stack(found).isfinite().all()


@pytest.mark.parametrize(("at", "n"), [(0, 5), (0, 9), (3, 4), (7, 2), (2, 1), (8, 1)])
def test_places_see_what_came_before_but_padding(at, n):
    """And each itself, for of nothing there is no mean; or all, where none is told."""
    decoder, given = Decoder(model(), LAYOUT), prompts()
    query, key = torch.arange(at, at + n)[:, None], torch.arange(at + n)
    for seen in (given.seen, torch.ones_like(given.seen)):
        mask = Memory(decoder, seen).mask(at, n)
        padded = pad(~seen, (0, LAYOUT.length))[:, None, : at + n]
        expected = (key <= query) & ~padded | (key == query)
        if mask is None:
            assert n == 1 and expected.all()
        elif n > 1:
            assert torch.equal(mask, torch.where(expected, 0.0, float("-inf"))[:, None])
        else:  # what a token sees that is read alone, and is not of the padding
            own = torch.where(padded, float("-inf"), 0.0)
            assert torch.equal(mask, own[:, None])


@torch.no_grad()
def test_answers_in_bfloat16():
    """Within what bfloat16 can tell of numbers of their size."""
    made, given, tokens = model(), prompts(), LAYOUT.tokens(images())
    found = answers(Decoder(made, LAYOUT), given, tokens, [1] * LAYOUT.length)
    half = answers(Decoder(made, LAYOUT, dtype=torch.bfloat16), given, tokens, [1] * LAYOUT.length)
    assert half[0].dtype == torch.bfloat16
    apart = (torch.stack(half).float() - torch.stack(found)).abs()
    assert apart.max() < 0.1 * torch.stack(found).abs().max()


@pytest.mark.parametrize(
    "change", [{"attention_bias": True}, {"mlp_bias": True}, {"num_key_value_heads": 1}]
)
def test_a_model_that_it_cannot_read_is_refused(change):
    config = LlamaConfig(
        vocab_size=LAYOUT.vocabulary, hidden_size=16, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, **change,
    )  # fmt: skip
    with pytest.raises(
        ValueError, match="has biases, or keys of another width: sample it by"
    ) as refused:
        Decoder(LlamaForCausalLM(config), LAYOUT)
    assert "\n" not in str(refused.value)


@torch.no_grad()
def compare_compiled_steps() -> None:
    """For several widths of prompts and numbers of rows by one decoder. Compiled kernels round
    otherwise, so that on some CPUs the likelier of two near tokens is another: logits are compared.
    """
    made, given = model(layers=1), prompts()  # what another one costs is the compiler's time
    plain, compiled = Decoder(made, LAYOUT), Decoder(made, LAYOUT, compiled=True)
    fewer = PromptTokens(given.tokens[:2, 2:], given.seen[:2, 2:])
    for rows in (given, fewer):
        codes = torch.randint(LAYOUT.codes, (len(rows.tokens), LAYOUT.length - 1))
        tokens, steps = LAYOUT.tokens(codes), [1] * codes.shape[1]
        expected = answers(plain, rows, tokens, steps)
        found = answers(compiled, rows, tokens, steps)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_compiled_steps_read_the_same():
    """In a process of its own: the checks of types that tests switch on cannot be compiled."""
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("heights", [(24,), (24, 8), (5, 24, 7)], ids=str)
def test_a_packed_linear_is_a_linear(heights, dtype):
    """Weights side by side; for rows of any number, of a slice, and of a view with gaps."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(n, 40, generator=generator).to(dtype) for n in heights]
    packed = PackedLinear(*weights)
    for rows in (*range(1, 65, 9), 64):
        x = torch.randn(rows, 3, 40, generator=generator).to(dtype)
        for given in (x[:, 0], x[:, :1], x, x.transpose(0, 1)):
            expected = torch.cat([linear(given, weight) for weight in weights], -1)
            found = packed(given)
            assert found.dtype == dtype and found.shape == expected.shape
            near = 1e-5 if dtype == torch.float32 else 0.06
            torch.testing.assert_close(found, expected, atol=near, rtol=near)


def forwards(given: PromptTokens) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as a cache holds them: padded on the right, without begin-of-image."""
    rows = [tokens[seen][:-1] for tokens, seen in zip(given.tokens, given.seen, strict=True)]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=3)
    return tokens, torch.tensor([len(row) for row in rows])


@torch.no_grad()
@both
@both_positions
def test_likelihoods_are_those_of_what_the_sampler_draws_by(positions, layout):
    made, codes = model(layout, positions), images(layout)
    found = log_likelihood(made, layout, *forwards(prompts()), codes)
    tokens = layout.tokens(codes)[:, :-1]
    drawn = answers(Decoder(made, layout), prompts(), tokens, [1] * (layout.length - 1))
    expected = torch.stack(drawn, 1).log_softmax(-1).gather(2, codes[..., None])[..., 0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@both
def test_probabilities_of_all_codes_sum_to_1(layout):
    """At every place; and what comes later does not matter to it."""
    made, (tokens, lengths) = model(layout), forwards(prompts())
    images_of_one = images(layout)[:1].repeat(layout.codes, 1)
    row = tokens[:1].expand(layout.codes, -1), lengths[:1].expand(layout.codes)
    whole = log_likelihood(made, layout, *row, images_of_one)
    for place in range(layout.length):
        each = images_of_one.clone()
        each[:, place] = torch.arange(layout.codes)
        found = log_likelihood(made, layout, *row, each)
        assert found[:, place].exp().sum().item() == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(found[:, :place], whole[:, :place], atol=1e-5, rtol=0)


def test_a_prompt_of_length_0_is_the_null_prompt():
    made, codes = model(), images()
    tokens, _ = forwards(prompts())
    null = torch.zeros(4, dtype=torch.long)
    found = log_likelihood(made, LAYOUT, tokens, null, codes)
    bare = log_likelihood(made, LAYOUT, tokens[:, :0], null, codes)
    other = log_likelihood(made, LAYOUT, tokens.flip(1), null, codes)
    torch.testing.assert_close(found, bare, atol=1e-5, rtol=0)
    torch.testing.assert_close(found, other, atol=1e-5, rtol=0)
    told = log_likelihood(made, LAYOUT, *forwards(prompts()), codes)
    apart = (found - told).abs().amax(1)
    assert (apart > 0.01).tolist() == [length > 0 for length in LENGTHS]


def test_unigram_bits_are_their_formula():
    """(n + 1) / (N + K) where a code stood n times in N images."""
    every = torch.arange(8)[:, None].expand(8, 5)
    assert unigram_bits(every, every[:3].int(), 8) == pytest.approx(3)
    assert unigram_bits(every[:0], every, 8) == pytest.approx(3)  # nothing known
    ones = torch.ones(14, 1, dtype=torch.long)
    assert unigram_bits(ones, ones[:1], 2) == pytest.approx(-math.log2(15 / 16))
    assert unigram_bits(ones, 0 * ones[:1], 2) == pytest.approx(4)
    # Places are counted apart: here 3 of 4 stand at the first, and 1 of 4 at the second.
    train = torch.tensor([[1, 0], [1, 0], [1, 0], [0, 1]])
    expected = -(math.log2(4 / 6) + math.log2(2 / 6)) / 2
    assert unigram_bits(train, torch.tensor([[1, 1]]), 2) == pytest.approx(expected)


if __name__ == "__main__":
    compare_compiled_steps()


def test_a_prompt_that_leaves_no_places_for_an_image_is_refused():
    """Bug: behind the positions that were trained, tokens are drawn all the same."""
    decoder, fits = Decoder(model(), LAYOUT), torch.zeros(1, PROMPT + 1, dtype=torch.long)
    fits[:, -1] = LAYOUT.begin
    draw_codes(decoder, PromptTokens(fits, fits >= 0), [0], GREEDY)
    longer = torch.cat([fits[:, :1], fits], 1)
    with pytest.raises(ValueError, match=r"a prompt of 7 tokens: .* places for 6 before") as said:
        draw_codes(decoder, PromptTokens(longer, longer >= 0), [0], GREEDY)
    assert "\n" not in str(said.value)
