"""Pictures in parts: as the whole where that can be, nearly as it where it cannot, no seams."""

import pytest
import torch
from diffusers import AsymmetricAutoencoderKL, AutoencoderTiny, VQModel

import tiny
from calotype.data import Scenes
from calotype.tokenizers import Backbone, Gaussian, ImageTokenizer, Tiling
from calotype.tokenizers.tiling import Overview, SharedNorm, _tiles

SIDE = 192
STEPS = 100
BLOCKS = {
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4, "sample_size": tiny.SIZE,
}  # fmt: skip


def picture() -> torch.Tensor:
    """Four scenes beside each other, and over them a ramp: no two tiles are alike."""
    scenes = Scenes(size=SIDE // 2, seed=3).build().batch(range(4))["image"]
    mosaic = scenes.view(2, 2, 3, *scenes.shape[2:]).permute(2, 0, 3, 1, 4)
    ramp = torch.linspace(-0.5, 0.5, SIDE)[:, None] + torch.zeros(SIDE)
    return (mosaic.reshape(1, 3, SIDE, SIDE) + ramp).clamp(-1, 1)


@pytest.fixture(scope="module")
def trained() -> ImageTokenizer:
    """Of some steps, with attention: what random weights make of statistics says nothing."""
    torch.manual_seed(0)
    spec = Gaussian(4, orthogonal=True)
    network = Backbone(widths=(8, 16), layers=1, attention=True, groups=4)
    model = ImageTokenizer(network.autoencoder(spec, tiny.SIZE), spec.build())
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    for step in range(STEPS):
        images = tiny.images(8, seed=step % 16)
        (model(images) - images).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_tiles_cover_a_picture_once_and_fit_in_it():
    seen = torch.zeros(1, 1, 37, 50)
    for tile in _tiles(37, 50, Tiling(16, 4)):
        tile.place(seen, 1).add_(1)
        assert tile.inner(tile.outer(seen, 1)).shape == tile.place(seen, 1).shape
        assert max(tile.place(seen, 1).shape) <= 16
        assert max(tile.outer(seen, 1).shape) <= 24
    assert torch.equal(seen, torch.ones_like(seen))


@torch.no_grad()
def test_convolutions_alone_are_exact():
    """AutoencoderTiny has neither norms nor attention, and sees less far than the margin."""
    torch.manual_seed(0)
    sizes = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8),
             "num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}  # fmt: skip
    tokenizer, images = ImageTokenizer.around(AutoencoderTiny(**sizes).eval()), picture()
    whole, tiling = tokenizer.latents(images), Tiling(16, 12)
    torch.testing.assert_close(tokenizer.latents(images, tiling), whole)
    torch.testing.assert_close(tokenizer.decode(whole, tiling), tokenizer.decode(whole))
    worse = tokenizer.decode(whole, Tiling(16, 0))
    assert (worse - tokenizer.decode(whole)).abs().max() > 1e-3


@torch.no_grad()
def test_of_other_tiles_there_is_nothing_to_see(trained):
    """Hardly any difference from the whole (0.8 %), and where tiles meet no jump of it; diffusers'
    own tiles, as large, are further from it."""
    z = trained.latents(picture())
    whole = trained.decode(z)
    error = (trained.decode(z, Tiling(32, 8)) - whole) / 2
    assert error.abs().mean() < 0.02
    jumps = (error[..., 1:] - error[..., :-1]).abs().mean((0, 1, 2))
    assert jumps[[2 * 32 - 1, 2 * 64 - 1]].mean() < 1.5 * jumps.mean()
    vae = trained.autoencoder
    vae.enable_tiling()
    vae.tile_latent_min_size, vae.tile_sample_min_size = 48, 96
    theirs = (vae.decode(z).sample - whole) / 2
    vae.disable_tiling()
    assert theirs.abs().mean() > 5 * error.abs().mean()


@torch.no_grad()
def test_latents_are_those_of_the_whole(trained):
    images = picture()
    whole = trained.latents(images)
    error = (trained.latents(images, Tiling(32, 8)) - whole).abs().mean() / whole.std()
    assert error < 0.1


@torch.no_grad()
def test_the_network_is_as_it_was(trained):
    images = picture()
    before = trained.decode(trained.latents(images))
    trained.reconstruct(images, Tiling(16, 4))
    assert not any("forward" in module.__dict__ for module in trained.modules())
    assert torch.equal(trained.decode(trained.latents(images)), before)
    with pytest.raises(ZeroDivisionError), Overview(Tiling()).given_to(trained.autoencoder.decoder):
        assert any("forward" in module.__dict__ for module in trained.modules())
        raise ZeroDivisionError
    assert not any("forward" in module.__dict__ for module in trained.modules())


@torch.no_grad()
def test_a_norm_that_saw_all_is_the_norm():
    torch.manual_seed(0)
    norm, x = torch.nn.GroupNorm(2, 6), 3 + torch.randn(1, 6, 40, 32)
    norm.weight.normal_()
    shared = SharedNorm(norm, Overview(Tiling()))
    shared.look(x)
    torch.testing.assert_close(shared(x), norm(x))
    torch.testing.assert_close(shared(x.half()).float(), norm(x), atol=0.02, rtol=0.02)


@torch.no_grad()
@pytest.mark.parametrize("kind", [VQModel, AsymmetricAutoencoderKL])
def test_other_classes_and_batches_and_codes(kind):
    torch.manual_seed(0)
    widths = {"block_out_channels": (8, 8)}
    if kind is AsymmetricAutoencoderKL:
        widths = {"down_block_out_channels": (8, 8), "up_block_out_channels": (8, 8)}
    tokenizer = ImageTokenizer.around(kind(**BLOCKS, **widths).eval())
    images = torch.cat([picture(), -picture()])
    found = tokenizer.reconstruct(images, Tiling(16, 8))
    assert found.shape == images.shape and found.isfinite().all()
    alone = tokenizer.reconstruct(images[1:], Tiling(16, 8))
    torch.testing.assert_close(found[1:], alone)
    if kind is VQModel:
        ids = tokenizer.encode_ids(images, Tiling(16, 8))
        assert torch.equal(ids, tokenizer.encode(images, tiling=Tiling(16, 8)).ids)
        assert torch.equal(tokenizer.decode_ids(ids, Tiling(16, 8)), found)


@torch.no_grad()
def test_what_one_tile_holds_is_computed_whole(trained):
    images = tiny.images(2)
    assert torch.equal(trained.reconstruct(images, Tiling()), trained.reconstruct(images))


def test_what_cannot_be_is_told(trained):
    for name, value in (("size", 0), ("margin", -1), ("looked_at", 0)):
        with pytest.raises(ValueError, match=rf"tiling\.{name} is {value}"):
            Tiling(**{name: value})
    with pytest.raises(ValueError, match="193 pixels cannot be encoded by a factor of 2"):
        trained.latents(torch.zeros(1, 3, 193, 192), Tiling(16))
