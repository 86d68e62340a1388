"""Stock autoencoders and pipelines of kinds that calotype does not train are measured too."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import (
    AsymmetricAutoencoderKL,
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DDPMPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

import tiny
from calotype.commands.compare import Compare, compare
from calotype.commands.evaluate import Evaluate, evaluate
from calotype.data import Scenes
from calotype.data.reading.transforms import eight_bits
from calotype.pipelines import Choice, Sampling, load, recommended, sample, size_of
from calotype.tokenizers import ImageTokenizer, psnr, stock
from calotype.training.network import Place

HELD_OUT = Scenes(size=tiny.SIZE, split="held-out")
HOW = {"data": HELD_OUT, "count": 6, "features": "efficientnet-lite0", "lpips": ()}


def report(artifact: Path, folder: Path, **changes) -> dict:
    options = Evaluate(artifact=str(artifact), out=folder / "e.json", **{**HOW, **changes})
    return json.loads(evaluate(options).read_text())


def small_tiny():
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=3,
    )  # fmt: skip


def small_dc():
    return AutoencoderDC(
        latent_channels=4, attention_head_dim=4, encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
    )  # fmt: skip


def small_asymmetric():
    return AsymmetricAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, down_block_out_channels=(8, 8),
        up_block_types=("UpDecoderBlock2D",) * 2, up_block_out_channels=(8, 8),
        norm_num_groups=4, sample_size=tiny.SIZE, scaling_factor=1.0,
    )  # fmt: skip


AUTOENCODERS = {"tiny": small_tiny, "dc": small_dc, "asymmetric": small_asymmetric}


@pytest.fixture(params=AUTOENCODERS)
def autoencoder(request, tmp_path):
    torch.manual_seed(0)
    made = AUTOENCODERS[request.param]().eval()
    made.save_pretrained(tmp_path / "stock")
    return made


@torch.no_grad()
def test_a_stock_autoencoder_is_measured_by_its_own_encode_and_decode(autoencoder, tmp_path):
    found = report(tmp_path / "stock", tmp_path, size=tiny.SIZE)
    real = HELD_OUT.build().batch(range(6))["image"]
    encoded = autoencoder.encode(real)
    posterior = encoded.get("latent_dist")
    z = posterior.mode() if posterior else next(iter(encoded.values()))
    fake = eight_bits(autoencoder.decode(z).sample).float() / 127.5 - 1
    expected = psnr(fake, eight_bits(real).float() / 127.5 - 1).mean().item()
    assert found["figures"]["psnr_db"] == pytest.approx(expected, abs=1e-3)
    assert found["latents"]["latent"] == [*z.shape[1:]]
    if posterior:
        nats = posterior.kl().mean().item()
        assert found["latents"]["kl_nats_per_site"] and found["latents"]["rate_bits"] == (
            pytest.approx(nats / torch.log(torch.tensor(2.0)).item(), abs=0.1)
        )
    else:  # nothing bounds how much it says
        assert "rate_bits" not in found["latents"]
        std = z.double().std((0, 2, 3), correction=0).tolist()
        assert found["latents"]["std"] == pytest.approx(std, abs=1e-4)


def test_what_is_no_autoencoder_of_diffusers_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderOobleck"}))
    with pytest.raises(ValueError, match="it is a AutoencoderOobleck"):
        ImageTokenizer.load(tmp_path)


def test_a_part_of_a_pipeline_of_the_hub_has_a_name(artifacts, tmp_path, monkeypatch):
    """As the Hub's library would find it, from a copy that lies on this machine."""
    asked = []

    def from_hub(where: Place, classes, variant) -> AutoencoderKL:
        asked.append((where.root, where.inside))
        if "/" in where.inside:
            raise OSError
        return AutoencoderKL.from_pretrained(artifacts / "tokenizer/model")

    monkeypatch.setattr(stock, "_load", from_hub)
    ImageTokenizer.load("someone/pipeline/vae")
    ImageTokenizer.load("someone/tokenizer")
    assert asked[-1] == ("someone/tokenizer", "vae")
    insides = [inside for name, inside in asked if name == "someone/pipeline"]
    assert insides == ["vae/vae", "vae/vqvae", "vae"]


def test_a_mistyped_path_is_no_name_of_the_hub(artifacts, monkeypatch):
    """Bug: of runs/tokenizer/model the Hub was asked for runs/tokenizer."""
    monkeypatch.chdir(artifacts)
    with pytest.raises(FileNotFoundError, match="no folder tokenizer/run/model: in tokenizer "):
        ImageTokenizer.load("tokenizer/run/model")


def test_kinds_are_compared_and_drawn_where_there_is_no_rate(artifacts, autoencoder, tmp_path):
    ours = str(artifacts / "tokenizer/model")
    how = {**HOW, "size": tiny.SIZE}
    page = compare(Compare(artifacts=(ours, str(tmp_path / "stock")), out=tmp_path / "c", **how))
    assert "psnr_db, dB ↑" in (page.parent / "comparison.md").read_text()
    assert (page.parent / "comparison.png").exists()


def unet(**changes) -> dict:
    return {"sample_size": 8, "block_out_channels": (8, 8), "layers_per_block": 1,
            "norm_num_groups": 4, **changes}  # fmt: skip


def test_pixel_diffusion_is_measured(tmp_path):
    torch.manual_seed(0)
    network = UNet2DModel(**unet(
        sample_size=tiny.SIZE, down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    ))  # fmt: skip
    DDPMPipeline(network, DDIMScheduler()).save_pretrained(tmp_path / "ddpm")
    assert size_of(load(tmp_path / "ddpm")) == tiny.SIZE
    found = report(tmp_path / "ddpm", tmp_path, sampling=Choice(steps=2))
    assert set(found["figures"]) == {"frechet", "precision", "recall"}
    assert found["protocol"]["sampling"].keys() == {"steps", "batch_size", "scheduler"}


def test_weights_that_are_missing_are_named(sdxl, tmp_path):
    """Bug: diffusers leaves them at random, and they were drawn with."""
    shutil.copytree(sdxl.config._name_or_path, tmp_path / "sdxl")
    file = tmp_path / "sdxl/unet/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_in.weight"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"unet lacks conv_in\.weight, a weight of a UNet2DCond"):
        load(tmp_path / "sdxl")


def test_weights_of_older_names_are_none_that_are_missing(sdxl, tmp_path):
    """As those of Stable Diffusion 1's autoencoder are."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    shutil.copytree(sdxl.config._name_or_path, tmp_path / "sdxl")
    file = tmp_path / "sdxl/vae/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    for new, old in names.items():
        weights = {k.replace(f".{new}.", f".{old}."): v for k, v in weights.items()}
    save_file(weights, file, {"format": "pt"})
    found = load(tmp_path / "sdxl").vae.state_dict()
    assert all(torch.equal(found[k], v) for k, v in sdxl.vae.state_dict().items())


def test_bug_other_peoples_pipelines_were_called_with_our_defaults(sdxl, tmp_path, monkeypatch):
    """25 steps where a DDPM wants its 1000, guidance 4 where the author said 5."""
    asked = []

    class CalledError(Exception):
        pass

    def call(self, prompt=None, num_inference_steps=50, guidance_scale=5.0, generator=None,
             output_type="pil", **rest):  # fmt: skip
        asked.append((num_inference_steps, guidance_scale))
        raise CalledError

    how = recommended(sdxl.config._name_or_path)
    assert how == Sampling(steps=None, guidance=None)
    assert how.completed(sdxl) == Sampling(steps=50, guidance=5.0)
    assert how.completed(DDPMPipeline(None, DDIMScheduler())).steps == 1000
    monkeypatch.setattr(StableDiffusionXLPipeline, "__call__", call)
    for choice in (Choice(), Choice(steps=3), Choice(guidance=2.0)):
        with pytest.raises(CalledError):
            next(sample(sdxl, ["x"], [0], choice.over(how)))
    assert asked == [(50, 5.0), (3, 5.0), (50, 2.0)]


@pytest.mark.parametrize("guidance", [float("nan"), float("inf"), -float("inf")])
def test_guidance_is_a_number(guidance):
    with pytest.raises(ValueError, match=r"sampling\.guidance is .*: it must be finite"):
        Choice(guidance=guidance).over(Sampling())


@pytest.fixture(scope="module")
def sdxl(artifacts, tmp_path_factory) -> StableDiffusionXLPipeline:
    torch.manual_seed(0)
    prompts = CLIPTokenizer.from_pretrained(artifacts / "generator/model/tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(prompts), hidden_size=8, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=prompts.model_max_length, projection_dim=8,
        bos_token_id=prompts.bos_token_id, eos_token_id=prompts.eos_token_id,
        pad_token_id=prompts.pad_token_id,
    )  # fmt: skip
    network = UNet2DConditionModel(**unet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16,
        attention_head_dim=2, addition_embed_type="text_time", addition_time_embed_dim=2,
        projection_class_embeddings_input_dim=20,
    ))  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), norm_num_groups=4,
    )  # fmt: skip
    made = StableDiffusionXLPipeline(
        vae, CLIPTextModel(text), CLIPTextModelWithProjection(text), prompts, prompts, network,
        DDIMScheduler(), add_watermarker=False,
    )  # fmt: skip
    made.save_pretrained(folder := tmp_path_factory.mktemp("sdxl"))
    return StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)


def test_another_pipeline_of_prompts_is_called_as_its_users_call_it(sdxl):
    pipeline = load(sdxl.config._name_or_path)
    assert size_of(pipeline) == tiny.SIZE
    (found,) = sample(pipeline, ["a red square"] * 2, [3, 4], Sampling(steps=2, guidance=2.0))
    generator = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    drawn = sdxl(["a red square"] * 2, num_inference_steps=2, guidance_scale=2.0,
                 generator=generator, output_type="pt").images  # fmt: skip
    assert torch.equal(found, 2 * drawn.float() - 1)


def test_another_pipeline_of_prompts_is_measured(sdxl, tmp_path):
    found = report(sdxl.config._name_or_path, tmp_path, sampling=Choice(steps=1))
    assert "all_factors_right" in found["figures"]


def test_a_text_encoder_saved_in_half_precision_draws(sdxl, tmp_path):
    """Bug: it stayed so, and the first step of the UNet, which did not, failed."""
    shutil.copytree(sdxl.config._name_or_path, tmp_path / "half")
    for name in ("text_encoder", "text_encoder_2"):
        folder = tmp_path / "half" / name
        type(getattr(sdxl, name)).from_pretrained(folder).half().save_pretrained(folder)
    found = report(tmp_path / "half", tmp_path, sampling=Choice(steps=1))
    assert "all_factors_right" in found["figures"]


def test_bug_weights_that_are_no_numbers_drew_black_pictures(sdxl, tmp_path):
    shutil.copytree(sdxl.config._name_or_path, tmp_path / "nan")
    broken = load(tmp_path / "nan")
    with torch.no_grad():
        broken.unet.conv_out.weight.fill_(torch.nan)
    broken.unet.save_pretrained(tmp_path / "nan/unet")
    with pytest.raises(ValueError, match="what was drawn is not finite: some weights are not"):
        report(tmp_path / "nan", tmp_path, sampling=Choice(steps=1))


def test_a_pipeline_that_starts_from_a_picture_is_refused(sdxl, tmp_path):
    StableDiffusionXLImg2ImgPipeline.from_pipe(sdxl).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Img2ImgPipeline, which draws neither from prompts"):
        load(tmp_path)


def test_a_pipeline_that_asks_for_something_else_is_refused(tmp_path):
    network = DiTTransformer2DModel(
        num_attention_heads=1, attention_head_dim=8, in_channels=4, sample_size=8, num_layers=1,
        norm_num_groups=4,
    )  # fmt: skip
    DiTPipeline(network, AutoencoderKL(norm_num_groups=4, block_out_channels=(8,)),
                DDIMScheduler()).save_pretrained(tmp_path)  # fmt: skip
    with pytest.raises(ValueError, match="DiTPipeline, which draws neither from prompts"):
        load(tmp_path)
