"""`calotype evaluate` and `calotype compare`: figures of any artifact, by one protocol."""

import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

import tiny
from calotype import cli
from calotype.commands.artifact import Artifact
from calotype.commands.cache_latents import cache
from calotype.commands.compare import Compare, compare
from calotype.commands.evaluate import Bench, Evaluate, Measuring, evaluate
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import Folder, Scenes, WebDataset
from calotype.data.reading.transforms import eight_bits
from calotype.evaluation import features as networks
from calotype.evaluation.prompts import ClipScore
from calotype.evaluation.protocol import ProtocolError
from calotype.pipelines import Choice, Sampling, load, picture, sample
from calotype.tokenizers import ImageTokenizer, psnr

HELD_OUT = Scenes(size=tiny.SIZE, split="held-out")
HOW = {
    "data": HELD_OUT,
    "count": 12,
    "features": "efficientnet-lite0",
    "lpips": (),
    "batch_size": 5,
}


@pytest.fixture(scope="module")
def vq(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vq")
    made = tiny.tokenizer(0, tiny.VQ_BOTTLENECK)
    embedding = made.bottleneck.state_dict()["codebook.embedding"]
    with torch.no_grad():  # codes as wide apart as features
        embedding.normal_(std=0.3)
    made.save(folder / "model")
    return folder / "model"


def report(artifact: Path, folder: Path, **changes) -> dict:
    options = Evaluate(artifact=str(artifact), out=folder / "e.json", **{**HOW, **changes})
    return json.loads(evaluate(options).read_text())


@pytest.fixture(scope="module")
def of_vq(vq, tmp_path_factory) -> dict:
    return report(vq, tmp_path_factory.mktemp("report"))


@torch.no_grad()
def test_a_tokenizer_is_measured_on_all_of_the_pictures(vq, of_vq):
    tokenizer, real = ImageTokenizer.load(vq), HELD_OUT.build().batch(range(12))["image"]
    expected = psnr(tokenizer.reconstruct(real).clamp(-1, 1), real)
    assert of_vq["figures"]["psnr_db"] == pytest.approx(expected.mean().item(), abs=0.02)
    assert of_vq["standard_errors"]["psnr_db"] == pytest.approx(
        expected.std().item() / 12**0.5, abs=0.02
    )
    assert of_vq["latents"]["latent"] == [4, 8, 8]
    assert of_vq["latents"]["rate_bits"] == 64 * 4
    used = len(tokenizer.pack(real).unique())
    assert of_vq["latents"]["code_use"] == pytest.approx(used / 16, abs=1e-4)
    assert of_vq["protocol"]["images"] == 12
    assert of_vq["speed"]["decode_images_per_second"] > 0
    assert "figures" in of_vq and of_vq["figures"]["frechet"] > 0


def test_figures_are_the_same_again_and_do_not_depend_on_the_batch(vq, of_vq, tmp_path):
    again, other = report(vq, tmp_path), report(vq, tmp_path, batch_size=12)
    for part in ("figures", "standard_errors", "latents", "protocol"):
        assert again[part] == of_vq[part]
    assert other["protocol"] == of_vq["protocol"]
    for name, value in of_vq["figures"].items():
        assert other["figures"][name] == pytest.approx(value, rel=1e-3)


def test_a_folder_of_the_same_pictures_is_the_same_protocol(vq, of_vq, tmp_path):
    for i, image in enumerate(HELD_OUT.build().batch(range(12))["image"]):
        picture(image).save(tmp_path / f"{i:02}.png")
    found = report(vq, tmp_path, data=Folder(tmp_path))
    assert found["protocol"] == of_vq["protocol"]
    assert found["figures"] == of_vq["figures"]


def test_a_stream_of_the_same_pictures_is_the_same_protocol(vq, of_vq, tmp_path):
    with tarfile.open(tmp_path / "pictures.tar", "w") as tar:
        for i, image in enumerate(HELD_OUT.build().batch(range(12))["image"]):
            picture(image).save(file := tmp_path / f"{i:02}.png")
            tar.add(file, file.name)
    streamed = WebDataset(str(tmp_path / "pictures.tar"), caption_key=None)
    found = report(vq, tmp_path, data=streamed, count=None)
    assert found["protocol"] == of_vq["protocol"]
    assert found["figures"] == of_vq["figures"]


def test_figures_say_the_precision_that_they_had(vq, of_vq, tmp_path):
    """In bf16 the tokenizer is another one, by its rounding; what judges it is the same."""
    assert of_vq["protocol"]["precision"] == "fp32" and of_vq["protocol"]["device"] == "cpu"
    found = report(vq, tmp_path, precision="bf16", device="cpu")
    assert found["protocol"] == of_vq["protocol"] | {"precision": "bf16"}
    assert found["figures"] != of_vq["figures"]
    assert found["figures"]["psnr_db"] == pytest.approx(of_vq["figures"]["psnr_db"], abs=0.5)
    assert report(vq, tmp_path)["figures"] == of_vq["figures"], "nothing of it stays"


def test_few_pictures_are_noted(of_vq):
    assert of_vq["notes"]["frechet"].startswith("12 pictures are too few")


def offline(*_, **__):
    raise URLError("no network")


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)


def test_lpips_that_cannot_be_had_is_left_out_unless_it_is_named(tmp_path, no_network, capsys):
    tiny.tokenizer().save(tmp_path / "model")
    found = report(tmp_path / "model", tmp_path, data=replace(HELD_OUT, size=32), size=32,
                   count=4, lpips=None)  # fmt: skip
    assert found["notes"]["lpips_vgg"].startswith("left out: its backbone cannot be fetched: give")
    assert (
        set(found["figures"]) == {"psnr_db", "ssim", "frechet"} and not found["protocol"]["lpips"]
    )
    said = " ".join(capsys.readouterr().out.split())
    for file in ("alexnet-features.safetensors", "vgg16-features.safetensors"):
        assert f"give a folder with {file} as --backbone-weights, or try again with a" in said
    with pytest.raises(ValueError, match=r"--lpips vgg: its backbone cannot be fetched: .*nothing"):
        Measuring(lpips=("vgg",)).judges(32)
    with pytest.raises(ValueError, match=r"--lpips vgg: \S+vgg16-features.safetensors cannot be"):
        Measuring(lpips=("vgg",), backbone_weights=tmp_path).judges(32)


def test_distances_that_nothing_can_measure_are_left_out(
    artifacts, tmp_path, no_network, monkeypatch
):
    def missing() -> None:
        raise ValueError("not installed: pip install 'calotype[offline]'")

    monkeypatch.setattr(networks, "_efficientnet", missing)
    found = report(artifacts / "tokenizer/model", tmp_path, features=None, count=4)
    assert "frechet" not in found["figures"] and found["protocol"]["features"] is None
    assert "pip install 'calotype[offline]'" in found["notes"]["frechet"]
    drawn = report(artifacts / "generator/model", tmp_path, features=None, count=4)
    assert set(drawn["figures"]) == {"all_factors_right", "factors_right"}
    assert "pip install 'calotype[offline]'" in drawn["notes"]["frechet"]
    assert drawn["speed"]["images_per_second"] > 0
    with pytest.raises(ValueError, match="pip install"):
        report(artifacts / "generator/model", tmp_path, features="efficientnet-lite0", count=4)


def test_kl_is_that_of_the_posteriors(artifacts, tmp_path):
    found = report(artifacts / "tokenizer/model", tmp_path)
    tokenizer = ImageTokenizer.load(artifacts / "tokenizer/model")
    real = HELD_OUT.build().batch(range(12))["image"]
    with torch.no_grad():
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        nats = DiagonalGaussianDistribution(tokenizer.features(real)).kl().mean().item()
    bits = nats / torch.log(torch.tensor(2.0)).item()
    assert found["latents"]["rate_bits"] == pytest.approx(bits, abs=0.1)
    assert "code_use" not in found["latents"]


def test_kl_is_of_latents_as_pipelines_see_them(artifacts, tmp_path):
    """Bug: a stock tokenizer's posteriors, before the scaling factor, are nowhere near N(0, 1)."""
    shutil.copytree(artifacts / "tokenizer/model", tmp_path / "stock")
    config = json.loads((tmp_path / "stock/config.json").read_text())
    config |= {"scaling_factor": 0.5, "shift_factor": 0.2}
    (tmp_path / "stock/config.json").write_text(json.dumps(config))
    found = report(tmp_path / "stock", tmp_path)["latents"]
    tokenizer = ImageTokenizer.load(tmp_path / "stock")
    with torch.no_grad():
        moments = tokenizer.features(HELD_OUT.build().batch(range(12))["image"])
    mean, logvar = moments.chunk(2, 1)
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(
        normal(0.5 * (mean - 0.2), 0.5 * (logvar / 2).exp()), normal(torch.zeros_like(mean), 1.0)
    )
    assert found["kl_nats_per_site"] == pytest.approx(kl.mean((0, 2, 3)).tolist(), abs=1e-3)


def test_a_generator_without_prompts_is_not_judged_by_them(artifacts, tmp_path):
    found = report(artifacts / "unconditional/model", tmp_path, sampling=Choice(steps=2), repeats=2)
    assert set(found["figures"]) == {"frechet", "precision", "recall"}
    assert found["protocol"]["sampling"]["scheduler"] == "DPMSolverMultistepScheduler"
    assert found["speed"]["images_per_second"] > 0


def test_a_transformer_is_measured_like_any_generator(tmp_path):
    tokenizer, cached, recipe = tiny.token_recipes(tmp_path)
    train_tokenizer(tokenizer)
    cache(cached)
    found = report(train_generator(recipe), tmp_path, count=4)
    assert found["protocol"]["sampling"]["guidance"] == 2.0
    assert "all_factors_right" in found["figures"]


def test_the_command_measures(vq, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli.main(["evaluate", str(vq), "data:scenes", "--data.split", "held-out", "--data.size", "16",
              "--count", "4", "--features", "efficientnet-lite0", "--lpips"])  # fmt: skip
    said = capsys.readouterr().out
    assert "psnr_db, dB ↑" in said and "figures: evaluation.json" in said
    assert "calotype explain" in said and "fp32 on cpu" in said
    assert "4 pictures are too few" in said
    assert json.loads((tmp_path / "evaluation.json").read_text())["protocol"]["version"] == 1


def test_a_generator_is_measured_on_what_it_draws(artifacts, tmp_path):
    changes = {"sampling": Choice(steps=2, guidance=1.0), "training": replace(HELD_OUT, count=12)}
    found = report(artifacts / "generator/model", tmp_path, **changes)
    assert found["protocol"]["sampling"]["steps"] == 2
    assert set(found["figures"]["factors_right"]) == {
        "shape", "colour", "size", "place", "background", "count"
    }  # fmt: skip
    # Trained on the very pictures, so real ones have a neighbour at no distance.
    assert found["figures"]["nearest_training_ratio"] > 1e3
    again = report(artifacts / "generator/model", tmp_path, **changes)
    assert again["figures"] == found["figures"]


def test_diversity_needs_several_images_of_a_prompt(artifacts, tmp_path):
    changes = {"sampling": Choice(steps=1, guidance=1.0), "count": 4, "repeats": 2}
    found = report(artifacts / "generator/model", tmp_path, **changes)
    assert 0 < found["figures"]["diversity"] < 2


def test_inception_is_named_or_replaced_and_never_silently(no_network):
    assert networks.features(None).name.startswith("efficientnet-lite0 ")
    with pytest.raises(ValueError, match="--features efficientnet-lite0, whose distances are no"):
        networks.features("inception")


def test_inception_gives_its_pooled_features(monkeypatch):
    """By torch-fidelity's network, here of weights drawn at random."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    torch.manual_seed(0)
    kind = theirs.FeatureExtractorInceptionV3
    for module in (theirs, torch.hub):
        monkeypatch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
    monkeypatch.setattr(kind, "load_state_dict", lambda self, state: None)
    found, last = networks.features("inception"), kind("last", ["logits_unbiased"])
    torch.nn.Module.load_state_dict(last, found.network.state_dict())
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert found.name.startswith("inception ")
    features, (logits,) = found(images), last(images)
    assert features.shape == (2, 2048)
    torch.testing.assert_close(features @ last.fc.weight.T, logits)


def test_efficientnet_sees_what_it_learnt():
    """The package's weights are whole: features of noise and of scenes lie far apart."""
    network = networks.features("efficientnet-lite0")
    scenes = (HELD_OUT.build().batch(range(4))["image"] * 127.5 + 127.5).to(torch.uint8)
    found = network(torch.cat([scenes, torch.randint_like(scenes, 256)]))
    assert found.shape == (8, 1280)
    distances = torch.cdist(found, found)
    assert distances[:4, 4:].min() > distances[:4, :4].max()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A small CLIP, untrained."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    prompts = tiny.LearntText(width=16, layers=1, heads=2, length=8, vocabulary=300).tokenizer(
        tiny.CAPTIONS
    )
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "vocab_size": len(prompts), "max_position_embeddings": 77,
            "eos_token_id": prompts.eos_token_id}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 32, "patch_size": 16}  # fmt: skip
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, prompts).save_pretrained(folder)
    return folder


def test_clip_score_is_the_cosine(clip):
    metric = ClipScore(str(clip), torch.device("cpu"))
    drawn = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    said = tiny.CAPTIONS[:3]
    scores = [score for i in range(3) for score in metric(drawn[i : i + 1], said[i : i + 1])]
    processor = CLIPProcessor.from_pretrained(clip)
    inputs = processor(text=said, images=list(drawn), return_tensors="pt", padding=True)
    with torch.no_grad():
        out = CLIPModel.from_pretrained(clip)(**inputs)
    cosine = functional.cosine_similarity(out.image_embeds, out.text_embeds)
    assert scores == pytest.approx((100 * cosine).clamp_min(0).tolist(), abs=1e-3)
    assert max(scores) > 0


def test_a_generator_is_scored_by_clip(clip, artifacts, tmp_path):
    changes = {"sampling": Choice(steps=1, guidance=1.0), "count": 4, "clip": str(clip)}
    found = report(artifacts / "generator/model", tmp_path, **changes)
    pipeline = load(artifacts / "generator/model")
    batch = HELD_OUT.build().batch(range(4))
    (drawn,) = sample(pipeline, batch["caption"], range(4), Sampling(steps=1, guidance=1.0))
    scores = ClipScore(str(clip), torch.device("cpu"))(eight_bits(drawn), batch["caption"])
    assert found["figures"]["clip_score"] == pytest.approx(sum(scores) / 4, abs=1e-3)
    assert str(clip) in found["protocol"]["clip"]


def test_clip_without_prompts_is_refused(clip, artifacts, tmp_path):
    for i, image in enumerate(HELD_OUT.build().batch(range(4))["image"]):
        picture(image).save(tmp_path / f"{i}.png")
    changes = {"sampling": Choice(steps=1, guidance=1.0), "data": Folder(tmp_path), "count": 4}
    with pytest.raises(ValueError, match="--clip compares images with their prompts"):
        report(artifacts / "generator/model", tmp_path, clip=str(clip), **changes)


def test_a_missing_clip_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"--clip .*: no CLIP there"):
        ClipScore(str(tmp_path), torch.device("cpu"))


def test_a_comparison_is_a_page_a_table_and_a_picture(vq, artifacts, tmp_path):
    paths = str(vq), str(artifacts / "tokenizer/model")
    out = compare(Compare(artifacts=paths, out=tmp_path / "c", **HOW))
    table = (tmp_path / "c/comparison.md").read_text()
    found = json.loads((tmp_path / "c/comparison.json").read_text())
    for path, each in zip(paths, found, strict=True):
        assert path in table and each["artifact"] == path
        assert f"{each['figures']['psnr_db']:g}" in table
        assert f"{each['figures']['psnr_db']:g}" in out.read_text()
    assert found[0]["protocol"] == found[1]["protocol"]
    assert found[0]["protocol"]["digest"] in table
    for page in (table, out.read_text()):
        assert "psnr_db, dB ↑" in page and "fp32 on cpu" in page and "explain NAME" in page
        assert (
            page.count("12 pictures are too few") == 1
            and f"{found[0]['figures']['frechet']:.6g} *" in page
        )
    with Image.open(tmp_path / "c/comparison.png") as image:
        assert image.width > 800


def test_generators_are_compared_too(artifacts, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(artifacts / "generator/model", other)
    changes = {**HOW, "sampling": Choice(steps=1, guidance=1.0), "count": 4}
    paths = str(artifacts / "generator/model"), str(other)
    compare(Compare(artifacts=paths, out=tmp_path / "c", **changes))
    one, two = json.loads((tmp_path / "c/comparison.json").read_text())
    assert one["figures"] == two["figures"]


def test_what_cannot_be_compared_is_said_before_measuring(vq, artifacts, tmp_path, monkeypatch):
    monkeypatch.setattr(Bench, "prepare", lambda *_: pytest.fail("it measures"))
    pipeline, tokenizer = (str(artifacts / f"{name}/model") for name in ("generator", "tokenizer"))
    for paths, said in (
        ((str(vq),), "two artifacts or more"),
        ((str(vq), str(vq)), "named twice"),
        ((str(vq), pipeline), "one kind"),
        ((str(vq), str(tmp_path / "nothing")), "there is no folder .*nothing"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            compare(Compare(artifacts=paths, out=tmp_path / "c", **HOW))
    large = tiny.tokenizer()
    large.autoencoder.register_to_config(sample_size=32)
    large.save(tmp_path / "large")
    with pytest.raises(ProtocolError, match=r"several sizes .*--size"):
        compare(Compare(artifacts=(tokenizer, str(tmp_path / "large")), **HOW))
    assert not (tmp_path / "c").exists()


def test_mistakes_are_said_before_measuring(vq, artifacts, tmp_path):
    for changes, said in (
        ({"count": 0}, "--count is 0"),
        ({"repeats": 0}, "--repeats is 0"),
        ({"batch_size": 0}, "--batch-size is 0"),
    ):
        with pytest.raises(ValueError, match=said):
            Measuring(**{**HOW, **changes})
    with pytest.raises(ValueError, match="a folder: name a file"):
        Evaluate(artifact=str(vq), out=tmp_path)
    with pytest.raises(ValueError, match="images of 17 pixels cannot be encoded"):
        Artifact(str(vq)).size(17)
    with pytest.raises(ValueError, match=r"--size is 99, but .* draws 16 pixels"):
        Artifact(str(artifacts / "generator/model")).size(99)
    with pytest.raises(ValueError, match="--device is abacus, which is not here: choose from cpu"):
        Measuring(device="abacus")
    with pytest.raises(ValueError, match=r"--lpips alex: it needs images of 31 pixels"):
        report(vq, tmp_path, lpips=("alex",))
    assert not (tmp_path / "e.json").exists()


def test_a_generator_that_nothing_can_measure_is_refused_before_it_draws(
    artifacts, tmp_path, no_network, monkeypatch
):
    def missing() -> None:
        raise ValueError("not installed: pip install 'calotype[offline]'")

    monkeypatch.setattr(networks, "_efficientnet", missing)
    monkeypatch.setattr("calotype.commands.evaluate.sample", lambda *_: pytest.fail("it draws"))
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(tiny.images(4)):
        pixels = image.add(1).mul(127.5).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / f"photos/{i}.png")
    with pytest.raises(ValueError, match=r"nothing can measure .* pip install"):
        report(artifacts / "generator/model", tmp_path, features=None,
               data=Folder(tmp_path / "photos"))  # fmt: skip
