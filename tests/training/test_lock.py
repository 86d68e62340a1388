"""A run's folder belongs to one run, and whoever was killed in it is named."""

import json
import multiprocessing

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
        import os

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


def test_a_disk_without_locks_is_told(tmp_path, monkeypatch, capfd):
    def lockf(file, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("calotype.training.lock.fcntl.lockf", lockf)
    with held(tmp_path):
        assert "knows no locks" in capfd.readouterr().err
