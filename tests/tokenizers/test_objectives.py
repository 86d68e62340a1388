"""Gradients flow where they must and nowhere else.

Tests that name a bug show that calotype does not have it; the bugs were found in diffusers'
train_autoencoderkl.py and train_vqgan.py, in LlamaGen and in taming-transformers.
"""

from itertools import cycle

import pytest
import torch

import tiny
from calotype.tokenizers import psnr
from calotype.tokenizers.critic import Critic
from calotype.tokenizers.gradients import squared_gradient
from calotype.tokenizers.objectives import Reconstruction
from calotype.tokenizers.terms import (
    R1,
    Adaptive,
    Fixed,
    Hinge,
    HingeNonSaturating,
    LeCAM,
    NonSaturating,
)


def gradients(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def game(**changes) -> tuple[Reconstruction, Critic]:
    reconstruction, critic = tiny.learners(adversary=tiny.adversary(**changes))
    assert isinstance(reconstruction, Reconstruction) and isinstance(critic, Critic)
    return reconstruction, critic


def total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(losses.values())).sum()


def test_bug_lpips_without_gradient():
    (with_lpips,), (without,) = tiny.learners(lpips=True), tiny.learners(lpips=False)
    for objective in (with_lpips, without):
        total(objective(tiny.batch(2), 0)).backward()
    decoders = [o.tokenizer.autoencoder.decoder for o in (with_lpips, without)]
    assert not torch.allclose(gradients(decoders[0]), gradients(decoders[1]))


def test_bug_lpips_collects_gradients_of_its_own():
    (objective,) = tiny.learners()
    total(objective(tiny.batch(2), 0)).backward()
    assert all(
        p.grad is None and not p.requires_grad for p in objective.terms["lpips"].parameters()
    )


def test_bug_lpips_dropout_runs_in_training():
    (objective,) = tiny.learners()
    objective.train()
    lpips = objective.terms["lpips"]
    assert not any(module.training for module in lpips.modules())
    a, b = tiny.images(2), tiny.images(2, seed=1)
    assert torch.equal(lpips(a, b), lpips(a, b))


def test_bug_discriminator_collects_the_generators_gradient():
    reconstruction, critic = game()
    losses = reconstruction(tiny.batch(4), 0)
    assert losses["adversarial"].item() != 0
    total(losses).backward()
    assert all(p.grad is None for p in critic.parameters())


def test_bug_tokenizer_collects_the_discriminators_gradient():
    reconstruction, critic = game()
    batch = tiny.batch(4)
    total(reconstruction(batch, 0)).backward()
    before = gradients(reconstruction.tokenizer)
    total(critic(batch, 0)).backward()
    assert torch.equal(before, gradients(reconstruction.tokenizer))
    assert gradients(critic).abs().sum() > 0


def test_adaptive_weight_is_the_reference_formula_with_one_backward():
    reconstruction, critic = game()
    batch = tiny.batch(4)
    total(reconstruction(batch, 0)).backward()
    mine, weight = gradients(reconstruction.tokenizer), reconstruction.metrics["adversarial_weight"]

    # Esser et al. 2021, eq. 7, as it stands: two passes through the last layer by autograd.
    reconstruction.zero_grad()
    tokenizer, real = reconstruction.tokenizer, batch["image"]
    latent = tokenizer.encode(real, [torch.Generator().manual_seed(k) for k in batch["key"]])
    fake = tokenizer.decode(latent.z)
    nll = torch.stack([term(fake, real).mean() for term in reconstruction.terms.values()]).sum()
    adversarial = -critic.discriminator(fake).mean()
    last = tokenizer.last_layer.weight
    of_nll, of_adversarial = (
        torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (nll, adversarial)
    )
    reference = 0.5 * (of_nll / (of_adversarial + 1e-4)).clamp(0, 1e4)
    kl = latent.rates["kl"].mean() / real[0].numel()
    (nll + kl + reference.detach() * adversarial).backward()

    torch.testing.assert_close(weight, reference, rtol=1e-5, atol=0)
    torch.testing.assert_close(mine, gradients(tokenizer), rtol=1e-4, atol=1e-7)


def test_fixed_weight_is_fixed():
    reconstruction, critic = game(balance=Fixed(0.3))
    losses = reconstruction(tiny.batch(4), 0)
    expected = -0.3 * critic.discriminator(reconstruction.fake).mean()
    torch.testing.assert_close(losses["adversarial"], expected)


def test_discriminator_and_its_effect_start_separately():
    reconstruction, critic = game(start=2, effect_start=4)
    batch = tiny.batch(2)
    active = [("adversarial" in reconstruction(batch, s), bool(critic(batch, s))) for s in range(5)]
    assert active == [(False, False)] * 2 + [(False, True)] * 2 + [(True, True)]


def test_an_effect_before_its_cause_is_refused():
    with pytest.raises(ValueError, match="effect_start"):
        tiny.adversary(start=5, effect_start=4)


@pytest.mark.parametrize("regulariser", [None, R1(1.0), LeCAM(1.0, 0.5)])
@pytest.mark.parametrize("loss", [Hinge(), NonSaturating(), HingeNonSaturating()])
def test_every_term_is_batch_invariant(loss, regulariser):
    one, twice = tiny.batch(2), {}
    twice["image"], twice["key"] = one["image"].repeat(2, 1, 1, 1), one["key"] * 2
    values = []
    for batch in (one, twice):
        reconstruction, critic = game(loss=loss, regulariser=regulariser)
        critic.averages.fill_(0.1)
        values.append({**reconstruction(batch, 0), **critic(batch, 0)})
    assert values[0].keys() == values[1].keys() and len(values[0]) >= 5
    for name in values[0]:
        torch.testing.assert_close(values[0][name], values[1][name], msg=name)


def test_bug_non_saturating_arguments_swapped():
    """With labels and logits swapped the loss on fakes was a constant."""
    fake = torch.zeros(1, 1, 2, 2, requires_grad=True)
    real = torch.zeros(1, 1, 2, 2, requires_grad=True)
    NonSaturating().discriminator(real, fake).sum().backward()
    assert fake.grad.min() > 0 > real.grad.max()
    torch.testing.assert_close(NonSaturating().generator(torch.full((1, 1, 1, 1), 50.0)),
                               torch.zeros(1), atol=1e-6, rtol=0)  # fmt: skip


def test_bug_hinge_margins_out_of_reach():
    """A sigmoid before the hinge kept logits within (0, 1); ours reach beyond both margins."""
    _, critic = game()
    critic.discriminator[-1].bias.data.fill_(3.0)
    assert critic.discriminator(tiny.images(2)).mean() > 1


def test_r1_is_the_squared_gradient():
    images = torch.randn(3, 3, 4, 4, requires_grad=True)
    weight = torch.randn(1, 3, 4, 4)
    logits = (images * weight).sum((1, 2, 3))[:, None, None, None]
    expected = weight.square().sum().expand(3)
    torch.testing.assert_close(squared_gradient(logits, images), expected)


def test_lecam_averages_follow_the_logits_of_the_step():
    reconstruction, critic = game(regulariser=LeCAM(1.0, decay=0.9))
    batch = tiny.batch(4)
    reconstruction(batch, 0), critic(batch, 0)
    metrics = critic.metrics
    critic.step_end(0)
    expected = 0.1 * torch.stack([metrics["logits_real"], metrics["logits_fake"]])
    torch.testing.assert_close(critic.averages, expected)


def test_lecam_draws_logits_away_from_the_other_kinds_average():
    """Tseng et al. 2021, eq. 3: real ones above the fakes' average are pulled to it, fakes below
    the real ones' too; nothing else is."""
    _, critic = game(regulariser=LeCAM())
    critic.averages.copy_(torch.tensor([1.0, -1.0]))  # of the real, of the fake
    real, fake = torch.tensor([2.0, -3.0]), torch.tensor([4.0, -1.0])
    penalty = critic._lecam(*(x.view(2, 1, 1, 1) for x in (real, fake)))
    torch.testing.assert_close(penalty, torch.tensor([9.0, 4.0]))


@pytest.mark.parametrize(
    ("real", "fake", "loss"),
    [(2, -3, 0.0), (0, 0, 1.0), (-1, -1, 1.0), (1, 2, 1.5), (0.5, -1, 0.25)],
)
def test_hinge_is_its_formula(real, fake, loss):
    """Half of relu(1 - real) + relu(1 + fake)."""
    logits = (torch.full((1, 1, 2, 2), float(x)) for x in (real, fake))
    assert Hinge().discriminator(*logits).item() == loss
    assert Hinge().generator(torch.full((1, 1, 2, 2), float(fake))).item() == -fake


def test_the_adaptive_weight_has_a_limit():
    reference, tiny_gradient = torch.ones(3), torch.zeros(3)
    assert Adaptive(0.5, largest=7.0).scale(reference, tiny_gradient).item() == 3.5
    # LDM's, of sums over 256 pixels, in means.
    assert Adaptive(1.0).scale(reference, tiny_gradient).item() == pytest.approx(0.0509, abs=1e-4)


def test_the_weight_of_a_step_is_of_all_its_micro_batches():
    """Bug: each accumulated micro-batch had a weight of its own."""
    reconstruction, _ = game()
    whole = tiny.batch(4)
    reconstruction(whole, 0)
    expected = reconstruction.metrics["adversarial_weight"]
    halves = [{k: v[i : i + 2] for k, v in whole.items()} for i in (0, 2)]
    assert reconstruction.wants_survey(2, 0)
    reconstruction.survey(halves, 0)
    for half in halves:
        reconstruction(half, 0)
        torch.testing.assert_close(reconstruction.metrics["adversarial_weight"], expected)
    reconstruction.step_end(0)
    assert not reconstruction.wants_survey(1, 0)
    reconstruction(halves[0], 0)
    assert abs(reconstruction.metrics["adversarial_weight"] / expected - 1) > 1e-3


@pytest.mark.parametrize("regulariser", [None, R1(1.0)])
def test_networks_compute_in_the_precision_of_training_and_losses_are_float32(regulariser):
    """LPIPS and the discriminator, both ways; what they say and teach is near float32's."""
    batch, found = tiny.batch(4), []
    for precision in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        reconstruction, critic = game(regulariser=regulariser)
        seen = set()
        for network in (reconstruction.terms["lpips"].network.net, critic.discriminator):
            for layer in network.modules():
                if isinstance(layer, torch.nn.Conv2d):
                    layer.register_forward_hook(lambda *a, seen=seen: seen.add(a[2].dtype))
        with torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
            losses = {**reconstruction(batch, 0), **critic(batch, 0)}
        total(losses).backward()
        assert seen == {precision}
        assert {loss.dtype for loss in losses.values()} == {torch.float32}
        found.append((losses, gradients(reconstruction.tokenizer), gradients(critic)))
    (exact, *grads), (cast, *cast_grads) = found
    for name in exact:
        torch.testing.assert_close(cast[name], exact[name], rtol=0.05, atol=2e-3, msg=name)
    for one, other in zip(grads, cast_grads, strict=True):
        assert torch.cosine_similarity(one, other, dim=0) > 0.98


def test_gradient_checkpointing_changes_no_gradient():
    (plain,), (saving,) = tiny.learners(), tiny.learners()
    saving.tokenizer.enable_gradient_checkpointing()
    blocks = []
    for objective in (plain, saving):
        objective.train()
        calls = []
        block = objective.tokenizer.autoencoder.decoder.mid_block.resnets[0]
        block.conv1.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        total(objective(tiny.batch(2), 0)).backward()
        blocks.append(len(calls))
    assert blocks == [1, 2], "once forward, and once again going back"
    assert torch.equal(gradients(plain.tokenizer), gradients(saving.tokenizer))


def test_psnr_of_a_known_error():
    real = torch.zeros(1, 3, 8, 8)
    torch.testing.assert_close(psnr(real + 0.2, real), torch.tensor([20.0]))


def test_bug_a_perfect_reconstruction_has_infinite_psnr():
    """Which made the step's health infinite, and blank pictures ended runs."""
    assert psnr(torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4)) == 100


def test_a_pair_takes_one_side_of_each():
    real, fake = torch.randn(2, 1, 3, 3), torch.randn(2, 1, 3, 3)
    pair = HingeNonSaturating()
    assert torch.equal(pair.discriminator(real, fake), Hinge().discriminator(real, fake))
    assert torch.equal(pair.generator(fake), NonSaturating().generator(fake))


def played(critic: Critic, real: float, fake: float, steps: range) -> None:
    """Let a discriminator answer so, of originals and then of reconstructions."""
    answers = cycle(torch.full((2, 1, 4, 4), logit) for logit in (real, fake))
    critic.discriminator.forward = lambda input: next(answers)  # type: ignore[method-assign]
    critic.opponent[0].fake = tiny.images(2)
    for step in steps:
        critic(tiny.batch(2), step)


@pytest.mark.parametrize(
    ("real", "fake", "share"),
    [(3.0, -3.0, 1.0), (0.2, -0.1, 1.0), (3.0, 1.0, 0.5), (-1.0, 1.0, 0.0)],
)
def test_a_discriminator_that_is_never_deceived_has_won(real, fake, share):
    """By what it takes for original, not by how sure it is: the game is even where it is half."""
    _, critic = game()
    played(critic, real, fake, range(60))
    assert critic.metrics["told_apart"] == share
    said = critic.warning()
    assert (said is not None) == (share >= 0.95)
    assert said is None or said.startswith("the discriminator has won: it tells 100.0% of patches")
    assert critic.warning() is None, "nothing was seen since it was asked"


@pytest.mark.slow
def test_who_has_won_is_told_by_many_steps_that_the_decoder_feels():
    _, critic = game(effect_start=100)
    played(critic, 1.0, -1.0, range(100))
    assert critic.warning() is None, "it has played by itself"
    played(critic, 1.0, -1.0, range(100, 149))
    assert critic.warning() is None, "these are few"
    played(critic, 1.0, -1.0, range(149, 150))
    assert critic.warning() is not None
    played(critic, 0.0, 0.0, range(150, 175))
    played(critic, 1.0, -1.0, range(175, 200))
    assert critic.warning() is None, "half the time it knew nothing"
    assert "judged" not in critic.state_dict(), "checkpoints of before still fit"
