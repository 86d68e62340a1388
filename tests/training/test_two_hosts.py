"""Two hosts, really two, by what `make cluster` does on them: the tokenizer alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CLUSTER = Path(__file__).parents[2] / "benchmarks/two_hosts.py"
USER = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
NAMESPACES = "mount -t tmpfs none /run && ip netns add one && ip -n one link add name v type veth"


def can_make_hosts() -> bool:
    """Whether this machine lets us."""
    words = ["unshare", "--mount", "--net", *USER, "sh", "-c", NAMESPACES]
    try:
        return subprocess.run(words, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not can_make_hosts(), reason="network namespaces cannot be made here")
def test_a_tokenizer_of_two_hosts_one_of_which_is_cut_off(tmp_path):
    """Equals one process's within 1e-5, as the program sees to."""
    done = subprocess.run([sys.executable, CLUSTER, "--small"], capture_output=True, text=True,
                          env={**os.environ, "TMPDIR": str(tmp_path)}, timeout=500)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cut off at step" in done.stdout and "trained to the end" in done.stdout
