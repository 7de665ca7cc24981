"""Sightline on a real cluster: its own images, installed with Helm as people install it, and pictures in a bucket.

What a person's cluster would bring is made here: volumes, a bucket, and images of Qdrant, Redis and PostgreSQL, as no
registry is reached. Qdrant's is the stand-in, the others are Debian's programs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.cluster.addresses import NODE_IP
from tests.e2e.cluster.cluster import ROOT, Cluster
from tests.support import waiting
from tests.support.s3 import Bucket

NAMESPACE = "search"
PATIENCE_S = 900
IMAGES = Path(__file__).parent / "images"
QDRANT, STORES = "localhost/sightline-test-qdrant:dev", "localhost/sightline-test-stores:dev"
S3_PORT = 9000
TUTORIAL = ROOT / "operator" / "README.md"
VALUES: dict[str, Any] = {
    "qdrant": {"image": {"repository": QDRANT.partition(":")[0], "tag": "dev"}, "httpProbes": False},
    "redis": {"image": {"repository": STORES.partition(":")[0], "tag": "dev"}},
    "postgresql": {
        "image": {"repository": STORES.partition(":")[0], "tag": "dev"},
        "command": ["start-postgresql"],
    },
}
"""What differs from an installation with no value set."""

eventually = partial(waiting.eventually, pause_s=0.5, patience_s=PATIENCE_S)


class Installation:
    """A cluster that is ready for `helm install`, and what people do with it from a shell."""

    def __init__(self, cluster: Cluster, archives: Path) -> None:
        self.cluster = cluster
        self.s3 = f"http://{NODE_IP}:{S3_PORT}"
        for target in ("api", "indexer", "operator"):
            cluster.load_image(archives / f"{target}.tar")
        images = cluster.images
        qdrant = IMAGES / "qdrant" / "Dockerfile"
        cluster.load_image(images.build(QDRANT, ROOT / "tests", dockerfile=qdrant))
        base = images.base("redis-server", "postgresql")
        cluster.load_image(images.build(STORES, IMAGES / "stores", arguments=[f"BASE={base}"]))
        self._volumes = cluster.folder / "volumes"
        cluster.apply(*(self._volume(number) for number in range(4)))
        self._programs = self._make_programs()

    def shell(self, command: str, timeout_s: float = PATIENCE_S) -> str:
        """What a command prints that a person types in the project's folder."""
        environment = {
            **os.environ,
            "PATH": f"{self._programs}{os.pathsep}{os.environ['PATH']}",
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "KUBECACHEDIR": str(self.cluster.folder / "kubectl"),
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}\n{self.told()}"
        return done.stdout

    def told(self) -> str:
        """What pods and events say, for a failure's message."""
        words = ("get", "pods,jobs,imageindexes,events", f"--namespace={NAMESPACE}", "--output=wide")
        return self.cluster.kubectl(*words)

    def kubectl(self, *words: str) -> str:
        """Kubectl in the release's namespace."""
        return self.cluster.kubectl(*words, f"--namespace={NAMESPACE}")

    def get(self, *words: str) -> dict[str, Any]:
        """Objects of the release's namespace."""
        return self.cluster.get(*words, f"--namespace={NAMESPACE}")

    def names(self, kind: str, index: str = "") -> list[str]:
        """The objects of a kind, or those that belong to one ImageIndex."""
        selector = [f"--selector=sightline.dev/imageindex={index}"] if index else []
        return [one["metadata"]["name"] for one in self.get(kind, *selector)["items"]]

    def status(self, index: str) -> dict[str, Any]:
        """What an ImageIndex says of itself."""
        return dict(self.get("imageindex", index).get("status", {}))

    def condition(self, index: str, type_: str) -> str:
        """Status and reason."""
        conditions = self.status(index).get("conditions", [])
        return next((f"{one['status']} {one['reason']}" for one in conditions if one["type"] == type_), "")

    def index(self, name: str, source: dict[str, Any], **spec: Any) -> None:
        """Applies an ImageIndex of the small model."""
        about = {"apiVersion": "sightline.dev/v1alpha1", "kind": "ImageIndex"}
        model = {"name": "sightline-small", "pretrained": ""}
        metadata = {"name": name, "namespace": NAMESPACE}
        self.cluster.apply({**about, "metadata": metadata, "spec": {"source": source, "model": model, **spec}})

    def patch(self, index: str, **spec: Any) -> None:
        """Edits the spec of an ImageIndex."""
        self.kubectl("patch", "imageindex", index, "--type=merge", f"--patch={json.dumps({'spec': spec})}")

    def url(self, service: str) -> str:
        """An address on this machine's loopback that leads to a Service of the release's namespace."""
        return self.cluster.service_url(service, 80, NAMESPACE)

    def folder_of_claim(self, claim: str) -> Path:
        """Where what is on a volume lies on this machine."""
        volume = self.get("pvc", claim)["spec"]["volumeName"]
        return Path(self.cluster.get("pv", volume)["spec"]["local"]["path"])

    @contextmanager
    def bucket(self, name: str) -> Iterator[Bucket]:
        """A new bucket, which pods reach at `s3`."""
        command = [*self.cluster.enter, sys.executable, "-m", "moto.server", "-H", NODE_IP, "-p", str(S3_PORT)]
        with (self.cluster.folder / "logs" / "s3.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{self.cluster.relay(NODE_IP, S3_PORT)}"
            eventually(lambda: _answers(address), True, patience_s=60)
            bucket = Bucket(address, name)
            yield bucket
            bucket.close()
        finally:
            process.kill()
            process.wait()

    def _volume(self, number: int) -> dict[str, Any]:
        """What storage of the cluster's would give to a claim that names no class."""
        path = self._volumes / str(number)
        path.mkdir(parents=True)
        term = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node"]}
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"volume-{number}"},
            "spec": {
                "capacity": {"storage": "20Gi"},
                "accessModes": ["ReadWriteOnce"],
                "local": {"path": str(path)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [term]}]}},
            },
        }

    def _make_programs(self) -> Path:
        """A folder with kubectl, and Helm that installs with the values of the tests."""
        folder = self.cluster.folder / "bin"
        folder.mkdir()
        (folder / "kubectl").symlink_to(self.cluster.programs["kubectl"])
        values = folder / "values.json"
        values.write_text(json.dumps(VALUES))
        helm = folder / "helm"
        helm.write_text(
            f'#!/bin/sh\ncase $1 in install | upgrade) set -- "$@" --values {values} ;; esac\n'
            f'exec {self.cluster.programs["helm"]} "$@"\n'
        )
        helm.chmod(0o755)
        return folder


def tutorial() -> list[str]:
    """The commands of the tutorial, one a block."""
    section = TUTORIAL.read_text().partition("\n## Tutorial")[2].partition("\n## ")[0]
    return re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)


def _answers(address: str) -> bool:
    try:
        return httpx.get(address).is_success
    except httpx.TransportError:
        return False
