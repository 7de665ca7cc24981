"""The values: each is described, bounded and does something; what is misspelt or does not fit is refused by name."""

from __future__ import annotations

import copy
import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.settings import Settings
from graphql_api.app import create_app
from tests.charts.conftest import CHART, Body, Chart
from tests.graphql_api.live import run_server
from tests.support.encoders import WordEncoder

pytestmark = pytest.mark.programs

VALUES: Body = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: Body = json.loads((CHART / "values.schema.json").read_text())
Path_ = tuple[str, ...]


def resolved(schema: Body) -> Body:
    reference = schema.get("$ref")
    return SCHEMA["definitions"][reference.rpartition("/")[2]] if reference else schema


def leaves(values: Body, schema: Body, path: Path_ = ()) -> Iterator[tuple[Path_, Any, Body]]:
    """Path, default and schema of each value; maps whose keys are people's own are one value."""
    for name, value in values.items():
        below = resolved(schema["properties"][name])
        if below.get("properties") and name != "resources":
            yield from leaves(value, below, (*path, name))
        else:
            yield (*path, name), value, below


def levels(schema: Body, path: Path_ = ()) -> Iterator[tuple[Path_, Body]]:
    """The objects of the schema whose keys are ours."""
    schema = resolved(schema)
    if "properties" in schema:
        yield path, schema
        for name, below in schema["properties"].items():
            yield from levels(below, (*path, name))


def put(values: Body, path: Path_, value: Any) -> Body:
    """The values with one more."""
    made = copy.deepcopy(values)
    place = made
    for name in path[:-1]:
        place = place.setdefault(name, {})
    place[path[-1]] = value
    return made


LEAVES = {".".join(path): (path, value, schema) for path, value, schema in leaves(VALUES, SCHEMA)}

# Everything on, so that each value has something to change. Passwords are our own: new ones differ in every rendering.
ON: Body = {
    "image": {"pullSecrets": ["one"]},
    "operator": {"prometheusUrl": "http://prometheus:9090"},
    "api": {
        "ingress": {"enabled": True, "hosts": ["a.example.com"]},
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]},
        "autoscaling": {"enabled": True, "targetSearchesRunning": 4},
        "model": {"name": "ViT-B-32"},
    },
    "monitoring": {"enabled": True},
    "stores": {"create": False},
}
# Where that hides one, it is turned off.
ELSEWHERE: dict[str, Body] = {
    "api.enabled": {"api": {"ingress": {"enabled": False}, "httpRoute": {"enabled": False}}},
    "api.replicas": {"api": {"autoscaling": {"enabled": False}}},
    "stores.create": {"stores": {"create": True}, "qdrant": {"url": "http://q:6334"}, "redis": {"enabled": False},
                      "postgresql": {"url": "postgresql://db/a"}},
    "qdrant.apiKey": {"stores": {"create": True}, "qdrant": {"url": "http://q:6334"}, "redis": {"enabled": False},
                      "postgresql": {"url": "postgresql://db/a"}},
}  # fmt: skip
# Values of the kinds that can't be made from the schema.
OTHER: dict[str, Any] = {
    "digest": f"sha256:{'ab' * 32}",
    "size": "33Gi",
    "url": "http://other:1234",
    "prometheusUrl": "http://other:1234",
    "redis.url": "redis://other:1234/0",
    "postgresql.url": "postgresql://other:1234/a",
    "interval": "45s",
    "resources": {"requests": {"cpu": "77m", "memory": "1Gi"}},
    "tolerations": [{"key": "other", "operator": "Exists"}],
    "affinity": {"podAffinity": {}},
    "extraEnv": [{"name": "OTHER", "value": "1"}],
    "command": ["other"],
    "parentRefs": [{"name": "other"}],
    "apiServerPorts": [7443],
    "apiFrom": [{"podSelector": {"matchLabels": {"other": "yes"}}}],
    "metricsFrom": [{"podSelector": {"matchLabels": {"other": "yes"}}}],
    "extraEgress": [{"ports": [{"port": 7000}]}],
}


def other(name: str, value: Any, schema: Body) -> Any:
    """A value that is allowed and not the one given."""
    leaf = name.rpartition(".")[2]
    if name in OTHER or leaf in OTHER:
        return OTHER.get(name, OTHER.get(leaf))
    match value:
        case bool():
            made: Any = not value
        case int():
            made = value + 1
        case dict():
            made = {**value, "other": "yes"}
        case list():
            made = ["other", *value]
        case _:
            made = next(choice for choice in schema.get("enum", ["other"]) if choice != value)
    return made


def merged(base: Body, over: Body) -> Body:
    made = copy.deepcopy(base)
    for name, value in over.items():
        made[name] = (
            merged(made[name], value) if isinstance(value, dict) and isinstance(made.get(name), dict) else value
        )
    return made


def test_values_and_schema_have_the_same_names():
    """Neither has one that the other lacks; `global` is Helm's own."""

    def names(values: Body, schema: Body, path: str = "") -> Iterator[str]:
        for name in set(values) ^ (set(schema["properties"]) - {"global"}):
            yield f"{path}{name}"
        for name in set(values) & set(schema["properties"]):
            below = resolved(schema["properties"][name])
            if below.get("properties") and name != "resources":
                yield from names(values[name], below, f"{path}{name}.")

    assert list(names(VALUES, SCHEMA)) == []


def test_every_value_is_described_and_every_number_bounded():
    for path, schema in levels(SCHEMA):
        assert schema["additionalProperties"] is False, path
        for name, below in schema["properties"].items():
            assert resolved(below)["description"].endswith("."), (*path, name)
            if resolved(below).get("type") == "integer":
                assert {"minimum", "maximum"} <= set(resolved(below)), (*path, name)


def test_a_misspelt_value_is_refused_at_every_level(chart: Chart):
    """The key is named, with where it stands."""
    places = [path for path, _ in levels(SCHEMA)]
    values: Body = {}
    for path in places:
        values = put(values, (*path, "misspelt"), 1)
    said = chart.refusal(values)
    for path in places:
        where = "/".join(("", *path)) if path else "''"
        lines = [line for line in said.splitlines() if "misspelt" in line]
        assert any(f"at '{where}'" in line or f"at {where}" in line for line in lines), (where, said)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("api.replicas", "two", "/api/replicas"),
        ("api.replicas", -1, "/api/replicas"),
        ("operator.watchNamespaces", ["Not a name"], "/operator/watchNamespaces/0"),
        ("qdrant.url", "qdrant:6334", "/qdrant/url"),
        ("redis.url", "http://redis", "/redis/url"),
        ("postgresql.url", "mysql://db", "/postgresql/url"),
        ("postgresql.image.tag", 17.7, "/postgresql/image/tag"),
        ("image.api.digest", "latest", "/image/api/digest"),
        ("image.pullPolicy", "Sometimes", "/image/pullPolicy"),
        ("data.accessMode", "ReadOnlyMany", "/data/accessMode"),
        ("data.size", "much", "/data/size"),
        ("monitoring.interval", "30", "/monitoring/interval"),
        ("api.autoscaling.minReplicas", 20, "minReplicas"),
        ("api.ingress.enabled", True, "api.ingress.hosts"),
        ("api.httpRoute.enabled", True, "api.httpRoute.parentRefs"),
        ("postgresql.enabled", False, "postgresql.url"),
    ],
)
def test_a_value_that_is_not_right_is_refused_by_name(chart: Chart, path: str, value: Any, named: str):
    assert named in chart.refusal(put({}, tuple(path.split(".")), value))


def test_ways_in_need_something_to_lead_to(chart: Chart):
    values = {"api": {"enabled": False, "ingress": {"enabled": True, "hosts": ["a.example.com"]}}}
    assert "api.enabled is false" in chart.refusal(values)


def test_an_autoscaler_needs_a_target(chart: Chart):
    values = {"api": {"autoscaling": {"enabled": True, "targetCPUUtilization": 0}}}
    assert "targetSearchesRunning" in chart.refusal(values)


def test_every_value_changes_something(with_files: Chart):
    """Rendered with another value, the manifests are others: none is left over from a template that is gone."""

    @functools.cache
    def rendered(values: str) -> str:
        return with_files.text(json.loads(values))

    def changes(name: str) -> bool:
        path, value, schema = LEAVES[name]
        base = merged(ON, ELSEWHERE.get(name, {}))
        before = base
        for key in path:
            before = before.get(key, {}) if isinstance(before, dict) else {}
        now = value if before in ({}, None) else before
        changed = put(base, path, other(name, now, schema))
        return rendered(json.dumps(base)) != rendered(json.dumps(changed))

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(LEAVES, pool.map(changes, LEAVES), strict=True))
    assert [name for name, changed in found.items() if not changed] == []


def test_a_rendering_of_our_own_secret_is_always_the_same(chart: Chart):
    """Tools that apply `helm template` again and again see no change: nothing is made at random."""
    values = {"stores": {"create": False}}
    assert chart.text(values) == chart.text(values)


# ---------------------------------------------------------------- helm test


def asked(address: str) -> subprocess.CompletedProcess[str]:
    """What the pod of `helm test` says of an API."""
    script = CHART / "files" / "ask.py"
    return subprocess.run(
        [sys.executable, str(script), address], capture_output=True, text=True, check=False, timeout=120
    )


def test_helm_test_is_content_with_an_api_that_has_no_index_yet(tmp_path: Path):
    """As after an installation: ready, and no index."""
    settings = Settings(_env_file=None, index_path=tmp_path, api_needs_index=False)
    with run_server(create_app(settings, WordEncoder())) as api:
        done = asked(api.url)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["indexes"] == []


def test_helm_test_says_why_an_api_is_not_ready(tmp_path: Path):
    settings = Settings(_env_file=None, index_path=tmp_path)
    with run_server(create_app(settings, WordEncoder()), wait=False) as api:
        done = asked(api.url)
    assert done.returncode == 1
    assert "not ready" in done.stderr
