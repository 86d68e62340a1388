"""Entropy models that are fitted to a tokenizer's latents and kept beside it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Num
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from calotype.tokenizers import ImageTokenizer, fingerprint
from calotype.tokenizers.bottlenecks import Discrete
from calotype.training.files import write_bytes
from calotype.training.images import Pixels, sent_images
from calotype.training.network import Place
from calotype.uses.compression.hyperprior import HyperNetwork, Hyperprior, fit_network
from calotype.uses.compression.latents import LatentModel
from calotype.uses.compression.models import Frequencies

FILE = "calotype_entropy.safetensors"
"""Beside a tokenizer: numbers, and what they are as metadata."""
EntropyModel = Frequencies | LatentModel


@torch.no_grad()
def coded(tokenizer: ImageTokenizer, images: Float[Tensor, "b c H W"]) -> Num[Tensor, "b ..."]:
    """What is coded of images in [-1, 1] that are where the tokenizer is: ids, or the likeliest
    latents as generators see them, whose deviation is about 1; on the CPU.
    """
    if isinstance(tokenizer.bottleneck, Discrete):
        return tokenizer.encode_ids(images).cpu()
    return tokenizer.normalised(tokenizer.latents(images)).cpu()


@torch.no_grad()
def read_latents(tokenizer: ImageTokenizer, batches: Iterable[Pixels]) -> Num[Tensor, "n ..."]:
    """What is coded of images: ids of codes, or the likeliest latents.

    Raises:
        ValueError: there are no images, or latents of several shapes.
    """
    device = tokenizer.weight.device
    found = [coded(tokenizer, sent_images(each, device)) for each in batches]
    if not found:
        raise ValueError("no pictures to fit an entropy model to: the data source is empty")
    if len({each.shape[1:] for each in found}) > 1:
        raise ValueError("latents are of several shapes: crop pictures to one")
    return torch.cat(found)


def fit_entropy_model(
    tokenizer: ImageTokenizer, latents: Num[Tensor, "n ..."], spec: Hyperprior
) -> EntropyModel:
    """Fit what a tokenizer's latents, as `read_latents` gives them, are coded by: of codes how
    often each stands, which is counted; of continuous ones a hyperprior.
    """
    bottleneck = tokenizer.bottleneck
    if isinstance(bottleneck, Discrete):
        return Frequencies.of([latents], bottleneck.codebooks, bottleneck.codes)
    return LatentModel.of(fit_network(latents.float(), spec))


def save_entropy_model(
    model: EntropyModel, tokenizer: ImageTokenizer, images: int, folder: Path
) -> Path:
    """Write it beside its tokenizer; returns the file."""
    told: dict[str, Any] = {"latent_space": fingerprint(tokenizer), "images": images}
    if isinstance(model, Frequencies):
        told["kind"], tensors = "frequencies", {"counts": model.counts}
    else:
        network = model.network
        sizes = {"latent": network.latent, "width": network.synthesis[0].out_channels,
                 "channels": network.density.shape[1]}  # fmt: skip
        told |= {"kind": "hyperprior", "network": sizes}
        tensors = {f"network.{name}": each for name, each in network.state_dict().items()}
        tensors |= {"hyper": model.hyper, "tables": model.tables}
    whole = {name: each.detach().cpu().contiguous() for name, each in tensors.items()}
    write_bytes(folder / FILE, save(whole, {"entropy": json.dumps(told)}))
    return folder / FILE


def has_entropy_model(where: Place) -> bool:
    """Whether one lies beside a tokenizer."""
    file = (where / FILE).fetched()
    return file is not None and file.is_file()


def load_entropy_model(where: Place, tokenizer: ImageTokenizer) -> EntropyModel:
    """Read what `save_entropy_model` wrote, in a folder here or on the Hub.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not whole, or was fitted to other latents.
    """
    file = (where / FILE).fetched()
    if file is None or not file.is_file():
        raise FileNotFoundError(
            f"no entropy model in {where.root}: fit one by calotype fit-entropy-model "
            f"{where.root} --data.path DIR, or give the folder of a transformer"
        )
    try:
        with safe_open(file, "pt") as held:
            told = json.loads(held.metadata()["entropy"])
            tensors = {name: held.get_tensor(name) for name in held.keys()}
        model = _restored(told, tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{file} is no entropy model: {error}; fit it again") from error
    if (own := fingerprint(tokenizer)) != told["latent_space"]:
        raise ValueError(
            f"{file} was fitted to latents {told['latent_space']}, and the tokenizer's are {own}: "
            "run calotype fit-entropy-model again"
        )
    return model


def _restored(told: dict[str, Any], tensors: dict[str, Tensor]) -> EntropyModel:
    if told["kind"] == "frequencies":
        return Frequencies(tensors["counts"])
    network = HyperNetwork(**told["network"])
    own = {name.removeprefix("network."): each for name, each in tensors.items()
           if name.startswith("network.")}  # fmt: skip
    network.load_state_dict(own)
    return LatentModel(network.eval(), tensors["hyper"], tensors["tables"])
