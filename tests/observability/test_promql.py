"""The reader of expressions sees what it should: otherwise the tests that use it would see nothing."""

from __future__ import annotations

import pytest

from tests.observability.promql import ours, unknown


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ('sum by (code) (rate(sightline_search_errors_total{code!~"A|B", pod="x"}[5m])) > 14.4 * 0.001', []),
        ("sightline_search_errors", ["sightline_search_errors"]),
        ("rate(sightline_search_errors_total[$__rate_interval])", []),
        ('rate(sightline_search_errors_total{kode="A"}[5m])', ["sightline_search_errors_total{kode}"]),
        ('sightline_imageindex_condition{condition="Ready"}', ["sightline_imageindex_condition{condition}"]),
        ("up == 0 unless on (namespace) absent(sightline_searches_limit)", ["up"]),
        ("imageindex:sightline_searches:rate5m / imageindex:nothing:rate5m", ["imageindex:nothing:rate5m"]),
        ('label_replace(kube_pod_status_unschedulable == 1, "a", "$1", "pod", "(b)")', []),
    ],
)
def test_what_nobody_has_is_found(expression: str, wrong: list[str]):
    assert unknown(expression) == wrong


def test_series_have_their_names_with_suffixes():
    found = ours()
    assert found["sightline_search_duration_seconds_bucket"] == {"cached", "le"}
    assert found["sightline_searches_running"] == set()
    assert found["sightline_operator_reconciliations_total"] == {"namespace", "imageindex", "result"}
