"""A run's folder belongs to one run, and whoever was killed in it is named."""

import errno
import json
import multiprocessing
import os

import pytest

from calotype.training.lock import LOCK, held


def test_a_second_run_is_kept_out_and_told_by_whom(tmp_path):
    with held(tmp_path):
        holder = json.loads((tmp_path / LOCK).read_text())
        with pytest.raises(ValueError, match=rf"in use by process {holder['process']} of ") as told:
            with held(tmp_path):
                raise AssertionError("two were in it")
        assert "choose another --run.out" in str(told.value)
    with held(tmp_path):
        pass
    assert not any(tmp_path.iterdir())


def _try(folder, said):
    try:
        with held(folder):
            said.put("in")
    except ValueError as error:
        said.put(str(error))


def test_another_process_is_kept_out_too(tmp_path):
    processes = multiprocessing.get_context("fork")
    said = processes.Queue()
    with held(tmp_path):
        other = processes.Process(target=_try, args=(tmp_path, said))
        other.start()
        assert "is in use by process" in said.get(timeout=20)
        other.join()


def _die(folder):
    with held(folder):
        os._exit(9)


def test_who_was_killed_holds_nothing_and_is_named(tmp_path, capfd):
    killed = multiprocessing.get_context("fork").Process(target=_die, args=(tmp_path,))
    killed.start()
    killed.join()
    assert (tmp_path / LOCK).exists()
    with held(tmp_path):
        assert f"was held by process {killed.pid} of " in capfd.readouterr().err
    with held(tmp_path):
        assert "was held" not in capfd.readouterr().err


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path):
    with pytest.raises(ZeroDivisionError), held(tmp_path / "runs/new"):
        raise ZeroDivisionError
    assert not (tmp_path / "runs/new").exists()
    (tmp_path / "old").mkdir()
    with held(tmp_path / "old"):
        pass
    assert (tmp_path / "old").exists()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL])
def test_a_disk_without_locks_keeps_nobody_out_and_says_so_once(
    number, tmp_path, monkeypatch, capfd
):
    """As a mounted bucket. Bug: whoever was in it was said to have ended."""

    def lockf(file, how):
        raise OSError(number, "it knows none")

    monkeypatch.setattr("calotype.training.lock.fcntl.lockf", lockf)
    with held(tmp_path):
        (said,) = capfd.readouterr().err.splitlines()
        assert said.endswith("knows no locks, and another run may come: see that one run alone "
                             "uses it")  # fmt: skip
        there = (tmp_path / LOCK).read_text()
    (tmp_path / LOCK).write_text(there)  # as if this run were in it
    with held(tmp_path):
        (said,) = capfd.readouterr().err.splitlines()
        assert f"knows no locks, and process {os.getpid()} of " in said
        assert said.endswith("may be in it: see that one run alone uses it")


def test_a_machine_that_is_gone_may_be_there_where_locks_are_each_machines_own(tmp_path, capfd):
    own = {"process": "7", "host": "elsewhere", "since": "2026-01-01T00:00:00+00:00"}
    (tmp_path / LOCK).write_text(json.dumps(own))
    with held(tmp_path):
        said = capfd.readouterr().err
    assert "process 7 of elsewhere" in said and "if its disk knows locks between machines" in said
