"""A Kubernetes cluster for tests: real, started in seconds, gone without a trace."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from tests.e2e.cluster import programs, relay, simulated, supervisor
from tests.e2e.cluster.calls import Calls
from tests.e2e.cluster.images import Images
from tests.e2e.cluster.machine import reason_against_containers
from tests.e2e.cluster.processes import ClusterFailed, run

ROOT = Path(__file__).parents[3]
START_S = 600
COMMAND_S = 300


class Cluster:
    """One node with real containers, and as many simulated ones as are asked for.

    A context: leaving it ends everything. Where containers can't run, `no_containers` says why in
    one line, and the cluster is its control plane and simulated nodes. `containers=False` asks for that.

    Raises:
        ProgramMissing: on entering, when a program is missing and can't be built.
        ClusterFailed: on entering, when a part does not start.
    """

    def __init__(self, *, containers: bool = True, purpose: str = "tests") -> None:
        self.no_containers = reason_against_containers() if containers else "none were asked for"
        self._purpose = purpose
        self._relays: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        """The first time on a machine this builds the programs, which takes minutes."""
        self.programs = programs.built()
        wanted = json.dumps({"containers": self.no_containers is None, "purpose": self._purpose})
        self._supervisor = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.cluster.supervisor", wanted],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this process, which then ends the supervisor
        )
        try:
            self._running = self._first_words()
        except BaseException:
            self._end()
            raise
        self.folder = Path(self._running.folder)
        self.kubeconfig = self.folder / "kubeconfig"
        self.images = Images(self.programs)
        self.enter = self._running.enter
        """Begins a command that is to run in the node's network, where pods reach what it serves at `NODE_IP`."""
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end()

    def wait(self) -> None:
        """Returns when somebody else has ended the cluster."""
        self._supervisor.wait()

    @cached_property
    def calls(self) -> Calls:
        """What kubectl would say, at the price of a request instead of a process."""
        return Calls(self.kubeconfig)

    def kubectl(self, *words: str, stdin: str = "", timeout_s: float = COMMAND_S) -> str:
        """What kubectl prints for a command; raises `ClusterFailed` with what it said when it fails."""
        where = (f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.folder / 'kubectl'}")
        return run(self.programs["kubectl"], *where, *words, stdin=stdin.encode(), timeout_s=timeout_s)

    def get(self, *words: str) -> dict[str, Any]:
        """The objects that `kubectl get` finds."""
        return dict(json.loads(self.kubectl("get", "--output=json", *words)))

    def apply(self, *objects: Mapping[str, object]) -> None:
        """Applies manifests."""
        self.kubectl("apply", "--filename=-", stdin=json.dumps(_list(*objects)))

    def load_image(self, archive: Path) -> None:
        """Gives the node the images of an OCI archive, such as `images.build` makes; no pod need pull them."""
        address = f"--address={self._with_containers().runtime}"
        run(self.programs["ctr"], address, "--namespace=k8s.io", "images", "import", str(archive))

    def service_url(self, name: str, port: int, namespace: str = "default") -> str:
        """An address on this machine's loopback that leads to a Service, until the cluster ends."""
        self._with_containers()
        address = self.get("service", name, f"--namespace={namespace}")["spec"]["clusterIP"]
        return f"http://127.0.0.1:{self.relay(address, port)}"

    def relay(self, address: str, port: int) -> int:
        """A port of this machine's loopback that leads to an address of the node's network, until the cluster ends."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            command = [*self.enter, *relay.command(address, port)]
            self._relays.append(subprocess.Popen(command, stdin=listening.fileno()))
            return int(listening.getsockname()[1])

    def add_simulated_nodes(
        self, count: int, *, gpus: int = 0, name: str = "simulated", labels: Mapping[str, str] | None = None
    ) -> list[str]:
        """Nodes NAME-0, NAME-1 ... that are ready, with `gpus` GPUs each; returns their names.

        Pods come to them when they tolerate the taint `sightline.dev/simulated`, and then say that they run.
        """
        names = [f"{name}-{number}" for number in range(count)]
        nodes = simulated.nodes(names, gpus=gpus, labels=labels or {})
        self.kubectl("create", "--filename=-", stdin=json.dumps(_list(*nodes)))
        for some in (names[start : start + 50] for start in range(0, count, 50)):
            self.kubectl("wait", "--for=condition=Ready", f"--timeout={COMMAND_S}s", *(f"node/{each}" for each in some))
        return names

    def fail_node(self, name: str) -> None:
        """A simulated node goes silent, as one that lost its power. Kubernetes notices after some 40 s."""
        self._relabel(name, simulated.FAILED)

    def recover_node(self, name: str) -> None:
        """A simulated node that failed is back: ready, and without the pods that were deleted meanwhile."""
        self._relabel(name, simulated.ALIVE)
        self.kubectl("wait", "--for=condition=Ready", f"--timeout={COMMAND_S}s", f"node/{name}")
        for pod in self.get("pods", "--all-namespaces", f"--field-selector=spec.nodeName={name}")["items"]:
            meta = pod["metadata"]
            if "deletionTimestamp" in meta:  # kwok would not notice
                where = f"--namespace={meta['namespace']}"
                self.kubectl("delete", "pod", meta["name"], where, "--force", "--grace-period=0", "--ignore-not-found")

    def _relabel(self, name: str, state: str) -> None:
        """Raises `ClusterFailed` when there is no such simulated node."""
        selector = f"--selector={simulated.LABEL}"
        known = self.kubectl("get", "nodes", selector, "--output=name").split()
        if f"node/{name}" not in known:
            raise ClusterFailed(f"{name} is no simulated node. There are: {', '.join(known) or 'none'}.")
        self.kubectl("label", "--overwrite", f"node/{name}", f"{simulated.LABEL}={state}")

    def _with_containers(self) -> supervisor.Running:
        """Raises `ClusterFailed` where there are none."""
        if self.no_containers:
            raise ClusterFailed(f"This takes containers, and there are none here: {self.no_containers}.")
        return self._running

    def _first_words(self) -> supervisor.Running:
        assert self._supervisor.stdout is not None
        said = b""
        if select.select([self._supervisor.stdout], [], [], START_S)[0]:
            said = self._supervisor.stdout.readline()
        if not said:
            raise ClusterFailed(f"The cluster's supervisor ended, or said nothing within {START_S} s.")
        answer = json.loads(said)
        if "error" in answer:
            raise ClusterFailed(answer["error"])
        return supervisor.Running(**{**answer, "enter": tuple(answer["enter"])})

    def _end(self) -> None:
        """Tells the supervisor, and waits until it has taken everything down."""
        if "calls" in self.__dict__:
            self.calls.close()
        assert self._supervisor.stdin is not None
        assert self._supervisor.stdout is not None
        self._supervisor.stdin.close()
        self._supervisor.stdout.close()
        self._supervisor.terminate()  # a process forked from this one may hold the pipe open
        self._supervisor.wait()
        for each in self._relays:
            each.kill()
            each.wait()


def _list(*objects: Mapping[str, object]) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "List", "items": list(objects)}
