"""Specs that the CRD must refuse, each with a word of the reason, and some that it must take.

`SCHEMA` are refused by types and bounds alone, which a validator of JSON schemas sees too; `RULES` by CEL, which only
a real API server evaluates (see tests/e2e/operator).
"""

from __future__ import annotations

from typing import Any, Final

from tests.operator.world import minimal

Spec = dict[str, Any]

S3: Final = {"s3": {"url": "s3://pictures/2026"}}
ID: Final = "20261121-120000-000000-00ab"


def canaries(count: int) -> Spec:
    """A rollout with so many of them."""
    queries = [{"query": "a red car", "expect": ["a.jpg"]}] * count
    return {"verification": {"canaryQueries": queries}}


SCHEMA: Final[list[tuple[str, Spec, str]]] = [
    ("no source", {"model": minimal()["model"]}, "source"),
    ("no model", {"source": S3}, "model"),
    ("a model without a name", minimal(model={"pretrained": "x"}), "name"),
    ("a model with an empty name", minimal(model={"name": "", "pretrained": "x"}), "name"),
    ("a model without a tag", minimal(model={"name": "ViT-B-32"}), "pretrained"),
    ("a dimension of text", minimal(model={"name": "a", "pretrained": "b", "dimension": "512"}), "dimension"),
    ("a tiny dimension", minimal(model={"name": "a", "pretrained": "b", "dimension": 4}), "dimension"),
    ("a bucket by https", minimal(source={"s3": {"url": "https://pictures"}}), "url"),
    ("a bucket in capitals", minimal(source={"s3": {"url": "s3://Pictures/2026"}}), "url"),
    (
        "an endpoint with a password",
        minimal(source={"s3": {"url": "s3://abc", "endpoint": "http://u:p@x"}}),
        "endpoint",
    ),
    ("a secret of a wrong name", minimal(source={"s3": {"url": "s3://abc", "secretName": "Not_A_Name"}}), "secretName"),
    ("a volume without a claim", minimal(source={"pvc": {"path": "x"}}), "claimName"),
    ("a list by ftp", minimal(source={"http": {"url": "ftp://x/y.csv"}}), "url"),
    ("a list with a password", minimal(source={"http": {"url": "https://u:p@x/y.csv"}}), "url"),
    ("an alias in capitals", minimal(collection={"alias": "Shop"}), "alias"),
    ("an alias of 64 letters", minimal(collection={"alias": "a" * 64}), "alias"),
    ("no shards in Qdrant", minimal(collection={"shardNumber": 0}), "shardNumber"),
    ("no copies in Qdrant", minimal(collection={"replicationFactor": 0}), "replicationFactor"),
    ("no shards", minimal(indexing={"shards": 0}), "shards"),
    ("no parallelism", minimal(indexing={"parallelism": 0}), "parallelism"),
    ("a batch of nothing", minimal(indexing={"batchSize": 0}), "batchSize"),
    ("a deadline of nothing", minimal(indexing={"activeDeadlineSeconds": 0}), "activeDeadlineSeconds"),
    ("a schedule of words", minimal(indexing={"schedule": "every night"}), "schedule"),
    ("a schedule of four fields", minimal(indexing={"schedule": "0 3 * *"}), "schedule"),
    ("a negative delay", minimal(rollout={"scaleDownDelaySeconds": -1}), "scaleDownDelaySeconds"),
    ("eleven old generations", minimal(rollout={"revisionHistoryLimit": 11}), "revisionHistoryLimit"),
    ("a generation of words", minimal(rollout={"generation": "latest"}), "generation"),
    ("a share above one", minimal(rollout={"verification": {"minPointRatio": 1.5}}), "minPointRatio"),
    ("a recall above one", minimal(rollout={"verification": {"minRecall": 2}}), "minRecall"),
    (
        "a canary that expects nothing",
        minimal(rollout={"verification": {"canaryQueries": [{"query": "x", "expect": []}]}}),
        "expect",
    ),
    ("a hundred and one canaries", minimal(rollout=canaries(101)), "canaryQueries"),
    ("negative replicas", minimal(serving={"replicas": -1}), "replicas"),
    ("seventeen GPUs", minimal(serving={"gpu": 17}), "gpu"),
    ("an unknown policy of tolerations", minimal(serving={"tolerationsPolicy": "merge"}), "tolerationsPolicy"),
    ("an unknown autoscaler", minimal(serving={"autoscaling": {"class": "vpa"}}), "class"),
    ("no replicas at least", minimal(serving={"autoscaling": {"class": "hpa", "min": 0, "max": 2}}), "min"),
    ("a p95 of nothing", minimal(serving={"autoscaling": {"class": "hpa", "max": 2, "targetP95Ms": 0}}), "targetP95Ms"),
    ("an unknown deletion policy", minimal(deletionPolicy="Orphan"), "deletionPolicy"),
    ("suspend as text", minimal(suspend="yes"), "suspend"),
]

RULES: Final[list[tuple[str, Spec, str]]] = [
    ("no kind of source", minimal(source={}), "exactly one of"),
    ("two kinds of source", minimal(source={**S3, "pvc": {"claimName": "pictures"}}), "exactly one of"),
    (
        "three kinds of source",
        minimal(source={**S3, "pvc": {"claimName": "p"}, "http": {"url": "https://x/y.csv"}}),
        "exactly one of",
    ),
    ("an absolute path in a volume", minimal(source={"pvc": {"claimName": "p", "path": "/etc"}}), "relative"),
    ("a path out of a volume", minimal(source={"pvc": {"claimName": "p", "path": "a/../../b"}}), "relative"),
    ("more pods than shards", minimal(indexing={"shards": 2, "parallelism": 3}), "each shard is one pod"),
    ("more pods than the one shard by default", minimal(indexing={"parallelism": 2}), "each shard is one pod"),
    ("more failures than shards", minimal(indexing={"shards": 2, "maxFailedIndexes": 3}), "maxFailedIndexes"),
    ("min above max", minimal(serving={"autoscaling": {"class": "hpa", "min": 3, "max": 2}}), "more than max"),
    ("hpa without max", minimal(serving={"autoscaling": {"class": "hpa"}}), "max is needed"),
    ("keda without max", minimal(serving={"autoscaling": {"class": "keda", "min": 2}}), "max is needed"),
    (
        "replicas and hpa",
        minimal(serving={"replicas": 2, "autoscaling": {"class": "hpa", "max": 3}}),
        "exclude each other",
    ),
    (
        "replicas and keda",
        minimal(serving={"replicas": 2, "autoscaling": {"class": "keda", "max": 3}}),
        "exclude each other",
    ),
]

NAMES: Final = ["1shop", "shop.eu", "a" * 41]
"""Names of resources that the API server would take, but children could not be named after."""

TAKEN: Final[list[tuple[str, Spec]]] = [
    ("the least", minimal()),
    ("a volume", minimal(source={"pvc": {"claimName": "pictures", "path": "2026/summer"}})),
    ("a list", minimal(source={"http": {"url": "https://example.com/list.parquet", "secretName": "token"}})),
    ("the shipped model", minimal(model={"name": "sightline-small", "pretrained": ""})),
    (
        "shards",
        minimal(indexing={"shards": 64, "parallelism": 8, "maxFailedIndexes": 3, "schedule": "*/30 2-4 * * MON"}),
    ),
    ("hourly", minimal(indexing={"schedule": "@hourly"})),
    ("a pinned generation", minimal(rollout={"generation": ID, "autoPromote": False, **canaries(3)})),
    ("hpa", minimal(serving={"gpu": 1, "autoscaling": {"class": "hpa", "min": 2, "max": 8, "targetP95Ms": 50}})),
    ("somebody else scales", minimal(serving={"replicas": 2, "autoscaling": {"class": "external"}})),
    (
        "a pod template",
        minimal(serving={"podTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"nodeSelector": {"x": "y"}}}}),
    ),
    ("everything deleted", minimal(deletionPolicy="Delete", snapshotBeforeDelete=False, suspend=True)),
]
