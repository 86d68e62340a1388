"""Transformers trained by their recipe: stock classes draw the same where calotype is not."""

import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from transformers.models.llama.modeling_llama import LlamaMLP

import tiny
from calotype.autoregressive import Annealed, Classes, Linear, Sequential, TokenSampling
from calotype.commands.cache_latents import cache
from calotype.commands.cached_prompts import read_captions
from calotype.commands.generate import Generate, TopOf, generate
from calotype.commands.score import Score, score_images
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import Folder, LatentCache
from calotype.data.cache.provenance import Listing, Provenance
from calotype.data.cache.shards import write_shard
from calotype.data.prompts import tokenize
from calotype.pipelines import (
    Choice,
    Sampling,
    TokenPipeline,
    Top,
    best,
    draw,
    load,
    picture,
    sample,
    save,
    score,
)
from calotype.tokenizers.bottlenecks import FSQ, LFQ, RVQ, BottleneckSpec, Gumbel
from calotype.training.schedules import Cosine

STOCK: dict[str, BottleneckSpec] = {
    "vq": tiny.VQ_BOTTLENECK,
    "dvae": Gumbel(32, 4, temperature=Cosine(1.0, 1 / 16, 3)),
    "lfq": LFQ(bits=6),
}
OWN: dict[str, BottleneckSpec] = {
    "fsq": FSQ((5, 4, 3)),
    "rvq": RVQ(2, tiny.VQ_BOTTLENECK.codebook),
}
PROMPTS = ["a red circle", "There is a big blue square on the left; the background is grey.", ""]
GREEDY = TokenSampling(guidance=2.0, temperature=0.0)
STRANGER = """
import sys
sys.modules["calotype"] = None
import json
from pathlib import Path
import torch
torch.set_num_threads(1)
from diffusers import VQModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_grad_enabled(False)
prompts = json.loads(sys.argv[1])
for folder in map(Path, sys.argv[2:]):
    model = AutoModelForCausalLM.from_pretrained(folder)
    inputs = AutoTokenizer.from_pretrained(folder)(prompts, padding=True, return_tensors="pt")
    vq = VQModel.from_pretrained(folder, subfolder="vqvae")
    read = inputs["input_ids"].shape[1]
    first = model.config.vocab_size - vq.config.num_vq_embeddings
    ids = {
        "guided": model.generate(**inputs, do_sample=False),
        "plain": model.generate(**inputs, do_sample=False, guidance_scale=None),
        "drawn": model.generate(**inputs),
    }
    ids = {name: (tokens[:, read:] - first).contiguous() for name, tokens in ids.items()}
    side = int(ids["plain"].shape[1] ** 0.5)
    grid = ids["plain"].view(-1, side, side)
    codes = vq.quantize.get_codebook_entry(grid.flatten(), (*grid.shape, vq.config.vq_embed_dim))
    images = vq.decode(codes, force_not_quantize=True).sample
    save_file({**ids, "images": images}, folder / "stranger.safetensors")
assert not any(name.startswith("calotype.") for name in sys.modules)
"""


def train(root: Path, bottleneck: BottleneckSpec, **changes) -> Path:
    tokenizer, cached, recipe = tiny.token_recipes(root, bottleneck, **changes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # three steps use few codes; no stock class
        train_tokenizer(tokenizer)
        cache(cached)
        folder = train_generator(recipe)
    _make_sharp(folder)
    return folder


def _make_sharp(folder: Path) -> None:
    """After three steps all tokens are alike, and the likeliest is a matter of rounding."""
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name, weight in weights.items():
        if weight.ndim == 2:
            noise = torch.randn(weight.shape, generator=generator)
            weights[name] = 2 * noise / weight.shape[1] ** 0.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tokens")
    return {name: train(root / name, spec) for name, spec in {**STOCK, **OWN}.items()}


@pytest.fixture(scope="module")
def pipeline(folders) -> TokenPipeline:
    found = load(folders["vq"])
    assert isinstance(found, TokenPipeline)
    return found


def codes_of(pipeline: TokenPipeline, prompts: list[str], how: TokenSampling) -> torch.Tensor:
    return torch.cat(list(draw(pipeline, prompts, range(len(prompts)), how)))


def test_stock_classes_draw_the_same_without_calotype(folders):
    """With the guidance of the recipe, which the folder's generation config says, and without; the
    empty prompt is drawn by transformers from its own tokens, so it is left out."""
    said = PROMPTS[:2]
    stock = [str(folders[name]) for name in STOCK]
    command = [sys.executable, "-c", STRANGER, json.dumps(said), *stock]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in STOCK:
        found, ours = load_file(folders[name] / "stranger.safetensors"), load(folders[name])
        assert isinstance(ours, TokenPipeline)
        assert torch.equal(found["guided"], codes_of(ours, said, GREEDY)), name
        plain = codes_of(ours, said, replace(GREEDY, guidance=1.0))
        assert torch.equal(found["plain"], plain) and not torch.equal(plain, found["guided"]), name
        assert found["drawn"].min() >= 0 and found["drawn"].max() < ours.layout.codes, name
        assert torch.equal(found["images"], ours.decode(plain)), name


@pytest.mark.parametrize("name", OWN)
def test_tokenizers_without_a_stock_class_serve_too(name, folders):
    pipeline = load(folders[name])
    assert isinstance(pipeline, TokenPipeline)
    images = torch.cat(list(sample(pipeline, PROMPTS, range(3), GREEDY)))
    assert images.shape == (3, 3, tiny.SIZE, tiny.SIZE)
    codes = codes_of(pipeline, PROMPTS, TokenSampling(temperature=2.0))
    again = pipeline.layout.flatten(pipeline.layout.unflatten(codes))
    assert torch.equal(codes, again) and int(codes.max()) < pipeline.layout.codes


def test_the_cache_and_the_pipeline_read_prompts_alike(folders, pipeline):
    """What was trained on is what is asked for."""
    cached = LatentCache(folders["vq"].parent.parent / "tokens")
    text = AutoTokenizer.from_pretrained(cached.text_tokenizer)
    captions = [*cached.captions, ""]
    rows = pipeline.encode(captions)
    for i, (tokens, length) in enumerate(zip(*tokenize(text, captions), strict=True)):
        said = rows.tokens[i][rows.seen[i]]
        assert torch.equal(said[:-1], tokens[:length].long())
        assert said[-1] == pipeline.layout.begin


def test_an_image_needs_only_its_own_prompt_and_seed(pipeline):
    how = TokenSampling(guidance=2.0, batch_size=2)
    together = codes_of(pipeline, PROMPTS, how)
    alone = [next(draw(pipeline, [p], [i], how)) for i, p in enumerate(PROMPTS)]
    assert torch.equal(together, torch.cat(alone))


def test_the_empty_prompt_is_the_null_prompt(pipeline):
    """Guidance is away from it, so of it any scale leaves the same."""
    plain = codes_of(pipeline, [""], replace(GREEDY, guidance=1.0))
    assert torch.equal(codes_of(pipeline, [""], replace(GREEDY, guidance=5.0)), plain)


def test_guidance_leads_away_from_a_negative_prompt(pipeline):
    """As `generate()` leads away from it, longer and shorter than the prompts."""
    length = pipeline.layout.length
    for negative in ("a blue square on the left of a red circle on a green background", "a"):
        how = replace(GREEDY, guidance=3.0, negative_prompt=negative)
        (codes,) = draw(pipeline, PROMPTS[:1], [0], how)
        inputs, away = pipeline.encode(PROMPTS[:1]), pipeline.encode([negative])
        stock = pipeline.transformer.generate(
            inputs.tokens, attention_mask=inputs.seen.long(), guidance_scale=3.0,
            negative_prompt_ids=away.tokens, negative_prompt_attention_mask=away.seen.long(),
            do_sample=False, max_new_tokens=length, min_new_tokens=length,
        )  # fmt: skip
        assert torch.equal(codes, stock[:, -length:] - pipeline.layout.first)
        (plain,) = draw(pipeline, PROMPTS[:1], [0], replace(how, negative_prompt=None))
        assert not torch.equal(codes, plain)


def test_what_reads_no_prompts_is_led_away_from_none(pipeline):
    alone = TokenPipeline(pipeline.transformer, None, pipeline.tokenizer, pipeline.layout)
    with pytest.raises(ValueError, match=r"sampling.negative_prompt: this transformer reads no"):
        alone(negative_prompt="x")


def test_images_continue_the_top_of_a_picture(pipeline, tmp_path):
    images = tiny.images(2)
    rows = pipeline.layout.height // 2
    known = rows * pipeline.layout.width
    begun = pipeline.codes(images)[:, :known]
    (codes,) = draw(pipeline, PROMPTS[:2], [0, 1], GREEDY, Top(images, rows))
    assert torch.equal(codes[:, :known], begun)
    # What comes then is what is likeliest behind it.
    inputs, begun = pipeline.encode(PROMPTS[:2]), pipeline.layout.tokens(begun)
    stock = pipeline.transformer.generate(
        torch.cat([inputs.tokens, begun], dim=1),
        attention_mask=torch.cat([inputs.seen, torch.ones_like(begun).bool()], 1).long(),
        negative_prompt_ids=torch.cat([inputs.tokens[:, -1:], begun], 1),
        do_sample=False, max_new_tokens=known, min_new_tokens=known,
    )  # fmt: skip
    assert torch.equal(codes[:, known:], stock[:, -known:] - pipeline.layout.first)
    (one,) = draw(pipeline, PROMPTS[:2], [0, 1], GREEDY, Top(images[:1], rows))
    assert torch.equal(one[0], codes[0]) and torch.equal(one[1, :known], codes[0, :known])
    for top in (Top(tiny.images(3), rows), Top(images, 2 * rows), Top(images, -1)):
        with pytest.raises(ValueError, match="leave rows to draw"):
            next(draw(pipeline, PROMPTS[:2], [0, 1], GREEDY, top))


def test_the_command_continues_a_picture(folders, tmp_path):
    picture(tiny.images(1)[0]).save(tmp_path / "begun.png")
    options = Generate(
        ("a red circle",), str(folders["vq"]), tmp_path / "out", images=2, candidates=3,
        top=TopOf(tmp_path / "begun.png"),
        sampling=Choice(temperature=0.5, top_k=4, batch_size=2),  # fewer than candidates
    )  # fmt: skip
    names = sorted(file.name for file in generate(options).glob("0*.png"))
    assert [name[:3] for name in names] == ["000", "001"]
    seeds = [int(name.rsplit("-", 1)[1].removesuffix(".png")) for name in names]
    assert seeds[0] in range(3) and seeds[1] in range(3, 6)
    # What was kept is what its seed draws.
    one = replace(options, images=1, candidates=1, seed=seeds[1], out=tmp_path / "one")
    again = next(generate(one).glob("0*.png"))
    with Image.open(again) as a, Image.open(tmp_path / "out" / names[1]) as b:
        assert list(a.getdata()) == list(b.getdata())


def test_the_likeliest_is_kept(pipeline):
    prompts = ["a red circle"] * 6
    codes = codes_of(pipeline, prompts, TokenSampling(temperature=3.0))
    bits = score(pipeline, codes, prompts)
    kept = best(pipeline, codes, prompts, 3, 6)
    assert kept == [int(bits[:3].argmin()), 3 + int(bits[3:].argmin())]
    assert best(pipeline, codes, prompts, 1, 6) == list(range(6))


def test_bug_all_candidates_were_scored_at_once(pipeline, monkeypatch):
    """Whatever the batch size, so that memory ran out."""
    prompts = ["a red circle"] * 6
    codes = codes_of(pipeline, prompts, TokenSampling(temperature=3.0))
    expected, scored = best(pipeline, codes, prompts, 3, 6), []

    def counted(pipeline, codes, prompts):
        scored.append(len(codes))
        return score(pipeline, codes, prompts)

    monkeypatch.setattr("calotype.pipelines.scores.score", counted)
    assert best(pipeline, codes, prompts, 3, 4) == expected and scored == [4, 2]


def test_a_pipeline_of_weights_that_are_no_numbers_draws_nothing(folders, tmp_path):
    """Bug: it drew black pictures."""
    shutil.copytree(folders["vq"], tmp_path / "model")
    broken = load(tmp_path / "model")
    with torch.no_grad():
        broken.tokenizer.autoencoder.decoder.conv_out.weight.fill_(torch.nan)
    broken.tokenizer.save(tmp_path / "model/vqvae")
    options = Generate(("a red circle",), str(tmp_path / "model"), tmp_path / "out")
    mark = json.loads((tmp_path / "model/calotype.json").read_text())
    del mark["tokenizer"]  # which says whose tokenizer it is
    (tmp_path / "model/calotype.json").write_text(json.dumps(mark))
    with pytest.raises(ValueError, match="what was drawn is not finite: some weights are not"):
        generate(options)


def test_the_prompt_tokenizer_is_written_as_any_transformers_reads_it(folders, pipeline):
    """Bug: transformers 4 knew neither its class nor begin-of-image."""
    said = json.loads((folders["vq"] / "tokenizer_config.json").read_text())
    assert said["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert said["additional_special_tokens"] == ["<|image|>"]
    again = AutoTokenizer.from_pretrained(folders["vq"])
    for prompt in ("a red circle", "", "<|image|>"):
        assert again(prompt).input_ids == pipeline.prompts(prompt).input_ids
    assert "<|image|>" in again.all_special_tokens


def test_scores_do_not_depend_on_the_batch(pipeline):
    codes = codes_of(pipeline, PROMPTS, GREEDY)
    bits = score(pipeline, codes, PROMPTS)
    alone = [score(pipeline, codes[i : i + 1], [PROMPTS[i]]) for i in range(3)]
    torch.testing.assert_close(bits, torch.cat(alone), rtol=1e-5, atol=1e-4)


def test_the_command_scores(folders, pipeline, tmp_path, capsys):
    data = replace(tiny.SCENES, count=5)
    options = Score(str(folders["vq"]), data, batch_size=2, out=tmp_path / "s.jsonl")
    lines = [json.loads(line) for line in score_images(options).read_text().splitlines()]
    batch = data.build().batch(range(5))
    bits = score(pipeline, pipeline.codes(batch["image"]), batch["caption"])
    per_token = torch.tensor([line["bits_per_token"] for line in lines])
    torch.testing.assert_close(per_token, bits / 64, rtol=1e-5, atol=1e-5)
    assert lines[0]["bits_per_pixel"] == pytest.approx(lines[0]["bits_per_token"] * 64 / 256)
    assert [line["prompt"] for line in lines] == batch["caption"]
    said = capsys.readouterr().out
    assert "5 images, in fp32 on cpu:" in said and "bits_per_token, bits ↓: " in said
    rounded = replace(options, precision="bf16", out=tmp_path / "rounded.jsonl")
    other = [json.loads(line)["bits_per_token"]
             for line in score_images(rounded).read_text().splitlines()]  # fmt: skip
    assert other != per_token.tolist() and other == pytest.approx(per_token.tolist(), abs=0.05)
    one = replace(options, prompt="a red circle", count=3)
    lines = [json.loads(line) for line in score_images(one).read_text().splitlines()]
    assert [line["prompt"] for line in lines] == ["a red circle"] * 3
    assert [line["image"] for line in lines] == [0, 1, 2]
    for i, image in enumerate(batch["image"][:3]):
        picture(image).save(tmp_path / f"{i}.png")
    named = replace(one, data=Folder(tmp_path))
    lines = [json.loads(line) for line in score_images(named).read_text().splitlines()]
    assert [Path(line["image"]).name for line in lines] == ["0.png", "1.png", "2.png"]


def test_scoring_that_is_cut_off_leaves_the_scores_of_before(folders, tmp_path):
    """Bug: the file was emptied first."""
    for i in range(2):
        picture(tiny.images(1)[0]).save(tmp_path / f"{i}.png")
    options = Score(str(folders["vq"]), Folder(tmp_path, on_error="stop"), batch_size=1,
                    out=tmp_path / "scores/s.jsonl")  # fmt: skip
    before = score_images(options).read_text()
    (tmp_path / "1.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"1\.png"):
        score_images(options)
    assert [path.name for path in options.out.parent.iterdir()] == ["s.jsonl"]
    assert options.out.read_text() == before


def test_captions_are_hardly_classes(tmp_path):
    """Of a folder of captions, each would silently become a class."""
    rows = [Provenance(str(i), "", 32 * "0", (f"picture {i}",)) for i in range(101)]
    shards = [write_shard(tmp_path, 0, 0, {"packed": torch.zeros(101, 1)}, Listing(rows))]
    with pytest.warns(UserWarning, match="101 classes in 101 images: these seem to be captions"):
        read_captions(Classes(), tmp_path, shards, 100)


def follow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what a folder's README.md says."""
    monkeypatch.chdir(folder)
    code = (folder / "README.md").read_text().split("```python")[1].split("```")[0]
    assert "calotype" not in code
    exec(code, {})
    with Image.open("drawn.png") as drawn:
        assert drawn.size == (tiny.SIZE, tiny.SIZE)


def test_a_saved_transformer_says_how_anybody_draws(folders, monkeypatch):
    follow(folders["vq"], monkeypatch)
    alone = (folders["rvq"] / "README.md").read_text()
    assert "```" not in alone and "calotype generate" in alone


def test_classes(tmp_path, monkeypatch):
    """Each caption of the folder source is the name of a class."""
    folder = train(tmp_path, tiny.VQ_BOTTLENECK, text=Classes())
    pipeline = load(folder)
    assert isinstance(pipeline, TokenPipeline)
    captions = LatentCache(tmp_path / "tokens").captions
    rows = pipeline.encode([captions[0], ""])
    assert rows.tokens.shape == (2, 2) and rows.seen.tolist() == [[True, True], [False, True]]
    for wrong in ("a dragon", "<|image_3|>"):
        with pytest.raises(ValueError, match="no class "):
            pipeline.encode([captions[0], wrong])
    follow(folder, monkeypatch)


def test_unconditional(tmp_path, monkeypatch):
    folder = train(tmp_path, tiny.VQ_BOTTLENECK, text=None)
    pipeline = load(folder)
    assert isinstance(pipeline, TokenPipeline) and pipeline.prompts is None
    codes = codes_of(pipeline, [""], GREEDY)
    stock = pipeline.transformer.generate(do_sample=False)
    assert torch.equal(codes, stock[:, 1:] - pipeline.layout.first)
    out = generate(Generate((), str(folder), tmp_path / "out", images=2))
    assert len(list(out.glob("0*.png"))) == 2
    follow(folder, monkeypatch)


@pytest.mark.parametrize("changes", [
    {"order": Annealed(1, 2)},
    {"transformer": replace(tiny.token_recipes(Path())[2].transformer, positions=Sequential())},
], ids=["annealed", "sequential"])  # fmt: skip
def test_choices_train_and_load(changes, folders, tmp_path):
    root = folders["vq"].parent.parent
    recipe = tiny.token_recipes(root, **changes)[2]
    folder = train_generator(replace(recipe, run=tiny.run(tmp_path / "run")))
    pipeline = load(folder)
    assert isinstance(pipeline, TokenPipeline)
    assert not any("asked" in name for name in load_file(folder / "model.safetensors"))
    assert codes_of(pipeline, PROMPTS, GREEDY).shape == (3, 64)


def test_activations_are_computed_twice_where_that_is_asked(folders, tmp_path):
    root, passes = folders["vq"].parent.parent, []
    forward = LlamaMLP.forward
    for on in (False, True):
        recipe = tiny.token_recipes(root, gradient_checkpointing=on)[2]
        run = tiny.run(tmp_path / str(on), steps=1)
        with patch.object(LlamaMLP, "forward", autospec=True, side_effect=forward) as each:
            train_generator(replace(recipe, run=run))
        passes.append(each.call_count)
    assert passes[1] - passes[0] == recipe.transformer.layers


def test_how_training_computes_attention_is_not_saved(folders):
    """Short sequences train by plain products on a CPU; whoever loads the model chooses anew."""
    assert not [name for name in json.loads((folders["vq"] / "config.json").read_text())
                if "attn" in name]  # fmt: skip
    loaded = load(folders["vq"])
    assert isinstance(loaded, TokenPipeline)
    assert loaded.transformer.config._attn_implementation == "sdpa"


def test_transformers_4_is_told_the_frequencies_too(folders):
    """It reads them under another name, and would silently take the usual ones."""
    config = json.loads((folders["vq"] / "config.json").read_text())
    assert config["rope_scaling"] == config["rope_parameters"]
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]


def test_generate_draws_as_the_recipe_does(folders, pipeline, tmp_path):
    how = TokenSampling(guidance=3.0, temperature=0.7, top_k=5, top_p=0.9)
    save(pipeline, tmp_path / "model", how)
    said: Any = load(tmp_path / "model")
    said = said.transformer.generation_config
    assert (said.guidance_scale, said.temperature, said.top_k, said.top_p) == (3.0, 0.7, 5, 0.9)
    save(pipeline, tmp_path / "ramp", replace(how, ramp=Linear(), top_k=None, temperature=0.0))
    said = load(tmp_path / "ramp").transformer.generation_config  # type: ignore[union-attr]
    assert said.guidance_scale is None and not said.do_sample and said.top_k is None


def refused(root: Path, match: str, **changes: Any) -> None:
    recipe = replace(tiny.token_recipes(root)[2], run=tiny.run(root / "refused"), **changes)
    with pytest.raises(ValueError, match=match):
        train_generator(recipe)
    assert not (root / "refused").exists()


def test_what_cannot_be_is_said_before_training(folders, artifacts, tmp_path):
    root = folders["vq"].parent.parent
    other = folders["dvae"].parent.parent / "codes/model"
    refused(root, "was encoded by tokenizer", tokenizer=str(other))
    with pytest.raises(ValueError, match=r"drop is 1.5"):
        tiny.token_recipes(root, drop=1.5)
    with pytest.raises(ValueError, match="image_weight"):
        tiny.token_recipes(root, image_weight=0.0)
    with pytest.raises(ValueError, match=r"order\.end is 4, but run\.steps is 3"):
        tiny.token_recipes(root, order=Annealed(1, 4))
    continuous = str(artifacts / "tokenizer/model")
    refused(root, "has none: choose one with codes", tokenizer=continuous,
            cache=artifacts / "latents")  # fmt: skip
    silent = replace(tiny.token_recipes(root)[1], out=tmp_path / "silent", text=None)
    cache(silent)
    refused(root, "has no prompts", cache=silent.out)


def test_flags_of_the_other_kind_are_refused(folders, artifacts, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"sampling.steps: a transformer has none"):
        generate(Generate(("x",), str(folders["vq"]), out, sampling=Choice(steps=3)))
    diffusion = str(artifacts / "generator/model")
    with pytest.raises(ValueError, match=r"sampling.top_k: a diffusion pipeline has none"):
        generate(Generate(("x",), diffusion, out, sampling=Choice(top_k=3)))
    with pytest.raises(ValueError, match="--candidates is for a transformer"):
        generate(Generate(("x",), diffusion, out, candidates=2))
    with pytest.raises(ValueError, match="--top is for a transformer"):
        generate(Generate(("x",), diffusion, out, top=TopOf(tmp_path / "x.png")))
    with pytest.raises(ValueError, match="only a transformer scores"):
        score_images(Score(diffusion, tiny.SCENES))
    with pytest.raises(ValueError, match="no prompts"):
        generate(Generate((), str(folders["vq"]), out))
    assert Choice(guidance=2.0).over(Sampling()) == Sampling(guidance=2.0)
    assert not out.exists()


def test_what_is_not_whole_is_not_loaded(folders, tmp_path):
    shutil.copytree(folders["vq"], tmp_path / "cut")
    file = tmp_path / "cut/model.safetensors"
    weights = load_file(file)
    del weights["model.norm.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"is not whole: model\.norm\.weight"):
        load(tmp_path / "cut")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="no transformer with its tokenizer in"):
        load(tmp_path / "cut")


def test_a_prompt_that_is_too_long_is_cut_and_said(pipeline):
    with pytest.warns(UserWarning, match="1 of 2 prompts are cut to 49 tokens"):
        rows = pipeline.encode(["a red circle", "red " * 100])
    assert rows.tokens.shape == (2, 49)


def test_bf16_differs_by_its_rounding(pipeline):
    """Of 192 tokens drawn in float32 the first of each image are nearly always the same."""
    how = TokenSampling(guidance=1.0)
    codes, half = (
        codes_of(pipeline, PROMPTS, replace(how, precision=name)) for name in ("fp32", "bf16")
    )
    assert (codes == half)[:, 0].sum() >= 2 and not torch.equal(codes, half)


def test_another_tokenizer_in_the_folder_is_refused(folders, tmp_path):
    shutil.copytree(folders["vq"], tmp_path / "mixed")
    shutil.rmtree(tmp_path / "mixed/vqvae")
    shutil.copytree(folders["rvq"] / "vqvae", tmp_path / "mixed/vqvae")
    with pytest.raises(ValueError, match="but the generator was trained in"):
        load(tmp_path / "mixed")
