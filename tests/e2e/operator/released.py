"""What a release left in a cluster: recorded once, put into another cluster as often as a test needs it.

    python -m tests.e2e.operator.released      records this version, in releases/VERSION

    releases/VERSION/crd.yaml        the definition of ImageIndex, as it was
    releases/VERSION/objects.json    an ImageIndex that serves its second generation, keeps its first and builds its
                                     third, with everything that belongs to it, as the API server gave them

Record a version when it is released, and never again: what people have in their clusters does not change either. One
that is not released yet is recorded anew, into an empty place, when a change of what the operator makes is meant.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import yaml
from imageindex_operator.names import KIND, MANAGER, OWNER, REPLICAS_MANAGER
from imageindex_operator.reconcile import CHILDREN

from engine.generations.qdrant import QdrantGenerations
from tests.e2e.cluster.cluster import ROOT, Cluster
from tests.e2e.operator.conftest import Operator, Shop, eventually
from tests.e2e.operator.steps import begun, built_by_jobs, served
from tests.operator.world import CRD
from tests.support.qdrant import QdrantServer

RELEASES = Path(__file__).parent / "releases"
MODELS = {"ViT-B-32": "laion2b_s34b_b79k", "ViT-H-14": "laion2b_s32b_b79k"}
SPEC: dict[str, Any] = {
    "indexing": {"shards": 2, "schedule": "0 3 1 1 *"},
    "rollout": {"scaleDownDelaySeconds": 3},
    "serving": {"autoscaling": {"class": "hpa", "min": 2, "max": 4}},
}
_NAMESPACE = "released"
_GIVEN_BY_THE_SERVER = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields")
_JOB_LABELS = ("controller-uid", "job-name")


class Release:
    """One recorded release."""

    def __init__(self, folder: Path) -> None:
        self.version = folder.name
        self.crd: dict[str, Any] = yaml.safe_load((folder / "crd.yaml").read_text())
        self._objects: list[dict[str, Any]] = json.loads((folder / "objects.json").read_text())

    @property
    def index(self) -> dict[str, Any]:
        """The ImageIndex as it was."""
        return next(body for body in self._objects if body["kind"] == KIND)

    @property
    def generations(self) -> dict[str, str]:
        """The complete generations and their models, oldest first; the last one serves."""
        return {one["generation"]: one["model"] for one in reversed(self.index["status"]["revisions"])}

    @property
    def pending(self) -> str:
        """The generation that was being built."""
        return str(self.index["status"]["pendingCollection"]).removeprefix("sightline-shop-")

    def restore(self, shop: Shop, qdrant: QdrantServer) -> None:
        """Puts everything where `shop` is, and waits until its replicas are up, as they were."""
        self._create(shop, self.index, owner=None)
        status = _patch(status=self.index["status"])
        shop.kubectl("patch", "imageindex/shop", "--subresource=status", "--type=merge", status)
        self._restore_managers(shop, self.index)
        owner = shop.get()["metadata"]["uid"]
        for body in self._objects:
            if body["kind"] != KIND:
                self._create(shop, body, owner=owner)
                self._restore_managers(shop, body)
        for generation, model in self.generations.items():
            shop.build(generation, model)
        asyncio.run(_promote(qdrant, list(self.generations)[-1]))
        wanted = self.index["status"]["replicas"]
        eventually(
            lambda: [one.get("status", {}).get("availableReplicas") for one in shop.children("deployments")], [wanted]
        )

    @staticmethod
    def _create(shop: Shop, recorded: dict[str, Any], owner: str | None) -> None:
        body = json.loads(json.dumps(recorded))
        meta, spec = body["metadata"], body["spec"]
        body.pop("status", None)
        body["metadata"] = {name: value for name, value in meta.items() if name not in _GIVEN_BY_THE_SERVER}
        body["metadata"]["namespace"] = shop.namespace
        if owner:
            for reference in body["metadata"]["ownerReferences"]:
                reference["uid"] = owner
        if body["kind"] == "Job":  # these name the Job's own uid
            del spec["selector"]
            for labels in (body["metadata"]["labels"], spec["template"]["metadata"]["labels"]):
                for name in [name for name in labels if name.rpartition("/")[2] in _JOB_LABELS]:
                    del labels[name]
        if body["kind"] == "Service":
            del spec["clusterIP"], spec["clusterIPs"]
        shop.cluster.kubectl("create", "--validate=false", "--filename=-", stdin=json.dumps(body))

    @staticmethod
    def _restore_managers(shop: Shop, recorded: dict[str, Any]) -> None:
        """Who owns which field, which creating has given to kubectl."""
        ours = {MANAGER, REPLICAS_MANAGER}
        fields = [
            entry
            for entry in recorded["metadata"]["managedFields"]
            if recorded["kind"] == KIND or entry["manager"] in ours
        ]
        what = f"{recorded['kind'].lower()}/{recorded['metadata']['name']}"
        shop.kubectl("patch", what, "--type=merge", _patch(metadata={"managedFields": fields}))


class Placed(Operator):
    """The operator, whose pods find Qdrant where those of a release do: the port of a test would make them others.

    `change` is code that comes before its own.
    """

    change = ""
    _PLACE = """
from dataclasses import replace
from imageindex_operator import config
found = config.Config.of
config.Config.of = lambda settings: replace(found(settings), qdrant_url="http://qdrant:6334")
import sys, sightline
sys.argv = ["sightline", "operator", "run"]
sightline.main()
"""

    def start(self) -> None:
        """Returns at once."""
        command = [sys.executable, "-c", f"{self.change}\n{self._PLACE}"]
        self._process = subprocess.Popen(command, cwd=ROOT, env=self._environment)


def releases() -> list[Release]:
    """All that are recorded, oldest first."""
    return [Release(folder) for folder in sorted(RELEASES.iterdir()) if folder.is_dir()]


async def _promote(qdrant: QdrantServer, generation: str) -> None:
    store = QdrantGenerations(qdrant.settings(), "shop")
    try:
        await store.promote(generation)
    finally:
        await store.close()


def _patch(**fields: Any) -> str:
    return f"--patch={json.dumps(fields)}"


def record(folder: Path) -> None:
    """Has the present operator bring an ImageIndex to where a test wants it, and writes down what is there."""
    with Cluster(containers=False, purpose="record") as cluster, tempfile.TemporaryDirectory() as temporary:
        cluster.add_simulated_nodes(2, gpus=1)
        cluster.apply(yaml.safe_load(CRD.read_text()))
        cluster.kubectl("wait", "--for=condition=Established", "crd/imageindexes.sightline.dev")
        cluster.kubectl("create", "namespace", _NAMESPACE)
        cluster.kubectl("create", "secret", "generic", "sightline-stores", f"--namespace={_NAMESPACE}")
        with QdrantServer(Path(temporary) / "qdrant") as qdrant:
            operator, shop = Placed(cluster, qdrant, _NAMESPACE, "one"), Shop(cluster, qdrant, _NAMESPACE)
            operator.start()
            try:
                for model, pretrained in MODELS.items():
                    shop.apply(**SPEC, model={"name": model, "pretrained": pretrained})
                    eventually(lambda: bool(shop.pending()), True)
                    served(shop, model)
                shop.apply(**SPEC, model={"name": model, "pretrained": pretrained}, source={"s3": {"url": "s3://new"}})
                third = begun(shop)
                eventually(lambda: third in built_by_jobs(shop), True)
                eventually(lambda: len(shop.children("deployments")), 1)
                eventually(lambda: shop.get()["status"]["job"]["name"] in _names(shop, "jobs"), True)
            finally:
                operator.end()
            where = (f"--namespace={_NAMESPACE}", "--show-managed-fields")
            found = [body for kind in (KIND, *CHILDREN) for body in cluster.get(kind.lower(), *where)["items"]]
    kept = [body for body in found if body["kind"] == KIND or OWNER in body["metadata"].get("labels", {})]
    folder.mkdir(parents=True)
    shutil.copy(CRD, folder / "crd.yaml")
    (folder / "objects.json").write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def _names(shop: Shop, kind: str) -> list[str]:
    return [str(body["metadata"]["name"]) for body in shop.children(kind)]


if __name__ == "__main__":
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    record(RELEASES / version)
