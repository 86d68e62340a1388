"""Hosts in namespaces of the network, as root or as anybody where users may make namespaces.

Each has a name, an address and a folder that it alone sees, at the same path as the others theirs;
pairs of veth devices join them. All of it ends with the process that made it, even by kill -9.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ADDRESSES = {"first": "10.77.0.1", "second": "10.77.0.2"}
ENTERED = "CALOTYPE_NAMESPACES"
NAMESPACES = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]


def enter() -> None:
    """Begin this program again in namespaces that are its own, unless it is in them."""
    if not os.environ.get(ENTERED):
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        os.environ[ENTERED] = "1"
        os.execvp(NAMESPACES[0], [*NAMESPACES, *user, sys.executable, *sys.argv])


@dataclass(frozen=True)
class Host:
    """A machine: its name, and where its disk lies for us, who see all of them."""

    name: str
    root: Path

    @property
    def disk(self) -> Path:
        """All that it sees of disks, but for programs."""
        return self.root / "disks" / self.name

    def start(self, words: Sequence[str], log: str, **variables: str) -> subprocess.Popen:
        """Run a command there, in its own folder."""
        home = self.root / "home"
        enter = (
            f"hostname {self.name} && mount --bind {self.root}/hosts /etc/hosts && "
            f"mount --bind {self.disk} {home} && mount -t tmpfs none {self.root}/disks && "
            f'cd {home} && exec "$@"'
        )
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "HOME": str(home), "TMPDIR": str(home / "tmp"),
                       **variables}  # fmt: skip
        with (self.disk / log).open("ab") as out:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-ec", enter, "-",
                 *words],
                env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def link(self, state: str) -> None:
        """Plug its cable in (up) or out (down)."""
        run("ip", "-n", self.name, "link", "set", f"to-{self.name}", state)


def run(*words: str) -> None:
    """Run a command that has to succeed."""
    subprocess.run(words, check=True)


def machines(root: Path) -> list[Host]:
    """The two, joined by a cable."""
    (root / "home").mkdir()
    (root / "hosts").write_text(
        "127.0.0.1 localhost\n" + "".join(f"{at} {name}\n" for name, at in ADDRESSES.items())
    )
    run("mount", "-t", "tmpfs", "none", "/run")  # where `ip netns` keeps names
    made = [Host(name, root) for name in ADDRESSES]
    for host in made:
        run("ip", "netns", "add", host.name)
        (host.disk / "tmp").mkdir(parents=True)
    one, other = made
    run("ip", "link", "add", f"to-{one.name}", "netns", one.name, "type", "veth", "peer", "name",
        f"to-{other.name}", "netns", other.name)  # fmt: skip
    for host in made:
        device = f"to-{host.name}"
        run("ip", "-n", host.name, "addr", "add", f"{ADDRESSES[host.name]}/24", "dev", device)
        run("ip", "-n", host.name, "link", "set", "lo", "up")
        host.link("up")
    return made
