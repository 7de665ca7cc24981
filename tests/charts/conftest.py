"""The chart as Helm renders it, with values that people would set."""

from __future__ import annotations

import copy
import functools
import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.cluster.programs import RECIPES, Programs, built

Body = dict[str, Any]
Values = Mapping[str, Any]

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "sightline"
NAMESPACE = "search"
[KUBERNETES] = [recipe.version for recipe in RECIPES if recipe.name == "kubernetes"]

PLACED: Body = {
    "priorityClassName": "important",
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "podLabels": {"team": "search"},
    "podAnnotations": {"example.com/owner": "search"},
    "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
}
EXTERNAL: Body = {
    "qdrant": {"url": "https://qdrant.example.com:443", "apiKey": "key"},
    "redis": {"url": "rediss://:word@redis.example.com:6380/0"},
    "postgresql": {"url": "postgresql://u:p@db.example.com:5433/sightline?sslmode=verify-full"},
}
DIGEST = f"sha256:{'0123456789abcdef' * 4}"

COMBINATIONS: dict[str, Body] = {
    "defaults": {},
    "external": EXTERNAL,
    "own-secret": {"stores": {"create": False, "secretName": "ours"}, "data": {"create": False, "claimName": "ours"}},
    "own-secret-external": {
        **copy.deepcopy(EXTERNAL),
        "stores": {"create": False},
        "postgresql": {"enabled": False},
    },
    "namespaced": {"operator": {"watchNamespaces": ["search", "pictures", "films"]}},
    "ingress": {
        "api": {
            "ingress": {
                "enabled": True,
                "className": "nginx",
                "hosts": ["search.example.com", "*.example.org"],
                "tlsSecret": "certificate",
                "annotations": {"example.com/size": "10m"},
            }
        }
    },
    "gateway": {
        "api": {
            "httpRoute": {
                "enabled": True,
                "parentRefs": [{"name": "public", "namespace": "gateways"}],
                "hostnames": ["search.example.com"],
                "annotations": {"example.com/owner": "search"},
            }
        }
    },
    "monitoring": {"monitoring": {"enabled": True, "labels": {"release": "prometheus"}}},
    "monitoring-namespaced": {
        "monitoring": {"enabled": True, "rules": {"enabled": False}, "dashboards": {"enabled": False}},
        "operator": {"watchNamespaces": ["pictures"]},
    },
    "scaled-by-cpu": {"api": {"autoscaling": {"enabled": True}}},
    "scaled-by-searches": {
        "api": {"autoscaling": {"enabled": True, "targetCPUUtilization": 0, "targetSearchesRunning": 4}}
    },
    "keda": {"operator": {"prometheusUrl": "http://prometheus.monitoring:9090"}},
    "no-crds": {"crds": {"install": False}, "userRoles": {"create": False}},
    "crds-go": {"crds": {"keep": False}},
    "digests": {
        "image": {
            "registry": "registry.example.com:5000/images",
            "api": {"digest": DIGEST},
            "indexer": {"digest": DIGEST},
            "operator": {"digest": DIGEST},
        },
        "qdrant": {"image": {"registry": "registry.example.com:5000", "digest": DIGEST}},
    },
    "private-registry": {
        "image": {
            "registry": "registry.example.com/team",
            "tag": "1.2.3",
            "pullPolicy": "Always",
            "pullSecrets": ["one", "two"],
        }
    },
    "many-nodes": {
        "data": {"accessMode": "ReadWriteMany", "className": "shared", "size": "500Gi"},
        "qdrant": {"replicas": 3, "storage": {"size": "1Ti", "className": "fast"}},
        "api": {"replicas": 3},
        "operator": {"replicas": 2},
    },
    "placed": dict.fromkeys(("operator", "api", "qdrant", "redis", "postgresql"), PLACED),
    "nothing-kept": {
        "data": {"enabled": False},
        "qdrant": {"storage": {"enabled": False}},
        "postgresql": {"storage": {"enabled": False}},
    },
    "stand-ins": {
        "qdrant": {
            "image": {"registry": "localhost", "repository": "sightline-test-servers", "tag": "dev"},
            "command": ["python3", "-m", "tests.support.qdrant_server", "--api-key", "$(QDRANT__SERVICE__API_KEY)"],
            "httpProbes": False,
            "extraEnv": [{"name": "QDRANT__LOG_LEVEL", "value": "WARN"}],
        },
        "postgresql": {"command": ["start-postgresql"]},
    },
    "large-model": {"api": {"model": {"name": "ViT-H-14", "pretrained": "laion2b_s32b_b79k"}}},
    "no-operator": {"operator": {"enabled": False}},
    "no-api": {"api": {"enabled": False}},
    "no-cache": {"redis": {"enabled": False}},
    "no-policies": {"networkPolicy": {"enabled": False}},
    "policies": {
        "networkPolicy": {
            "apiFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}],
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
            "extraEgress": [{"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}], "ports": [{"port": 9000}]}],
            "apiServerPorts": [8443],
        }
    },
    "renamed": {"fullnameOverride": "images", "nameOverride": "pictures", "commonLabels": {"team": "search"}},
    "own-account": {
        "operator": {"serviceAccount": {"create": False, "name": "ours"}, "rbac": {"create": False}},
    },
    "annotated-account": {
        "operator": {
            "serviceAccount": {"annotations": {"example.com/role": "operator"}},
            "extraEnv": [{"name": "SSL_CERT_FILE", "value": "/etc/ours.pem"}],
        },
        "api": {"service": {"type": "LoadBalancer", "port": 8080, "annotations": {"example.com/internal": "true"}}},
    },
}


@pytest.fixture(scope="session")
def programs() -> Programs:
    """Helm and kubeconform, built where they are missing."""
    return built()


class Chart:
    """The chart, or a copy of it."""

    def __init__(self, helm: str, folder: Path = CHART) -> None:
        self._helm = helm
        self.folder = folder

    def run(self, *words: str, values: Values | None = None) -> subprocess.CompletedProcess[str]:
        """What Helm does with it."""
        return subprocess.run(
            [self._helm, words[0], *(["sightline"] if words[0] == "template" else []), str(self.folder), *words[1:],
             "--namespace", NAMESPACE, "--kube-version", KUBERNETES, "--values", "-"],
            input=json.dumps(values or {}),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )  # fmt: skip

    def text(self, values: Values | None = None) -> str:
        """The manifests."""
        done = self.run("template", values=values)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refusal(self, values: Values) -> str:
        """Why Helm renders nothing of these values."""
        done = self.run("template", values=values)
        assert done.returncode != 0, "these values are accepted"
        return done.stderr

    @functools.cache  # noqa: B019 - one chart lives as long as the tests
    def combination(self, name: str) -> str:
        """The manifests of one of `COMBINATIONS`, rendered once."""
        return self.text(COMBINATIONS[name])

    def objects(self, name: str) -> list[Body]:
        """The same, as objects."""
        return objects(self.combination(name))


def objects(text: str) -> list[Body]:
    """Manifests as objects."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [found for found in yaml.load_all(text, Loader=loader) if found]


def pods(found: list[Body]) -> dict[str, Body]:
    """The pod templates among objects, by the kind and name of what they belong to."""
    made = {}
    for body in found:
        name = f"{body['kind']}/{body['metadata']['name']}"
        if body["kind"] == "Pod":
            made[name] = {"metadata": body["metadata"], "spec": body["spec"]}
        elif body["kind"] in {"Deployment", "StatefulSet"}:
            made[name] = body["spec"]["template"]
    return made


@pytest.fixture(scope="session")
def chart(programs: Programs) -> Chart:
    """The chart in this repository."""
    return Chart(programs["helm"])


@pytest.fixture(scope="session")
def sample_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A rule and a dashboard, with the braces that both are full of, in a copy of the chart."""
    folder = tmp_path_factory.mktemp("chart") / "sightline"
    shutil.copytree(CHART, folder)
    made = {"rules": folder / "files/rules/sample.yaml", "dashboards": folder / "files/dashboards/sample.json"}
    alert = {"alert": "Sample", "expr": "up == 0", "annotations": {"summary": "{{ $labels.pod }} is down"}}
    for path, content in (
        (made["rules"], yaml.safe_dump({"groups": [{"name": "sample", "rules": [alert]}]})),
        (made["dashboards"], json.dumps({"title": "Sample", "panels": [{"legend": '{{pod}} "up"'}]}, indent=1)),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    return made


@pytest.fixture(scope="session")
def with_files(programs: Programs, sample_files: dict[str, Path]) -> Chart:
    """The chart with them."""
    return Chart(programs["helm"], sample_files["rules"].parents[2])
