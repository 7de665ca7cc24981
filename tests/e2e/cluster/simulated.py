"""kwok: nodes that exist only in the API, in any number, with GPUs and failures, and pods that only say they run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.e2e.cluster.addresses import SIMULATED_NODES_IP, SIMULATED_PODS
from tests.e2e.cluster.control_plane import LEASE_S, ControlPlane
from tests.e2e.cluster.processes import Processes
from tests.e2e.cluster.programs import Programs

LABEL = "sightline.dev/simulated"
ALIVE, FAILED = "alive", "failed"
AT_ONCE = 16
"""How many nodes or pods kwok acts for at the same time."""
STAGES = (
    "node-initialize.yaml",
    "node-heartbeat-with-lease.yaml",
    "pod-ready.yaml",
    "pod-complete.yaml",
    "pod-delete.yaml",
)


def start(plane: ControlPlane, programs: Programs, processes: Processes, enter: Sequence[str]) -> None:
    """Starts kwok, which acts for the nodes that are labelled as alive, by kwok's own stages of nodes and pods."""
    program = programs["kwok"]
    options = {
        "manageNodesWithLabelSelector": f"{LABEL}={ALIVE}",
        "nodeLeaseDurationSeconds": LEASE_S,
        "nodeLeaseParallelism": AT_ONCE,
        "nodePlayStageParallelism": AT_ONCE,
        "podPlayStageParallelism": AT_ONCE,
        "cidr": SIMULATED_PODS,
        "nodeIP": SIMULATED_NODES_IP,
        "nodePort": plane.ports.kwok,
        "serverAddress": f"127.0.0.1:{plane.ports.kwok}",
    }
    config = {"apiVersion": "config.kwok.x-k8s.io/v1alpha1", "kind": "KwokConfiguration", "options": options}
    configs = [plane.write("kwok.json", json.dumps(config)), *(str(Path(program).parent / stage) for stage in STAGES)]
    account = f"--kubeconfig={plane.kubeconfig('kwok', 'system:masters')}"
    processes.start("kwok", *enter, program, account, "--v=WARN", *(f"--config={each}" for each in configs))


def nodes(names: Sequence[str], *, gpus: int, labels: Mapping[str, str]) -> list[dict[str, object]]:
    """Node objects of 32 CPUs and 256 GiB each, tainted so that only pods that tolerate `LABEL` come to them."""
    capacity = {"cpu": "32", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "110"}
    if gpus:
        capacity["nvidia.com/gpu"] = str(gpus)
    return [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": {
                    "kubernetes.io/arch": "amd64",
                    "kubernetes.io/hostname": name,
                    "kubernetes.io/os": "linux",
                    **labels,
                    LABEL: ALIVE,
                },
            },
            "spec": {"taints": [{"key": LABEL, "effect": "NoSchedule"}]},
            "status": {"capacity": capacity, "allocatable": capacity},
        }
        for name in names
    ]
