"""The one real node: containerd, kubelet and kube-proxy, with every file of theirs in the cluster's folder."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.cluster.addresses import DNS_IP, DOMAIN, NODE_IP, PODS
from tests.e2e.cluster.control_plane import LEASE_S, ControlPlane
from tests.e2e.cluster.machine import Machine
from tests.e2e.cluster.processes import Processes
from tests.e2e.cluster.programs import Programs

NAME = "node"
PAUSE_IMAGE = "localhost/pause:1"
CNI_PLUGINS = "/usr/lib/cni"
NETWORK = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        # Point to point: every packet between pods is routed, so that Services work without a bridge's netfilter.
        {
            "type": "ptp",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}]},
        }
    ],
}


class Node:
    """Starts the node's parts on its machine."""

    def __init__(
        self, folder: Path, programs: Programs, processes: Processes, machine: Machine, plane: ControlPlane
    ) -> None:
        self._folder = folder / "node"
        self._folder.mkdir()
        self._programs = programs
        self._processes = processes
        self._machine = machine
        self._plane = plane
        self.runtime = str(self._folder / "containerd.sock")

    def start_runtime(self) -> None:
        """Starts containerd; it needs no API server."""
        networks = self._folder / "networks"
        networks.mkdir()
        (networks / "pods.conflist").write_text(json.dumps(NETWORK))
        config = self._write("containerd.toml", self._containerd(networks))
        self._start("containerd", self._programs["containerd"], f"--config={config}", "--log-level=warn")

    def start(self, cgroup: str) -> None:
        """Starts kubelet, whose pods are put under `cgroup`, and kube-proxy."""
        user, group = f"system:node:{NAME}", "system:nodes"
        certificate, key = self._plane.pair("kubelet", user, group, serves=[NAME, NODE_IP])
        kubelet = self._write("kubelet.json", json.dumps(self._kubelet(cgroup, certificate, key), indent=1))
        self._start(
            "kubelet",
            self._programs["kubelet"],
            f"--config={kubelet}",
            f"--kubeconfig={self._plane.kubeconfig(user, group)}",
            f"--hostname-override={NAME}",
            f"--node-ip={NODE_IP}",
            f"--root-dir={self._folder / 'kubelet'}",
        )
        proxy = self._write("kube-proxy.json", json.dumps(self._proxy(), indent=1))
        self._start("kube-proxy", self._programs["kube-proxy"], f"--config={proxy}")

    def _start(self, name: str, *command: str) -> None:
        self._processes.start(name, *self._machine.enter, *command)

    def _write(self, name: str, content: str) -> str:
        path = self._folder / name
        path.write_text(content)
        return str(path)

    def _containerd(self, networks: Path) -> str:
        data = self._folder
        return f"""
version = 3
root = "{data}/containerd"
state = "{data}/containerd-state"
disabled_plugins = ["io.containerd.nri.v1.nri"]

[grpc]
address = "{self.runtime}"

[plugins."io.containerd.internal.v1.opt"]
path = "{data}/opt"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{CNI_PLUGINS}"]
conf_dir = "{networks}"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{self._programs["runc"]}"
Root = "{data}/runc"
SystemdCgroup = false
"""

    def _kubelet(self, cgroup: str, certificate: str, key: str) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": self._plane.authority_file},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": certificate,
            "tlsPrivateKeyFile": key,
            "containerRuntimeEndpoint": f"unix://{self.runtime}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{cgroup}",
            "failCgroupV1": False,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "clusterDNS": [DNS_IP],
            "clusterDomain": DOMAIN,
            "resolvConf": self._write("resolv.conf", ""),
            "podLogsDir": str(self._folder / "pod-logs"),
            "makeIPTablesUtilChains": False,
            "nodeLeaseDurationSeconds": LEASE_S,
            "nodeStatusUpdateFrequency": "5s",
            # Images are imported, and can't be fetched again: none is ever removed, and no pod is, for lack of space.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        }

    def _proxy(self) -> dict[str, object]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": self._plane.kubeconfig("system:kube-proxy")},
            "clusterCIDR": PODS,
            "hostnameOverride": NAME,
            "oomScoreAdj": 0,
            "conntrack": {"maxPerCore": 0, "min": 0},
            "metricsBindAddress": "127.0.0.1:10249",
            "healthzBindAddress": "127.0.0.1:10256",
        }
