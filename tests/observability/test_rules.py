"""The alerting rules: each fires and stays quiet as its tests say, and leads somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine import errors
from observability import metrics
from tests.observability.promql import ROOT, RULES, rules, unknown

TESTS = sorted((Path(__file__).parent / "rules").glob("*.yaml"))
RUNBOOK = ROOT / "docs" / "production" / "runbook.md"
ALERTS = [rule for rule in rules() if "alert" in rule]
NAMES = sorted({rule["alert"] for rule in ALERTS})
ASKED_FOR = {
    "OperatorDown", "ReconcileFailing", "HotReconcileLoop", "PausedTooLong", "ShardFailed", "IndexingStalled",
    "PromotionBlocked", "IndexUnavailable", "CacheDown", "QdrantDeadReplica", "MetricsAbsent", "ReplicasUnschedulable",
    "AvailabilityBurnsFast", "AvailabilityBurnsSlowly", "LatencyBurnsFast", "LatencyBurnsSlowly",
}  # fmt: skip
BURNS = [
    ("1h", "5m", "14.4", "page"),
    ("6h", "30m", "6", "page"),
    ("1d", "2h", "3", "ticket"),
    ("3d", "6h", "1", "ticket"),
]
CLIENTS = {errors.BadUserInput, errors.CursorStale, errors.IndexNotFound, errors.ImageNotFound}


def promtool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, check=False, timeout=300)


def outcomes() -> list[tuple[str, list[Any]]]:
    """The alert of every test, and what it expects to fire."""
    return [
        (case["alertname"], case["exp_alerts"])
        for path in TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test["alert_rule_test"]
    ]


@pytest.mark.programs
def test_prometheus_takes_the_rules():
    done = promtool("check", "rules", "--lint-fatal", *sorted(RULES.glob("*.yaml")))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.programs
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(path: Path):
    """By promtool, which computes the rules minute by minute; what an alert says is compared too."""
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.programs
def test_a_rule_that_asks_for_another_figure_fails_its_test(tmp_path: Path):
    """With a burn rate of 50 in the place of 14.4, promtool says that an alert is missing."""
    rules_file, test = tmp_path / "slo.yaml", tmp_path / "test.yaml"
    rules_file.write_text((RULES / "slo.yaml").read_text().replace("14.4 * 0.001", "50 * 0.001"))
    content = yaml.safe_load((Path(__file__).parent / "rules" / "slo.yaml").read_text())
    test.write_text(yaml.safe_dump({**content, "rule_files": [str(rules_file)], "tests": content["tests"][:1]}))
    done = promtool("test", "rules", test)
    assert done.returncode != 0
    assert "AvailabilityBurnsFast" in done.stdout + done.stderr


def test_every_alert_that_was_asked_for_is_there():
    assert set(NAMES) == ASKED_FOR


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_is_tried_both_ways(name: str):
    """Once it fires, with what it says, and once it does not."""
    expected = [fires for alert, fires in outcomes() if alert == name]
    assert [] in expected
    assert any(fires and all("exp_annotations" in one for one in fires) for fires in expected)


def test_each_window_of_a_burn_rate_is_tried():
    fired = {(alert, one["exp_labels"].get("window")) for alert, fires in outcomes() for one in fires}
    assert {(rule["alert"], rule["labels"].get("window")) for rule in ALERTS} == fired


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_ask_for_what_there_is(rule: dict[str, Any]):
    """Metrics of ours, of Qdrant or kube-state-metrics, or those that other rules record."""
    assert unknown(rule["expr"]) == []


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_alerts_say_what_is_wrong_and_what_to_do(rule: dict[str, Any]):
    """And their severity is one of two: somebody gets up, or somebody has a look tomorrow."""
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert ROOT / path == RUNBOOK
    assert anchor == rule["alert"].lower()


def test_the_runbook_has_a_section_for_each_alert_and_for_nothing_else():
    sections = re.findall(r"^### (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sorted(sections) == NAMES


def test_burn_rates_are_those_that_were_agreed():
    """Two windows for each, with the same factor; the long one is the label."""
    for slo, bad, budget in (("Availability", "failed", "0.001"), ("Latency", "slow", "0.05")):
        found = [rule for rule in ALERTS if rule["alert"].startswith(slo)]
        assert len(found) == len(BURNS)
        for rule, (long, short, factor, severity) in zip(found, BURNS, strict=True):
            assert rule["labels"] == {"severity": severity, "window": long}
            ratio = f"imageindex:sightline_searches_{bad}:ratio_rate"
            for window in (long, short):
                assert f"{ratio}{window} > {factor} * {budget}" in rule["expr"]


def test_a_windows_ratio_is_of_that_window():
    """In the name of what is recorded, and in what is asked."""
    for rule in rules():
        if "record" in rule and (window := rule["record"].partition("ratio_rate")[2]):
            assert window == "5m" or re.findall(r"\[(\w+)\]", rule["expr"]) == [window, window]


def test_only_a_clients_own_faults_cost_no_availability():
    [failed] = [rule for rule in rules() if rule.get("record") == "imageindex:sightline_searches_failed:rate5m"]
    left_out = re.findall(r'code!~"([^"]+)"', failed["expr"])
    assert [set(one.split("|")) for one in left_out] == [{error.code for error in CLIENTS}]


def test_the_latency_objective_is_one_of_the_buckets():
    bounds = [str(bound) for bound in metrics.search_duration._kwargs["buckets"]]
    [asked] = {bound for rule in rules() for bound in re.findall(r'le="([^"]+)"', rule["expr"])}
    assert asked in bounds
