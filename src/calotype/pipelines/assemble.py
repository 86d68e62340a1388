"""Stock pipelines from trained parts."""

import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from calotype.diffusion import ProcessSpec
from calotype.lazy import diffusers, huggingface_hub, transformers
from calotype.pipelines.adapters import add_adapter, base_of
from calotype.pipelines.readme import readme
from calotype.pipelines.sampling import (
    AS_ITS_AUTHOR,
    HowToSample,
    Pipeline,
    Sampling,
    asks,
    draws,
    for_tokens,
)
from calotype.pipelines.token_parts import IMAGES, MARK, save_parts
from calotype.pipelines.tokens import TokenPipeline
from calotype.tokenizers import ImageTokenizer, factor, fingerprint, stock
from calotype.tokenizers.bottlenecks import Autoencoder
from calotype.tokenizers.priors import FILE as PRIOR
from calotype.training.description import describe, restore
from calotype.training.files import publish, room
from calotype.training.holds import instead
from calotype.training.images import Mode
from calotype.training.network import located, place, reason
from calotype.training.portable import make_portable


def text_to_image(
    vae: "diffusers.AutoencoderKL", unet: "diffusers.UNet2DConditionModel",
    scheduler: "diffusers.DPMSolverMultistepScheduler",
    text_encoder: "transformers.CLIPTextModel", tokenizer: "transformers.CLIPTokenizer",
) -> "diffusers.StableDiffusionPipeline":  # fmt: skip
    """A StableDiffusionPipeline; `AutoPipeline` makes img2img of it, and, where latents have the
    four channels that diffusers' inpainting insists on, inpainting.
    """
    return diffusers.StableDiffusionPipeline(
        vae=vae.eval(), text_encoder=text_encoder.eval(), tokenizer=tokenizer, unet=unet.eval(),
        scheduler=scheduler, safety_checker=None, feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )  # fmt: skip


def framed_text_to_image(
    vae: "diffusers.AutoencoderKL", unet: "diffusers.UNet2DConditionModel",
    scheduler: "diffusers.DPMSolverMultistepScheduler",
    text_encoder: "transformers.CLIPTextModelWithProjection",
    tokenizer: "transformers.CLIPTokenizer",
) -> "diffusers.StableDiffusionXLPipeline":  # fmt: skip
    """A StableDiffusionXLPipeline with the second of its text encoders alone, whose null prompt is
    the empty one.
    """
    nobody: Any = None
    return diffusers.StableDiffusionXLPipeline(
        vae=vae.eval(), text_encoder=nobody, text_encoder_2=text_encoder.eval(), tokenizer=nobody,
        tokenizer_2=tokenizer, unet=unet.eval(), scheduler=scheduler,  # type: ignore[arg-type]
        force_zeros_for_empty_prompt=False, add_watermarker=False,
    )  # fmt: skip


def unconditional(
    vae: Autoencoder,
    unet: "diffusers.UNet2DModel",
    scheduler: "diffusers.DPMSolverMultistepScheduler",
) -> "diffusers.LDMPipeline":
    """An LDMPipeline: latents from noise, without a prompt."""
    return diffusers.LDMPipeline(vqvae=vae.eval(), unet=unet.eval(), scheduler=scheduler)  # type: ignore[arg-type]


def save(
    pipeline: Pipeline, folder: Path, sampling: HowToSample, process: ProcessSpec | None = None
) -> None:
    """Save a pipeline, whole or not at all; beside, the fingerprint of its latents, how it is best
    called and was trained, and a README.md that says how anybody loads it.
    """
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with room(beside, folder, _bytes(pipeline), "the checkpoints are as they were"):
        if isinstance(pipeline, TokenPipeline):
            save_parts(pipeline.parts(for_tokens(sampling)), beside)
        else:
            pipeline.save_pretrained(beside, safe_serialization=True)
            mark = {"tokenizer": fingerprint(autoencoder(pipeline)), "sampling": describe(sampling)}
            if process is not None:
                mark["process"] = describe(process)
            (beside / MARK).write_text(json.dumps(mark) + "\n")
            _serve_flow_schedulers(beside / "scheduler/scheduler_config.json")
        if isinstance(pipeline, diffusers.StableDiffusionPipeline):
            _serve_older_transformers(pipeline, beside)
        elif isinstance(pipeline, diffusers.StableDiffusionXLPipeline):
            pipeline.tokenizer_2.backend_tokenizer.model.save(str(beside / "tokenizer_2"))
        (beside / "README.md").write_text(readme(pipeline, sampling, IMAGES))
        make_portable(beside)
        publish(beside, folder)


def _bytes(pipeline: Pipeline) -> int:
    """Of its weights."""
    parts: Iterable[Any] = (
        (pipeline.transformer, pipeline.tokenizer)
        if isinstance(pipeline, TokenPipeline)
        else pipeline.components.values()
    )
    modules = [part for part in parts if isinstance(part, nn.Module)]
    return sum(weight.nbytes for part in modules for weight in part.parameters())


def _serve_older_transformers(pipeline: "diffusers.StableDiffusionPipeline", folder: Path) -> None:
    """Write the prompt tokenizer and the text encoder so that any transformers reads them."""
    # transformers 4 reads vocab.json and merges.txt, which transformers 5 no longer writes.
    pipeline.tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))
    # Before 5.6 all names began so, and those without were left at random; later ones read both.
    file = folder / "text_encoder" / "model.safetensors"
    weights = {PREFIX + name.removeprefix(PREFIX): w for name, w in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})


PREFIX = "text_model."
TOKENIZER = ", which holds a tokenizer"
"""As it is told of a folder where a pipeline is looked for."""


def _serve_flow_schedulers(file: Path) -> None:
    """Say the shift of a flow under the name that diffusers' flow schedulers have for it, and name
    one of them: of names that the class in the file does not know, diffusers warns each time that
    it reads them. Which class draws stands in model_index.json.
    """
    config = json.loads(file.read_text())
    if config.get("use_flow_sigmas"):
        config |= {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": config["flow_shift"]}
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load(path: str | Path, variant: str | None = None) -> Pipeline:
    """A pipeline from its folder or the Hub; the folder of a run or of a whole way will do, and
    that of a tokenizer with a prior. Only safetensors are read; `variant` names those of several
    kinds that are, such as fp16.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is none, or its tokenizer is not the one it was trained with.
    """
    path = located(path, *KEPT_IN)
    if base := added_to(path):
        found = _load_base(base, path, variant)
        add_adapter(found, path, _mark(path)["start"], place(path))
        return found
    if (drawing := _from_prior(Path(path))) is not None:
        return drawing
    if _mark(path).get("layout"):
        found = TokenPipeline.from_pretrained(path)
        _check(path, found)
        return found
    try:
        where = place(path).whole()
        found = diffusers.DiffusionPipeline.from_pretrained(
            where.root, revision=where.revision, variant=variant, use_safetensors=True,
            local_files_only=huggingface_hub.constants.HF_HUB_OFFLINE,
        )  # fmt: skip
        for part in found.components.values():
            if isinstance(part, nn.Module):
                part.float()  # or a text encoder saved in half precision stays so, and nothing else
    except (OSError, ValueError, SafetensorError) as error:
        holds = instead(path, "pipeline")
        if holds.startswith(TOKENIZER):
            holds += (
                ", and keeps no prior: to draw from it alone, fit one by `calotype fit-prior "
                f"{path}`"
            )
        raise ValueError(
            f"no pipeline in {path}{holds}: expected a folder with model_index.json or "
            "calotype.json, as the model/ of a train-generator run, or a name on the Hub"
            f"{'' if holds else reason(path, error)}"
        ) from error
    if not draws(found):
        raise ValueError(
            f"{path} holds a {type(found).__name__}, which draws neither from prompts nor from "
            "noise alone: choose a pipeline whose call takes prompt or batch_size"
        )
    _check_whole(Path(where.root), found)
    _check(path, found)
    return found


def _from_prior(folder: Path) -> Any:
    """A tokenizer that draws by itself, where the folder holds one."""
    if not (folder / PRIOR).is_file() and not instead(folder, "pipeline").startswith(TOKENIZER):
        return None
    # It is a class of diffusers', which takes seconds to import.
    from calotype.pipelines.from_prior import from_prior

    return from_prior(folder)


def _load_base(base: str, path: str, variant: str | None) -> Pipeline:
    try:
        return load(base, variant)
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} holds LoRA weights of {base}, which is not there: put it back, or write where "
            f"it is into {MARK}, as base"
        ) from error


def added_to(path: str | Path) -> str | None:
    """The pipeline, a folder or a name on the Hub, that LoRA weights in a folder or on the Hub
    belong to; None: there are no such weights.
    """
    return base_of(_mark(path), place(path, *KEPT_IN))


def _check_whole(folder: Path, pipeline: Any) -> None:
    """See that a folder has all weights of a pipeline's networks and no others: diffusers leaves at
    random what is missing.

    Raises:
        ValueError: some are missing, or are no network's.
    """
    for name, part in pipeline.components.items():
        files = sorted((folder / name).glob("diffusion_pytorch_model*.safetensors"))
        if not files or not isinstance(part, diffusers.ModelMixin):
            continue  # of the Hub, or of a library that says it itself
        there: set[str] = set()
        for file in files:
            with safe_open(file, "pt") as weights:
                there |= {*weights.keys()}
        if part.state_dict().keys() != there and (wrong := _wrong(folder, name, part)):
            raise ValueError(f"{folder / name} {wrong} a {type(part).__name__}")


def _wrong(folder: Path, name: str, part: Any) -> str | None:
    """A weight that diffusers misses itself or has no use for, which knows the older names of some;
    to ask, all are read again.
    """
    loaded: Any = type(part).from_pretrained(
        folder, subfolder=name, use_safetensors=True, low_cpu_mem_usage=False,
        output_loading_info=True,
    )  # fmt: skip
    missing, unexpected = (sorted(loaded[1][f"{key}_keys"]) for key in ("missing", "unexpected"))
    if missing:
        return f"lacks {missing[0]}, a weight of"
    return f"has {unexpected[0]}, which is no weight of" if unexpected else None


def is_pipeline(path: str | Path) -> bool:
    """Whether there is a pipeline in a folder or on the Hub, rather than one part of it."""
    ours = bool({"layout", "base"} & _mark(path).keys())
    return ours or _noted(path, diffusers.DiffusionPipeline.config_name) is not None


def size_of(pipeline: Pipeline) -> int:
    """Pixels a side of the images that a pipeline draws unless told otherwise.

    Raises:
        ValueError: it does not say.
    """
    if isinstance(pipeline, TokenPipeline):
        return pipeline.size
    network, vae = _part(pipeline, "unet", "transformer"), _part(pipeline, "vae", "vqvae")
    size = getattr(pipeline, "default_sample_size", None) or (
        network and network.config.get("sample_size")
    )
    if not isinstance(size, int) or (vae is None and _part(pipeline, "movq", "vqgan")):
        raise ValueError(f"a {type(pipeline).__name__} does not say how large its images are")
    if vae is None:
        return size
    return size * (getattr(pipeline, "vae_scale_factor", None) or factor(vae))


def mode_of(pipeline: Pipeline) -> Mode:
    """What pictures a pipeline draws: L, RGB or RGBA. One without a tokenizer draws RGB.

    Raises:
        ValueError: they are none of these.
    """
    if isinstance(pipeline, TokenPipeline):
        return pipeline.tokenizer.mode
    found = _part(pipeline, "vae", "vqvae")
    return "RGB" if found is None else stock.mode_of(found)


def sides(
    pipeline: "diffusers.DiffusionPipeline", height: int | None, width: int | None
) -> tuple[int, int]:
    """Height and width of images; None: the pipeline's own.

    Raises:
        ValueError: the pipeline draws none of them.
    """
    if not {"height", "width"} <= asks(pipeline):
        raise ValueError(
            f"--width, --height: a {type(pipeline).__name__} draws images of {size_of(pipeline)} "
            "pixels a side and no others"
        )
    # Stock pipelines want multiples of 8 too, whatever their autoencoder.
    step = math.lcm(8, getattr(pipeline, "vae_scale_factor", 8))
    for name, side in (("width", width), ("height", height)):
        if side is not None and (side < step or side % step):
            near = max(step, round(side / step) * step)
            raise ValueError(f"--{name} is {side}: it is a multiple of {step}, such as {near}")
    own = None if width and height else size_of(pipeline)
    return height or own or 0, width or own or 0


def autoencoder(pipeline: Pipeline) -> Autoencoder | ImageTokenizer:
    """A pipeline's tokenizer, whatever its class calls it."""
    if isinstance(pipeline, TokenPipeline):
        return pipeline.tokenizer
    return _part(pipeline, "vae", "vqvae")


def _part(pipeline: "diffusers.DiffusionPipeline", *names: str) -> Any:
    """The first that it has of these; None: it has none."""
    return next((found for name in names if (found := getattr(pipeline, name, None))), None)


def recommended(path: str | Path) -> HowToSample:
    """How the recipe of a pipeline's folder drew its samples; where it is not told, as the author
    of the pipeline's class chose.
    """
    said = _mark(path).get("sampling")
    return restore(HowToSample, {"type": Sampling.__name__, **said}) if said else AS_ITS_AUTHOR


def trained_by(path: str | Path) -> ProcessSpec | None:
    """The process by which a pipeline was trained; None: nobody noted it."""
    said = _mark(path).get("process")
    return restore(ProcessSpec, said) if said else None


KEPT_IN = ("pipeline", "model")
"""Where in the folder of a demo, of a quickstart, or of a run a pipeline is."""


def _mark(path: str | Path) -> dict[str, Any]:
    """What `save` noted beside a pipeline, in a folder or on the Hub; {}: it is not ours."""
    file = _noted(path, MARK)
    return {} if file is None else json.loads(file.read_text())


def _noted(path: str | Path, name: str) -> Path | None:
    """A small file of a folder or of a repository on the Hub; None: it has none of that name."""
    return (place(path, *KEPT_IN) / name).fetched()


def _check(folder: str | Path, pipeline: Pipeline) -> None:
    if (trained := _mark(folder).get("tokenizer")) is None:
        return
    if (found := fingerprint(autoencoder(pipeline))) != trained:
        raise ValueError(
            f"{folder} has tokenizer {found}, but the generator was trained in the latents of "
            f"{trained}: put that tokenizer back"
        )
