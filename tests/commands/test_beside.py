"""Work beside the main process: it has its share of the threads, its errors arrive, Ctrl-C lets it
save, and it does not outlive the one that asked for it.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from calotype.commands import beside as module
from calotype.commands.beside import WorkerProcess, call_here, threads_for_two
from calotype.mistakes import is_told
from calotype.training.checkpoint import complete
from calotype.training.devices import threads
from calotype.training.interrupt import Interrupted
from other_process import about_itself, die, fail, refuse, train, warn

pytestmark = pytest.mark.skipif(not hasattr(os, "setsid"), reason="Windows goes one by one")
LONG = 60.0
"""Seconds in which whatever is waited for has come."""


def beside(tmp_path: Path) -> WorkerProcess:
    return WorkerProcess(tmp_path / "beside.log", threads_each=1)


def seen(file: Path, what: str = "\n") -> None:
    end = time.monotonic() + LONG
    while not (file.exists() and what in file.read_text()):
        assert time.monotonic() < end
        time.sleep(0.01)


def saved(out: Path) -> int:
    """The step of the only checkpoint."""
    (only,) = complete(out / "checkpoints")
    return int(only.name.removeprefix("step-"))


def test_threads_are_shared_while_two_work(tmp_path):
    with threads(2):
        with beside(tmp_path) as process:
            work = process.begin(lambda call: [call(about_itself), call(about_itself)])
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    (number, count), again = work.result()
    assert number != os.getpid() and count == 1 and again == (number, 1)
    assert process.log.read_text().count("working") == 2


def test_an_error_beside_arrives_with_its_traceback_and_the_log(tmp_path):
    with beside(tmp_path) as process:
        work = process.begin(lambda call: call(fail))
    with pytest.raises(RuntimeError, match="out of luck") as caught:
        work.result()
    assert "in fail" in str(caught.value.__cause__) and not is_told(caught.value)
    assert str(process.log) in caught.value.__notes__[-1]


def test_a_mistake_beside_is_told_as_one_here(tmp_path):
    with beside(tmp_path) as process:
        work = process.begin(lambda call: call(refuse))
    with pytest.raises(ValueError, match=r"run\.steps is 0") as caught:
        work.result()
    assert is_told(caught.value)


def test_what_it_warns_of_is_seen_here_and_in_the_log(tmp_path):
    """Bug: a warning stood in the log alone, which nobody reads while all goes well."""
    with beside(tmp_path) as process, pytest.warns() as caught:
        process.begin(lambda call: call(warn)).result(LONG)
    said = [(each.category, str(each.message)) for each in caught]
    assert said == [(UserWarning, "half as fast as it should be")]
    assert "half as fast" in process.log.read_text() and "no use" not in process.log.read_text()


def test_a_process_that_dies_is_told_of(tmp_path):
    with beside(tmp_path) as process:
        work = process.begin(lambda call: call(die))
    with pytest.raises(RuntimeError, match=r"ended with -9; .*beside\.log"):
        work.result()


def test_what_stops_this_side_lets_the_other_save(tmp_path):
    with pytest.raises(SystemExit):
        with beside(tmp_path) as process:
            work = process.begin(lambda call: call(train, tmp_path / "run"))
            seen(tmp_path / "run/metrics.jsonl")
            raise SystemExit(130)
    with pytest.raises(Interrupted) as stopped:
        work.result()
    assert stopped.value.code == 130 and stopped.value.step == saved(tmp_path / "run")


def test_ctrl_c_while_the_other_is_waited_for_lets_it_save(tmp_path, capfd):
    """Bug: where this side had ended already, one Ctrl-C killed the other's training."""

    def press() -> None:
        seen(tmp_path / "run/metrics.jsonl")
        os.kill(os.getpid(), signal.SIGINT)

    with beside(tmp_path) as process:
        work = process.begin(lambda call: call(train, tmp_path / "run"))
        threading.Thread(target=press).start()
    with pytest.raises(Interrupted) as stopped:
        work.result()
    assert stopped.value.step == saved(tmp_path / "run")
    assert "again to quit now" in capfd.readouterr().err


def test_what_goes_wrong_before_the_other_has_begun_ends_it_at_once(tmp_path):
    """Bug: what stopped it was not passed on until it had loaded its libraries."""
    begun = []
    with pytest.raises(OSError, match="no space"):
        with beside(tmp_path) as process:
            process.begin(lambda call: begun.append(call(train, tmp_path / "run")))
            raise OSError("no space")
    assert not begun and not (tmp_path / "run").exists()


def test_the_other_ends_with_the_one_that_was_killed(tmp_path):
    file, root = tmp_path / "process", Path(__file__).parents[1]
    (tmp_path / "main.py").write_text(
        "import pathlib\n"
        "from calotype.commands.beside import WorkerProcess\n"
        "from other_process import never_end\n"
        "if __name__ == '__main__':\n"
        f"    with WorkerProcess(pathlib.Path({str(tmp_path / 'log')!r}), 1) as process:\n"
        f"        process.begin(lambda call: call(never_end, pathlib.Path({str(file)!r})))\n"
    )
    paths = os.pathsep.join([str(root), *sys.path])  # the calotype that is tested, of any checkout
    first = subprocess.Popen(
        [sys.executable, tmp_path / "main.py"], env=os.environ | {"PYTHONPATH": paths}
    )
    seen(file)
    first.kill()
    first.wait()
    end = time.monotonic() + LONG
    while _alive(int(file.read_text())):
        assert time.monotonic() < end
        time.sleep(0.05)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


@pytest.mark.parametrize(("device", "count", "each"), [
    ("cpu", 2, 1), ("cpu", 5, 2), ("cpu", 1, None), ("mps", 4, None), ("cuda", 4, None),
])  # fmt: skip
def test_two_go_side_by_side_where_threads_can_be_shared(monkeypatch, device, count, each):
    monkeypatch.setattr(module, "own_device", lambda: torch.device(device))
    with threads(count):
        assert threads_for_two() == each


def test_here_is_in_this_process():
    assert call_here(os.getpid) == os.getpid()
