"""Stock autoencoders from a folder or the Hub."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calotype.lazy import diffusers
from calotype.tokenizers.bottlenecks import Autoencoder
from calotype.training.network import ask_hub, missed

CLASSES = ("AutoencoderKL", "VQModel")
"""Of diffusers."""


def load_autoencoder(path: str | Path, classes: Sequence[str] = CLASSES) -> Any:
    """A stock autoencoder of diffusers' `classes` from its folder, from a pipeline's, or from
    the Hub, where owner/name/folder names one of a pipeline's parts; unless told otherwise an
    AutoencoderKL or VQModel, which are what calotype trains.

    Raises:
        ValueError: there is none, its weights are not safetensors, or they are another class's.
    """
    root, (*others, last) = _places(Path(path))
    if not Path(root).exists():
        ask_hub()
    for subfolder in others:
        with contextlib.suppress(OSError):
            return _load(root, subfolder, classes)
    try:
        return _load(root, last, classes)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        unknown = missed(path) if isinstance(error, OSError) else ""
        raise ValueError(
            f"no {' or '.join(classes)} in {path}: expected a folder with config.json and "
            f"diffusion_pytorch_model.safetensors, or a name on the Hub ({error}){unknown}"
        ) from error


def _places(path: Path) -> tuple[str, list[str]]:
    """Where it is, and in which of its folders to look."""
    if path.exists():
        return str(path), [name for name in ("vae", "vqvae") if (path / name).is_dir()] or [""]
    if len(path.parts) == 3:
        return "/".join(path.parts[:2]), [path.parts[2]]
    return str(path), ["vae", "vqvae", ""]


def factor(autoencoder: Autoencoder) -> int:
    """Pixels a side of what becomes one site of the latent."""
    return 2 ** (len(autoencoder.config["block_out_channels"]) - 1)


def _load(path: str, subfolder: str, classes: Sequence[str]) -> Any:
    config: Any = diffusers.AutoencoderKL.load_config(path, subfolder=subfolder)
    name = config.get("_class_name", "AutoencoderKL")
    if name not in classes:
        raise ValueError(f"it is a {name}")
    loaded: Any = getattr(diffusers, name).from_pretrained(
        path, subfolder=subfolder, use_safetensors=True, low_cpu_mem_usage=False,
        output_loading_info=True,
    )  # fmt: skip
    found, report = loaded
    # diffusers loads any class's weights, and leaves at random what is missing among them.
    if wrong := [name for key in ("missing_keys", "unexpected_keys") for name in report[key]]:
        raise ValueError(f"its weights are not a {name}'s: {wrong[0]} is where it is not")
    return found.eval()
