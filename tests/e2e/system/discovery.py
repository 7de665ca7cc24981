"""What Prometheus is to collect on a cluster, and how it labels that.

Debian's Prometheus is built without its discovery of Kubernetes, so pods and Services are listed here, with the labels
that it would give them. What the Prometheus operator makes of the chart's monitors is made here too, for the fields
that they use; to choose and to relabel is Prometheus' own work.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from tests.e2e.cluster.calls import Calls

Body = dict[str, Any]
ROLES = {"PodMonitor": "pod", "ServiceMonitor": "endpoints"}
EVERY_S = 1.0


class Discovery:
    """A context: inside it two files in a folder, `pod.json` and `endpoints.json`, tell what is there."""

    def __init__(self, calls: Calls, folder: Path) -> None:
        self._calls = calls
        self._folder = folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(EVERY_S):
            try:
                pods = self._list("/api/v1/pods")
                services = self._list("/api/v1/services")
                slices = self._list("/apis/discovery.k8s.io/v1/endpointslices")
            except httpx.HTTPError:
                continue
            self._write("pod", of_pods(pods))
            self._write("endpoints", of_endpoints(slices, services, pods))

    def _list(self, path: str) -> list[Body]:
        return list((self._calls.get(path) or {"items": []})["items"])

    def _write(self, role: str, targets: Iterator[Body]) -> None:
        """All at once: Prometheus reads it whenever it changes."""
        path = self._folder / f"{role}.json"
        path.with_suffix(".new").write_text(json.dumps(list(targets)))
        path.with_suffix(".new").rename(path)


def of_pods(pods: list[Body]) -> Iterator[Body]:
    """A target for each port that a container names."""
    for pod in pods:
        for container in pod["spec"]["containers"] if pod["status"].get("podIP") else []:
            for port in container.get("ports", []):
                labels = {"pod_container_name": container["name"], "pod_container_port_name": port.get("name", "")}
                yield _target(pod["status"]["podIP"], port["containerPort"], {**_of_pod(pod), **labels})


def of_endpoints(slices: list[Body], services: list[Body], pods: list[Body]) -> Iterator[Body]:
    """A target for each port of each pod that a Service leads to."""
    service_of = {_key(service["metadata"]): service for service in services}
    pod_of = {_key(pod["metadata"]): pod for pod in pods}
    for each in slices:
        meta = each["metadata"]
        service = service_of.get((meta["namespace"], meta.get("labels", {}).get("kubernetes.io/service-name", "")))
        for endpoint in (each.get("endpoints") or []) if service else []:
            pod = pod_of.get((meta["namespace"], (endpoint.get("targetRef") or {}).get("name", "")))
            for port in (each.get("ports") or []) if pod and service else []:
                assert pod is not None
                assert service is not None
                labels = {
                    "service_name": service["metadata"]["name"],
                    "endpoint_port_name": port.get("name", ""),
                    **_labels("service", service["metadata"]),
                    **_of_pod(pod),
                }
                yield _target(endpoint["addresses"][0], port["port"], labels)


def scrape_configs(monitor: Body, folder: Path) -> Iterator[Body]:
    """What the Prometheus operator makes of a PodMonitor or a ServiceMonitor."""
    spec, meta, role = monitor["spec"], monitor["metadata"], ROLES[monitor["kind"]]
    kind, port = ("pod", "pod_container_port_name") if role == "pod" else ("service", "endpoint_port_name")
    where = spec.get("namespaceSelector", {"matchNames": [meta["namespace"]]})
    for number, endpoint in enumerate(spec["podMetricsEndpoints" if role == "pod" else "endpoints"]):
        yield {
            "job_name": f"{monitor['kind']}/{meta['namespace']}/{meta['name']}/{number}",
            "scrape_interval": endpoint["interval"],
            "scrape_timeout": endpoint["interval"],
            "honor_labels": endpoint.get("honorLabels", False),
            "file_sd_configs": [{"files": [str(folder / f"{role}.json")], "refresh_interval": endpoint["interval"]}],
            "relabel_configs": [
                *([] if where.get("any") else [_kept("namespace", "|".join(where["matchNames"]))]),
                *_selected(spec["selector"], kind),
                _kept(port, endpoint["port"]),
                {**_kept("pod_phase", "Failed|Succeeded"), "action": "drop"},
                _copied("namespace", "namespace"),
                _copied("pod_name", "pod"),
                _copied("pod_container_name", "container"),
                _copied("service_name", "service"),
                {"target_label": "job", "replacement": f"{meta['namespace']}/{meta['name']}"}
                if role == "pod"
                else _copied("service_name", "job"),
                {"target_label": "endpoint", "replacement": endpoint["port"]},
                *map(_spelt, endpoint.get("relabelings", [])),
            ],
        }


def _selected(selector: Body, kind: str) -> Iterator[Body]:
    """Keeps what has the labels. Of expressions, those that the chart uses."""
    for name, value in selector.get("matchLabels", {}).items():
        yield _kept(f"{kind}_label_{_legal(name)}", value)
    for one in selector.get("matchExpressions", []):
        if one["operator"] == "Exists":
            yield _kept(f"{kind}_labelpresent_{_legal(one['key'])}", "true")
        else:
            assert one["operator"] == "In", one
            yield _kept(f"{kind}_label_{_legal(one['key'])}", "|".join(one["values"]))


def _spelt(relabeling: Body) -> Body:
    """As Prometheus spells it."""
    names = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    return {names.get(key, key): value for key, value in relabeling.items()}


def _kept(label: str, pattern: str) -> Body:
    return {"action": "keep", "source_labels": [f"__meta_kubernetes_{label}"], "regex": pattern}


def _copied(label: str, name: str) -> Body:
    return {"source_labels": [f"__meta_kubernetes_{label}"], "target_label": name}


def _target(address: str, port: int, labels: Mapping[str, str]) -> Body:
    return {
        "targets": [f"{address}:{port}"],
        "labels": {f"__meta_kubernetes_{name}": value for name, value in labels.items()},
    }


def _of_pod(pod: Body) -> dict[str, str]:
    meta = pod["metadata"]
    about = {"namespace": meta["namespace"], "pod_name": meta["name"], "pod_phase": pod["status"]["phase"]}
    return {**about, **_labels("pod", meta)}


def _labels(kind: str, meta: Body) -> dict[str, str]:
    given = {_legal(name): value for name, value in meta.get("labels", {}).items()}
    present = {f"{kind}_labelpresent_{name}": "true" for name in given}
    return {**{f"{kind}_label_{name}": value for name, value in given.items()}, **present}


def _legal(label: str) -> str:
    return "".join(one if one.isalnum() else "_" for one in label)


def _key(meta: Body) -> tuple[str, str]:
    return meta["namespace"], meta["name"]
