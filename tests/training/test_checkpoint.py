"""Checkpoints that a disk has damaged, or has no room for."""

import errno
import json
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

import tiny
from calotype.data.cache.shards import write_tensors
from calotype.mistakes import is_told
from calotype.training import Best, checkpoint, fit
from calotype.training.checkpoint import SUMS, DamagedError


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def turned(file: Path) -> None:
    """One bit near the end: in safetensors of a number, which nothing else would show."""
    data = bytearray(file.read_bytes())
    data[-2] ^= 1
    file.write_bytes(data)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def torn(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:20])


def gone(file: Path) -> None:
    file.unlink()


def trained(out: Path, **changes) -> torch.Tensor:
    (objective,) = tiny.train("generator", tiny.run(out, save_every=1, **changes))
    return torch.cat([p.detach().flatten() for p in objective.parameters()])


NAMES = ("model-0.safetensors", "ema.safetensors", "state.json", SUMS)
# Without sums a checkpoint is as versions before left it.
DAMAGES = [(name, damage) for name in NAMES for damage in (cut, turned, gone, emptied, torn)
           if (name, damage) != (SUMS, gone)]  # fmt: skip


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_bug_a_damaged_newest_checkpoint_ended_the_run(name, damage, tmp_path, capfd):
    """With a library's error, or, where a bit had turned, with weights that were never trained. It
    is named and set aside, and the one before goes on to where the whole run comes out.
    """
    expected = trained(tmp_path / "whole", steps=4)
    trained(tmp_path / "run", steps=3)
    damage(tmp_path / "run/checkpoints/step-3" / name)
    found = trained(tmp_path / "run", steps=4, resume=True)
    assert torch.equal(found, expected)
    said = capfd.readouterr().err
    assert "step-3-damaged, going on from step-2" in said and "damaged: " in said
    assert name in said or name == SUMS
    kept = [path.name for path in sorted((tmp_path / "run/checkpoints").iterdir())]
    assert kept == ["step-3", "step-3-damaged", "step-4"]


def test_checksums_are_those_that_sha256sum_reads(tmp_path):
    trained(tmp_path)
    folder = tmp_path / "checkpoints/step-3"
    check = ["sha256sum", "--check", "--strict", "--quiet", SUMS]
    subprocess.run(check, cwd=folder, check=True)
    turned(folder / "model-0.safetensors")
    assert subprocess.run(check, cwd=folder, capture_output=True, check=False).returncode == 1


def test_damage_is_found_without_checksums_too_where_nothing_can_be_read(tmp_path):
    """As versions before wrote checkpoints."""
    trained(tmp_path)
    for step in (2, 3):
        (tmp_path / f"checkpoints/step-{step}" / SUMS).unlink()
    cut(tmp_path / "checkpoints/step-3/optimizer-0.safetensors")
    found = checkpoint.newest(tmp_path / "checkpoints")
    assert found is not None and found.folder.name == "step-2" and found.state["step"] == 2
    assert [path.name for path in found.damaged] == ["step-3"]


def test_where_each_is_damaged_nothing_begins_anew(tmp_path):
    trained(tmp_path)
    folders = checkpoint.complete(tmp_path / "checkpoints")
    for folder in folders:
        turned(folder / "model-0.safetensors")
    with pytest.raises(DamagedError, match=r"no checkpoint is whole .*step-3.*step-2.*--run\.over"):
        trained(tmp_path, resume=True)
    assert checkpoint.complete(tmp_path / "checkpoints") == folders


def test_a_damaged_one_that_was_set_aside_before_stays(tmp_path):
    for name in ("step-3", "step-3-damaged"):
        (tmp_path / name).mkdir()
    assert checkpoint.set_aside(tmp_path / "step-3").name == "step-3-damaged-2"


def test_a_damaged_best_says_how_to_go_on(tmp_path):
    def ended(**changes) -> None:
        (objective,) = tiny.learners(lpips=False)
        objective.evaluation = lambda: {"psnr_db": 1.0}
        rows = tiny.Repeating({"image": tiny.images(16)}, 4)
        fit([objective], rows, tiny.run(tmp_path, best=Best(), **changes))

    ended()
    turned(tmp_path / "checkpoints/best/ema.safetensors")
    with pytest.raises(DamagedError, match=r"delete .*best, and --run.resume exports the last"):
        ended(resume=True)
    checkpoint.set_aside(tmp_path / "checkpoints/best")
    ended(resume=True)


Usage = namedtuple("Usage", "total used free")
GROUPS = {"model-0": {"w": torch.zeros(2**18)}}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*") if path.is_file()}  # fmt: skip


def test_a_disk_without_room_is_known_before_anything_is_written(tmp_path, monkeypatch):
    checkpoint.write(tmp_path / "step-1", GROUPS, {"step": 1})
    before = contents(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(2**30, 2**30, 2**19))
    with pytest.raises(
        OSError, match=r"step-2 needs 1\.0 MiB of disk: .*\(0\.5 MiB are free\)"
    ) as e:
        checkpoint.write(tmp_path / "step-2", GROUPS, {})
    assert is_told(e.value) and contents(tmp_path) == before


FULL = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("error", [FULL, OSError(errno.EDQUOT, "Disk quota exceeded")])
def test_a_disk_that_fills_meanwhile_leaves_nothing_half_written(error, tmp_path, monkeypatch):
    """Bug: a library's error, and a partial folder that kept the disk full."""

    def fills(tensors, file) -> None:
        Path(file).write_bytes(b"half of it")
        raise error

    checkpoint.write(tmp_path / "step-1", GROUPS, {"step": 1})
    before = contents(tmp_path)
    monkeypatch.setattr(checkpoint, "save_file", fills)
    with pytest.raises(OSError, match=r"step-2 needs 1\.0 MiB of disk: make room there") as caught:
        checkpoint.write(tmp_path / "step-2", GROUPS, {})
    assert is_told(caught.value) and contents(tmp_path) == before


def test_a_cache_that_fills_the_disk_says_so(tmp_path, monkeypatch):
    rows = {"packed": torch.zeros(2**18)}
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(2**30, 2**30, 2**19))
    with pytest.raises(OSError, match=r"00000\.safetensors needs 1\.0 MiB of disk: .*goes on"):
        write_tensors(tmp_path / "00000.safetensors", rows)
    assert not [*tmp_path.glob("*.safetensors"), *tmp_path.glob(".*")]


def test_a_systems_own_files_damage_no_checkpoint(tmp_path):
    """Bug: a file browser's made it a damaged one."""
    checkpoint.write(tmp_path / "step-1", GROUPS, {"step": 1})
    (tmp_path / "step-1/.DS_Store").touch()
    assert checkpoint.read(tmp_path / "step-1")[1] == {"step": 1}


def test_a_checkpoint_written_anew_takes_its_place_whole(tmp_path):
    for step in (1, 2):
        checkpoint.write(tmp_path / "best", GROUPS, {"step": step})
    assert checkpoint.read(tmp_path / "best")[1] == {"step": 2}
    assert json.loads((tmp_path / "best/state.json").read_text()) == {"step": 2}


@pytest.mark.parametrize("renames", [0, 1])
def test_bug_a_kill_while_the_best_was_replaced_lost_it(renames, tmp_path, monkeypatch):
    """Between two renames neither had its name, and both were swept."""
    place, done, rename = tmp_path / "checkpoints/best", [], Path.rename
    checkpoint.write(place, GROUPS, {"step": 1})

    def killed(path: Path, target: Path) -> Path:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(path)
        return rename(path, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "rename", killed)
        checkpoint.write(place, GROUPS, {"step": 2})
    checkpoint.sweep(tmp_path)
    assert checkpoint.read(place)[1] == {"step": 1}
    assert [path.name for path in place.parent.iterdir()] == ["best"]


def test_moments_are_laid_out_as_their_parameters_are(tmp_path):
    """Bug: of networks laid out channels last, as compiled ones are on a GPU, CUDA's fused AdamW
    refused the moments of a checkpoint.
    """
    layer = torch.nn.Conv2d(2, 3, 3)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    layer(torch.ones(1, 2, 4, 4)).sum().backward()
    optimizer.step()
    moments = checkpoint.optimizer_tensors(optimizer, [*layer.parameters()])
    kept = {k: v.contiguous().clone() for k, v in moments.items()}
    layer.to(memory_format=torch.channels_last)
    again = torch.optim.AdamW(layer.parameters(), fused=True)
    checkpoint.load_optimizer(again, [*layer.parameters()], kept)
    for name in ("exp_avg", "exp_avg_sq"):
        moment = again.state[layer.weight][name]
        assert moment.stride() == layer.weight.stride() != kept[f"0.{name}"].stride()
        assert torch.equal(moment, kept[f"0.{name}"])
