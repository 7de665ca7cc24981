"""`sightline plan` in words: what people type, and what they read."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from engine.errors import BadUserInput
from indexing.capacity import Request
from indexing.capacity_command import parse_duration_ms, parse_node, request_of
from sightline import app


def test_requests_are_read_as_people_write_them():
    """Letters for thousands, units for times, cores times gigabytes."""
    assert request_of("100M", "large", "50ms", "1.5k", 0.98, gpu=True, originals="disk", repeated=0.3, node="8x32") == (
        Request(1e8, "large", 50, 1_500, 0.98, True, "disk", 0.3, 8, 32)
    )
    assert [parse_duration_ms(text) for text in ("50ms", "0.05s", "50", " 1.5 ms ")] == [50, 50, 50, 1.5]
    assert parse_node("16x64GB") == (16, 64)


@pytest.mark.parametrize(
    ("argument", "text"), [("p95", "fast"), ("p95", "-5ms"), ("node", "16"), ("node", "x64"), ("originals", "tape")]
)
def test_other_words_are_named(argument: str, text: str):
    """The option is in the message, with a way to write it."""
    given: dict[str, Any] = {"p95": "50ms", "node": "16x64", "originals": "ram"} | {argument: text}
    with pytest.raises(BadUserInput, match=f"--{argument}"):
        request_of("1M", "large", qps="1", recall=0.98, gpu=False, repeated=0.0, **given)


def test_command_prints_a_plan_or_json():
    """`sightline plan` on the shipped laws: every figure and what it rests on, or all of it as JSON."""
    asked = ["plan", "--images", "100M", "--model", "ViT-H-14", "--p95", "50ms", "--qps", "500"]
    shown = CliRunner().invoke(app, asked, catch_exceptions=False).stdout
    for words in ("Qdrant nodes", "API replicas", "~1 ", "assumed", "Cost:", "shardNumber:", "bench growth"):
        assert words in shown
    printed = yaml.safe_load(CliRunner().invoke(app, [*asked, "--json"], catch_exceptions=False).stdout)
    assert printed["request"]["images"] == 1e8
    assert {"part", "name", "value", "unit", "marks"} == set(printed["figures"][0])
