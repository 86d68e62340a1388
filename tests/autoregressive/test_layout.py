"""Text and image tokens in one vocabulary and one sequence, and the transformer over them."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from calotype.autoregressive import Layout, RowPeriodic, Sequential, Transformer
from calotype.autoregressive.layout import sequences

LAYOUT = Layout(text=20, codes=16, codebooks=1, height=3, width=4)
PAIRS = replace(LAYOUT, codebooks=2)

both = pytest.mark.parametrize("layout", [LAYOUT, PAIRS], ids=["one codebook", "two codebooks"])


def packed(layout: Layout) -> torch.Tensor:
    """Ids of 5 images as a tokenizer packs them."""
    grid = (5, layout.codebooks, layout.height, layout.width)
    ids = torch.randint(layout.codes, grid, generator=torch.Generator().manual_seed(0))
    return (ids[:, 0] if layout.codebooks == 1 else ids).int()


@both
def test_unflatten_inverts_flatten(layout):
    ids = packed(layout)
    codes = layout.flatten(ids)
    assert codes.shape == (5, layout.length) and codes.dtype == torch.long
    assert torch.equal(layout.unflatten(codes), ids.long())
    assert torch.equal(layout.flatten(layout.unflatten(codes)), codes)


@both
def test_sites_stand_in_raster_order_and_codes_of_a_site_beside_each_other(layout):
    ids = packed(layout).reshape(5, layout.codebooks, layout.height, layout.width)
    expected = [
        ids[:, codebook, y, x]
        for y in range(layout.height) for x in range(layout.width)
        for codebook in range(layout.codebooks)
    ]  # fmt: skip
    assert torch.equal(layout.flatten(packed(layout)), torch.stack(expected, 1).long())


@both
def test_every_code_has_a_token_of_its_own(layout):
    """Text, begin-of-image and codebooks share none, and fill the vocabulary."""
    each = torch.arange(layout.codes)[:, None].expand(-1, layout.length)
    tokens = layout.tokens(each)
    inside = [set(tokens[:, d :: layout.codebooks].flatten().tolist())
              for d in range(layout.codebooks)]  # fmt: skip
    assert [len(found) for found in inside] == [layout.codes] * layout.codebooks
    everything = sorted(
        [*range(layout.text), layout.begin, *(t for found in inside for t in found)]
    )
    assert everything == list(range(layout.vocabulary))


def test_the_first_codes_of_an_image_have_the_tokens_that_they_have_in_all():
    codes = PAIRS.flatten(packed(PAIRS))
    for n in range(PAIRS.length + 1):
        assert torch.equal(PAIRS.tokens(codes[:, :n]), PAIRS.tokens(codes)[:, :n])


@pytest.mark.parametrize("n", [0, 1, 12])
def test_a_sequence_is_a_prompt_then_begin_of_image_then_the_image(n):
    """Then padding; of a prompt that has length 0 nothing is left."""
    prompts = torch.arange(1, 5).expand(5, 4) * torch.arange(1, 6)[:, None]
    lengths, image = torch.tensor([4, 2, 0, 1, 3]), LAYOUT.tokens(LAYOUT.flatten(packed(LAYOUT)))
    rows = sequences(LAYOUT, prompts, lengths, image[:, :n])
    for row, prompt, length, drawn in zip(rows.tokens, prompts, lengths, image, strict=True):
        whole = [*prompt[:length].tolist(), LAYOUT.begin, *drawn[:n].tolist()]
        assert row.tolist() == whole + [0] * (4 + 1 + n - len(whole))
    answered = rows.tokens.gather(1, rows.image_places(n + 1))
    assert answered[:, 0].eq(LAYOUT.begin).all() and torch.equal(answered[:, 1:], image[:, :n])


def frequencies(positions: RowPeriodic | Sequential, layout: Layout = PAIRS) -> torch.Tensor:
    """Of each pair of a head's channels, in radians a token."""
    return Transformer(64, 1, 2, positions).build(layout, 3).model.rotary_emb.inv_freq


def test_sequential_positions_are_the_usual_ones():
    usual = LlamaForCausalLM(LlamaConfig(
        hidden_size=64, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8,
        vocab_size=9,
    )).model.rotary_emb  # fmt: skip
    assert torch.equal(frequencies(Sequential()), usual.inv_freq)


@pytest.mark.parametrize("width", [1, 2, 5, 16])
def test_half_of_a_heads_pairs_turn_a_whole_number_of_times_in_a_row(width):
    """Two places a row apart, or ten, are one to them, and only to them: the others tell rows."""
    layout = replace(PAIRS, width=width)
    found, row = frequencies(RowPeriodic(), layout), width * layout.codebooks
    turns = (row * found / (2 * math.pi)).double()
    whole = (turns - turns.round()).abs() < 1e-5
    assert whole.tolist() == [False] * 8 + [True] * 8 and (turns[8:] > 0.5).all()
    rotary = Transformer(64, 1, 2, RowPeriodic()).build(layout, 3).model.rotary_emb
    places = torch.tensor([[3, 3 + row, 3 + 10 * row]])
    for part in rotary(torch.zeros(1), places):
        here, below, far = part[0].unflatten(1, (2, 16)).unbind(0)
        torch.testing.assert_close(below[:, 8:], here[:, 8:], atol=1e-4, rtol=0)
        torch.testing.assert_close(far[:, 8:], here[:, 8:], atol=1e-4, rtol=0)
        assert (below[:, :8] - here[:, :8]).abs().max() > 0.1


def test_rows_tell_the_columns_of_a_row_apart():
    """No two places of a row look alike to the pairs that no other row looks different to."""
    columns = torch.arange(PAIRS.width * PAIRS.codebooks)[:, None] * frequencies(RowPeriodic())[8:]
    seen = torch.cat([columns.cos(), columns.sin()], 1)
    assert torch.pdist(seen).min() > 0.5


def test_rows_turn_the_other_half_as_a_head_of_half_the_width():
    expected = 10_000.0 ** -(torch.arange(8) / 8)
    torch.testing.assert_close(frequencies(RowPeriodic())[:8], expected)


@torch.no_grad()
@pytest.mark.parametrize("positions", [RowPeriodic(), Sequential()], ids=["rows", "sequential"])
def test_a_saved_transformer_is_stock_and_keeps_its_frequencies(positions, tmp_path):
    torch.manual_seed(0)
    built = Transformer(64, 1, 2, positions).build(PAIRS, 3, pad=5).eval()
    built.save_pretrained(tmp_path)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.model.rotary_emb.inv_freq, built.model.rotary_emb.inv_freq)
    assert loaded.model.rotary_emb.attention_scaling == 1.0
    tokens = torch.randint(PAIRS.vocabulary, (2, 3 + 1 + PAIRS.length))
    torch.testing.assert_close(loaded(tokens).logits, built(tokens).logits)
    assert loaded.generation_config.max_new_tokens == PAIRS.length
    assert loaded.generation_config.pad_token_id == 5


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"width": 0}, r"transformer\.width is 0: it must be at least 1"),
        ({"layers": 0}, r"transformer\.layers is 0: it must be at least 1"),
        ({"heads": -1}, r"transformer\.heads is -1: it must be at least 1"),
        ({"width": 60, "heads": 2}, r"transformer\.width is 60: choose a multiple of .* 8$"),
        ({"dropout": 1.0}, r"transformer\.dropout is 1\.0: it lies in \[0, 1\)"),
        ({"dropout": -0.1}, r"transformer\.dropout is -0\.1: it lies in \[0, 1\)"),
    ],
)
def test_a_transformer_that_cannot_be_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said) as refused:
        Transformer(**wrong)
    assert "\n" not in str(refused.value)
