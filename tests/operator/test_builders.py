"""Manifests: snapshots of a small and a full resource, and the rules that no snapshot explains."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from imageindex_operator import builders
from imageindex_operator.builders.pods import overlaid, with_gpus
from imageindex_operator.config import Config
from imageindex_operator.resource import ImageIndex

from tests.operator.world import CONFIG, image_index

SNAPSHOTS = Path(__file__).parent / "snapshots"
GENERATION = "20261121-120000-000000-00ab"
FULL = Config(
    image="registry.example/sightline:1.2.3",
    qdrant_url="https://qdrant:6334",
    data_claim="sightline-data",
    prometheus_url="http://prometheus:9090",
)
MODEL = ("ViT-B-32", "laion2b_s34b_b79k")


def full() -> ImageIndex:
    return ImageIndex.parse(
        image_index(
            source={"s3": {"url": "s3://pictures/2026", "endpoint": "http://minio:9000", "secretName": "s3-keys"}},
            collection={"alias": "catalogue", "shardNumber": 2, "replicationFactor": 2},
            indexing={
                "shards": 8,
                "parallelism": 4,
                "batchSize": 128,
                "maxFailedIndexes": 2,
                "activeDeadlineSeconds": 7200,
                "schedule": "0 3 * * *",
                "resources": {"limits": {"nvidia.com/gpu": "1"}, "requests": {"memory": "4Gi"}},
            },
            rollout={
                "verification": {"minRecall": 0.97, "canaryQueries": [{"query": "a red car", "expect": ["a.jpg"]}]}
            },
            serving={
                "gpu": 1,
                "resources": {"requests": {"memory": "8Gi"}},
                "autoscaling": {"class": "keda", "min": 2, "max": 8, "targetP95Ms": 50},
                "podTemplate": {
                    "metadata": {"annotations": {"team": "search"}},
                    "spec": {
                        "nodeSelector": {"pool": "gpu"},
                        "tolerations": [{"key": "pool", "value": "gpu", "effect": "NoSchedule"}],
                        "containers": [{"name": "sightline", "env": [{"name": "LOG_LEVEL", "value": "debug"}]}],
                    },
                },
            },
        )
    )


def small() -> ImageIndex:
    return ImageIndex.parse(image_index(source={"pvc": {"claimName": "pictures", "path": "summer"}}))


def manifests(resource: ImageIndex, config: Config) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Everything that is built from a resource."""
    yield "index-job", builders.index_job(resource, GENERATION, config)
    yield "finish-job", builders.finish_job(resource, GENERATION, config)
    yield "tune-job", builders.tune_job(resource, GENERATION, config)
    yield "canaries", builders.canaries(resource)
    yield "schedule", builders.schedule(resource, config)
    yield "deployment", builders.deployment(resource, config, MODEL, 64)
    yield "service", builders.service(resource, "cafe0123")
    yield "disruption-budget", builders.disruption_budget(resource)
    yield "autoscaler", builders.autoscaler(resource, "cafe0123")
    yield "scaled-object", builders.scaled_object(resource, "cafe0123", config)


@pytest.mark.parametrize(("name", "resource", "config"), [("small", small(), CONFIG), ("full", full(), FULL)])
def test_manifests_are_as_they_were(name: str, resource: ImageIndex, config: Config):
    """A change of a manifest is a change of the clusters of everybody: it shows in review.

    SNAPSHOTS=write python -m pytest tests/operator/test_builders.py writes them anew.
    """
    file = SNAPSHOTS / f"{name}.yaml"
    built = {part: manifest for part, manifest in manifests(resource, config) if manifest is not None}
    if os.environ.get("SNAPSHOTS") == "write":
        file.write_text(yaml.safe_dump(built, sort_keys=True, width=120))
    assert built == yaml.safe_load(file.read_text())


# ---------------------------------------------------------------- Jobs


def name_of(manifest: dict[str, Any]) -> str:
    return str(manifest["metadata"]["name"])


def test_what_can_not_be_changed_in_a_job_changes_its_name():
    """A template is never updated; parallelism and suspend can be, in place."""
    plain = name_of(builders.index_job(small(), GENERATION, CONFIG))
    same = [{"shards": 1, "parallelism": 1}, {}]
    others = [{"batchSize": 64}, {"shards": 2}, {"resources": {"limits": {"cpu": "1"}}}, {"backoffLimitPerIndex": 1}]
    source = {"pvc": {"claimName": "pictures", "path": "summer"}}

    def built(**spec: Any) -> str:
        return name_of(builders.index_job(ImageIndex.parse(image_index(source=source, **spec)), GENERATION, CONFIG))

    assert {built(indexing=indexing) for indexing in same} == {plain}
    assert built(suspend=True) == plain
    assert built(indexing={"shards": 8, "parallelism": 2}) == built(indexing={"shards": 8, "parallelism": 4})
    assert len({plain, *(built(indexing=indexing) for indexing in others)}) == 5
    assert name_of(builders.index_job(small(), "20261121-120000-000000-00ac", CONFIG)) != plain


def test_names_of_children_of_the_longest_resource_are_short_enough():
    """63 letters make a label; an Indexed Job's pods are called by its name and index; a CronJob has 52."""
    resource = ImageIndex.parse(image_index("a" * 40, indexing={"schedule": "@daily"}))
    longest = {"Job": 63 - len("-9999"), "CronJob": 52}
    for _, manifest in manifests(resource, FULL):
        assert manifest is None or len(name_of(manifest)) <= longest.get(manifest["kind"], 63)


def test_a_shards_failure_is_judged_by_its_exit_code():
    """65 is final for that shard, a lost node and 75 count for nothing, all else counts."""
    policy = builders.index_job(small(), GENERATION, CONFIG)["spec"]["podFailurePolicy"]["rules"]
    found = [(rule["action"], rule.get("onExitCodes", {}).get("values")) for rule in policy]
    assert found == [("FailIndex", [65]), ("Ignore", None), ("Ignore", [75])]
    assert policy[1]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]


def test_by_default_the_other_shards_finish_when_one_fails():
    """Kubernetes takes maxFailedIndexes: 0 as: stop all at the first."""
    assert "maxFailedIndexes" not in builders.index_job(small(), GENERATION, CONFIG)["spec"]


@pytest.mark.parametrize("resource", [small(), full()])
def test_every_pod_meets_the_restricted_standard(resource: ImageIndex):
    """Non-root, seccomp, no capabilities, read-only root; no token of the cluster."""
    for name, manifest in manifests(resource, FULL):
        template = ((manifest or {}).get("spec") or {}).get("template")
        if template is None:
            continue
        pod = template["spec"]
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False


def test_no_secret_is_ever_in_a_manifest():
    """They come from Secrets, by name."""
    text = yaml.safe_dump(dict(manifests(full(), FULL)))
    assert "secretKeyRef" not in text
    assert {"sightline-stores", "s3-keys"} == {
        one["secretRef"]["name"]
        for one in builders.index_job(full(), GENERATION, FULL)["spec"]["template"]["spec"]["containers"][0]["envFrom"]
    }


# ---------------------------------------------------------------- serving


def revision(**serving: Any) -> str:
    resource = ImageIndex.parse(image_index(serving=serving))
    return name_of(builders.deployment(resource, CONFIG, MODEL, None))


def test_another_template_is_another_revision_and_another_number_is_not():
    """So that scaling rolls nothing."""
    assert revision() == revision(replicas=5) == revision(autoscaling={"class": "hpa", "max": 3})
    assert len({revision(), revision(gpu=1), revision(resources={"limits": {"cpu": "2"}})}) == 3
    tuned = builders.deployment(ImageIndex.parse(image_index()), CONFIG, MODEL, 64)
    assert name_of(tuned) != revision()


@pytest.mark.parametrize(
    ("serving", "replicas"),
    [
        ({}, 1),
        ({"replicas": 3}, 3),
        ({"replicas": 0}, 0),
        ({"autoscaling": {"class": "hpa", "max": 3}}, None),
        ({"autoscaling": {"class": "keda", "max": 3}}, None),
        ({"autoscaling": {"class": "external"}}, None),
        ({"replicas": 4, "autoscaling": {"class": "external"}}, 4),
    ],
)
def test_replicas_are_left_unset_where_somebody_else_counts(serving: dict[str, Any], replicas: int | None):
    """Or the two would fight."""
    resource = ImageIndex.parse(image_index(serving=serving))
    assert builders.deployment(resource, CONFIG, MODEL, None)["spec"].get("replicas") == replicas


def test_gpus_bring_their_toleration_and_the_templates_come_beside_it():
    """Appended by default; a policy replaces them."""
    own = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    given = {"key": "pool", "operator": "Exists"}
    template = {"spec": {"tolerations": [own]}}
    overlay = {"spec": {"tolerations": [given, own]}}
    assert overlaid(template, overlay, "append")["spec"]["tolerations"] == [own, given]
    assert overlaid(template, overlay, "replace")["spec"]["tolerations"] == [given, own]
    assert overlaid(template, {}, "replace") == template


def test_an_overlay_merges_named_things_and_leaves_its_arguments_alone():
    """Containers by name, variables by name, mounts by path; other lists are replaced."""
    template = {"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}], "args": ["x"]}]}}
    overlay = {
        "spec": {
            "containers": [
                {"name": "a", "env": [{"name": "X", "value": "2"}, {"name": "Y", "value": "3"}], "args": ["y"]},
                {"name": "sidecar"},
            ]
        }
    }
    before = yaml.safe_dump([template, overlay])
    merged = overlaid(template, overlay, "append")["spec"]["containers"]
    assert merged == [
        {"name": "a", "env": [{"name": "X", "value": "2"}, {"name": "Y", "value": "3"}], "args": ["y"]},
        {"name": "sidecar"},
    ]
    assert yaml.safe_dump([template, overlay]) == before


def test_an_overlay_can_not_take_the_labels_that_children_are_known_by():
    """A Service would lose its pods."""
    labels = {"sightline.dev/imageindex": "other", "sightline.dev/serving": "x", "mine": "yes"}
    resource = ImageIndex.parse(image_index(serving={"podTemplate": {"metadata": {"labels": labels}}}))
    manifest = builders.deployment(resource, CONFIG, MODEL, None)
    given = manifest["spec"]["template"]["metadata"]["labels"]
    assert manifest["spec"]["selector"]["matchLabels"].items() <= given.items()
    assert given["mine"] == "yes"


def test_gpus_are_asked_for_and_granted_alike():
    """Requests of extended resources equal their limits."""
    assert with_gpus({"requests": {"cpu": "1"}}, 2) == {
        "limits": {"nvidia.com/gpu": "2"},
        "requests": {"cpu": "1", "nvidia.com/gpu": "2"},
    }


def test_autoscaling_follows_searches_and_p95_and_not_the_processor():
    """One figure without a target for p95, two with it; the same in both classes."""
    text = yaml.safe_dump([builders.autoscaler(full(), "x"), builders.scaled_object(full(), "x", FULL)])
    assert "cpu" not in text.lower()
    assert len(builders.autoscaler(full(), "x")["spec"]["metrics"]) == 2
    assert len(builders.scaled_object(full(), "x", FULL)["spec"]["triggers"]) == 2
    plain = ImageIndex.parse(image_index(serving={"autoscaling": {"class": "hpa", "max": 3}}))
    assert len(builders.autoscaler(plain, "x")["spec"]["metrics"]) == 1


def test_the_queries_of_keda_name_metrics_that_there_are():
    """observability/metrics.py has them."""
    from observability import metrics  # noqa: PLC0415

    queries = [one["metadata"]["query"] for one in builders.scaled_object(full(), "x", FULL)["spec"]["triggers"]]
    assert f"{metrics.search_demand._name}_total" in queries[0]
    assert f"{metrics.search_duration._name}_bucket" in queries[1]
