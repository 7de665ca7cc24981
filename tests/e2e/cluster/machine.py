"""The machine that the node runs on: namespaces of its own, so that nothing that happens in them touches this one.

The node's processes, mounts, links, routes, addresses, network settings and nftables all live in namespaces whose first
process is `pause`. When that ends, and it ends with its supervisor however that one ends, the kernel ends every process
in them and takes the rest away. What a node writes to /var and /run falls into an overlay. Only cgroups have no
namespace of that kind: the node's are folders with its own name, and are removed afterwards.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests.e2e.cluster.addresses import DNS_IP, NODE_IP, SERVICES
from tests.e2e.cluster.processes import ClusterFailed, Processes

PATIENCE_S = 30
PREPARE = f"""
set -eu
mount --make-rshared /
for hidden in var run; do
  mkdir -p "$0/machine/$hidden" "$0/machine/$hidden.work"
  mount -t overlay overlay -o "lowerdir=/$hidden,upperdir=$0/machine/$hidden,workdir=$0/machine/$hidden.work" "/$hidden"
done
ip link set lo up
ip address add {NODE_IP}/32 dev lo
ip address add {DNS_IP}/32 dev lo
ip route add {SERVICES} dev lo src {NODE_IP}  # nowhere: nftables sends what comes here on to a pod
echo 1 > /proc/sys/net/ipv4/ip_forward
echo ready
exec "$1"
"""
UNSHARE = ("unshare", "--mount", "--net", "--pid", "--mount-proc", "--fork", "--kill-child")


def reason_against_containers() -> str | None:
    """Why this machine can't run containers, in one line; None when it can."""
    if os.geteuid() != 0:
        return "containers need root, and this is another user"
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if tried.returncode != 0:
        return f"no namespaces can be made here ({tried.stderr.strip()})"
    if not cgroup_roots():
        return "no cgroups are mounted here"
    try:
        with cgroups(f"sightline-try-{os.getpid()}"):
            return None
    except OSError as error:
        return f"no cgroups can be made here ({error})"


class Machine:
    """The namespaces, from `start` until this is left; then nothing of what ran in them is left either."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self._folder = folder
        self._processes = processes
        self._first: subprocess.Popen[bytes] | None = None
        self.enter: tuple[str, ...] = ()

    def start(self, pause: str) -> None:
        """Makes the namespaces and what the node expects in them. `enter` begins a command that runs there.

        Raises:
            ClusterFailed: when a mount or an address can't be made; the message says which.
        """
        command = (*UNSHARE, "sh", "-c", PREPARE, str(self._folder), pause)
        process = self._processes.start("machine", *command, stdout=subprocess.PIPE)
        self._first = process
        assert process.stdout is not None
        with process.stdout:
            if process.stdout.readline().strip() != b"ready":
                process.wait()
                self._processes.check()
        namespaces = f"/proc/{process.pid}/ns"
        self.enter = (
            "nsenter",
            f"--mount={namespaces}/mnt",
            f"--net={namespaces}/net",
            f"--pid={namespaces}/pid_for_children",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        """Ends the first process, and waits for its maker, which ends when the kernel has taken everything away."""
        if self._first is None or self._first.poll() is not None:
            return
        maker = self._first.pid
        for child in Path(f"/proc/{maker}/task/{maker}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # then it is killed with the others, and they with it
            self._first.wait(PATIENCE_S)


def cgroup_roots() -> list[Path]:
    """Where the hierarchies of cgroups are mounted: one for each controller in version 1, one in all in version 2."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    fields = [line.split() for line in lines]
    return [Path(mount) for _, mount, kind, *_ in fields if kind in {"cgroup", "cgroup2"}]


@contextlib.contextmanager
def cgroups(name: str) -> Iterator[None]:
    """A cgroup of this name in every hierarchy, gone with all below it at the end.

    Raises:
        OSError: when they can't be made.
    """
    try:
        for root in cgroup_roots():
            (root / name).mkdir(exist_ok=True)
        yield
    finally:
        remove_cgroups(name)


def remove_cgroups(name: str) -> None:
    """Removes a cgroup and all below it from every hierarchy.

    The kernel lets go of one a moment after its last process has ended.
    """
    end, pause = time.monotonic() + PATIENCE_S, threading.Event()
    for root in cgroup_roots():
        for folder, _, _ in os.walk(root / name, topdown=False):
            while True:
                try:
                    Path(folder).rmdir()
                except FileNotFoundError:
                    break
                except PermissionError:
                    raise
                except OSError as error:
                    if time.monotonic() > end:
                        raise ClusterFailed(f"{folder} can't be removed: {error}. Is a process still in it?") from error
                    pause.wait(0.02)
                else:
                    break
