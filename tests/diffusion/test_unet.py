"""How a UNet's attention is computed changes its speed and nothing else."""

import pytest
import torch

from calotype.diffusion import UNet, attend_plainly

SMALL = UNet((8, 16), (False, True), layers=1, head_width=4, groups=4)


@pytest.mark.parametrize("prompted", [True, False])
def test_plain_attention_answers_alike_and_is_not_saved(prompted, tmp_path):
    torch.manual_seed(0)
    unet = SMALL.conditional(8, 4, 16) if prompted else SMALL.unconditional(8, 4)
    noisy, times = torch.randn(2, 4, 8, 8), torch.tensor([10, 500])
    text = {"encoder_hidden_states": torch.randn(2, 5, 16)} if prompted else {}
    answers, gradients = [], []
    for _ in range(2):
        answers.append(unet(noisy, times, **text).sample)
        gradients.append(torch.autograd.grad(answers[-1].square().sum(), unet.conv_in.weight)[0])
        attend_plainly(unet)
    assert not torch.equal(answers[0], answers[1]), "it is another way"
    torch.testing.assert_close(*answers, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-4)
    unet.save_pretrained(tmp_path)
    torch.testing.assert_close(
        type(unet).from_pretrained(tmp_path)(noisy, times, **text).sample, answers[0],
        atol=0, rtol=0,
    )  # fmt: skip


def test_heads_are_counted_or_measured():
    by_width = UNet((8, 16), (True, True), layers=1, head_width=4, groups=4).conditional(8, 4, 16)
    counted = UNet((8, 16), (True, True), layers=1, heads=2, groups=4).conditional(8, 4, 16)
    assert by_width.config["attention_head_dim"] == (2, 4)
    assert counted.config["attention_head_dim"] == 2
    with pytest.raises(ValueError, match=r"unet\.widths: 8 must be .* of unet\.heads 3"):
        UNet((8, 16), (True, True), heads=3, groups=4)
    with pytest.raises(ValueError, match=r"unet\.heads: without a text all heads are of one width"):
        UNet((8, 16), (True, True), heads=2, groups=4).unconditional(8, 4)


def test_places_of_the_largest_map_that_attends_to_itself():
    assert SMALL.places(8) == 16
    assert UNet((8, 8), (True, False), head_width=4, groups=4).places(8) == 64
    assert UNet((8, 8, 8), (False, False, False), head_width=4, groups=4).places(8) == 4
