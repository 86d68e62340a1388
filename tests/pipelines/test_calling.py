"""A transformer's pipeline is called and saved as stock pipelines are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from calotype.autoregressive import Linear, TokenSampling
from calotype.commands.cache_latents import cache
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.pipelines import TokenPipeline, draw, load, picture, save

pytestmark = pytest.mark.filterwarnings("ignore:.*codes")  # three steps use few

PROMPTS = ["a red circle", "a large blue square"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    tokenizer, cached, recipe = tiny.token_recipes(tmp_path_factory.mktemp("tokens"))
    train_tokenizer(tokenizer)
    cache(cached)
    return train_generator(recipe)


@pytest.fixture(scope="module")
def pipeline(folder) -> TokenPipeline:
    return TokenPipeline.from_pretrained(folder)


def chance(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_call_draws_what_seeds_draw(pipeline):
    """Each image of its generator, under its prompt, as the recipe draws."""
    codes = pipeline(PROMPTS, generator=[chance(3), chance(4)], output_type="latent").images
    expected = torch.cat(list(draw(pipeline, PROMPTS, [3, 4], pipeline.sampling)))
    assert torch.equal(codes, expected) and pipeline.sampling.guidance == 2.0
    other = TokenSampling(guidance=1.5, temperature=0.5, top_k=3, top_p=0.9)
    codes = pipeline(PROMPTS, generator=[chance(3), chance(4)], output_type="latent",
                     guidance_scale=1.5, temperature=0.5, top_k=3, top_p=0.9).images  # fmt: skip
    assert torch.equal(codes, torch.cat(list(draw(pipeline, PROMPTS, [3, 4], other))))


def test_one_generator_draws_one_image_after_another(pipeline):
    one = pipeline("a red circle", num_images_per_prompt=3, generator=chance(0)).images
    assert [image.size for image in one] == [(tiny.SIZE, tiny.SIZE)] * 3
    same = chance(0)
    alone = [pipeline("a red circle", generator=same).images[0] for _ in range(3)]
    assert [np.asarray(each).tolist() for each in one] == [np.asarray(e).tolist() for e in alone]
    torch.manual_seed(5)
    first = pipeline("a red circle", output_type="latent").images
    torch.manual_seed(5)
    assert torch.equal(pipeline("a red circle", output_type="latent", return_dict=False)[0], first)
    with pytest.raises(ValueError, match="2 seeds for 1 prompts"):
        pipeline("a red circle", generator=[chance(0), chance(1)])


def test_images_come_in_every_kind(pipeline):
    found = {kind: pipeline(PROMPTS, generator=chance(1), output_type=kind).images
             for kind in ("pil", "np", "pt", "latent")}  # fmt: skip
    assert found["np"].shape == (2, tiny.SIZE, tiny.SIZE, 3)
    assert found["pt"].shape == (2, 3, tiny.SIZE, tiny.SIZE)
    assert found["latent"].shape == (2, pipeline.layout.length)
    assert 0 <= found["np"].min() and found["np"].max() <= 1
    for i in range(2):
        levels = np.asarray(found["pil"][i], dtype=int)
        assert (levels == np.asarray(picture(2 * found["pt"][i] - 1), dtype=int)).all()


def test_a_picture_of_every_kind_is_continued(pipeline):
    image = tiny.images(1)
    shown = image / 2 + 0.5
    array = shown.permute(0, 2, 3, 1).numpy()
    given = [picture(image[0]), array, array[0], shown, shown[0]]
    found = [pipeline("a circle", top=top, generator=chance(1), output_type="latent").images
             for top in given]  # fmt: skip
    known = pipeline.layout.length // 2
    for codes in found:
        assert torch.equal(codes[:, :known], pipeline.codes(image)[:, :known])
        assert torch.equal(codes, found[0])
    codes = pipeline("a circle", top=given[0], part=0.25, output_type="latent").images
    assert torch.equal(codes[:, : known // 2], pipeline.codes(image)[:, : known // 2])
    wide = Image.new("L", (3 * tiny.SIZE, 2 * tiny.SIZE), 255)  # cropped, and grey
    codes = pipeline("a circle", top=wide, output_type="latent").images
    white = pipeline.codes(torch.ones_like(image))
    assert torch.equal(codes[:, :known], white[:, :known])
    with pytest.raises(ValueError, match="leave rows to draw"):
        pipeline("a circle", top=shown, part=1.0)


def test_each_token_is_told(pipeline):
    heard = []
    pipeline(PROMPTS, callback_on_step_end=lambda *told: heard.append(told))
    assert heard == [(pipeline, i, i, {}) for i in range(pipeline.layout.length)]


def test_a_saved_one_is_the_same(pipeline, tmp_path):
    how = TokenSampling(guidance=1.7, temperature=0.3, ramp=Linear())
    made = TokenPipeline(pipeline.transformer, pipeline.prompts, pipeline.tokenizer,
                         pipeline.layout, how)  # fmt: skip
    made.save_pretrained(tmp_path / "a/model")
    save(made, tmp_path / "b", how)
    codes = made(PROMPTS, generator=chance(2), output_type="latent").images
    for again in (TokenPipeline.from_pretrained(str(tmp_path / "a/model")), load(tmp_path / "b")):
        assert isinstance(again, TokenPipeline) and again.sampling == how
        assert torch.equal(again(PROMPTS, generator=chance(2), output_type="latent").images, codes)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["model"]
    with pytest.raises(ValueError, match="no transformer with its tokenizer in"):
        TokenPipeline.from_pretrained(tmp_path)
