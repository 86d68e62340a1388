"""Ranks and processes fill one cache: none waits in an exchange, and no row is missing."""

import json
import os
import re
import signal
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

import hosts
import sharing
import tiny
from calotype.data import LatentCache
from calotype.data.cache.index import INDEX, LATENTS, PROMPTS
from calotype.data.cache.work import Together, Work, each_once, once_by_any
from calotype.recipes.cache import CacheRecipe
from calotype.tokenizers.filling import WORK
from ranks import started, together

FORK = get_context("fork")


def prepared(root: Path, count: int, shard: int, **changes) -> CacheRecipe:
    root.mkdir(exist_ok=True)
    tiny.tokenizer().save(root / "tokenizer")
    return sharing.recipe(root, count, shard, **changes)


def contents(root: Path) -> dict[str, bytes]:
    """All files of a cache, but what says how it was asked for."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*")
            if path.is_file() and path.name != "recipe.json"}  # fmt: skip


def check_all(asked: CacheRecipe, count: int) -> None:
    """Every row is there, with its own caption and tokens."""
    latents = LatentCache(asked.out)
    assert len(latents) == count and not (asked.out / WORK).exists()
    last = latents.batch([count - 1, 0], [0, 0])
    assert latents.captions_of(count - 1) == [f"picture {count - 1}"]
    assert last["tokens"].shape == (2, 16) and not torch.equal(*last["tokens"])
    shards = -(-count // asked.shard_size)
    assert [len([*asked.out.glob(f"*.{kind}.*")]) for kind in (LATENTS, PROMPTS)] == [shards] * 2


def by_ranks(asked: CacheRecipe, world: int, timeout: float, late: float = 0.0) -> list[list[int]]:
    """Batches that each rank encoded, and shards whose captions it read."""
    together(world, sharing.fill_as_rank, asked, timeout, late)
    return [json.loads((asked.out.parent / f"rank-{rank}.json").read_text())
            for rank in range(world)]  # fmt: skip


@pytest.mark.slow
def test_bug_a_large_cache_timed_out_where_one_rank_read_all_captions(tmp_path):
    """The others waited in a barrier, and gave up; a retry died in the same way. Here a rank takes
    longer for a shard than another would wait for it in an exchange.
    """
    asked = prepared(tmp_path / "two", 50_000, 4096)
    done = by_ranks(asked, 2, timeout=5, late=6)
    check_all(asked, 50_000)
    assert sum(batches for batches, _ in done) == 49 and sum(read for _, read in done) == 13
    assert all(batches and read for batches, read in done), "each has a share"
    assert LatentCache(asked.out).index.learnt_from == 1000
    one = prepared(tmp_path / "one", 50_000, 4096)
    sharing.fill(one)
    assert contents(one.out) == contents(asked.out)


@pytest.mark.slow
def test_a_million_captions_by_two_ranks_that_wait_for_half_a_minute(tmp_path):
    asked = prepared(tmp_path, 10**6, 8192, learnt_from=100_000)
    done = by_ranks(asked, 2, timeout=30)
    check_all(asked, 10**6)
    assert min(read for _, read in done) > 20


def test_shards_of_a_rank_that_died_are_done_by_others(tmp_path):
    """And what is missing afterwards, by more of them."""
    asked = prepared(tmp_path / "two", 96, 8, batch_size=4)
    codes = started(2, sharing.fill_and_die, asked)
    assert codes == [0, -signal.SIGKILL]
    check_all(asked, 96)
    one = prepared(tmp_path / "one", 96, 8, batch_size=4)
    sharing.fill(one)
    assert contents(one.out) == contents(asked.out)
    (asked.out / INDEX).unlink()
    for file in sorted(asked.out.glob(f"*.{LATENTS}.*"))[::2]:
        file.unlink()
    done = by_ranks(asked, 3, timeout=60)
    assert sum(batches for batches, _ in done) == 12
    assert contents(one.out) == contents(asked.out)


def slowly(asked: CacheRecipe, pause: float) -> None:
    sharing.fill(asked, lambda: time.sleep(pause))


def test_bug_shards_were_missing_where_two_commands_filled_one_folder(tmp_path):
    """The second forgot what the first had noted: 56 of 64 rows, and no error."""
    one = prepared(tmp_path / "one", 64, 8, batch_size=8)
    sharing.fill(one)
    asked = prepared(tmp_path / "two", 64, 8, batch_size=8)
    first = FORK.Process(target=slowly, args=(asked, 0.2))
    first.start()
    while len([*asked.out.glob(f"*.{LATENTS}.*")]) < 3:
        time.sleep(0.01)
    second = FORK.Process(target=slowly, args=(asked, 0.01))
    second.start()
    for each in (first, second):
        each.join()
        assert each.exitcode == 0
    check_all(asked, 64)
    assert contents(one.out) == contents(asked.out)


def test_who_makes_another_cache_there_is_refused(tmp_path):
    """Else shards of both would be in it."""
    folder = tmp_path / "latents" / WORK
    said = (r"latents is being made by another process, whose count is 3 and not 4: wait for its "
            r"end, or choose another folder")  # fmt: skip
    with Together(folder, {"count": 3, "size": (1, 2)}):

        def other(count: int) -> None:
            with Together(folder, {"count": count, "size": (1, 2)}):
                os._exit(0)

        same = FORK.Process(target=other, args=(3,))
        same.start()
        same.join()
        assert same.exitcode == 0

        def refused() -> None:
            with pytest.raises(ValueError, match=said):
                Together(folder, {"count": 4}).__enter__()
            os._exit(0)

        third = FORK.Process(target=refused)
        third.start()
        third.join()
        assert third.exitcode == 0
    assert not folder.exists()


def test_what_a_killed_run_noted_is_forgotten_and_what_others_note_is_not(tmp_path):
    folder = tmp_path / WORK
    (folder / "shards").mkdir(parents=True)
    (folder / "shards" / "0.json").write_text("[]")
    with Together(folder, {}):
        assert not (folder / "shards").exists()
        assert once_by_any(folder / "text", lambda: "first") == "first"

        def other() -> None:
            with Together(folder, {}):
                assert once_by_any(folder / "text", lambda: "second") == "first"
            os._exit(0)

        process = FORK.Process(target=other)
        process.start()
        process.join()
        assert process.exitcode == 0 and folder.exists()
        assert each_once(folder / "more", 3, lambda part: 2 * part) == [0, 2, 4]
    assert not folder.exists()


def test_no_index_is_written_where_a_part_was_lost(tmp_path, monkeypatch):
    asked, done = prepared(tmp_path, 24, 8), Work.done

    def lose(self: Work, part: int, result: object) -> None:
        if self.folder.name != "shards" or part != 1:
            return done(self, part, result)
        return self._claims.let_go(part)

    monkeypatch.setattr(Work, "done", lose)
    with pytest.raises(ValueError, match="of part 1 of the data 0 pictures are there and not 8"):
        sharing.fill(asked)
    assert not (asked.out / INDEX).exists()
    monkeypatch.undo()
    sharing.fill(asked)
    check_all(asked, 24)


@pytest.mark.parametrize("kind", [LATENTS, PROMPTS])
def test_no_index_is_written_of_a_file_that_lacks_rows(kind, tmp_path):
    from safetensors.torch import load_file, save_file

    asked = prepared(tmp_path, 24, 8)
    sharing.fill(asked)
    (asked.out / INDEX).unlink()
    file = sorted(asked.out.glob(f"*.{kind}.*"))[1]
    name = "packed" if kind == LATENTS else "tokens"
    save_file({**(whole := load_file(file)), name: whole[name][:5].clone()}, file)
    with pytest.raises(ValueError, match=rf"{file.name} has 5 rows and not 8: delete it and run"):
        sharing.fill(asked)
    assert not (asked.out / INDEX).exists()
    file.unlink()
    sharing.fill(replace(asked))
    check_all(asked, 24)


def test_bug_ranks_with_other_pictures_filled_one_cache(tmp_path):
    prepared(tmp_path, 6, 8)
    together(2, hosts.at_home, hosts.cache_other_pictures, tmp_path)
    for rank in (0, 1):
        said = json.loads((tmp_path / f"cache_other_pictures-{rank}.json").read_text())
        assert re.fullmatch("ValueError: data is 6 pictures, .* for process 0 and 6 pictures, .* "
                            "for process 1: give all processes the same", said), said  # fmt: skip


def test_bug_a_prior_was_fitted_and_written_by_each_rank(tmp_path):
    prepared(tmp_path, 6, 8)
    together(2, hosts.at_home, hosts.fit_a_prior, tmp_path)
    said = [json.loads((tmp_path / f"fit_a_prior-{rank}.json").read_text()) for rank in (0, 1)]
    assert said[0][0] == said[1][0] and [each[1] for each in said] == [1, 0]


@pytest.mark.slow
def test_bug_without_a_shared_disk_each_host_made_a_part_of_a_cache(tmp_path):
    prepared(tmp_path, 24, 8)
    together(2, hosts.at_home, hosts.fill_a_cache, tmp_path)
    said = [json.loads((tmp_path / f"fill_a_cache-{rank}.json").read_text()) for rank in (0, 1)]
    assert said[0] == said[1] == (
        "ValueError: --out latents: process 1 does not see what process 0 writes there: choose a "
        "folder on a disk that all machines see"
    )  # fmt: skip
    assert not [*tmp_path.glob("host-*/*")]
