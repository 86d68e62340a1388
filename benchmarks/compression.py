"""What compressed pictures cost, and whether they come back.

    python benchmarks/compression.py exact MODEL DATA.parquet --count 10000
    python benchmarks/compression.py damaged MODEL DATA.parquet
    python benchmarks/compression.py cost MODEL DATA.parquet
    python benchmarks/compression.py rates MODEL DATA.parquet --size 64 --peer peer.json

`exact` compresses here with one thread, decodes in another process with other threads and older
instructions, and compares all symbols; pictures a second are those of packing and unpacking
latents, and of all that is between a picture in memory and its file, networks too. `damaged` flips
bytes, cuts, and swaps heads. `cost` is what the exact transformer needs beside the float one's
likelihood. `rates` is `calotype rate-distortion` with the bar of 30 % fewer bits than JPEG at equal
LPIPS; `peer.json` is what compression_peer.py writes. Each exits with 1 where its bar is missed.
DATA are parquet files with pictures, which training has not seen where bits are measured.
"""

import hashlib
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from calotype.data import CenterCrop, Parquet, Transform, some_of

Named = tyro.conf.Positional[Path]
MOST_COST = 0.02
"""Of the float model's bits."""
LEAST_SAVED = 0.3
"""Of JPEG's bits, at equal LPIPS."""
THREADS = 2
"""Of the process that decodes."""


@dataclass(frozen=True)
class Data:
    """Pictures of a parquet file, as squares."""

    data: Named
    count: int | None = 10_000
    """None: all."""
    size: int = 64

    def batches(self, each: int = 64) -> Iterator[Tensor]:
        """Images of 8 bits, so many in all."""
        pictures = Parquet(str(self.data), caption_column=None).build()
        for batch in some_of(pictures, self.count, Transform(CenterCrop(self.size)), each):
            yield batch["image"]


@dataclass(frozen=True)
class Exact:
    """Pictures that come back in another process."""

    model: Named
    pictures: tyro.conf.OmitArgPrefixes[Data]

    def __call__(self) -> bool:
        """Compress, decode elsewhere, compare."""
        from calotype.uses.compression import Codec, Size

        torch.set_num_threads(1)
        codec, latents, files = Codec.load(self.model), list[Tensor](), list[bytes]()
        encoding = packing = 0.0
        size = Size(self.pictures.size, self.pictures.size, codec.tokenizer.factor)
        for images in self.pictures.batches():
            begun = time.perf_counter()
            latents.append(codec.latents(images))
            encoded = time.perf_counter()
            files += codec.pack(latents[-1], size)
            encoding, packing = encoding + encoded - begun, packing + time.perf_counter() - encoded
            print(len(files), file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            held = Path(folder, "files.json")
            held.write_text(json.dumps([file.hex() for file in files]))
            told = _elsewhere("decode", str(self.model), str(held))
        own = [_named(codec, file, row) for file, row in
               zip(files, (row for some in latents for row in some), strict=True)]  # fmt: skip
        wrong = sum(one != other for one, other in zip(own, told["names"], strict=True))
        each = sum(map(len, files)) / len(files)
        print(f"\nEncoded by 1 thread, decoded by {THREADS} and older instructions.\n\n"
              "| pictures | bytes each | packed a second | with the encoder | unpacked a second | "
              "with the decoder | wrong |\n|---|---|---|---|---|---|---|")  # fmt: skip
        seconds = (packing, packing + encoding, told["unpacking"], told["seconds"])
        rates = " | ".join(f"{len(files) / each:.1f}" for each in seconds)
        print(f"| {len(files)} | {each:.1f} | {rates} | {wrong} |")
        return wrong == 0


@dataclass(frozen=True)
class Decode:
    """What `exact` starts."""

    model: Named
    files: Named

    def __call__(self) -> bool:
        """Decode, and print what came back."""
        from calotype.uses.compression import Codec
        from calotype.uses.compression.codec import together

        codec, files = Codec.load(self.model), json.loads(self.files.read_text())
        begun = time.perf_counter()
        read, drawing, names = [codec.read(bytes.fromhex(each)) for each in files], 0.0, {}
        for places in together(read):
            latents = codec.unpack([read[i] for i in places])
            names |= {i: _digest(row) for i, row in zip(places, latents, strict=True)}
            unpacked = time.perf_counter()
            codec.pictures(latents, codec.size(read[places[0]]))
            drawing += time.perf_counter() - unpacked
        seconds = time.perf_counter() - begun
        print(json.dumps({"names": [names[i] for i in range(len(read))], "seconds": seconds,
                          "unpacking": seconds - drawing}))  # fmt: skip
        return True


def _elsewhere(*arguments: str) -> Any:
    old = {"OMP_NUM_THREADS": str(THREADS), "ATEN_CPU_CAPABILITY": "default",
           "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "MKL_DYNAMIC": "FALSE"}  # fmt: skip
    done = subprocess.run([sys.executable, __file__, *arguments], env={**os.environ, **old},
                          stdout=subprocess.PIPE, text=True, check=True)  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def _named(codec: Any, file: bytes, row: Tensor) -> str:
    """Of what a file ought to come back as."""
    from calotype.uses.compression.latents import LatentModel

    if isinstance(codec.models, LatentModel):
        method = codec.read(file).method
        return _digest(codec.models.quantise(row[None], method).values[0])
    return _digest(row.long())


def _digest(row: Tensor) -> str:
    return hashlib.sha256(row.contiguous().numpy().tobytes()).hexdigest()


@dataclass(frozen=True)
class Damaged:
    """Damaged files, all of which must be found."""

    model: Named
    pictures: tyro.conf.OmitArgPrefixes[Data]
    damaged: int = 1000

    def __call__(self) -> bool:
        """Damage and read."""
        from calotype.uses.compression import Codec, DamagedError

        codec, files = Codec.load(self.model), list[bytes]()
        for images in Data(self.pictures.data, 64, self.pictures.size).batches():
            files += codec.compress(images)
        chance, found = random.Random(0), {"flipped": [0, 0], "cut": [0, 0], "swapped": [0, 0]}
        while sum(count for _, count in found.values()) < self.damaged:
            kind = chance.choice(list(found))
            broken = _broken(kind, chance, files)
            if broken in files:
                continue
            found[kind][1] += 1
            try:
                codec.read(broken)
            except DamagedError:
                found[kind][0] += 1
        print("| damage | found | of |\n|---|---|---|")
        for kind, (right, count) in found.items():
            print(f"| {kind} | {right} | {count} |")
        return all(right == count for right, count in found.values())


def _broken(kind: str, chance: random.Random, files: list[bytes]) -> bytes:
    file, other = bytearray(chance.choice(files)), chance.choice(files)
    if kind == "flipped":
        for _ in range(chance.randint(1, 4)):
            file[chance.randrange(len(file))] ^= chance.randint(1, 255)
    elif kind == "cut":
        del file[chance.randrange(len(file)) :]
    else:
        head = chance.randrange(1, min(len(file), len(other)))
        file[:head] = other[:head]
    return bytes(file)


@dataclass(frozen=True)
class Cost:
    """Bits of the exact transformer beside those of the float one."""

    model: Named
    pictures: tyro.conf.OmitArgPrefixes[Data]

    def __call__(self) -> bool:
        """Measure both."""
        from calotype.autoregressive import log_likelihood
        from calotype.pipelines import TokenPipeline, load
        from calotype.uses.compression import Codec

        pipeline = load(self.model)
        assert isinstance(pipeline, TokenPipeline)
        codec, float_bits, exact_bits, bits, count = Codec.of(pipeline), 0.0, 0.0, 0, 0
        exact = codec.models[0].exact
        for images in self.pictures.batches():
            codes = pipeline.codes(images)
            none = codes.new_zeros(len(codes), 0)
            nats = log_likelihood(pipeline.transformer, pipeline.layout, none, none.sum(1), codes)
            float_bits -= nats.double().sum().item() / math.log(2)
            read = 0
            for block in exact.weights(pipeline.layout, codes):
                some = codes[:, read : read + block.shape[1], None]
                exact_bits -= (block.gather(2, some)[..., 0] / block.sum(-1)).log2().sum().item()
                read += block.shape[1]
            found = [codec.read(file) for file in codec.compress(images)]
            bits += 8 * sum(len(each.data) for each in found)
            count += len(images)
        print("| pictures | float model | exact model | coded, whole bytes |\n|---|---|---|---|")
        print(f"| {count} | {float_bits / count:.2f} bits | {exact_bits / count:.2f} "
              f"({exact_bits / float_bits - 1:+.3%}) | {bits / count:.2f} "
              f"({bits / float_bits - 1:+.2%}) |")  # fmt: skip
        return exact_bits / float_bits - 1 <= MOST_COST


@dataclass(frozen=True)
class Rates:
    """Bits and distortion beside other codecs'."""

    model: Named
    pictures: tyro.conf.OmitArgPrefixes[Data]
    weights: Path | None = None
    """Folder of LPIPS' backbones."""
    peer: Path | None = None
    """What `peer` has written."""
    out: Path = Path("rates")

    def __call__(self) -> bool:
        """Measure, and compare with JPEG."""
        from calotype.commands.rate_distortion import RateDistortion, rate_distortion
        from calotype.evaluation.rates import Rate, saved

        data = Parquet(str(self.pictures.data), caption_column=None)
        rate_distortion(RateDistortion(
            models=(str(self.model),), data=data, size=self.pictures.size,
            count=self.pictures.count, backbone_weights=self.weights, out=self.out,
        ))  # fmt: skip
        told = json.loads((self.out / "rates.json").read_text())
        told += json.loads(self.peer.read_text()) if self.peer else []
        rates = []
        for each in told:
            figures = {name: value for name, value in each.items() if "_" in name}
            pixels = 8 * each["bytes"] / figures.pop("bits_per_pixel")
            sums = {name: value * each["pictures"] for name, value in figures.items()}
            rates.append(Rate(each["codec"], each["quality"], each["pictures"], round(pixels),
                              each["bytes"], sums))  # fmt: skip
        jpeg = [each for each in rates if each.codec == "JPEG"]
        best = -math.inf
        print("\n| codec | bits a pixel | PSNR | LPIPS of AlexNet | of VGG | "
              "bits saved beside JPEG at equal LPIPS of AlexNet | of VGG |\n"
              "|---|---|---|---|---|---|---|")  # fmt: skip
        for each in rates:
            if each.codec in ("JPEG", "WebP", "AVIF", "JPEG XL"):
                continue
            won = [saved(each, jpeg, name) for name in ("lpips_alex", "lpips_vgg")]
            if each.codec == str(self.model) and won[0] is not None:
                best = max(best, won[0])
            names, digits = ("psnr_db", "lpips_alex", "lpips_vgg"), (2, 4, 4)
            told = [f"{each.figures[name]:.{n}f}" for name, n in zip(names, digits, strict=True)]
            told += ["beyond" if part is None else f"{part:.0%}" for part in won]
            row = [f"{each.codec} {each.quality}", f"{each.bits_per_pixel:.4f}", *told]
            print(f"| {' | '.join(row)} |")
        return best >= LEAST_SAVED


Command = (
    Annotated[Exact, tyro.conf.subcommand("exact")]
    | Annotated[Decode, tyro.conf.subcommand("decode")]
    | Annotated[Damaged, tyro.conf.subcommand("damaged")]
    | Annotated[Cost, tyro.conf.subcommand("cost")]
    | Annotated[Rates, tyro.conf.subcommand("rates")]
)

if __name__ == "__main__":
    sys.exit(0 if tyro.cli(Command)() else 1)  # type: ignore[operator]
