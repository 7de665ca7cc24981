"""The cluster's own names for pods: `web.default.svc.cluster.local` and its short forms, from CoreDNS."""

from __future__ import annotations

from collections.abc import Sequence

from tests.e2e.cluster.addresses import DNS_IP, DOMAIN
from tests.e2e.cluster.control_plane import ControlPlane
from tests.e2e.cluster.processes import Processes
from tests.e2e.cluster.programs import Programs


def start(plane: ControlPlane, programs: Programs, processes: Processes, enter: Sequence[str]) -> None:
    """Starts CoreDNS. Names outside the cluster are refused: nothing outside it can be reached either."""
    config = plane.write(
        "Corefile",
        f"""{DOMAIN} {{
    bind {DNS_IP}
    errors
    kubernetes {DOMAIN} {{
        kubeconfig {plane.kubeconfig("coredns", "system:masters")}
    }}
}}
""",
    )
    processes.start("coredns", *enter, programs["coredns"], "-conf", config)
