"""Diffusion models that are told how large a picture was and where it was cropped."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tiny
from calotype.commands.cache_latents import cache
from calotype.commands.generate import Generate, generate
from calotype.commands.train_denoiser import assemble_denoiser
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import Buckets, CenterCrop, Flip, Folder, LatentCache, RandomCrop, Transform
from calotype.diffusion import FramedDenoising, Frames, LearntText
from calotype.pipelines import Choice, Sampling, load, sample
from calotype.recipes.cache import CacheRecipe
from calotype.recipes.generator import GeneratorRecipe
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.encoder import Encoder

TEXT = LearntText(width=16, layers=2, heads=2, length=8, vocabulary=600)
STRANGER = """
import sys
sys.modules["calotype"] = None
import torch
torch.set_num_threads(1)
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1])
pipeline.set_progress_bar_config(disable=True)
found = {}
asked = {"original_size": (300, 200), "crops_coords_top_left": (0, 9)}
for name, told in {"usual": {}, "asked": asked}.items():
    images = pipeline(
        ["a red circle", "a blue square"], num_inference_steps=2, guidance_scale=2.0,
        output_type="np",
        generator=[torch.Generator().manual_seed(i) for i in range(2)], **told,
    ).images
    found[name] = torch.from_numpy(images).contiguous()
save_file(found, sys.argv[1] + "/stranger.safetensors")
assert type(pipeline).__name__ == "StableDiffusionXLPipeline"
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.mixed(tmp_path_factory.mktemp("frames") / "photos")
    for i, file in enumerate(sorted(folder.glob("*.png"))):
        file.with_suffix(".txt").write_text(tiny.CAPTIONS[i % 4])
    return folder


@pytest.fixture(scope="module")
def cached(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> CacheRecipe:
    root = tmp_path_factory.mktemp("framed")
    train_tokenizer(tiny.tokenizer_recipe(root))
    made = tiny.cache_recipe(root, data=Folder(photos), transform=Transform(Buckets(16, 2)),
                             text=TEXT, frames=True, flipped=True, crops=2)  # fmt: skip
    cache(made)
    return made


def recipe(cached: CacheRecipe, root: Path, **changes: Any) -> GeneratorRecipe:
    base = tiny.generator_recipe(root, tokenizer=cached.tokenizer, cache=cached.out, text=TEXT)
    unet = replace(base.unet, pooled_text=False)
    return replace(base, **{"unet": unet, "frames": Frames(8), **changes})


@pytest.fixture(scope="module")
def model(cached: CacheRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_generator(recipe(cached, tmp_path_factory.mktemp("trained")))


def framed(size: tuple[int, int], transform: Transform, seed: int = 0) -> list[int]:
    example: Any = {"image": Image.new("RGB", size), "caption": ""}
    return transform.framed(example, np.random.default_rng(seed))["frame"].tolist()


def test_a_frame_is_the_pictures_size_and_what_was_cropped_of_it_resized() -> None:
    assert framed((40, 20), Transform(CenterCrop(10))) == [20, 40, 0, 5, 5]
    assert framed((20, 40), Transform(CenterCrop(10))) == [40, 20, 5, 0, 0]
    drawn = framed((40, 20), Transform(RandomCrop(10, resize=20)))
    assert drawn[:2] == [20, 40] and drawn[3] + drawn[4] == 30 and drawn[3] != drawn[4]
    mirrored = framed((40, 20), Transform(RandomCrop(10, resize=20), Flip(1.0)))
    assert mirrored == [*drawn[:3], drawn[4], drawn[3]]
    assert framed((64, 36), Transform(Buckets(16, 2)))[:2] == [36, 64]


def test_a_sample_is_the_same_with_its_frame_and_without() -> None:
    transform, image = Transform(RandomCrop(8), Flip()), Image.effect_noise((20, 14), 50)
    example: Any = {"image": image.convert("RGB"), "caption": "x"}
    for seed in range(4):
        with_it = transform.framed(example, np.random.default_rng(seed))
        without = transform(example, np.random.default_rng(seed))
        assert with_it.keys() - without.keys() == {"frame"}
        assert torch.equal(with_it["image"], without["image"])


def test_a_cache_keeps_the_frame_of_each_row_crop_and_mirror_image(
    cached: CacheRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = LatentCache(cached.out)
    sizes = {tuple(latents.batch([i], [0])["frame"][0, :2].tolist()) for i in range(len(latents))}
    assert sizes == {(height, width) for width, height in tiny.MIXED}
    batch = latents.batch([3] * 4, [0, 1 << 40, 1 << 41, 1 << 40 | 1 << 41])
    plain, mirrored, other, both = batch["frame"].tolist()
    assert mirrored == [*plain[:3], plain[4], plain[3]] and both[3:] == other[:2:-1]
    seen = [latents.batch([i] * 2, [0, 1 << 41])["frame"] for i in range(len(latents))]
    assert any(not torch.equal(a, b) for a, b in seen), "crops differ"

    def encode(*arguments: object) -> None:
        raise AssertionError("nothing is to be encoded")

    monkeypatch.setattr(Encoder, "rows", encode)
    cache(cached)


def test_training_tells_what_the_stock_pipeline_tells(cached: CacheRecipe, tmp_path: Path) -> None:
    tokenizer, latents = ImageTokenizer.load(cached.tokenizer), LatentCache(cached.out)
    objective, pipeline = assemble_denoiser(recipe(cached, tmp_path, drop=0.0), latents, tokenizer)
    assert isinstance(objective, FramedDenoising)
    rows = np.asarray((latents.split(0)[0].buckets() or [])[-1])[:2].tolist()
    batch = {**latents.batch(rows, [5, 6]), "key": [5, 6]}
    told: list[dict[str, Any]] = []
    objective.unet.register_forward_pre_hook(
        lambda _, args, kwargs: told.append({"hidden": args[2], **kwargs["added_cond_kwargs"]}),
        with_kwargs=True,
    )  # fmt: skip
    objective.eval()
    objective(batch, 0)
    height, width = (2 * side for side in batch["packed"].shape[2:])
    original, top, left = batch["frame"][0, :2].tolist(), *batch["frame"][0, 2:4].tolist()
    stock: Any = pipeline
    expected = stock._get_add_time_ids(
        (*original,), (top, left), (height, width), torch.float32, 16
    )
    assert torch.equal(told[0]["time_ids"][:1], expected) and height != width
    prompt = latents.captions_of(rows[0])[0]
    hidden, _, pooled, _ = stock.encode_prompt(prompt, do_classifier_free_guidance=False)
    torch.testing.assert_close(told[0]["hidden"][:1], hidden)
    torch.testing.assert_close(told[0]["text_embeds"][:1], pooled)


def test_stock_diffusers_draws_the_same_without_calotype(model: Path) -> None:
    done = subprocess.run([sys.executable, "-c", STRANGER, str(model)], capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found, pipeline = load_file(model / "stranger.safetensors"), load(model)
    asked = Sampling(steps=2, guidance=2.0, original_size=(300, 200), crops_coords_top_left=(0, 9))
    for name, how in {"usual": Sampling(steps=2, guidance=2.0), "asked": asked}.items():
        images = torch.cat(list(sample(pipeline, ["a red circle", "a blue square"], [0, 1], how)))
        torch.testing.assert_close((images.permute(0, 2, 3, 1) + 1) / 2, found[name])
    assert not torch.equal(found["usual"], found["asked"])
    assert (model / "tokenizer_2/vocab.json").exists()


def test_it_draws_as_of_pictures_of_a_usual_size(model: Path, tmp_path: Path) -> None:
    told: list[Any] = []
    call = diffusers.StableDiffusionXLPipeline.__call__

    def heard(self: Any, *args: Any, **kwargs: Any) -> Any:
        told.append((kwargs.get("original_size"), kwargs.get("crops_coords_top_left")))
        return call(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusers.StableDiffusionXLPipeline, "__call__", heard)
        # diffusers looks at the call's signature, which a wrapper has not.
        heard.__signature__ = __import__("inspect").signature(call)  # type: ignore[attr-defined]
        options = Generate(("a red circle",), str(model), tmp_path / "drawn", width=24, height=16)
        (file,) = generate(options).glob("0*.png")
        chosen = Choice(original_size=(9, 8), crops_coords_top_left=(1, 2))
        generate(replace(options, sampling=chosen, out=tmp_path / "chosen"))
    sides = [side for size in tiny.MIXED for side in size]
    assert told[0][1] is None and min(sides) <= min(told[0][0]) <= max(told[0][0]) <= max(sides)
    assert told[1] == ((9, 8), (1, 2))
    with Image.open(file) as drawn:
        assert drawn.size == (24, 16)
    assert f"original_size={tuple(told[0][0])}" in (model / "README.md").read_text()


def test_what_cannot_be_told_is_refused(cached: CacheRecipe, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"frames: the pipeline .* --text.layers 2 or more"):
        recipe(cached, tmp_path, text=replace(TEXT, layers=1))
    with pytest.raises(ValueError, match=r"unet.pooled_text: with frames"):
        train_generator(recipe(cached, tmp_path, unet=tiny.generator_recipe(tmp_path).unet))
    with pytest.raises(ValueError, match="--frames: without a transform"):
        CacheRecipe("x", tmp_path, frames=True)
    with pytest.raises(ValueError, match=r"frames.width is 3"):
        Frames(3)
    plain = replace(cached, out=tmp_path / "plain", frames=False)
    cache(plain)
    with pytest.raises(ValueError, match=r"frames: .*plain does not know how large its pictures"):
        train_generator(recipe(plain, tmp_path))
