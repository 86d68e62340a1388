"""Pictures as vectors: by a tokenizer, and by what it has to be better than."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.lazy import transformers
from calotype.tokenizers import ImageTokenizer
from calotype.training.images import Pixels, in_colour, sent_images
from calotype.training.network import ask_hub, located, reason

Representation = Callable[[Pixels], Float[Tensor, "b d"]]
"""Makes vectors of images [b, c, H, W], of 8 bits or in [-1, 1]; nothing is drawn."""


def of_latents(tokenizer: ImageTokenizer) -> Representation:
    """All numbers of the likeliest latents: posteriors' means, or the vectors of codes."""
    tokenizer = tokenizer.eval()

    @torch.no_grad()
    def represent(images: Pixels) -> Float[Tensor, "b d"]:
        there = sent_images(images, tokenizer.last_layer.weight.device)
        return tokenizer.latents(there).flatten(1).float().cpu()

    return represent


def of_pixels(side: int = 32) -> Representation:
    """The pixels themselves, of larger pictures those of a copy `side` pixels wide and high: what
    asks for no network at all.
    """

    def represent(images: Pixels) -> Float[Tensor, "b d"]:
        found = sent_images(images, torch.device("cpu"))
        if max(found.shape[-2:]) > side:
            found = nn.functional.interpolate(found, (side, side), mode="area")
        return found.flatten(1)

    return represent


def untrained(tokenizer: ImageTokenizer, seed: int = 0) -> ImageTokenizer:
    """The same tokenizer with an encoder that has learnt nothing: its weights begin as they did.
    What such a one tells of pictures its architecture tells.
    """
    fresh = deepcopy(tokenizer)
    _begin_again(fresh.autoencoder, seed)
    return fresh.eval()


def _begin_again(network: Any, seed: int) -> None:
    """Give its layers the weights that they begin with; what none has, positions, stays."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in network.modules():
            begin: Callable[[], None] | None = getattr(module, "reset_parameters", None)
            if begin is not None:
                begin()


def _vision_model(name: str, trained: bool) -> tuple[Any, Any]:
    """The model, and what makes its input of pictures."""
    where = located(name, "model")
    ask_hub()
    try:
        maker = transformers.AutoImageProcessor.from_pretrained(where)
        return _loaded(where) if trained else _anew(where), maker
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"no vision transformer in {name}: expected config.json, model.safetensors and "
            "preprocessor_config.json, as train-encoder leaves them, or a name on the Hub"
            f"{reason(name, error)}"
        ) from error


def _loaded(where: str | Path) -> Any:
    return transformers.AutoModel.from_pretrained(where, use_safetensors=True)


def _anew(where: str | Path) -> Any:
    """What training began with, by the config alone: of a trained one positions and the class token
    would stay, which no layer begins anew.
    """
    config = transformers.AutoConfig.from_pretrained(where)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModel.from_config(config)


def of_vision_model(name: str, device: torch.device, trained: bool = True) -> Representation:
    """The first token, or the mean of all where there is no pooled one, of a vision transformer of
    transformers: a folder, such as `train-encoder` leaves, or a name on the Hub. It sees all of a
    picture, whatever was hidden from it in training.

    Args:
        name: Which.
        device: Where it computes.
        trained: Whether by its own weights; or by such as its class begins with, so that what its
            architecture tells stands beside what its training does.

    Raises:
        ValueError: there is none of that name, or it makes no vectors of pictures.
    """
    model, made = _vision_model(name, trained)
    model = model.to(device).eval()
    if hasattr(model.config, "mask_ratio"):
        model.config.mask_ratio = 0.0
    grey = getattr(model.config, "num_channels", 3) == 1

    @torch.no_grad()
    def represent(images: Pixels) -> Float[Tensor, "b d"]:
        colours = in_colour(sent_images(images, torch.device("cpu")))
        seen = colours.mean(1, keepdim=True) if grey else colours
        bits = (seen.clamp(-1, 1) + 1).mul(127.5).round().byte()
        told = made(images=list(bits), return_tensors="pt").to(device)
        found = model(**told)
        pooled = getattr(found, "pooler_output", None)
        return (found.last_hidden_state.mean(1) if pooled is None else pooled).float().cpu()

    _try(represent, name, type(model).__name__)
    return represent


def _try(represent: Representation, name: str, kind: str) -> None:
    """Refuse what makes no vector of a picture, before there are many.

    Raises:
        ValueError: it is such a one.
    """
    try:
        made = represent(torch.zeros(1, 3, 32, 32)).ndim == 2
    except (ValueError, TypeError, AttributeError, RuntimeError, IndexError, KeyError):
        made = False
    if not made:
        raise ValueError(
            f"{name} is a {kind}, which makes no vector of a picture alone: name a vision "
            "transformer, such as a ViTModel or what train-encoder leaves"
        )
