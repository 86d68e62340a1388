"""A trained tokenizer goes on to be trained, whole.

A stock export has no place for all that training needs: what its bottleneck was trained by and
remembers, which latents it had before they were normalised, the discriminator. These stand beside
it, in a file that stock classes do not look for.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from calotype.lazy import diffusers
from calotype.tokenizers.bottlenecks import (
    VQ,
    Autoencoder,
    Bottleneck,
    BottleneckSpec,
    Discrete,
    GaussianBottleneck,
    Table,
    VectorQuantizer,
)
from calotype.tokenizers.bottlenecks.codebook import Codebook, Uniform
from calotype.tokenizers.critic import Critic
from calotype.tokenizers.latent_space import LatentStatistics, check_folds, unfold
from calotype.tokenizers.stock import CLASSES, PARTS
from calotype.tokenizers.tokenizer import KEPT_IN, ImageTokenizer
from calotype.tokenizers.vector import VectorAutoencoder
from calotype.training.description import describe, restore
from calotype.training.network import located, place

KEPT = "calotype_training.safetensors"
"""Beside a saved tokenizer, where calotype trained it."""
LAST = "autoencoder.decoder.conv_out"
"""The convolution of which an export keeps a picture's own channels alone."""


@dataclass(frozen=True)
class Kept:
    """What stands beside an export."""

    bottleneck: BottleneckSpec | None = None
    """What it was trained as; None: its latents were another tokenizer's, and stayed so."""
    steps: int = 0
    """Optimiser steps that it has been trained for."""
    tensors: Mapping[str, Tensor] | None = None
    """By `mean` and `std`, what was folded; by `tokenizer.`, what the export lacks of its state; by
    `critic.`, the discriminator's."""

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose names begin so, by the rest of those."""
        own = self.tensors or {}
        return {n.removeprefix(prefix): t for n, t in own.items() if n.startswith(prefix)}

    @property
    def folded(self) -> LatentStatistics | None:
        """What was folded into the export; None: nothing was."""
        own = self.tensors or {}
        return LatentStatistics(own["mean"], own["std"], 0) if "mean" in own else None

    def write(self, folder: Path) -> None:
        """Put it beside an export."""
        described = None if self.bottleneck is None else describe(self.bottleneck)
        # One entry: several are written in an order of chance.
        about = {"calotype": json.dumps({"bottleneck": described, "steps": self.steps})}
        tensors = {name: t.detach().cpu().contiguous() for name, t in (self.tensors or {}).items()}
        save_file(tensors, folder / KEPT, metadata=about)

    @classmethod
    def read(cls, path: str | Path) -> "Kept":
        """What stands beside a tokenizer, here or on the Hub; nothing, if it is another's.

        Raises:
            ValueError: the file is damaged, or of another version.
        """
        where = place(path)
        found = ((where / f"{part}/{KEPT}".strip("/")).fetched() for part in PARTS)
        file = next((each for each in found if each), None)
        if file is None:
            return cls()
        try:
            with safe_open(file, "pt") as found:
                about = found.metadata()
                tensors = {name: found.get_tensor(name) for name in found.keys()}
            said = json.loads(about["calotype"]) if "calotype" in about else {
                name: json.loads(value) for name, value in about.items()}  # fmt: skip
            return cls(restore(BottleneckSpec, said["bottleneck"]), int(said["steps"]), tensors)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} cannot be read ({error}): put back a copy") from error


def kept_of(
    tokenizer: ImageTokenizer, steps: int, folded: LatentStatistics | None, critic: Critic | None
) -> Kept:
    """What an export of a tokenizer leaves out.

    Args:
        tokenizer: As it is exported.
        steps: Optimiser steps of this run.
        folded: What was folded into it; None: its latents stayed what they were.
        critic: Its adversary, if it has one.
    """
    tensors = {} if critic is None else _named("critic.", critic.state_dict())
    bottleneck = tokenizer.bottleneck
    moves = folded is not None or not bottleneck.may_scale
    if not moves or isinstance(bottleneck, Table):
        return Kept(tensors=tensors)
    if folded is not None:
        tensors |= {"mean": folded.mean, "std": folded.std}
    tensors |= _named("tokenizer.bottleneck.", bottleneck.state_dict())
    if tokenizer.maps > tokenizer.channels:
        tensors |= _named(f"tokenizer.{LAST}.", tokenizer.last_layer.state_dict())
    spec: Any = getattr(bottleneck, "spec", None)
    return Kept(spec, bottleneck.taken + steps, tensors)


def go_on(path: str | Path, asked: BottleneckSpec | None = None) -> ImageTokenizer:
    """A trained tokenizer from its folder or the Hub, all of which can be trained.

    One of calotype's has the latents that it had before they were normalised, and its bottleneck
    what it remembers, so that its loss is what it was. Another's has the latents of its author.

    Args:
        path: The folder, a run's too, or the name.
        asked: What it is trained as; None: as it was, another's as `usual` says.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is no tokenizer, or it is nothing that could be trained so, or its latents
            could not be normalised afterwards.
    """
    path = located(path, *KEPT_IN)
    found, kept = ImageTokenizer.load(path, classes=CLASSES), Kept.read(path)
    check_folds(found)
    bottleneck = _bottleneck(found, kept, asked)
    bottleneck.taken = kept.steps
    model = _with_maps(found.autoencoder, kept.part(f"tokenizer.{LAST}."))
    if isinstance(model, diffusers.VQModel):
        model.quantize = None  # type: ignore[assignment]  # the bottleneck has the codes
    tokenizer = ImageTokenizer(model, bottleneck)
    if (folded := kept.folded) is not None:
        unfold(tokenizer, folded)
    return tokenizer


def take_up(critic: Critic, path: str | Path) -> bool:
    """Give an adversary the discriminator that a tokenizer was trained against; returns whether one
    was kept.

    Raises:
        ValueError: it is of another width or depth.
    """
    state = Kept.read(located(path, *KEPT_IN)).part("critic.")
    own = critic.state_dict()
    if state and {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in own.items()}:
        raise ValueError(
            f"model.path: {path} keeps a discriminator of other adversary.width or "
            "adversary.layers: give those, or begin a new one with --model.no-discriminator"
        )
    if state:
        critic.load_state_dict(state)
    return bool(state)


def usual(bottleneck: Bottleneck) -> BottleneckSpec:
    """What another's tokenizer is trained as: with LDM's weight of the divergence, or with codes
    that a loss moves and nothing sets anew.
    """
    if isinstance(bottleneck, GaussianBottleneck):
        return bottleneck.spec
    assert isinstance(bottleneck, Discrete)
    return VQ(Codebook(bottleneck.codes, bottleneck.z_channels, init=Uniform(), restart=None))


def _bottleneck(found: ImageTokenizer, kept: Kept, asked: BottleneckSpec | None) -> Bottleneck:
    was = found.bottleneck
    own: Any = getattr(was, "spec", None)
    made = (asked or kept.bottleneck or own or usual(was)).build()
    if _shape(made) != _shape(was):
        raise ValueError(
            f"model.bottleneck makes {_shape(made)} of it, and it has {_shape(was)}: give the "
            "same, or begin another tokenizer with its weights by model:new-tokenizer --model.start"
        )
    state = kept.part("tokenizer.bottleneck.") or (was.state_dict() if own else {})
    if {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in made.state_dict().items()}:
        made.load_state_dict(state)
    elif isinstance(made, VectorQuantizer) and isinstance(was, Discrete):
        _adopt(made, was, state)
    elif isinstance(made, Discrete):
        raise ValueError(
            f"a {type(made).__name__} cannot take over the codes of a {type(was).__name__}: leave "
            "model.bottleneck out, or begin anew with model:new-tokenizer --model.start"
        )
    return made


def _shape(bottleneck: Bottleneck) -> str:
    channels = f"{bottleneck.z_channels} channels"
    return (
        f"{bottleneck.codes} codes of {channels}" if isinstance(bottleneck, Discrete) else channels
    )


@torch.no_grad()
def _adopt(made: VectorQuantizer, was: Discrete, state: Mapping[str, Tensor]) -> None:
    """Let a learnt codebook begin with codes that are there.

    Raises:
        ValueError: it compares on a sphere, and they are on none.
    """
    for name in ("shift", "scale"):
        if name in state:
            getattr(made, name).copy_(state[name])
    codes, book = made.own(was.table()[:, :, None, None])[:, :, 0, 0], made.codebook
    every = torch.ones(len(codes), dtype=torch.bool)
    book.place(every, codes)
    book.weigh(every, torch.full((len(codes),), 1 / len(codes)))
    book.started.fill_(True)
    if not torch.allclose(book.codes, codes, atol=1e-4):
        raise ValueError("its codes are on no sphere: choose similarity:euclidean")


def _with_maps(model: Autoencoder | VectorAutoencoder, last: Mapping[str, Tensor]) -> Any:
    """An autoencoder with all maps that its decoder emitted; one of a vector has them already."""
    if not last or isinstance(model, VectorAutoencoder):
        return model
    whole: Any = type(model).from_config({**model.config, "out_channels": len(last["bias"])})
    whole.load_state_dict({**model.state_dict(), **_named("decoder.conv_out.", last)})
    return whole


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}
