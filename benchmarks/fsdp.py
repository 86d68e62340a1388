"""The peak memory of a rank, of a transformer whose training fits no rank's limit by itself, when
1, 2 and 4 ranks share its weights, gradients, averages and Adam's moments (FSDP2).

    python benchmarks/fsdp.py
    python benchmarks/fsdp.py --limit 500

Every row is two optimiser steps by `fit` on gloo's CPU ranks of one thread, each a process of its
own: how far its resident memory rose above what it was before the network was made. A second time
the kernel refuses a rank more than the limit (RLIMIT_DATA), and the row says whether it trained.
Computed is what lasts from step to step: 20 bytes a parameter, shared. What comes on top is what is
gathered of it (one block, and what is in none), activations, and the network as it is made, which
each rank begins with whole.
"""

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

MIB = 2**20
BYTES = 20
"""Of a float32 parameter: itself, its gradient, Adam's two moments, its average."""
STEPS = 2


class Enough(Exception):  # noqa: N818 (nothing is wrong)
    """All steps have been taken."""


def rank(limit: int) -> None:
    """Train as one of the ranks that the environment says; prints what it took, in bytes.

    Args:
        limit: Bytes that training may take; 0: any.
    """
    import torch

    from calotype.autoregressive import Layout, NextToken, Raster, Transformer
    from calotype.training import AdamW, Batch, Run, fit
    from calotype.training.distributed import processes

    class Counted:
        """Batches, until there are enough."""

        def batches(
            self, position: int = 0, rank: int = 0, world: int = 1, micro_batch: int | None = None
        ) -> Iterator[Batch]:  # fmt: skip
            for step in range(STEPS):
                ids = torch.randint(256, (1, 8, 8), generator=torch.Generator().manual_seed(step))
                yield {"packed": ids.int(), "key": [step * world + rank]}
            raise Enough

    torch.set_num_threads(1)
    world = processes().num_processes
    layout = Layout(text=2, codes=256, codebooks=1, height=8, width=8)
    # What libraries take when they are imported is no part of it.
    for name in ("diffusers.training_utils", "accelerate.tracking", "calotype.training.sharded"):
        import_module(name)
    Transformer(16, 1, 1).build(layout, 0)
    before = _now("VmRSS")
    if limit:
        now = _now("VmData")
        resource.setrlimit(resource.RLIMIT_DATA, (now + limit, now + limit))
    model = Transformer(512, 8, 8).build(layout, 0)
    count = sum(parameter.numel() for parameter in model.parameters())
    objective = NextToken(model, layout, Raster(), AdamW(1e-4), prompted=False)
    run = Run(Path(os.environ["OUT"]), steps=10**6, batch_size=world, precision="fp32")
    try:
        fit([objective], Counted(), run)
    except Enough:
        print(json.dumps({"parameters": count, "peak": _now("VmHWM") - before}), flush=True)
    except (RuntimeError, MemoryError) as error:
        print(error, file=sys.stderr, flush=True)
    os._exit(0)  # without a word to the others, who would be waited for


def _now(name: str) -> int:
    """Bytes, by the kernel."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def together(world: int, limit: int = 0) -> list[dict[str, int]]:
    """What each of so many ranks took; nothing of one that found no memory."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as out:
        shared = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "ACCELERATE_USE_CPU": "true",
                  "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(world),
                  "OMP_NUM_THREADS": "1", "OUT": out,
                  # Or glibc keeps what is freed, and the kernel counts it.
                  "MALLOC_MMAP_THRESHOLD_": "65536"}  # fmt: skip
        command = [sys.executable, __file__, "--rank", str(limit)]
        started = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env={**os.environ, **shared, "RANK": str(i), "LOCAL_RANK": str(i)})
            for i in range(world)
        ]  # fmt: skip
        said = [process.communicate(timeout=120) for process in started]
    found = [json.loads(out.splitlines()[-1]) for out, _ in said if out.strip()]
    if not limit and len(found) < world:
        raise RuntimeError(next(error for out, error in said if not out.strip()))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=400, help="MiB that training may take a rank")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.rank is not None:
        rank(asked.rank)
    print(f"| ranks | lasting, computed (MiB) | peak, measured (MiB) | within {asked.limit} MiB |")
    print("|---|---|---|---|")
    for world in (1, 2, 4):
        took = together(world)
        lasting = BYTES * took[0]["parameters"] / world / MIB
        peak = max(each["peak"] for each in took) / MIB
        trained = len(together(world, asked.limit * MIB)) == world
        print(f"| {world} | {lasting:.0f} | {peak:.0f} | {'trains' if trained else 'no memory'} |",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
