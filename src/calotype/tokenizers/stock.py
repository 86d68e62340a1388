"""Stock autoencoders from a folder or the Hub."""

import contextlib
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, VQModel

from calotype.tokenizers.bottlenecks import Autoencoder

CLASSES = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}


def load_autoencoder(path: str | Path) -> Autoencoder:
    """A stock AutoencoderKL or VQModel from its folder, from a pipeline's, or from either on the
    Hub.

    Raises:
        ValueError: there is none, its weights are not safetensors, or they are another class's.
    """
    root = Path(path)
    inside = [name for name in ("vae", "vqvae") if (root / name).is_dir()]
    *others, last = inside or ([""] if root.exists() else ["vae", "vqvae", ""])
    for subfolder in others:
        with contextlib.suppress(OSError):
            return _load(path, subfolder)
    try:
        return _load(path, last)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"no AutoencoderKL or VQModel in {path}: expected a folder with config.json and "
            f"diffusion_pytorch_model.safetensors, or a name on the Hub ({error})"
        ) from error


def factor(autoencoder: Autoencoder) -> int:
    """Pixels a side of what becomes one site of the latent."""
    return 2 ** (len(autoencoder.config["block_out_channels"]) - 1)


def _load(path: str | Path, subfolder: str) -> Autoencoder:
    config: Any = AutoencoderKL.load_config(path, subfolder=subfolder)
    kind = CLASSES.get(config.get("_class_name", "AutoencoderKL"))
    if kind is None:
        raise ValueError(f"it is a {config['_class_name']}")
    loaded: Any = kind.from_pretrained(
        path, subfolder=subfolder, use_safetensors=True, low_cpu_mem_usage=False,
        output_loading_info=True,
    )  # fmt: skip
    found, report = loaded
    # diffusers loads any class's weights, and leaves at random what is missing among them.
    if wrong := [name for key in ("missing_keys", "unexpected_keys") for name in report[key]]:
        raise ValueError(f"its weights are not a {kind.__name__}'s: {wrong[0]} is where it is not")
    return found.eval()
