"""Brings a cluster up, and takes it down when it is told to, or when who wanted it is gone.

It is a process of its own, so that a test run that is killed leaves nothing: its standard input is a pipe that the
kernel closes then. When the supervisor itself is killed, the kernel ends what it started; its folder and cgroups are
left, and the next one that starts removes them. Who holds a folder is told by a lock on it, which can't outlive its
holder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.e2e.cluster import images, machine, names, programs, relay, simulated
from tests.e2e.cluster.addresses import NODE_IP
from tests.e2e.cluster.control_plane import ControlPlane, Ports
from tests.e2e.cluster.machine import Machine
from tests.e2e.cluster.node import Node
from tests.e2e.cluster.processes import ClusterFailed, Processes, remove, run
from tests.e2e.cluster.programs import ProgramMissing, Programs

PREFIX = "sightline-cluster-"
MEMORY = Path("/dev/shm")  # noqa: S108 - where it is, it is big; the folders in it are made safely
ENOUGH_MEMORY = 6 << 30


@dataclass(frozen=True)
class Running:
    """What one needs to use a cluster that runs."""

    folder: str
    port: int
    enter: tuple[str, ...]
    runtime: str | None


class Ended(BaseException):
    """Somebody wants the cluster no more."""


def main() -> None:
    """Says in one line of JSON what runs, or why nothing does; then waits for its end."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    threading.Thread(target=_watch_input, daemon=True).start()
    wanted = json.loads(sys.argv[1])
    try:
        with contextlib.ExitStack() as stack:
            try:
                running = up(stack, containers=wanted["containers"], purpose=wanted["purpose"])
                print(json.dumps(asdict(running)), flush=True)  # noqa: T201 - this is what it is asked for
                while True:
                    signal.pause()
            finally:
                _deaf()
    except (ClusterFailed, ProgramMissing) as error:
        print(json.dumps({"error": str(error)}), flush=True)  # noqa: T201 - the same
        sys.exit(1)
    except Ended:
        return


def up(stack: contextlib.ExitStack, *, containers: bool, purpose: str) -> Running:
    """Brings a cluster up; `stack` takes it down.

    Raises:
        ClusterFailed: when a part does not start, with its last words.
        ProgramMissing: when a program is missing and can't be built.
    """
    built = programs.built()
    folder = stack.enter_context(_folder(purpose))
    processes = stack.enter_context(Processes(folder / "logs", {**os.environ, "PATH": built.search_path}))
    ports = Ports.usual() if containers else Ports.free()
    plane = ControlPlane(folder, built, processes, ports)
    if not containers:
        plane.start((), None)
        return _finish(folder, built, processes, plane, ports.api, (), None)

    pause = images.Images(built).pause()
    stack.enter_context(machine.cgroups(folder.name))
    here = stack.enter_context(Machine(folder, processes))
    here.start(str(pause / "pause"))
    plane.start(here.enter, NODE_IP)
    node = Node(folder, built, processes, here, plane)
    node.start_runtime()
    port = _relay_api(processes, here, ports.api)
    processes.until("containerd listens", lambda: _listens(node.runtime))
    run(built["ctr"], f"--address={node.runtime}", "--namespace=k8s.io", "images", "import", str(pause / "image.tar"))
    return _finish(folder, built, processes, plane, port, here.enter, node)


def _finish(
    folder: Path,
    built: Programs,
    processes: Processes,
    plane: ControlPlane,
    port: int,
    enter: tuple[str, ...],
    node: Node | None,
) -> Running:
    """Starts what needs the API server, and returns when pods can be made."""
    config = folder / "kubeconfig"
    config.touch(mode=0o600)
    config.write_text(plane.kubeconfig_for(port))
    processes.until("The API server is ready", lambda: plane.ready(port))
    plane.follow(enter)
    simulated.start(plane, built, processes, enter)
    kubectl = (
        built["kubectl"],
        f"--kubeconfig={config}",
        f"--cache-dir={folder / 'kubectl'}",
        "wait",
        "--timeout=120s",
    )
    if node:
        node.start(folder.name)
        names.start(plane, built, processes, enter)
        run(*kubectl, "--for=create", "node/node")
        run(*kubectl, "--for=condition=Ready", "node/node")
    run(*kubectl, "--for=create", "serviceaccount/default", "--namespace=default")
    processes.check()
    return Running(str(folder), port, enter, node.runtime if node else None)


def _relay_api(processes: Processes, here: Machine, target: int) -> int:
    """A port of this machine's loopback that leads to the API server."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        processes.start("relay", *here.enter, *relay.command("127.0.0.1", target), stdin=listening.fileno())
        return int(listening.getsockname()[1])


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except OSError:
            return False
    return True


@contextlib.contextmanager
def _folder(purpose: str) -> Iterator[Path]:
    """A folder for all that the cluster writes, gone at the end. Removes those whose holders are gone first."""
    base = _base()
    with programs.alone("running"):
        sweep()
        folder = base / f"{PREFIX}{secrets.token_hex(4)}"
        folder.mkdir(mode=0o711)  # containers of other users pass through it
        lock = (folder / "supervisor").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(json.dumps({"pid": os.getpid(), "purpose": purpose}))
        lock.flush()
    try:
        yield folder
    finally:
        remove(folder)
        lock.close()


def sweep() -> None:
    """Removes what clusters left whose supervisors were killed. Their processes and mounts are gone with them.

    What was made with rights that this process lacks is left to one that has them.
    """
    for folder in folders():
        if holder(folder) is None:
            with contextlib.suppress(PermissionError):
                machine.remove_cgroups(folder.name)
                remove(folder)


def folders() -> list[Path]:
    """All folders of this user's clusters, of the living and the dead."""
    found = {folder for base in (MEMORY, Path(tempfile.gettempdir())) for folder in base.glob(f"{PREFIX}*")}
    return sorted(folder for folder in found if folder.stat().st_uid == os.geteuid())


def holder(folder: Path) -> dict[str, object] | None:
    """Who holds a cluster's folder: `pid` and `purpose`; None when nobody does."""
    try:
        with (folder / "supervisor").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return dict(json.loads(file.read()))
    except FileNotFoundError:
        return None
    return None


def _base() -> Path:
    """Memory where there is much of it, a temporary folder elsewhere."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage(MEMORY).free >= ENOUGH_MEMORY:
            return MEMORY
    return Path(tempfile.gettempdir())


def _watch_input() -> None:
    """Ends the supervisor when the other end of its input is closed, by its owner or by its owner's end."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    _deaf()
    raise Ended


def _deaf() -> None:
    """From now on nothing interrupts the taking down."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    main()
