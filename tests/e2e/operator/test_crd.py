"""The CRD on a real API server, which alone evaluates CEL, fills in defaults and estimates what rules may cost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from imageindex_operator.resource import Spec

from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.processes import ClusterFailed
from tests.operator.specs import NAMES, RULES, SCHEMA, TAKEN
from tests.operator.world import defaulted, minimal, schema

pytestmark = pytest.mark.programs


def body(spec: dict[str, Any], name: str = "shop") -> dict[str, Any]:
    about = {"apiVersion": "sightline.dev/v1alpha1", "kind": "ImageIndex"}
    return {**about, "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def create(plane: Cluster, manifest: dict[str, Any]) -> dict[str, Any]:
    """What the server would store."""
    words = ("create", "--dry-run=server", "--validate=false", "--output=json", "--filename=-")
    stored: dict[str, Any] = json.loads(plane.kubectl(*words, stdin=json.dumps(manifest)))
    return stored


@pytest.mark.parametrize(("spec", "word"), [case[1:] for case in [*SCHEMA, *RULES]], ids=lambda case: str(case)[:40])
def test_a_spec_that_makes_no_sense_is_refused_with_the_reason(plane: Cluster, spec: dict[str, Any], word: str):
    """Before anything is stored, in words that say what to change."""
    with pytest.raises(ClusterFailed) as refusal:
        create(plane, body(spec))
    assert word in str(refusal.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_children_could_not_have_is_refused(plane: Cluster, name: str):
    """Rather than a Service that can't be made later."""
    with pytest.raises(ClusterFailed, match=r"children are named after it"):
        create(plane, body(minimal(), name))


@pytest.mark.parametrize("spec", [case[1] for case in TAKEN], ids=[case[0] for case in TAKEN])
def test_a_spec_that_makes_sense_is_stored_with_its_defaults(plane: Cluster, spec: dict[str, Any]):
    """The same as ours, and the same again when it comes back."""
    stored = create(plane, body(spec))["spec"]
    assert stored == defaulted(spec, schema()["properties"]["spec"])
    assert create(plane, body(stored))["spec"] == stored
    assert Spec.model_validate(stored) == Spec.model_validate(spec)


@pytest.mark.parametrize(
    ("before", "after"), [({"alias": "shop"}, {"alias": "other"}), ({"alias": "shop"}, {}), ({}, {"alias": "shop"})]
)
def test_the_alias_is_immutable(plane: Cluster, before: dict[str, Any], after: dict[str, Any]):
    """Neither changed nor taken away nor added."""
    plane.apply(body(minimal(collection=before), "fixed"))
    manifest = json.dumps(body(minimal(collection=after), "fixed"))
    try:
        with pytest.raises(ClusterFailed, match="immutable"):
            plane.kubectl("replace", "--filename=-", stdin=manifest)
    finally:
        plane.kubectl("delete", "imageindex", "fixed", "--namespace=default")


def test_kubectl_scales_it_and_knows_its_short_name(plane: Cluster):
    """The scale subresource and `imgidx`."""
    plane.apply(body(minimal(), "scaled"))
    try:
        plane.kubectl("scale", "imgidx/scaled", "--replicas=3", "--namespace=default")
        assert plane.get("imgidx", "scaled", "--namespace=default")["spec"]["serving"]["replicas"] == 3
        assert "ACTIVE" in plane.kubectl("get", "imgidx", "--namespace=default")
    finally:
        plane.kubectl("delete", "imageindex", "scaled", "--namespace=default")
