"""Work beside the main process: it has its share of the threads, its errors arrive, Ctrl-C reaches
it once, and it does not outlive the one that asked for it.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from calotype.commands import beside as module
from calotype.commands.beside import Beside, here, share, threads
from other_process import about_itself, fail, wait_for_a_signal


def log_of(tmp_path: Path) -> Path:
    return tmp_path / "beside.log"


@pytest.fixture
def two_threads():
    with threads(2):
        yield


def seen(file: Path, what: str, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if file.exists() and what in file.read_text():
            return True
        time.sleep(0.01)
    return False


def test_threads_are_shared_while_two_work(tmp_path, two_threads):
    with Beside(log_of(tmp_path), share=1) as beside:
        work = beside.begin(lambda do: [do(about_itself), do(about_itself)])
        assert torch.get_num_threads() == 1
    (process, count), again = work.result()
    assert process != os.getpid() and count == 1 and again == (process, 1)
    assert torch.get_num_threads() == 2
    assert log_of(tmp_path).read_text().count("working") == 2


def test_an_error_beside_arrives_and_says_where_more_stands(tmp_path):
    with Beside(log_of(tmp_path), share=1) as beside:
        work = beside.begin(lambda do: do(fail))
    with pytest.raises(RuntimeError, match="out of luck") as caught:
        work.result()
    assert str(log_of(tmp_path)) in caught.value.__notes__[0]


def test_what_stops_one_lets_the_other_save(tmp_path):
    file = tmp_path / "state"
    with pytest.raises(SystemExit):
        with Beside(log_of(tmp_path), share=1) as beside:
            beside.begin(lambda do: do(wait_for_a_signal, file))
            assert seen(file, "waits")
            raise SystemExit(130)
    assert file.read_text() == "saved after 1"


@pytest.mark.skipif(not hasattr(os, "setsid"), reason="Windows has no process groups like these")
def test_the_other_ends_with_the_one_that_was_killed(tmp_path):
    file = tmp_path / "process"
    script = (
        "import pathlib\n"
        "from calotype.commands.beside import Beside\n"
        "from other_process import never_end\n"
        "if __name__ == '__main__':\n"
        f"    with Beside(pathlib.Path({str(log_of(tmp_path))!r}), share=1) as beside:\n"
        f"        beside.begin(lambda do: do(never_end, pathlib.Path({str(file)!r})))\n"
    )
    (tmp_path / "main.py").write_text(script)
    root = Path(__file__).parents[1]
    first = subprocess.Popen([sys.executable, tmp_path / "main.py"],
                             env=os.environ | {"PYTHONPATH": str(root)})  # fmt: skip
    assert seen(file, "\n")
    other = int(file.read_text())
    first.kill()
    first.wait()
    end = time.monotonic() + 30
    while time.monotonic() < end and _alive(other):
        time.sleep(0.05)
    assert not _alive(other)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def test_one_after_the_other_where_there_is_nothing_to_share(monkeypatch, two_threads):
    assert share() == 1
    with threads(1):
        assert share() is None
    monkeypatch.setattr(module, "device_named", lambda name: torch.device("cuda"))
    assert share() is None


def test_here_is_in_this_process():
    assert here(os.getpid) == os.getpid()
