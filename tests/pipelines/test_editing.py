"""Drawing over pictures, and between prompts and latents, by stock pipelines."""

from collections.abc import Sequence

import pytest
import torch
from PIL import Image

import tiny
from calotype.commands.artist import Diffuser
from calotype.commands.generate import Generate, generate
from calotype.commands.paths import Latents, Prompts, frames
from calotype.commands.pictures import ImageOf
from calotype.pipelines import Choice, Over, Sampling, Toward, Wanted, load, picture, sample
from calotype.pipelines.between import blend

HOW = Sampling(steps=4, guidance=2.0)
FEW = Choice(steps=2)


@pytest.fixture(scope="module")
def pipeline(artifacts):
    return load(artifacts / "generator/model")


def drawn(artist: Diffuser, wanted: Sequence[Wanted]) -> torch.Tensor:
    images = artist.draw(wanted, lambda images: None, 0)
    return torch.stack([each.image for each in images])


def test_a_picture_is_drawn_over_the_more_the_stronger(pipeline):
    image = tiny.images(1)[0]
    found = [drawn(Diffuser(pipeline, HOW, Over(image, s)), [Wanted("a red circle", 0)])[0]
             for s in (0.25, 0.5, 1.0)]  # fmt: skip
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])
    again = Diffuser(pipeline, HOW, Over(image, 0.5))
    assert torch.equal(drawn(again, [Wanted("a red circle", 0)])[0], found[1])


def test_what_the_mask_leaves_stays_to_the_pixel(inpainter, pipeline):
    image, mask = tiny.images(1)[0], torch.zeros(1, tiny.SIZE, tiny.SIZE)
    mask[:, 8:] = 1
    artist = Diffuser(load(inpainter), HOW, Over(image, 1.0, mask))
    images = drawn(artist, [Wanted("a red circle", seed) for seed in (0, 1)])
    assert torch.equal(images[0][:, :8], image[:, :8])
    assert (images[:, :, 8:] != image[:, 8:]).float().mean() > 0.9
    assert not torch.equal(images[0], images[1])
    with pytest.raises(ValueError, match="diffusers inpaints in latents of 4 channels"):
        Diffuser(pipeline, HOW, Over(image, 1.0, mask))


def test_no_prompt_and_a_picture_are_variations(pipeline, artifacts, tmp_path):
    picture(tiny.images(1)[0]).save(tmp_path / "a.png")
    out = generate(Generate((), str(artifacts / "generator/model"), tmp_path / "out", images=3,
                            image=ImageOf(tmp_path / "a.png"), sampling=FEW))  # fmt: skip
    assert sorted(path.name for path in out.glob("0*.png")) == [
        f"00{i}-empty-{i}.png" for i in range(3)
    ]


def refused(match: str, folder: str, **asked) -> None:
    with pytest.raises(ValueError, match=match):
        generate(Generate(("x",), folder, sampling=asked.pop("sampling", FEW), **asked))


def test_what_cannot_be_drawn_over_is_said(artifacts, tmp_path):
    folder, file, mask = str(artifacts / "generator/model"), tmp_path / "a.png", tmp_path / "m.png"
    picture(tiny.images(1)[0]).save(file)
    Image.new("L", (8, 8), 255).save(mask)
    refused(r"m\.png is 8x8 and .*a\.png 16x16: make them of one size", folder,
            image=ImageOf(file, mask=mask))  # fmt: skip
    Image.new("L", (16, 16), 0).save(mask)
    refused("has no white: paint what is to be drawn anew", folder, image=ImageOf(file, mask=mask))
    refused(r"--image.strength is 0.2, which leaves none of 2 steps: give 0.5 or more", folder,
            image=ImageOf(file, 0.2))  # fmt: skip
    refused("sampling.guidance_rescale: a StableDiffusionImg2ImgPipeline has none", folder,
            image=ImageOf(file), sampling=Choice(guidance_rescale=0.5))  # fmt: skip
    silent = str(artifacts / "unconditional/model")
    with pytest.raises(ValueError, match="a LDMPipeline draws images of 16 pixels a side"):
        generate(Generate((), silent, image=ImageOf(file), sampling=FEW))


def test_sizes_are_multiples(artifacts, tmp_path):
    folder = str(artifacts / "generator/model")
    out = generate(Generate(("x",), folder, tmp_path, width=32, height=16, sampling=FEW))
    with Image.open(next(out.glob("000-*.png"))) as image:
        assert image.size == (32, 16)
    refused("--width is 30: it is a multiple of 8, such as 32", folder, width=30)
    with pytest.raises(ValueError, match="--width, --height: a LDMPipeline draws images of 16"):
        generate(Generate((), str(artifacts / "unconditional/model"), width=16, sampling=FEW))


def test_ways_begin_and_end_at_images_alone(pipeline):
    a, b = Wanted("a red circle", 3), Wanted("a blue square", 3)
    middle = Wanted("a red circle", 3, Toward("a blue square", 3, 0.5, "linear"))
    ends = [Wanted(a.prompt, 3, Toward(b.prompt, 3, part, "linear")) for part in (0.0, 1.0)]
    artist = Diffuser(pipeline, HOW)
    images = drawn(artist, [ends[0], middle, ends[1]])
    plain = next(sample(pipeline, [a.prompt, b.prompt, a.prompt], [3, 3, 3], HOW))
    torch.testing.assert_close(images[0], plain[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(images[2], plain[1], rtol=0, atol=1e-4)
    assert not torch.allclose(images[1], plain[0], atol=1e-3)
    noise = Wanted(a.prompt, 3, Toward(a.prompt, 4, 1.0, "spherical"))
    other = next(sample(pipeline, [a.prompt], [4], HOW))
    torch.testing.assert_close(drawn(artist, [noise])[0], other[0], rtol=0, atol=1e-4)


def test_along_the_sphere_noise_stays_noise():
    a, b = (torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    for part in (0.25, 0.5, 0.75):
        assert float(blend(a, b, part, "spherical").std()) == pytest.approx(1, abs=0.02)
    assert float(blend(a, b, 0.5, "linear").std()) == pytest.approx(0.5**0.5, abs=0.02)
    assert torch.equal(blend(a, b, 0.0, "spherical"), a)
    assert torch.equal(blend(a, b, 1.0, "linear"), b)
    torch.testing.assert_close(blend(a, a, 0.3, "spherical"), a)
    torch.testing.assert_close(blend(a, -a, 0.25, "spherical"), 0.5 * a)


def test_a_way_passes_each_end_once():
    found = list(frames(Prompts(4), ["a", "b", "c"], 5))
    ends = [one for one in found if one.toward.part == 0]
    assert len(found) == 7 and [one.prompt for one in ends] == ["a", "b", "c"]
    assert found[1] == Wanted("a", 5, Toward("b", 5, 1 / 3, "linear"))
    found = list(frames(Latents(3, seeds=3), ["a"], 5))
    assert [one.seed for one in found] == [5, 5, 6, 6, 7]
    assert found[3] == Wanted("a", 6, Toward("a", 7, 0.5, "spherical"))


def test_a_grid_has_a_row_for_each_prompt(artifacts, tmp_path):
    asked = Generate(("a red circle", "a blue square"), str(artifacts / "generator/model"),
                     tmp_path / "out", images=3, grid=True, sampling=FEW)  # fmt: skip
    out = generate(asked)
    with Image.open(out / "grid-000-005.png") as grid:
        assert grid.size == (3 * tiny.SIZE, 2 * tiny.SIZE)
        with Image.open(out / "004-a-blue-square-1.png") as one:
            box = (tiny.SIZE, tiny.SIZE, 2 * tiny.SIZE, 2 * tiny.SIZE)
            assert list(grid.crop(box).getdata()) == list(one.getdata())
