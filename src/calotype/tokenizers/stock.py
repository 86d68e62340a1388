"""Stock autoencoders from a folder, a file or the Hub, and how each kind encodes and decodes."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor, nn

from calotype.lazy import diffusers
from calotype.tokenizers.bottlenecks import Autoencoder
from calotype.training.holds import instead
from calotype.training.images import CHANNELS, Mode
from calotype.training.network import Place, ask_hub, place, reason

CLASSES = ("AutoencoderKL", "VQModel")
"""Of diffusers, those that calotype trains."""
OTHERS = ("AsymmetricAutoencoderKL", "AutoencoderDC", "AutoencoderTiny")
"""Of diffusers, those that it takes as they stand."""
TRAINED = (*CLASSES, "VectorAutoencoder")
"""Those, and calotype's own."""
PARTS = ("vae", "vqvae", "")
"""Where in a pipeline one is, or it is no pipeline."""
WEIGHTS = re.compile(r"diffusion_pytorch_model(\.(?P<variant>\w+))?\.safetensors")
"""A file of a stock folder."""
WITHIN = ("first_stage_model.", "vae.")
"""How the names of an autoencoder begin in a file that holds more than it."""
BESIDE = ("loss.", "model_ema.")
"""What the first latent diffusion kept beside it while it trained."""


def load_autoencoder(
    path: str | Path, classes: Sequence[str] = CLASSES, variant: str | None = None
) -> Any:
    """A stock autoencoder of diffusers' `classes` from its folder, from a pipeline's, or from
    the Hub, where owner/name/folder names one of a pipeline's parts; unless told otherwise an
    AutoencoderKL or VQModel, which are what calotype trains. Of a single `.safetensors` file, which
    may have the names of the first latent diffusion, an AutoencoderKL.

    Args:
        path: The folder, file or name.
        classes: Those that will do.
        variant: Of a folder's weights, such as fp16.

    Raises:
        ValueError: there is none, its weights are not safetensors, or they are another class's.
    """
    try:
        where = place(path)
        if Path(where.inside or where.root).suffix == ".safetensors":
            return _of_file(where, classes)
        return _of_folder(where, classes, variant)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, RuntimeError, KeyError) as error:
        kinds = f"{', '.join(classes[:-1])} or {classes[-1]}"
        holds = instead(path, "tokenizer", "pipeline")
        raise ValueError(
            f"no {kinds} in {path}{holds}: expected a folder with config.json and "
            "diffusion_pytorch_model.safetensors, or a name on the Hub"
            f"{'' if holds else reason(path, error)}"
        ) from error


def _of_folder(where: Place, classes: Sequence[str], variant: str | None) -> Any:
    parts = [where / name for name in PARTS]
    if where.is_here:  # of a folder it is seen whether it is a pipeline's
        parts = [part for part in parts[:-1] if part.is_here] or parts[-1:]
    *others, last = parts
    for part in others:
        with contextlib.suppress(OSError):
            return _load(part, classes, variant)
    return _load(last, classes, variant)


def _load(where: Place, classes: Sequence[str], variant: str | None) -> Any:
    loaded: Any = _kind(where, classes).from_pretrained(
        where.root, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True,
        variant=variant, **where.options,
    )  # fmt: skip
    found, report = loaded
    # diffusers loads any class's weights, and leaves at random what is missing among them.
    if wrong := [name for key in ("missing_keys", "unexpected_keys") for name in report[key]]:
        kind = type(found).__name__
        raise ValueError(f"its weights are not a {kind}'s: {wrong[0]} is where it is not")
    return found.eval()


def _kind(where: Place, classes: Sequence[str]) -> Any:
    config: Any = diffusers.AutoencoderKL.load_config(where.root, **where.options)
    name = config.get("_class_name", "AutoencoderKL")
    if name not in classes:
        raise ValueError(f"it is a {name}")
    return getattr(diffusers, name)


def _of_file(where: Place, classes: Sequence[str]) -> Any:
    """By the config.json beside it; where there is none, by the one on the Hub that diffusers takes
    such weights to be of.
    """
    file = where.fetched()
    if file is None:
        raise OSError(f"there is no such file on the Hub: {where.inside}")
    beside = Place(str(file.parent))
    told = (beside / "config.json").is_here
    if told and (stock := WEIGHTS.fullmatch(file.name)):
        return _load(beside, classes, stock["variant"])
    if not told:
        ask_hub()
    kind = _kind(beside, classes) if told else diffusers.AutoencoderKL
    if not hasattr(kind, "from_single_file"):
        raise ValueError(f"a {kind.__name__} is read from its folder alone")
    known = kind is diffusers.AutoencoderKL
    found = kind.from_single_file(
        str(file), config=beside.root if told else None, low_cpu_mem_usage=not known
    )
    # diffusers leaves at random or on no device what it did not find, and drops the rest.
    if known:
        _check_names(file, found)
    elif lacking := [name for name, weight in found.named_parameters() if weight.is_meta]:
        raise ValueError(f"it lacks {lacking[0]}")
    return found.float().eval()


def _check_names(file: Path, found: "diffusers.AutoencoderKL") -> None:
    """See that a file has all weights of an autoencoder, under either names, and no others of one;
    what is other networks' does not count.

    Raises:
        ValueError: some are missing, or are no weights of it.
    """
    with safe_open(file, "pt") as weights:
        shapes = {name: weights.get_slice(name).get_shape() for name in weights.keys()}
    own = set(found.state_dict())
    same = own & shapes.keys()
    became = {name: name for name in same} if 2 * len(same) > len(own) else _first(shapes, found)
    if missing := sorted(own - {*became.values()}):
        raise ValueError(f"it lacks {missing[0]}")
    within = next((p for p in WITHIN if any(name.startswith(p) for name in shapes)), "")
    beside = tuple(within + name for name in BESIDE)
    if unexpected := [name for name in sorted(shapes.keys() - became.keys())
                      if name.startswith(within) and not name.startswith(beside)]:  # fmt: skip
        raise ValueError(f"it has {unexpected[0]}, which is no weight of such an AutoencoderKL")


def _first(shapes: Mapping[str, Sequence[int]], found: "diffusers.AutoencoderKL") -> dict[str, str]:
    """What diffusers calls the weights that have the first latent diffusion's names."""
    # Each is told by a number that it is full of, whatever it is called when it comes back.
    names = list(shapes)
    full = {name: torch.tensor(float(i)).expand(shapes[name]) for i, name in enumerate(names)}
    made = import_module("diffusers.loaders.single_file_utils").convert_ldm_vae_checkpoint(
        full, found.config
    )
    own = found.state_dict()
    return {names[int(w.flatten()[0])]: name for name, w in made.items() if name in own}


def is_trained(autoencoder: Any) -> bool:
    """Whether it is of a class that calotype trains, whose layers are called one by one."""
    # By name: what torch.compile follows asks this too, and cannot follow a lazy import.
    return any(kind.__name__ in TRAINED for kind in type(autoencoder).__mro__)


def features(autoencoder: Any, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b in h w"]:
    """What a bottleneck reads: a posterior's parameters, or a latent, or what becomes a code."""
    if is_trained(autoencoder):
        h = autoencoder.encoder(images)
        return h if autoencoder.quant_conv is None else autoencoder.quant_conv(h)
    found = autoencoder.encode(images)
    if "latent_dist" in found:
        return found.latent_dist.parameters
    return found.latents if "latents" in found else found.latent


def decoded(autoencoder: Any, z: Float[Tensor, "b z h w"]) -> Float[Tensor, "b maps H W"]:
    """All that its decoder emits."""
    if not is_trained(autoencoder):
        return autoencoder.decode(z).sample
    post = autoencoder.post_quant_conv
    h = z if post is None else post(z)
    if autoencoder.config.get("norm_type") == "spatial":
        return autoencoder.decoder(h, z)
    return autoencoder.decoder(h)


def last_layer(autoencoder: Any) -> nn.Conv2d:
    """The convolution whose output is the image."""
    if is_trained(autoencoder):
        return autoencoder.decoder.conv_out
    return [m for m in autoencoder.decoder.modules() if isinstance(m, nn.Conv2d)][-1]


def mode_of(autoencoder: Any) -> Mode:
    """What pictures it takes, as its config says: L, RGB or RGBA.

    Raises:
        ValueError: it takes others.
    """
    channels = autoencoder.config.get("in_channels", 3)
    for mode, count in CHANNELS.items():
        if count == channels:
            return mode
    raise ValueError(
        f"a {type(autoencoder).__name__} of {channels} channels takes no pictures: grey ones have "
        "1, colours 3, colours with alpha 4"
    )


def factor(autoencoder: Autoencoder | Any) -> int:
    """Pixels a side of what becomes one site of the latent."""
    config = autoencoder.config
    if config.get("_class_name") == "VectorAutoencoder":
        return config["sample_size"]
    if isinstance(autoencoder, diffusers.AsymmetricAutoencoderKL):
        return 2 ** (len(config["down_block_out_channels"]) - 1)
    widths = config.get("encoder_block_out_channels") or config["block_out_channels"]
    return 2 ** (len(widths) - 1)
