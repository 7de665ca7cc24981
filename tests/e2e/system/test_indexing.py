"""Indexing by pods that are doubled or killed, and what a generation must show before it serves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.system.conftest import SCENES
from tests.e2e.system.installation import Installation, eventually

pytestmark = pytest.mark.programs

INDEX = "batch.kubernetes.io/job-completion-index"


def test_two_pods_for_one_index_write_the_same_points_once(
    installation: Installation, source: dict[str, Any], captions: dict[str, str]
):
    """And the whole is verified: it must find a picture by its caption, and `ef` is measured for the wanted recall."""
    file, caption = next(iter(captions.items()))
    verification = {"minRecall": 0.95, "canaryQueries": [{"query": caption, "expect": [file]}]}
    installation.index("twins", source, indexing={"shards": 2}, rollout={"verification": verification})
    eventually(lambda: len(installation.names("pods", "twins")) > 0, True)
    (first, *_) = installation.get("pods", "--selector=sightline.dev/imageindex=twins")["items"]
    installation.cluster.apply(twin_of(first))
    eventually(lambda: installation.condition("twins", "Ready"), "True Serving")
    status = installation.status("twins")
    assert (status["imagesSeen"], status["pointsIndexed"]) == (SCENES, SCENES)
    assert status["tuning"]["recall"] >= 0.95
    environment = installation.get("deployment", *installation.names("deployments", "twins"))
    assert str(status["tuning"]["ef"]) in json.dumps(environment["spec"]["template"])
    eventually(lambda: installation.get("pod", "twin")["status"]["phase"], "Succeeded")
    installation.kubectl("delete", "imageindex", "twins")


def test_one_shard_that_fails_stops_the_promotion_and_the_others_finish(
    installation: Installation, source: dict[str, Any]
):
    """Its number is in the status; told to go on, the same generation is completed by that shard alone."""
    installation.index("broken", source, indexing={"shards": 2, "backoffLimitPerIndex": 0})
    eventually(
        lambda: [pod for pod in pods_of_shard(installation, "1") if pod["status"]["phase"] == "Running"] != [], True
    )
    (victim,) = pods_of_shard(installation, "1")
    installation.kubectl("delete", "pod", victim["metadata"]["name"], "--grace-period=1")
    eventually(lambda: installation.condition("broken", "Promoted"), "False ShardsFailed")
    status = installation.status("broken")
    assert (status["job"]["completedIndexes"], status["job"]["failedIndexes"]) == ("0", "1")
    assert "activeCollection" not in status
    pending = status["pendingCollection"]
    installation.kubectl("annotate", "imageindex", "broken", "sightline.dev/retry=1")
    eventually(lambda: installation.condition("broken", "Ready"), "True Serving")
    assert installation.status("broken")["activeCollection"] == pending
    assert installation.status("broken")["pointsIndexed"] == SCENES
    installation.kubectl("delete", "imageindex", "broken")


def pods_of_shard(installation: Installation, shard: str) -> list[dict[str, Any]]:
    labels = f"sightline.dev/imageindex=broken,{INDEX}={shard}"
    return list(installation.get("pods", f"--selector={labels}")["items"])


def twin_of(pod: dict[str, Any]) -> dict[str, Any]:
    """A pod that does the same, and that no Job knows of."""
    meta = pod["metadata"]
    spec = {key: value for key, value in pod["spec"].items() if key not in {"nodeName", "hostname"}}
    shard = {INDEX: meta["labels"][INDEX]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "twin", "namespace": meta["namespace"], "labels": shard, "annotations": shard},
        "spec": spec,
    }
