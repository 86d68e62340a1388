"""Masked autoencoders: only what is seen is encoded, only what is hidden counts, stock out."""

import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import save_file

import tiny
from calotype.commands.train_encoder import train_encoder
from calotype.data import Scenes
from calotype.recipes.masked import MASKED, MaskedRecipe
from calotype.tokenizers.masked import (
    AtRandom,
    Guided,
    MaskedPatches,
    MaskedViT,
    smaller_cluster,
    whole_features,
)

NETWORK = MaskedViT(4, 16, 1, 2, 16, 1, 2)


def objective(policy=None, **changes) -> MaskedPatches:
    torch.manual_seed(0)
    network = MaskedViT(**{**vars(NETWORK), **changes}).build(tiny.SIZE)
    return MaskedPatches(network, policy or AtRandom(), tiny.adam(1e-3), [tiny.images(2)])


def test_bug_patches_were_not_told_where_they_are():
    """transformers left positions and tokens at 0, whose first gradient, through a norm of nothing,
    was of 30,000.
    """
    made = objective(width=32, decoder_width=32)
    network = made.network
    places = network.vit.embeddings.position_embeddings, network.decoder.decoder_pos_embed
    for place in places:
        apart = torch.cdist(place[0, 1:], place[0, 1:]) + 10 * torch.eye(16)
        assert apart.min() > 0.1 and not place.requires_grad
    for token in (network.vit.embeddings.cls_token, network.decoder.mask_token):
        assert 0.01 < token.std() < 0.03
    made(tiny.batch(4), 0)["masked"].backward()
    assert sum(p.grad.square().sum() for p in network.parameters() if p.requires_grad) < 100**2
    # Where a patch is decides on what is made of it: two that look alike are told apart.
    grey = torch.zeros(1, 3, tiny.SIZE, tiny.SIZE)
    features = whole_features(network, grey)[0]
    assert (features[1:] - features[0]).abs().amax(1).min() > 0.01


def test_the_encoder_reads_a_quarter_of_the_patches():
    made, read = objective(), []
    layer = made.network.vit.encoder.layer[0] if hasattr(made.network.vit, "encoder") else None
    hooked = layer or made.network.vit.layers[0]
    hooked.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].shape[1]))
    made(tiny.batch(3), 0)
    assert read == [16 // 4 + 1]  # And the class token.


def test_what_is_hidden_alone_counts_and_what_is_seen_alone_is_known():
    made, batch = objective(normalised=False), tiny.batch(2)
    chance = [torch.Generator().manual_seed(key) for key in batch["key"]]
    order = AtRandom().order(made.network, batch["image"], chance, 0)
    hidden = order.argsort(1).argsort(1) >= 4
    image = batch["image"].clone().requires_grad_()
    found = made.network(pixel_values=image, noise=order)
    assert torch.equal(found.mask > 0, hidden)
    (moved,) = torch.autograd.grad(found.logits.square().sum(), image)
    touched = made.network.patchify(moved).abs().sum(-1) > 0
    assert torch.equal(touched, ~hidden)
    # By hand: the error of the hidden patches, each as much.
    error = (found.logits - made.network.patchify(image)).square().mean(-1)
    assert made(batch, 0)["masked"].item() == pytest.approx(error[hidden].mean().item(), rel=1e-5)


def test_a_batch_repeated_keeps_its_value():
    made, batch = objective(), tiny.batch(3)
    twice = {"image": batch["image"].repeat(2, 1, 1, 1), "key": batch["key"] * 2}
    once, both = made(batch, 0)["masked"], made(twice, 0)["masked"]
    assert once.item() == pytest.approx(both.item(), rel=1e-5)


def test_what_is_to_be_beaten_is_each_pictures_mean():
    made, batch = objective(normalised=False), tiny.batch(4)
    made(batch, 0)
    plain = (batch["image"] - batch["image"].mean((2, 3), keepdim=True)).square()
    # Over all patches it is the variance; over hidden ones near it.
    assert made.metrics["mean_fill"].item() == pytest.approx(plain.mean().item(), rel=0.5)


def test_a_guided_policy_hides_the_smaller_cluster_first():
    made, images = objective(), tiny.images(4)
    chance = [[torch.Generator().manual_seed(k) for k in range(4)] for _ in range(3)]
    guided = Guided(begins=5, hints=0.0)
    assert torch.equal(guided.order(made.network, images, chance[0], 4),
                       AtRandom().order(made.network, images, chance[1], 4))  # fmt: skip
    order = guided.order(made.network, images, chance[2], 5)
    inside = smaller_cluster(whole_features(made.network, images))
    assert (inside.float().mean(1) <= 0.5).all() and inside.any(1).all()
    for row, own in zip(order, inside, strict=True):
        assert row[own].min() > row[~own].max()
    assert made.network.config.mask_ratio == 0.75


def test_two_halves_are_told_apart():
    features = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0)) * 0.1
    features[:, :4, 0] += 3.0
    assert smaller_cluster(features).int().tolist() == [[1] * 4 + [0] * 8] * 2


def test_it_is_trained_resumed_and_loaded_by_stock_classes(tmp_path):
    def recipe(out, **changes):
        return MaskedRecipe(Scenes(size=tiny.SIZE, count=32), None, NETWORK,
                            optimizer=tiny.adam(1e-3), examples=2,
                            run=tiny.run(tmp_path / out, ema=None, **changes))  # fmt: skip

    model = train_encoder(recipe("whole", steps=4))
    train_encoder(recipe("parts", steps=2))
    again = train_encoder(recipe("parts", steps=4, resume=True))
    weights = [(folder / "model.safetensors").read_bytes() for folder in (model, again)]
    assert weights[0] == weights[1]
    images = tiny.images(2)
    made = objective()
    made.network.load_state_dict(type(made.network).from_pretrained(model).state_dict())
    save_file({"images": images, "features": whole_features(made.network, images).contiguous()},
              tmp_path / "expected.safetensors")  # fmt: skip
    script = textwrap.dedent(f"""
        import sys
        sys.modules["calotype"] = None
        import torch
        from PIL import Image
        from safetensors.torch import load_file
        from transformers import ViTImageProcessor, ViTMAEForPreTraining, ViTMAEModel, ViTModel
        told = load_file({str(tmp_path / "expected.safetensors")!r})
        mae = ViTMAEModel.from_pretrained({str(model)!r}, mask_ratio=0.0)
        order = torch.arange(16.0).expand(2, -1)
        found = mae(told["images"], noise=order).last_hidden_state[:, 1:]
        torch.testing.assert_close(found, told["features"])
        vit = ViTModel.from_pretrained({str(model)!r}, add_pooling_layer=False)
        torch.testing.assert_close(vit(told["images"]).last_hidden_state[:, 1:], told["features"])
        assert ViTMAEForPreTraining.from_pretrained({str(model)!r})(told["images"]).loss > 0
        pixels = ViTImageProcessor.from_pretrained({str(model)!r})(
            Image.new("RGB", (40, 30), "white"), return_tensors="pt").pixel_values
        assert pixels.shape == (1, 3, 16, 16) and (pixels == 1).all()
    """)
    subprocess.run([sys.executable, "-c", script], check=True)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"network\.patch is 4"):
        NETWORK.build(18)
    with pytest.raises(ValueError, match=r"network\.hidden"):
        MaskedViT(hidden=1.0)
    with pytest.raises(ValueError, match=r"network\.width"):
        MaskedViT(width=18, heads=2)
    with pytest.raises(ValueError, match=r"policy\.hints"):
        Guided(hints=1.0)


def test_named_recipes_say_what_they_are():
    for name, build in MASKED.items():
        recipe = build()
        assert recipe.run.out.name == name and build.__doc__
    base = MASKED["mae-base"]()
    assert base.optimizer.lr == pytest.approx(2.4e-3)
