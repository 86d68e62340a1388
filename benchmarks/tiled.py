"""Decoding a picture of 4096 x 4096 in tiles: memory over the weights, difference from the whole,
and what is seen where tiles meet; beside diffusers' own tiles of the same size.

    python benchmarks/tiled.py TOKENIZER --picture PICTURE --size 4096

Memory is that of the process at its height, the result included, each way in a process of its own.
`--full-width` takes a decoder as wide as Stable Diffusion's with fresh weights, of which memory
alone says something; of 640 pixels it is that of one tile.
"""

import json
import multiprocessing
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from PIL import Image

import calotype
from calotype.data.reading.transforms import eight_bits
from calotype.evaluation.speed import Peak
from calotype.tokenizers.preprocessing import Center

WAYS = ("whole", "ours", "diffusers")


@dataclass(frozen=True)
class Tiled:
    """Measure it."""

    tokenizer: tyro.conf.Positional[str]
    """Its folder, or a name on the Hub."""
    picture: Path
    """What is encoded and decoded, enlarged to the size."""
    size: int = 4096
    """Pixels a side."""
    tile: int = 64
    """Sites a side."""
    margin: int = 8
    """Sites around a tile."""
    ways: tuple[str, ...] = WAYS
    full_width: bool = False
    out: Path = Path("runs/tiled")


def prepare(options: Tiled) -> tuple[calotype.ImageTokenizer, torch.Tensor]:
    """The tokenizer and latents to decode."""
    tokenizer = calotype.ImageTokenizer.load(options.tokenizer).eval()
    if options.full_width:
        kind, config = type(tokenizer.autoencoder), dict(tokenizer.autoencoder.config)
        config |= {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
                   "norm_num_groups": 32}  # fmt: skip
        tokenizer = calotype.ImageTokenizer.around(kind.from_config(config).eval())
        side = options.size // tokenizer.factor
        return tokenizer, torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
    image = tokenizer.preprocess(options.picture, Center(options.size))
    return tokenizer, tokenizer.latents(image, calotype.Tiling(options.tile, options.margin))


def decode(options: Tiled, way: str, z: torch.Tensor, channel: Any) -> None:
    """Decode by one way, in a process of its own, and tell what it took."""
    torch.set_num_threads(1)
    tokenizer, _ = prepare(replace(options, size=256))
    with torch.no_grad():
        tokenizer.decode(z[..., :16, :16])  # what libraries take once
        began = time.monotonic()
        with Peak(z.device) as peak:
            image = decoded(options, way, tokenizer, z)
    found = {"seconds": time.monotonic() - began, "MiB over the weights": peak.mib}
    image.numpy().tofile(options.out / f"{way}.raw")
    channel.send(found)


def decoded(
    options: Tiled, way: str, tokenizer: calotype.ImageTokenizer, z: torch.Tensor
) -> torch.Tensor:
    """The image, by one way."""
    if way == "whole":
        return tokenizer.decode(z)
    if way == "ours":
        return tokenizer.decode(z, calotype.Tiling(options.tile, options.margin))
    vae: Any = tokenizer.autoencoder
    vae.enable_tiling()
    vae.tile_latent_min_size = options.tile + 2 * options.margin
    vae.tile_sample_min_size = tokenizer.factor * vae.tile_latent_min_size
    return vae.decode(z).sample


def main(options: Tiled) -> None:
    """Each way in turn."""
    options.out.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        tokenizer, z = prepare(options)
    side = options.size
    print(f"{sum(w.nbytes for w in tokenizer.parameters()) / 2**20:.0f} MiB of weights, "
          f"latents {tuple(z.shape)}, picture {side} x {side}", flush=True)  # fmt: skip
    kept = options.out / "whole.raw"  # of a run before
    whole = (
        torch.from_file(str(kept), size=3 * side * side).view(3, side, side)
        if kept.exists() and "whole" not in options.ways
        else None
    )
    edges = [tokenizer.factor * (z.shape[-1] * i // -(-z.shape[-1] // options.tile))
             for i in range(1, -(-z.shape[-1] // options.tile))]  # fmt: skip
    for way in options.ways:
        here, there = multiprocessing.get_context("spawn").Pipe()
        worker = multiprocessing.get_context("spawn").Process(
            target=decode, args=(options, way, z, there)
        )
        worker.start()
        found = here.recv()
        worker.join()
        image = torch.from_file(str(options.out / f"{way}.raw"), size=3 * side * side)
        image = image.view(3, side, side)
        whole = image if way == "whole" else whole
        if whole is not None and way != "whole":
            error = (image - whole) / 2
            jumps = (error[..., 1:] - error[..., :-1]).abs().mean((0, 1))
            found |= {"mean difference": error.abs().mean().item(),
                      "largest": error.abs().max().item(),
                      "jump of it where tiles meet": jumps[[e - 1 for e in edges]].mean().item(),
                      "jump elsewhere": jumps.mean().item()}  # fmt: skip
        Image.fromarray(eight_bits(image).movedim(0, -1).numpy()).save(options.out / f"{way}.png")
        print(json.dumps({"way": way, **{k: float(f"{v:.4g}") for k, v in found.items()}}),
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Tiled))
