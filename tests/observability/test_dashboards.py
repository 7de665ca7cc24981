"""The dashboards: what is committed is what the code makes, and they ask for what there is."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from observability.dashboards import written
from tests.observability.promql import ROOT, unknown

FOLDER = ROOT / "charts" / "sightline" / "files" / "dashboards"
WRITTEN = written()
BOARDS: dict[str, Any] = {name: json.loads(text) for name, text in WRITTEN.items()}
ROWS = {
    "Objectives", "Traffic", "GraphQL", "Encoder", "Caches", "Index", "Indexing", "Operator", "Scaling",
}  # fmt: skip
LIMIT = 1024 * 1024
boards = pytest.mark.parametrize("name", WRITTEN)


def panels(name: str) -> list[Any]:
    """All but the rows' titles."""
    return [panel for panel in BOARDS[name]["panels"] if panel["type"] != "row"]


def expressions(name: str) -> Iterator[str]:
    for panel in panels(name):
        for target in panel["targets"]:
            yield target["expr"]


def test_what_is_committed_is_what_the_code_makes():
    """`make chart` writes it."""
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == WRITTEN


def test_every_row_is_there():
    titles = [panel["title"] for board in BOARDS.values() for panel in board["panels"] if panel["type"] == "row"]
    assert sorted(titles) == sorted(ROWS)


@boards
def test_panels_ask_for_what_there_is(name: str):
    asked = list(expressions(name))
    assert asked
    assert {expression: wrong for expression in asked if (wrong := unknown(expression))} == {}


@boards
@pytest.mark.programs
def test_prometheus_reads_every_expression(name: str, tmp_path: Path):
    """As rules, with Grafana's own variables filled in."""
    filled = [
        re.sub(r"\$__\w+", "5m", expression).replace("$namespace", "a").replace("$imageindex", ".*")
        for expression in expressions(name)
    ]
    rules = [{"record": f"panel_{number}", "expr": expression} for number, expression in enumerate(filled)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", tmp_path / "rules.yaml"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


@boards
def test_every_panel_can_be_filtered_and_pointed_elsewhere(name: str):
    """By namespace, wherever there is one, and at another Prometheus."""
    variables = {variable["name"]: variable for variable in BOARDS[name]["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "imageindex"]
    assert variables["imageindex"]["allValue"] == ".*"  # the API has no such label
    for panel in panels(name):
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        for target in panel["targets"]:
            selectors = re.findall(r"\{([^}]*)\}", target["expr"])
            assert selectors, target["expr"]
            assert all('namespace=~"$namespace"' in selector for selector in selectors), target["expr"]


@boards
def test_latency_is_shown_by_quantile(name: str):
    """Never by an average; and where searches are concerned, with a line at what they may take."""
    for panel in panels(name):
        asked = " ".join(target["expr"] for target in panel["targets"])
        assert not re.search(r"\bavg\(|_sum\b", asked), panel["title"]
        unit = panel["fieldConfig"]["defaults"].get("unit", "short")
        if re.search(r"_duration_seconds_bucket", asked) and panel["type"] != "heatmap":
            assert "histogram_quantile" in asked
            assert unit == "s", panel["title"]
            steps = [step["value"] for step in panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])]
            assert 0.05 in steps or "sightline_operator" in asked, panel["title"]


@boards
def test_panels_are_told_apart_and_do_not_overlap(name: str):
    ids = [panel["id"] for panel in BOARDS[name]["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[name]["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_they_fit_into_kubernetes_and_into_a_release_of_helm():
    """A ConfigMap and a Secret hold a megabyte; Helm keeps the whole release, compressed, in one Secret."""
    assert max(len(text) for text in WRITTEN.values()) < LIMIT / 4
    assert len(gzip.compress("".join(WRITTEN.values()).encode())) < LIMIT / 10
