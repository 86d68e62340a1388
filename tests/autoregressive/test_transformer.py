"""What a transformer's weights begin with."""

import torch

from calotype.autoregressive import FromCodes, Layout, Normal, Transformer

LAYOUT = Layout(text=20, codes=64, codebooks=2, height=2, width=2)
TINY = Transformer(width=256, layers=1, heads=2)


def vectors() -> torch.Tensor:
    """Two codebooks of codes along a line."""
    line = torch.linspace(-1, 1, 64)
    line = line / line.square().mean().sqrt()
    return torch.stack([line, line.flip(0)])[..., None]


def tables(model) -> list[torch.Tensor]:
    return [model.get_input_embeddings().weight.detach(), model.lm_head.weight.detach()]


def test_tokens_of_like_codes_begin_alike_and_text_is_as_it_was():
    torch.manual_seed(0)
    model = TINY.build(LAYOUT, prompt=4)
    fresh = [table.clone() for table in tables(model)]
    torch.manual_seed(1)
    FromCodes()(model, LAYOUT, vectors())
    for before, after in zip(fresh, tables(model), strict=True):
        text, codes = after.split([LAYOUT.first, 2 * LAYOUT.codes])
        assert torch.equal(text, before[: LAYOUT.first])
        for book in codes.chunk(2):
            to_next = (book[1:] - book[:-1]).norm(dim=1).mean()
            assert (book[0] - book[-1]).norm() > 2 * to_next
        # A place on the line means the same in either codebook.
        assert (codes[0] - codes[-1]).norm() < 2 * (codes[0] - codes[64]).norm() / 3
    begun = [table.clone() for table in tables(model)]
    torch.manual_seed(0)
    again = TINY.build(LAYOUT, prompt=4)
    torch.manual_seed(1)
    FromCodes()(again, LAYOUT, vectors())
    assert all(map(torch.equal, tables(again), begun))


def test_stock_weights_are_left_alone():
    model = TINY.build(LAYOUT, prompt=4)
    before = [table.clone() for table in tables(model)]
    Normal()(model, LAYOUT, vectors())
    assert all(map(torch.equal, tables(model), before))
