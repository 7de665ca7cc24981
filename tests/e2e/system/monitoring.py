"""What autoscaling by searches needs beside Sightline: Prometheus, and prometheus-adapter behind the API server.

Both are the real programs, in the node's network; the adapter has the rights that its own chart gives it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from tests.e2e.cluster.addresses import NODE_IP
from tests.e2e.cluster.cluster import ROOT
from tests.e2e.system.discovery import Discovery, scrape_configs
from tests.e2e.system.installation import NAMESPACE as RELEASE
from tests.e2e.system.installation import Installation, eventually

Body = dict[str, Any]

NAMESPACE = "monitoring"
ADAPTER = "prometheus-adapter"
PROMETHEUS_PORT, ADAPTER_PORT = 9090, 6444
EVERY = "2s"
"""How often all is collected, which people would do every 15 to 30 seconds."""
RULES = ROOT / "charts" / "sightline" / "files" / "prometheus-adapter.yaml"
RENDER = (
    "helm template sightline charts/sightline --namespace {namespace} --kube-version 1.33.0"
    " --show-only templates/monitoring.yaml"
    " --set monitoring.enabled=true --set monitoring.interval={every} --set qdrant.url=http://no.metrics:6334"
)
"""Without the monitor of Qdrant: its stand-in has no metrics."""
OF_ITS_CHART: Body = {
    "seriesQuery": '{namespace!="",__name__!~"^container_.*"}',
    "seriesFilters": [{"isNot": ".*_total$"}],
    "resources": {"template": "<<.Resource>>"},
    "metricsQuery": "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)",
}
"""A rule that the adapter's chart has by default, before those of its values: it finds every gauge, by its name."""
GROUPS = ("custom.metrics.k8s.io", "external.metrics.k8s.io")


class Monitoring:
    """A context: inside it what the monitors name is collected, and the API server answers for both groups."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._cluster = installation.cluster
        self._folder = self._cluster.folder / NAMESPACE

    def __enter__(self) -> Self:
        self._folder.mkdir()
        self._cluster.apply(*_account(), *_service())
        rendered = self._installation.shell(RENDER.format(namespace=RELEASE, every=EVERY))
        monitors = [body for body in yaml.safe_load_all(rendered) if body["kind"].endswith("Monitor")]
        with ExitStack() as stack:
            stack.enter_context(self._prometheus(monitors))
            address = f"http://127.0.0.1:{self._cluster.relay(NODE_IP, PROMETHEUS_PORT)}"
            self._client = stack.enter_context(httpx.Client(base_url=address, timeout=60))
            eventually(self._collects, True)
            stack.enter_context(self._adapter())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def ask(self, query: str) -> dict[str, float]:
        """What Prometheus answers to a query whose results differ in one label at most, by its value."""
        answer = self._client.get("/api/v1/query", params={"query": query}).raise_for_status().json()
        return {next(iter(one["metric"].values()), ""): float(one["value"][1]) for one in answer["data"]["result"]}

    @contextmanager
    def _prometheus(self, monitors: list[Body]) -> Iterator[None]:
        configs = [config for monitor in monitors for config in scrape_configs(monitor, self._folder)]
        options = [
            f"--config.file={self._write('prometheus', {'scrape_configs': configs})}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={NODE_IP}:{PROMETHEUS_PORT}",
        ]
        with Discovery(self._cluster.calls, self._folder), self._running("prometheus", *options):
            yield

    @contextmanager
    def _adapter(self) -> Iterator[None]:
        """Its chart makes one file of the values for all kinds of rules."""
        rules = yaml.safe_load(RULES.read_text())["rules"]
        config = self._write("adapter", {"rules": [OF_ITS_CHART, *rules["custom"]], "externalRules": rules["external"]})
        account = self._kubeconfig()
        options = [f"--{what}-kubeconfig={account}" for what in ("lister", "authentication", "authorization")]
        options += [
            f"--config={config}",
            f"--prometheus-url=http://{NODE_IP}:{PROMETHEUS_PORT}",
            "--metrics-relist-interval=5s",
            f"--cert-dir={self._folder / 'certificate'}",
            f"--bind-address={NODE_IP}",
            f"--secure-port={ADAPTER_PORT}",
        ]
        services = [_api_service(group) for group in GROUPS]
        names = [f"apiservice/{one['metadata']['name']}" for one in services]
        with self._running("adapter", *options):
            self._cluster.apply(*services)
            self._cluster.kubectl("wait", "--for=condition=Available", "--timeout=120s", *names)
            try:
                yield
            finally:  # as long as it is known and does not answer, no namespace can be deleted
                self._cluster.kubectl("delete", *names)

    @contextmanager
    def _running(self, program: str, *options: str) -> Iterator[None]:
        command = [*self._cluster.enter, "setpriv", "--pdeathsig", "KILL", self._cluster.programs[program], *options]
        with (self._cluster.folder / "logs" / f"{program}.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.kill()
            process.wait()

    def _collects(self) -> bool:
        """Whether every monitor has found something that answers."""
        try:
            up = self.ask("min by (job) (up)")
        except httpx.HTTPError:
            return False
        return len(up) == len({"operator", "api"}) and set(up.values()) == {1.0}

    def _kubeconfig(self) -> Path:
        """The adapter's own."""
        config = json.loads(self._cluster.kubeconfig.read_text())
        [there], [user] = config["clusters"], config["users"]
        there["cluster"]["server"] = f"https://{NODE_IP}:6443"
        token = self._cluster.kubectl("create", "token", ADAPTER, f"--namespace={NAMESPACE}", "--duration=24h")
        user["user"] = {"token": token.strip()}
        return self._write("account", config)

    def _write(self, name: str, content: Mapping[str, Any]) -> Path:
        """A file of JSON, which is YAML too."""
        path = self._folder / f"{name}.yaml"
        path.write_text(json.dumps(content, indent=1))
        return path


def _account() -> Iterator[Body]:
    """The adapter's, and what it may: see pods, ask who asks it, and whether he may."""
    yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ADAPTER, "namespace": NAMESPACE}}
    resources = ["namespaces", "pods", "services", "configmaps"]
    yield {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": f"{ADAPTER}-reader"},
        "rules": [{"apiGroups": [""], "resources": resources, "verbs": ["get", "list", "watch"]}],
    }
    yield _binding("ClusterRole", f"{ADAPTER}-reader")
    yield _binding("ClusterRole", "system:auth-delegator")
    yield _binding("Role", "extension-apiserver-authentication-reader", "kube-system")


def _binding(kind: str, role: str, namespace: str = "") -> Body:
    name = f"{ADAPTER}-is-{role.removeprefix('system:')}"
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": f"{kind}Binding",
        "metadata": {"name": name, **({"namespace": namespace} if namespace else {})},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": ADAPTER, "namespace": NAMESPACE}],
    }


def _service() -> Iterator[Body]:
    """The adapter's, which leads to where it runs instead of to pods."""
    meta = {"name": ADAPTER, "namespace": NAMESPACE}
    yield {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [{"name": "https", "port": 443}]}}
    yield {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**meta, "labels": {"kubernetes.io/service-name": ADAPTER}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [NODE_IP]}],
        "ports": [{"name": "https", "port": ADAPTER_PORT}],
    }


def _api_service(group: str) -> Body:
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"v1beta1.{group}"},
        "spec": {
            "group": group,
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"name": ADAPTER, "namespace": NAMESPACE},
        },
    }
