"""FSDP2: processes that hold shares of weights train what processes that hold all of them do."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file

import tiny
from calotype.commands.cache_latents import cache
from calotype.training import Best, checkpoint, parted
from calotype.training.distributed import leave
from calotype.training.run import Run
from ranks import together

pytestmark = pytest.mark.slow


def in_shares(rank: int, world: int, port: int, shared: bool, runs: Sequence[tuple[str, Run]]):
    """Train one run after another as one of several ranks; `shared`: by FSDP2."""
    if shared:
        os.environ.update(ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    tiny.join(rank, world, port)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    for kind, run in runs:
        objectives = tiny.train(kind, run)
        kinds = [sorted({f"{type(p).__name__} on {p.device.type}" for p in each.parameters()
                         if p.requires_grad}) for each in objectives]  # fmt: skip
        (run.out / f"left-on-{rank}.json").write_text(json.dumps(kinds))
        if rank == 0:
            state = objectives[0].state_dict()
            left = {name: tensor.detach().clone() for name, tensor in state.items()}
            tiny.save_file(left, run.out / "left.safetensors")
    leave()


def groups(run: Run, step: int) -> dict[str, dict[str, torch.Tensor]]:
    """All that a checkpoint holds, whoever wrote it."""
    folder = run.checkpoints / f"step-{step}"
    return (parted.whole if checkpoint.is_parted(folder) else checkpoint.read)(folder)[0]


def apart(one: Any, other: Any) -> float:
    """The largest difference between tensors of the same names."""
    if isinstance(one, torch.Tensor):
        return (one.float() - other.float()).abs().max().item() if one.numel() else 0.0
    assert one.keys() == other.keys()
    return max((apart(one[name], other[name]) for name in one), default=0.0)


def test_shares_equal_whole_weights(tmp_path):
    """50 steps of a diffusion model, a transformer, and a tokenizer with its adversary: weights,
    averages, moments, pictures and what is left for export."""
    kinds = ("generator", "transformer", "tokenizer")
    changes = {"steps": 50, "batch_size": 4, "save_every": 50, "sample_every": 50, "log_every": 25}
    runs = {
        shared: [(kind, tiny.run(tmp_path / f"{kind}-{shared}", **changes)) for kind in kinds]
        for shared in (False, True)
    }
    for shared in runs:
        together(2, in_shares, shared, runs[shared])
    for (kind, whole), (_, shared) in zip(*runs.values(), strict=True):
        one, other = groups(whole, 50), groups(shared, 50)
        for name in one.keys() - {"means"}:
            assert apart(one[name], other[name]) < 1e-4, (kind, name)
        left = [load_file(run.out / "left.safetensors") for run in (whole, shared)]
        assert apart(*left) < 1e-4, kind
        for line, same in zip(*(lines(run) for run in (whole, shared)), strict=True):
            assert line.keys() == same.keys()  # a gradient is called as before
        parts = sorted((shared.checkpoints / "step-50").glob("shard-*.safetensors"))
        sizes = [part.stat().st_size for part in parts]
        assert len(sizes) == 2 and min(sizes) > 0.4 * max(sizes), (kind, sizes)
        main, other = (json.loads((shared.out / f"left-on-{r}.json").read_text()) for r in (0, 1))
        here, empty = ["Parameter on cpu"], ["Parameter on meta"]
        assert main == [here] * len(main), "all of it is ordinary again"
        # A tokenizer is measured by all.
        assert other == ([here, empty] if kind == "tokenizer" else [empty])
    picture = Path("samples/0000050.png")
    assert (runs[True][2][1].out / picture).exists()


def lines(run: Run) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run.out / "metrics.jsonl").read_text().splitlines()]


def test_shares_resume_exactly_and_on_other_numbers_of_ranks(tmp_path):
    """Two ranks as if never stopped, bit for bit; three, one, and two that hold all, from the same
    checkpoint: what they take up is what was written."""
    changes = {"steps": 4, "batch_size": 12, "save_every": 2, "keep": 9}
    whole = tiny.run(tmp_path / "whole", **changes)
    parts = tiny.run(tmp_path / "parts", **{**changes, "steps": 2})
    on = tiny.run(tmp_path / "parts", **changes, resume=True)
    codes = tiny.run(tmp_path / "codes", **{**changes, "steps": 2})
    more = tiny.run(tmp_path / "codes", **changes, resume=True)
    through = tiny.run(tmp_path / "codes-whole", **changes)
    together(2, in_shares, True, [
        ("generator", whole), ("generator", parts), ("generator", on),
        ("vq-loss", through), ("vq-loss", codes), ("vq-loss", more),
    ])  # fmt: skip
    for once, twice in ((whole, on), (through, more)):
        one, other = groups(once, 4), groups(twice, 4)
        assert one.keys() == other.keys() and apart(one, other) == 0
    for world, shared in ((3, True), (1, False), (2, False)):
        out = tmp_path / f"on-{world}-{shared}"
        then = tiny.run(out, **changes, resume=True)
        copied(parts.checkpoints / "step-2", then.checkpoints / "step-2")
        together(world, in_shares, shared, [("generator", then)])
        assert apart(groups(whole, 4)["model-0"], groups(then, 4)["model-0"]) < 1e-5, world


def copied(folder: Path, place: Path) -> None:
    place.mkdir(parents=True)
    for file in folder.iterdir():
        (place / file.name).write_bytes(file.read_bytes())


def whole_way(rank: int, world: int, port: int, shared: bool, root: Path, artifacts: Path) -> None:
    """A tokenizer with codes that a loss moves, and its adversary; a cache; a transformer over it,
    and a diffusion pipeline over others' latents: with pictures and figures on the way."""
    if shared:
        os.environ.update(ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    tiny.join(rank, world, port)
    torch.set_num_threads(1)
    tokenizer, cached, transformer = tiny.token_recipes(root, tiny.BOTTLENECKS["vq-loss"])
    often = {"steps": 2, "batch_size": 4, "sample_every": 1, "evaluate_every": 1, "save_every": 1}
    held_out = tiny.Scenes(size=tiny.SIZE, split="held-out", count=4)
    best = tiny.run(tokenizer.run.out, **often, best=Best())
    tiny.train_tokenizer(replace(tokenizer, adversary=tiny.adversary(), validation=held_out,
                                 run=best))  # fmt: skip
    cache(cached)
    tiny.train_generator(replace(transformer, run=tiny.run(transformer.run.out, **often)))
    diffusion = tiny.run(root / "diffusion", **often)
    tiny.train("pipeline", diffusion, artifacts)
    leave()


def test_a_whole_way_in_shares_ends_in_the_same_folders(artifacts, tmp_path):
    for shared in (False, True):
        together(2, whole_way, shared, tmp_path / str(shared), artifacts)
    for name in ("codes", "transformer", "diffusion"):
        one, other = (tmp_path / str(shared) / name for shared in (False, True))
        models = [sorted(f.relative_to(out) for f in (out / "model").rglob("*") if f.is_file())
                  for out in (one, other)]  # fmt: skip
        assert models[0] == models[1]
        for file in models[0]:
            if file.suffix == ".safetensors":
                assert apart(load_file(one / file), load_file(other / file)) < 1e-4, (name, file)
        assert (other / "samples/0000002.png").exists()
    said = (tmp_path / "True/codes/metrics.jsonl").read_text()
    assert "validation/psnr_db" in said and "critic_gradient" in said


def broken(rank: int, world: int, port: int, run: Run) -> None:
    """Train on what is not finite on one rank alone."""
    os.environ.update(ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    tiny.join(rank, world, port)
    torch.set_num_threads(1)
    rows = tiny.latents()
    if rank == 1:
        rows["packed"][:] = float("nan")
    objective = tiny.denoising()
    said = []
    run.out.mkdir(parents=True, exist_ok=True)
    try:
        tiny.fit([objective], tiny.Repeating(rows, 4), run)
    except ValueError as error:
        said.append(str(error))
    (run.out / f"said-{rank}.json").write_text(json.dumps(said))
    leave()


def test_all_ranks_skip_what_is_not_finite_on_one(tmp_path):
    run = tiny.run(tmp_path / "run", steps=9, batch_size=4, patience=2, save_every=9)
    together(2, broken, run)
    said = [json.loads((run.out / f"said-{rank}.json").read_text()) for rank in (0, 1)]
    assert said[0] == said[1] and "not finite for 2 steps in a row" in said[0][0]


def full(rank: int, world: int, port: int, run: Run) -> None:
    """Save twice; the second time the disk fails under one rank alone."""
    os.environ.update(ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    tiny.join(rank, world, port)
    torch.set_num_threads(1)
    checksum, count = checkpoint.checksum, 0

    def failing(file: Path) -> str:
        nonlocal count
        count += 1
        if rank == 1 and count > 1:
            raise OSError(28, "No space left on device", str(file))
        return checksum(file)

    said = ""
    with patch.object(checkpoint, "checksum", failing):
        try:
            tiny.train("generator", run)
        except OSError as error:
            said = str(error)
    run.out.joinpath(f"said-{rank}.json").write_text(json.dumps(said))
    leave()


def test_a_checkpoint_that_one_rank_cannot_write_is_none(tmp_path):
    """It ends all of them, and leaves the one before."""
    run = tiny.run(tmp_path / "run", steps=2, batch_size=4, save_every=1)
    together(2, full, run)
    said = [json.loads((run.out / f"said-{rank}.json").read_text()) for rank in (0, 1)]
    assert "make room there" in said[0] and "No space left" in said[1]
    assert [folder.name for folder in run.checkpoints.iterdir()] == ["step-1"]


def test_a_damaged_part_is_noticed(tmp_path):
    run = tiny.run(tmp_path / "run", steps=1, batch_size=4, save_every=1)
    together(2, in_shares, True, [("generator", run)])
    folder = run.checkpoints / "step-1"
    assert parted.checked(folder)[1]["step"] == 1
    part = max(folder.glob("shard-*.safetensors"))
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    with pytest.raises(checkpoint.DamagedError, match=part.name):
        parted.checked(folder)
