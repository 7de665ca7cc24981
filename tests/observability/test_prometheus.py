"""A real Prometheus with the chart's rules watches a real server, in whose process an operator has worked."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from imageindex_operator import gauges

from engine.settings import Settings
from graphql_api.app import create_app
from observability.dashboards import written
from tests.engine.conftest import build
from tests.graphql_api.live import eventually, run_server
from tests.observability.promql import RULES
from tests.operator.world import World
from tests.support.encoders import WordEncoder

pytestmark = pytest.mark.programs

CHOSEN = {"namespace": ".*", "imageindex": ".*"}
ELSEWHERE = re.compile(r"\b(collection_|grpc_responses_|memory_resident_bytes|kube_pod_)|tier=\"redis\"")
"""What only Qdrant and kube-state-metrics tell of: there is neither here."""


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[httpx.Client]:
    """A Prometheus that looks at one target and at the rules every second; a client for it."""
    program = shutil.which("prometheus")
    assert program, "prometheus is missing: run tools/install-test-programs, or install your system's package"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    labels = {"namespace": "search", "imageindex": "pictures", "pod": "pictures-serving-cafe0123-7d9f8-aaaaa"}
    job = {"job_name": "sightline", "honor_labels": True, "static_configs": [{"targets": [target], "labels": labels}]}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [f"{RULES}/*.yaml"],
        "scrape_configs": [job],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address={address}"],
            stdout=log,
            stderr=log,
        )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://{address}/api/v1", timeout=30) as client:
            eventually(lambda: _answers(client, process), timeout_s=60)
            yield client
    finally:
        process.terminate()
        assert process.wait(30) == 0, (folder / "log").read_text()


def _answers(client: httpx.Client, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "Prometheus has ended"
    try:
        return client.get("/status/buildinfo").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Prometheus, once it has seen searches and computed every window of them; some of the searches were wrong."""
    folder = tmp_path_factory.mktemp("prometheus")
    build(folder / "index", ["red car", "blue dog", "green boat"], WordEncoder())
    app = create_app(Settings(_env_file=None, index_path=folder / "index"), WordEncoder())
    with run_server(app) as api, prometheus(folder, api.url.removeprefix("http://")) as client:

        def seen() -> bool:
            for number in range(3):
                api.ask("query($q: String) { search(query: $q) { cached } }", q=f"red car {time.monotonic()} {number}")
            api.ask('{ search(query: "red") { cached } health { status } }')
            api.ask("{ search(first: 0) { cached } }")
            return bool(asked(client, "imageindex:sightline_searches_slow:ratio_rate3d >= 0"))

        eventually(seen, timeout_s=90)
        yield client
    gauges.forget("web", "shop")


def asked(client: httpx.Client, expression: str) -> list[Any]:
    """The series that an expression has now."""
    for name, value in CHOSEN.items():
        expression = expression.replace(f"${name}", value)
    answer = client.post("/query", data={"query": re.sub(r"\$__\w+", "1m", expression)}).json()
    assert answer["status"] == "success", (expression, answer)
    data = answer["data"]
    return [] if data["resultType"] == "scalar" else list(data["result"])


@pytest.fixture
async def operated() -> None:
    """An operator in this process has brought one ImageIndex to serve, and told of it."""
    world = World(rollout={"verification": {"minRecall": 0.95}})
    await world.settle()


@pytest.mark.usefixtures("operated")
def test_every_rule_is_evaluated(watched: httpx.Client):
    """None of them matches many with many, or ends in an error otherwise."""

    def rules() -> list[Any]:
        groups = watched.get("/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    eventually(lambda: all(rule["health"] != "unknown" for rule in rules()), timeout_s=60)
    assert {rule["name"]: rule["lastError"] for rule in rules() if rule["health"] != "ok"} == {}
    assert len(rules()) == 38


def test_ratios_are_of_the_searches_that_were_made(watched: httpx.Client):
    """All were answered, those that were wrong themselves left out."""
    [failed] = asked(watched, "imageindex:sightline_searches_failed:ratio_rate1h")
    assert failed["metric"]["imageindex"] == "pictures"
    assert float(failed["value"][1]) == 0
    [searches] = asked(watched, "imageindex:sightline_searches:rate5m")
    [answered] = asked(watched, "imageindex:sightline_searches_answered:rate5m")
    assert float(searches["value"][1]) == float(answered["value"][1]) > 0


@pytest.mark.usefixtures("operated")
@pytest.mark.parametrize("name", ["service", "engine", "operations"])
def test_panels_show_something(watched: httpx.Client, name: str):
    """Each expression is answered, and has series unless they are of faults or of somebody who is not here."""
    panels = json.loads(written()[f"{name}.json"])["panels"]
    expected = [
        (panel["title"], target["expr"])
        for panel in panels
        for target in panel.get("targets", ())
        if "> 0" not in target["expr"] and not ELSEWHERE.search(target["expr"])
    ]
    assert len(expected) > len(panels) / 3
    for title, expression in expected:  # rates need two looks
        assert eventually(lambda expression=expression: asked(watched, expression), timeout_s=60), title
    for panel in panels:
        for target in panel.get("targets", ()):
            asked(watched, target["expr"])  # fails where Prometheus finds a fault in it
