"""What people do with a folder that they were given, by stock classes alone: small programs.

python benchmarks/stock_clients.py stable=FOLDER flow=FOLDER tokens=FOLDER [--only NAME ...]

prints one line of JSON for each program and folder. A program gets the folder and, where it needs
one, a checkout of diffusers (`--diffusers DIR`), whose scripts are in no package. None of them can
import calotype. benchmarks/clients.py gives each a process of its own and makes the table of
docs/clients.md.
"""

import argparse
import copy
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import numpy as np
import torch
from diffusers.utils import logging
from PIL import Image

sys.modules["calotype"] = None  # type: ignore[assignment]
PROMPT, STEPS = "a red circle", 3
Program = Callable[..., str]


class Client(NamedTuple):
    """A program, and what it is given."""

    name: str
    kinds: tuple[str, ...]
    program: Program
    needs: tuple[str, ...]
    """Packages that calotype does not install, or `--diffusers`."""


CLIENTS: list[Client] = []
DIFFUSION = ("stable", "flow")
"""Kinds of StableDiffusionPipelines, by the recipe's layout; `tokens` is a transformer's."""


def client(name: str, *kinds: str, needs: tuple[str, ...] = ()) -> Callable[[Program], Program]:
    """Name a program for the table."""

    def registered(program: Program) -> Program:
        CLIENTS.append(Client(name, kinds, program, needs))
        return program

    return registered


def pipeline_of(folder: Path, kind: Any = diffusers.DiffusionPipeline, **options: Any) -> Any:
    """A pipeline that draws without a word."""
    pipe = kind.from_pretrained(folder, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any, **options: Any) -> np.ndarray:
    """A picture of one seed, [H, W, 3]."""
    asked = {"prompt": PROMPT, "num_inference_steps": STEPS, **options}
    generator = torch.Generator().manual_seed(11)
    picture = pipe(**asked, generator=generator, output_type="np").images[0]
    if not np.isfinite(picture).all() or picture.std() == 0:
        raise AssertionError("what was drawn is no picture")
    return picture


def apart(a: Any, b: Any) -> float:
    """The greatest difference of two pictures or tensors."""
    return float(np.abs(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)).max())


def near(a: Any, b: Any, most: float) -> str:
    """See that they are no farther apart; in words."""
    if (found := apart(a, b)) > most:
        raise AssertionError(f"{found:.2g} apart, where {most:.2g} is allowed")
    return "the same" if found == 0 else f"within {found:.1g}"


def square(pipe: Any) -> Image.Image:
    """A picture of the size that a pipeline draws."""
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    return Image.new("RGB", (side, side), (200, 40, 40))


# Diffusion


@client("drawing with `DiffusionPipeline`", *DIFFUSION)
def draw(folder: Path) -> str:
    """The same seed draws the same."""
    pipe = pipeline_of(folder)
    return near(drawn(pipe), drawn(pipe), 0)


@client("half precision, bf16 and fp16", *DIFFUSION)
def half(folder: Path) -> str:
    """Every network in sixteen bits."""
    whole = drawn(pipeline_of(folder))
    pictures = [drawn(pipeline_of(folder, torch_dtype=dtype)) for dtype in
                (torch.bfloat16, torch.float16)]  # fmt: skip
    return f"{near(pictures[0], whole, 0.2)} and {near(pictures[1], whole, 0.05)}"


@client('`variant="fp16"` saved and loaded', *DIFFUSION)
def variant(folder: Path) -> str:
    """As the Hub's larger pipelines are kept."""
    with tempfile.TemporaryDirectory() as there:
        half = pipeline_of(folder, torch_dtype=torch.float16)
        half.save_pretrained(there, variant="fp16")
        again = pipeline_of(there, variant="fp16", torch_dtype=torch.float16)
        return near(drawn(again), drawn(half), 0)


@client("a device map", *DIFFUSION)
def device_map(folder: Path) -> str:
    """Accelerate places the parts; here there is one place."""
    return near(drawn(pipeline_of(folder, device_map="cpu")), drawn(pipeline_of(folder)), 0)


@client("img2img", *DIFFUSION)
def img2img(folder: Path) -> str:
    """AutoPipelineForImage2Image, from the folder."""
    pipe = pipeline_of(folder, diffusers.AutoPipelineForImage2Image)
    drawn(pipe, image=square(pipe), strength=0.5)
    return "draws"


@client("inpainting", *DIFFUSION)
def inpaint(folder: Path) -> str:
    """AutoPipelineForInpainting, which wants latents of four channels; what is kept stays."""
    pipe = pipeline_of(folder, diffusers.AutoPipelineForInpainting)
    picture = square(pipe)
    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (0, 0, picture.width // 2, picture.height))
    drawn(pipe, image=picture, mask_image=mask, width=picture.width, height=picture.height)
    return "draws"


@client("prompts as embeddings", *DIFFUSION)
def embeddings(folder: Path) -> str:
    """`encode_prompt` outside, and its answer in."""
    pipe = pipeline_of(folder)
    said, unsaid = pipe.encode_prompt(PROMPT, torch.device("cpu"), 1, True)
    by_them = drawn(pipe, prompt=None, prompt_embeds=said, negative_prompt_embeds=unsaid)
    return near(by_them, drawn(pipe), 1e-5)


@client("negative prompts, rescaled guidance, several a prompt", *DIFFUSION)
def arguments(folder: Path) -> str:
    """Each changes the picture; latents may be given."""
    pipe = pipeline_of(folder)
    plain = drawn(pipe)
    others = [drawn(pipe, negative_prompt="a blue square"), drawn(pipe, guidance_rescale=0.7)]
    if not all(apart(other, plain) for other in others):
        raise AssertionError("an argument is not heeded")
    drawn(pipe, num_images_per_prompt=2)
    return "heeded"


@client("callbacks that look and that stop", *DIFFUSION)
def callbacks(folder: Path) -> str:
    """`callback_on_step_end`, and `_interrupt` in it."""
    pipe, seen = pipeline_of(folder), []

    def stop(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        seen.append(given["latents"].shape)
        pipe._interrupt = step == 1
        return given

    drawn(pipe, callback_on_step_end=stop)
    if len(seen) != 2:
        raise AssertionError(f"stopped after two steps, it was called {len(seen)} times")
    return "heeded"


def swapped(folder: Path, names: str, **options: Any) -> str:
    """Draw by schedulers made `from_config`."""
    for name in names.split():
        pipe = pipeline_of(folder)
        kind = getattr(diffusers, f"{name}Scheduler")
        pipe.scheduler = kind.from_config(pipe.scheduler.config, **options)
        drawn(pipe, num_inference_steps=5)
    return "draw"


@client("DPM-Solver++, UniPC, DEIS", *DIFFUSION)
def solvers(folder: Path) -> str:
    """Which know noise, velocity and flows."""
    return swapped(folder, "DPMSolverMultistep DPMSolverSinglestep UniPCMultistep DEISMultistep")


@client("Euler, Euler ancestral, Heun, DDIM, DDPM, LCM, PNDM", "stable")
def eulers(folder: Path) -> str:
    """Which know noise and velocity."""
    return swapped(folder, "EulerDiscrete EulerAncestralDiscrete HeunDiscrete DDIM DDPM LCM PNDM")


@client("levels by Karras, exponential, beta, Lu", *DIFFUSION)
def levels(folder: Path) -> str:
    """Of the solver that is saved."""
    for name in ("karras_sigmas", "exponential_sigmas", "beta_sigmas", "lu_lambdas"):
        swapped(folder, "DPMSolverMultistep", **{f"use_{name}": True})
    return "draw"


@client("sliced and tiled decoding", *DIFFUSION)
def tiled(folder: Path) -> str:
    """The autoencoder's own."""
    pipe = pipeline_of(folder)
    whole = drawn(pipe)
    pipe.vae.enable_slicing()
    pipe.vae.enable_tiling()
    return near(drawn(pipe), whole, 1e-5)


@client("LoRA with peft: trained, saved, loaded", *DIFFUSION)
def lora(folder: Path) -> str:
    """Two steps on the UNet's attention, as diffusers' scripts take them."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = pipeline_of(folder)
    plain = drawn(pipe)
    torch.manual_seed(0)
    names = ["to_k", "to_q", "to_v", "to_out.0"]
    pipe.unet.requires_grad_(False)
    pipe.unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=names))
    moved = [weight for weight in pipe.unet.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(moved, lr=1e-2)
    side, channels = pipe.unet.config.sample_size, pipe.unet.config.in_channels
    text = pipe.encode_prompt(PROMPT, torch.device("cpu"), 1, False)[0].detach()
    for _ in range(2):
        noisy = torch.randn(1, channels, side, side)
        pipe.unet(noisy, 500, text).sample.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    pipe.unet.eval()
    told = drawn(pipe)
    with tempfile.TemporaryDirectory() as there:
        weights = diffusers.utils.convert_state_dict_to_diffusers(
            get_peft_model_state_dict(pipe.unet)
        )
        diffusers.StableDiffusionPipeline.save_lora_weights(there, unet_lora_layers=weights)
        again = pipeline_of(folder)
        again.load_lora_weights(there)
    if apart(told, plain) < 1e-3:
        raise AssertionError("the LoRA changes nothing")
    return near(drawn(again), told, 1e-4)


@client("textual inversion", *DIFFUSION)
def inversion(folder: Path) -> str:
    """A new word with a vector of its own."""
    pipe = pipeline_of(folder)
    vector = torch.randn(pipe.text_encoder.config.hidden_size)
    pipe.load_textual_inversion({"<word>": vector}, token="<word>")
    drawn(pipe, prompt="a <word>")
    return "draws"


@client("ControlNet from the UNet", "stable")
def controlnet(folder: Path) -> str:
    """Its zero convolutions begin with the same picture."""
    pipe = pipeline_of(folder)
    net = diffusers.ControlNetModel.from_unet(pipe.unet)
    net.controlnet_cond_embedding.eval()
    parts = {**pipe.components, "controlnet": net}
    steered = diffusers.StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    steered.set_progress_bar_config(disable=True)
    return near(drawn(steered, image=square(pipe)), drawn(pipe), 1e-4)


@client("saved again by `save_pretrained`", *DIFFUSION)
def saved(folder: Path) -> str:
    """Whoever changes it and passes it on."""
    pipe = pipeline_of(folder)
    with tempfile.TemporaryDirectory() as there:
        pipe.save_pretrained(there)
        return near(drawn(pipeline_of(there)), drawn(pipe), 0)


@client("LPIPS and torchmetrics on decoded pictures", *DIFFUSION)
def measured(folder: Path) -> str:
    """Of random weights: what counts is that pictures are as they expect."""
    import lpips
    from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

    pipe = pipeline_of(folder)
    side = max(64, square(pipe).width)
    given = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        rebuilt = pipe.vae(given).sample.clamp(-1, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            judge = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        far, none = judge(given, rebuilt).item(), judge(given, given).item()
    ratio = PeakSignalNoiseRatio(data_range=(-1, 1))(rebuilt, given).item()
    alike = StructuralSimilarityIndexMeasure(data_range=(-1, 1))(rebuilt, given).item()
    if none != 0 or not far > 0 or not np.isfinite([ratio, alike]).all():
        raise AssertionError(f"LPIPS {far} and {none}, PSNR {ratio}, SSIM {alike}")
    return "measure"


@client("ONNX of text encoder, UNet, encoder, decoder", *DIFFUSION, needs=("onnx", "onnxruntime"))
def onnx_of_diffusion(folder: Path) -> str:
    """Each part by torch's exporter, run by onnxruntime."""
    pipe = pipeline_of(folder)
    side, channels = pipe.unet.config.sample_size, pipe.unet.config.in_channels
    z = torch.randn(1, channels, side, side)
    ids = pipe.tokenizer(PROMPT, padding="max_length", truncation=True, return_tensors="pt")
    hidden = pipe.text_encoder(ids.input_ids)[0]
    pixels = torch.randn(1, 3, square(pipe).height, square(pipe).width)
    told = [
        exported(lambda i: pipe.text_encoder(i)[0], pipe.text_encoder, ids.input_ids),
        exported(lambda x, t, h: pipe.unet(x, t, h).sample, pipe.unet, z, torch.tensor(500),
                 hidden.detach()),
        exported(lambda x: pipe.vae.encode(x).latent_dist.mode(), pipe.vae, pixels),
        exported(lambda x: pipe.vae.decode(x).sample, pipe.vae, z),
    ]  # fmt: skip
    return f"within {max(told):.1e}"


def exported(call: Callable[..., Any], owner: torch.nn.Module, *given: torch.Tensor) -> float:
    """How far onnxruntime is from torch, of one part."""
    import onnxruntime

    class Part(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.owner = owner

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return call(*inputs)

    part = Part().eval()
    with torch.no_grad(), tempfile.TemporaryDirectory() as there:
        expected = part(*given)
        file = f"{there}/part.onnx"
        torch.onnx.export(part, given, file, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(file)
        names = [each.name for each in session.get_inputs()]
        values = {name: value.numpy() for name, value in zip(names, given, strict=True)}
        (found,) = session.run(None, values)
    if (far := apart(found, expected)) > 1e-4:
        raise AssertionError(f"{far:.1g} apart")
    return far


# Programs that know Stable Diffusion's layout alone


def script(checkout: Path, name: str, *words: object) -> None:
    """Run one of diffusers' scripts as it is."""
    command = [sys.executable, str(checkout / name), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(done.stderr[-600:])


def original_keys(checkout: Path, folder: Path, file: Path) -> dict[str, torch.Tensor]:
    """A single file of a folder, by diffusers' converter."""
    from safetensors.torch import load_file

    script(checkout, "scripts/convert_diffusers_to_original_stable_diffusion.py", "--model_path",
           folder, "--checkpoint_path", file, "--use_safetensors")  # fmt: skip
    return load_file(file)


@client("`convert_diffusers_to_original_stable_diffusion.py`, `from_single_file`", "stable",
        needs=("--diffusers",))  # fmt: skip
def single_file(folder: Path, checkout: Path) -> str:
    """Every key has an original name, and the file draws the same."""
    with tempfile.TemporaryDirectory() as there:
        file = Path(there) / "one.safetensors"
        keys = original_keys(checkout, folder, file)
        theirs = ("down_blocks", "up_blocks", "mid_block", "attentions", "resnets")
        left = [name for name in keys if any(part in name for part in theirs)]
        if left:
            raise AssertionError(f"{len(left)} of {len(keys)} keys are left, as {left[0]}")
        pipe = diffusers.StableDiffusionPipeline.from_single_file(str(file), config=str(folder))
        pipe.set_progress_bar_config(disable=True)
        told = near(drawn(pipe), drawn(pipeline_of(folder)), 1e-5)
    return f"{len(keys)} keys, {told}"


def pictures(there: Path, side: int) -> Path:
    """An imagefolder with captions, as diffusers' scripts read it."""
    folder = there / "pictures"
    folder.mkdir()
    rows = []
    for i, colour in enumerate(("red", "blue", "green", "white")):
        Image.new("RGB", (side, side), colour).save(folder / f"{i}.png")
        rows.append(json.dumps({"file_name": f"{i}.png", "text": f"a {colour} circle"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def trained(folder: Path, checkout: Path, name: str, there: Path) -> Path:
    """What one of diffusers' text-to-image scripts makes in two steps."""
    out = there / "out"
    side = square(pipeline_of(folder)).width
    script(checkout, f"examples/text_to_image/{name}.py", "--pretrained_model_name_or_path",
           folder, "--train_data_dir", pictures(there, side), "--resolution", side,
           "--train_batch_size", 2, "--max_train_steps", 2, "--output_dir", out,
           "--cache_dir", there / "cache")  # fmt: skip
    return out


@client("`train_text_to_image_lora.py`", "stable", needs=("--diffusers",))
def lora_script(folder: Path, checkout: Path) -> str:
    """Diffusers' own, as it is; what it saves is loaded."""
    with tempfile.TemporaryDirectory() as there:
        out = trained(folder, checkout, "train_text_to_image_lora", Path(there))
        pipe = pipeline_of(folder)
        pipe.load_lora_weights(out)
        drawn(pipe)
    return "trains, loads and draws"


@client("`train_text_to_image.py`", "stable", needs=("--diffusers",))
def full_script(folder: Path, checkout: Path) -> str:
    """Diffusers' own, as it is; what it saves is a pipeline."""
    with tempfile.TemporaryDirectory() as there:
        drawn(pipeline_of(trained(folder, checkout, "train_text_to_image", Path(there))))
    return "trains and draws"


# Tokens


def transformer_of(folder: Path, **options: Any) -> tuple[Any, Any]:
    """A transformer and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    return model, AutoTokenizer.from_pretrained(folder)


def prompts_of(tokenizer: Any) -> Any:
    """A ragged batch, as the README's call makes it."""
    said = [PROMPT, "a large blue square at the top on a grey background"]
    return tokenizer(said, padding=True, truncation=True, return_tensors="pt")


@client("`generate` of a ragged batch, greedy and drawn", "tokens")
def ragged(folder: Path) -> str:
    """Each as if it were alone; nothing is warned of."""
    model, tokenizer = transformer_of(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        said = prompts_of(tokenizer)
        together = model.generate(**said, do_sample=False)
        alone = model.generate(**tokenizer(PROMPT, return_tensors="pt"), do_sample=False)
        model.generate(**said)
        model.generate(**said, max_new_tokens=4)
    count = model.generation_config.max_new_tokens
    return near(together[0, -count:], alone[0, -count:], 0)


@client("guidance, beams, several a prompt", "tokens")
def beams(folder: Path) -> str:
    """Guidance is in the folder; beams go without it."""
    model, tokenizer = transformer_of(folder)
    said, count = prompts_of(tokenizer), model.generation_config.max_new_tokens
    guided = model.generate(**said, do_sample=False, guidance_scale=5.0)
    best = model.generate(**said, do_sample=False, num_beams=2, guidance_scale=None)
    several = model.generate(**said, num_return_sequences=2)
    shapes = [tuple(each[:, said.input_ids.shape[1] :].shape) for each in (guided, best, several)]
    if shapes != [(2, count), (2, count), (4, count)]:
        raise AssertionError(f"shapes {shapes}")
    return "draw"


@client("a static cache", "tokens")
def static_cache(folder: Path) -> str:
    """Memory of its final size from the first token on."""
    model, tokenizer = transformer_of(folder)
    said = prompts_of(tokenizer)
    how = {"do_sample": False, "guidance_scale": None, "disable_compile": True}
    static = model.generate(**said, **how, cache_implementation="static")
    return near(static, model.generate(**said, **how), 0)


@client("half precision and a device map", "tokens")
def placed(folder: Path) -> str:
    """In bf16, placed by accelerate."""
    model, tokenizer = transformer_of(folder, dtype=torch.bfloat16, device_map="cpu")
    model.generate(**prompts_of(tokenizer))
    return "draws"


@client("tokens to words and names", "tokens")
def decoded(folder: Path) -> str:
    """Words with their spaces, and image tokens by number."""
    model, tokenizer = transformer_of(folder)
    said = tokenizer(PROMPT, return_tensors="pt")
    drawn_ids = model.generate(**said)[0]
    words = tokenizer.decode(drawn_ids, skip_special_tokens=True)
    names = tokenizer.convert_ids_to_tokens(drawn_ids[said.input_ids.shape[1] :])
    if words != PROMPT or not all(name.startswith("<|image_") for name in names):
        raise AssertionError(f"{words!r}, {names[:3]}")
    if len(tokenizer) != model.config.vocab_size:
        raise AssertionError("tokenizer and model count otherwise")
    return f"{words!r} and {names[0]}"


@client("tokens to a picture by `VQModel`", "tokens")
def pictured(folder: Path) -> str:
    """As the README says it."""
    code = (folder / "README.md").read_text().split("```python")[1].split("```")[0]
    with tempfile.TemporaryDirectory() as there:
        code = code.replace('"drawn.png"', repr(f"{there}/drawn.png"))
        exec(code.replace('from_pretrained(".", ', f"from_pretrained({str(folder)!r}, ")
             .replace('from_pretrained(".")', f"from_pretrained({str(folder)!r})"), {})  # fmt: skip
        with Image.open(f"{there}/drawn.png") as picture:
            return f"{picture.width} pixels"


@client("LoRA with peft: trained, saved, loaded", "tokens")
def lora_of_tokens(folder: Path) -> str:
    """Two steps on the transformer."""
    from peft import LoraConfig, PeftModel, get_peft_model

    model, tokenizer = transformer_of(folder)
    said = prompts_of(tokenizer)
    plain = model(**said).logits.detach()
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(r=4, task_type="CAUSAL_LM"))
    optimizer = torch.optim.Adam([w for w in adapted.parameters() if w.requires_grad], lr=1e-2)
    for _ in range(2):
        adapted(**said, labels=said.input_ids).loss.backward()
        optimizer.step()
    adapted.eval()
    told = adapted(**said).logits.detach()
    with tempfile.TemporaryDirectory() as there:
        adapted.save_pretrained(there)
        again = PeftModel.from_pretrained(model, there).eval()
    if apart(told, plain) < 1e-3:
        raise AssertionError("the LoRA changes nothing")
    return near(again(**said).logits.detach(), told, 1e-4)


@client("ONNX of transformer, encoder, decoder", "tokens", needs=("onnx", "onnxruntime"))
def onnx_of_tokens(folder: Path) -> str:
    """Logits of a prompt, features of a picture, a picture of codes."""
    model, tokenizer = transformer_of(folder)
    vq: Any = diffusers.VQModel.from_pretrained(folder, subfolder="vqvae")
    side = vq.config.sample_size
    pixels = torch.randn(1, 3, side, side)
    z = vq.encode(pixels).latents.detach()
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    told = [
        exported(lambda i: model(i, use_cache=False).logits, model, ids),
        exported(lambda x: vq.encode(x).latents, vq, pixels),
        exported(lambda x: vq.decode(x, force_not_quantize=True).sample, vq, z),
    ]
    return f"within {max(told):.1e}"


def main() -> None:
    """Run what is asked, and print what came of each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+", help="kind=FOLDER")
    parser.add_argument("--only", nargs="+", help="names of programs")
    parser.add_argument("--diffusers", type=Path, help="a checkout of diffusers")
    told = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    for kind, folder in (each.split("=", 1) for each in told.folders):
        for each in CLIENTS:
            if kind in each.kinds and (not told.only or each.name in told.only):
                print(json.dumps(answer(each, kind, Path(folder).resolve(), told.diffusers)),
                      flush=True)  # fmt: skip
    assert not any(name.startswith("calotype.") for name in sys.modules)


def answer(each: Client, kind: str, folder: Path, checkout: Path | None) -> dict[str, Any]:
    """What came of a program."""
    begun = time.perf_counter()
    lacking = [name for name in each.needs if not _is_there(name, checkout)]
    if lacking:
        state, seen = "not run", f"needs {' and '.join(lacking)}"
    else:
        try:
            given = (folder, checkout) if "--diffusers" in each.needs else (folder,)
            state, seen = "works", each.program(*given)
        except Exception as error:  # whatever a client meets
            state, seen = "fails", " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return {"client": each.name, "kind": kind, "state": state, "seen": seen,
            "seconds": round(time.perf_counter() - begun, 1)}  # fmt: skip


def _is_there(name: str, checkout: Path | None) -> bool:
    if name == "--diffusers":
        return checkout is not None
    return importlib.util.find_spec(name) is not None


if __name__ == "__main__":
    main()
