"""etcd, the API server, the controllers and the scheduler: a control plane that keeps nothing beyond its life."""

from __future__ import annotations

import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.cluster.addresses import DOMAIN, FIRST_SERVICE, SERVICES
from tests.e2e.cluster.certificates import Authority, kubeconfig, signing_key
from tests.e2e.cluster.processes import Processes
from tests.e2e.cluster.programs import Programs

LEASE_S = 40
"""How long a node counts as alive after it last said so, seconds. It says so four times in that time."""
HASTE = ("--kube-api-qps=500", "--kube-api-burst=1000")
"""Controllers slow themselves down to spare a shared API server; for hundreds of nodes that is too slow."""
FRONT_PROXY = "front-proxy-client"
"""Who the API server is to those that it asks on behalf of others."""


@dataclass(frozen=True)
class Ports:
    """On 127.0.0.1, where the control plane's parts listen."""

    etcd: int
    etcd_peers: int
    api: int
    controllers: int
    scheduler: int
    kwok: int

    @classmethod
    def usual(cls) -> Ports:
        """Those that everybody knows, for namespaces of one's own."""
        return cls(etcd=2379, etcd_peers=2380, api=6443, controllers=10257, scheduler=10259, kwok=10247)

    @classmethod
    def free(cls) -> Ports:
        """Such as nobody listens on."""
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(6)]
        numbers = [each.getsockname()[1] for each in sockets]
        for each in sockets:
            each.close()
        return cls(*numbers)


class ControlPlane:
    """Starts the parts, and knows who may speak to them."""

    def __init__(self, folder: Path, programs: Programs, processes: Processes, ports: Ports) -> None:
        self.authority = Authority()
        self.ports = ports
        self._folder = folder / "control-plane"
        self._folder.mkdir(mode=0o700)
        self._programs = programs
        self._processes = processes
        self._admin = self.authority.issue("admin", "system:masters")
        self.authority_file = self.write("ca.pem", self.authority.certificate)

    def write(self, name: str, content: str) -> str:
        """A file of the control plane's folder; returns its path."""
        path = self._folder / name
        path.write_text(content)
        return str(path)

    def pair(self, name: str, user: str, group: str = "", *, serves: Sequence[str] = ()) -> tuple[str, str]:
        """The paths of a certificate and its key."""
        pair = self.authority.issue(user, group, serves=serves)
        return self.write(f"{name}.pem", pair.certificate), self.write(f"{name}-key.pem", pair.key)

    def kubeconfig(self, user: str, group: str = "") -> str:
        """The path of a kubeconfig with which the cluster's own parts are this user."""
        name = user.replace(":", "-")
        client = self.authority.issue(user, group)
        return self.write(
            f"{name}.kubeconfig", kubeconfig(self._url(self.ports.api), self.authority.certificate, client)
        )

    def kubeconfig_for(self, port: int) -> str:
        """What a kubeconfig is to hold for the administrator who reaches the API server at this port of 127.0.0.1."""
        return kubeconfig(self._url(port), self.authority.certificate, self._admin)

    def start(self, enter: Sequence[str], address: str | None) -> None:
        """Starts all parts with the command `enter` before them.

        `address` is the node's, under which pods reach the API server; None when there are no pods.
        """
        self._etcd(enter)
        self._api_server(enter, address)

    def follow(self, enter: Sequence[str]) -> None:
        """Starts what only speaks to the API server, once that answers."""
        ports, start, programs = self.ports, self._processes.start, self._programs
        start(
            "kube-controller-manager",
            *enter,
            programs["kube-controller-manager"],
            f"--kubeconfig={self.kubeconfig('system:kube-controller-manager')}",
            f"--secure-port={ports.controllers}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--use-service-account-credentials",
            f"--root-ca-file={self.authority_file}",
            f"--service-account-private-key-file={self._folder / 'accounts-key.pem'}",
            f"--node-monitor-grace-period={LEASE_S}s",
            "--node-monitor-period=1s",
            *HASTE,
        )
        start(
            "kube-scheduler",
            *enter,
            programs["kube-scheduler"],
            f"--kubeconfig={self.kubeconfig('system:kube-scheduler')}",
            f"--secure-port={ports.scheduler}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            *HASTE,
        )

    def ready(self, port: int) -> bool:
        """Whether the API server, reached at this port, says that it is ready."""
        context = ssl.create_default_context(cadata=self.authority.certificate)
        try:
            with urllib.request.urlopen(f"{self._url(port)}/readyz", timeout=5, context=context) as answer:  # noqa: S310 - https, see _url
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _etcd(self, enter: Sequence[str]) -> None:
        client, peers = f"http://127.0.0.1:{self.ports.etcd}", f"http://127.0.0.1:{self.ports.etcd_peers}"
        self._processes.start(
            "etcd",
            *enter,
            self._programs["etcd"],
            f"--data-dir={self._folder / 'etcd'}",
            "--name=only",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=only={peers}",
            "--unsafe-no-fsync",
            "--logger=zap",
            "--log-level=warn",
        )

    def _api_server(self, enter: Sequence[str], address: str | None) -> None:
        here = [address] if address else []
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{DOMAIN}"]
        certificate, key = self.pair(
            "api", "kube-apiserver", serves=["localhost", "127.0.0.1", FIRST_SERVICE, *here, *names]
        )
        to_kubelet, to_kubelet_key = self.pair("api-to-kubelet", "kube-apiserver", "system:masters")
        front = Authority()  # of its own: who it vouches for may speak for anybody
        for_extensions = front.issue(FRONT_PROXY)
        private, public = signing_key()
        accounts = self.write("accounts-key.pem", private)
        reached = (
            # every address of the node's own network, or this machine's loopback alone
            ["--bind-address=0.0.0.0", f"--advertise-address={address}"]
            if address
            else ["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"]
        )
        self._processes.start(
            "kube-apiserver",
            *enter,
            self._programs["kube-apiserver"],
            f"--etcd-servers=http://127.0.0.1:{self.ports.etcd}",
            f"--secure-port={self.ports.api}",
            *reached,
            f"--cert-dir={self._folder}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={self.authority_file}",
            f"--kubelet-certificate-authority={self.authority_file}",
            f"--kubelet-client-certificate={to_kubelet}",
            f"--kubelet-client-key={to_kubelet_key}",
            # for API servers of others behind this one, which an APIService names
            f"--proxy-client-cert-file={self.write('front-proxy.pem', for_extensions.certificate)}",
            f"--proxy-client-key-file={self.write('front-proxy-key.pem', for_extensions.key)}",
            f"--requestheader-client-ca-file={self.write('front-proxy-ca.pem', front.certificate)}",
            f"--requestheader-allowed-names={FRONT_PROXY}",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
            f"--service-account-key-file={self.write('accounts.pem', public)}",
            f"--service-account-signing-key-file={accounts}",
            f"--service-cluster-ip-range={SERVICES}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--kubelet-preferred-address-types=InternalIP",
            "--profiling=false",
        )

    @staticmethod
    def _url(port: int) -> str:
        return f"https://127.0.0.1:{port}"
