from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from engine.settings import Settings
from graphql_api.app import create_app
from tests.graphql_api.live import Api, run_server
from tests.support.encoders import WordEncoder


def test_a_ready_server_says_so(api: Api):
    """Alive and ready, both as JSON."""
    assert api.client.get("/livez").json() == {"status": "alive"}
    assert api.client.get("/readyz").json() == {"status": "ready"}


def test_metrics_are_in_prometheus_format(api: Api):
    """The project's own metrics are among them, once there is something to tell."""
    api.data('{ search(query: "red") { cached } }')
    response = api.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert "sightline_search_duration_seconds_bucket" in response.text


def answered(operation: str, outcome: str) -> float:
    """How many operations were measured that asked for this and ended so."""
    labels = {"operation": operation, "outcome": outcome}
    return REGISTRY.get_sample_value("sightline_graphql_duration_seconds_count", labels) or 0.0


@pytest.mark.parametrize(
    ("query", "operation", "outcome"),
    [
        ('{ search(query: "red") { cached } }', "search", "ok"),
        ('query Mine { a: search(query: "red") { cached } b: search(query: "blue") { cached } }', "search", "ok"),
        ("{ health { status } __typename }", "health", "ok"),
        ("{ ...Whole } fragment Whole on Query { ...Part ...Part } fragment Part on Query { stats { uptimeSeconds } }",
         "stats", "ok"),
        ("{ health { status } ... { indexes { name } } }", "several", "ok"),
        ("{ __schema { queryType { name } } }", "introspection", "ok"),
        ("{ search(first: 0) { cached } }", "search", "error"),
        ("{ nothing }", "other", "error"),
        ("{", "other", "error"),
        ("{ health { status } }" + " " * 20_000, "other", "ok"),
    ],
)  # fmt: skip
def test_operations_are_measured_by_what_they_ask_for(api: Api, query: str, operation: str, outcome: str):
    """By our own fields' names, never by a client's: those have no end."""
    before = answered(operation, outcome)
    api.ask(query)
    assert answered(operation, outcome) == before + 1


def test_names_that_clients_choose_are_no_label(api: Api):
    api.ask("query Unheard { renamed: health { status } }")
    assert "Unheard" not in (text := api.client.get("/metrics").text)
    assert "renamed" not in text


def test_a_server_without_an_index_starts_and_says_what_it_waits_for(tmp_path: Path):
    """Readyz is 503 with the way out, health is degraded, a search has a code; the process lives."""
    settings = Settings(_env_file=None, index_path=tmp_path / "empty")
    with run_server(create_app(settings, WordEncoder()), wait=False) as api:
        response = api.client.get("/readyz")
        assert response.status_code == 503
        assert response.json()["reason"]
        assert api.client.get("/livez").status_code == 200
        health = api.data("{ health { status indexReachable } }")["health"]
        assert health == {"status": "DEGRADED", "indexReachable": False}
        assert api.data("{ indexes { name } }") == {"indexes": []}


def test_a_server_of_all_indexes_is_ready_before_the_first_one(tmp_path: Path):
    """With API_NEEDS_INDEX=false the model is enough; a search says what is missing."""
    settings = Settings(_env_file=None, index_path=tmp_path / "empty", api_needs_index=False)
    with run_server(create_app(settings, WordEncoder())) as api:
        assert api.client.get("/readyz").json() == {"status": "ready"}
        answer = api.client.post("/graphql", json={"query": '{ search(query: "red") { cached } }'}).json()
        assert answer["errors"][0]["extensions"]["code"] == "INDEX_NOT_FOUND"


def test_the_page_and_its_files_are_served(api: Api):
    """`/` is the page under a strict policy; its files are under /static."""
    page = api.client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert api.client.get("/static/index.html").status_code == 200
    assert api.client.get("/static/..%2fserver.py").status_code == 404


def test_every_answer_has_the_security_headers(api: Api):
    """Errors too."""
    for path in ("/", "/livez", "/nothing-here"):
        headers = api.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
