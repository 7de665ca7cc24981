from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from engine.errors import IndexNotReady
from engine.generations import GenerationStore
from engine.settings import Settings
from indexing.bench.load import Answer, Load
from indexing.bench.soak import _SHARES, LOOKS, Mixed, mixed, run, unexpected
from tests.indexing.bench.test_search import SERVE, caption_index

pytestmark = pytest.mark.bench


def test_a_run_watches_memory_and_answers(tmp_path: Path):
    """Every look has its row; all requests, wrong ones among them, are answered as they should be."""
    report = run(caption_index(tmp_path), requests=1000, serve=SERVE)
    assert [row["requests"] for row in report.rows] == [100 * look for look in range(LOOKS + 1)]
    assert all(float(str(row["anonymous_mb"])) > 1 for row in report.rows)
    (surprises,) = (target for target in report.targets if "answered" in target.name)
    assert surprises.met, report.notes
    json.dumps(report.as_json())


def test_the_mixture_is_what_it_says_and_the_same_for_a_seed(tmp_path: Path):
    settings = caption_index(tmp_path)
    generation = GenerationStore(settings.index_path, settings.index_name).current()
    assert generation is not None
    requests = list(islice(mixed(generation, 3), 3000))
    assert requests == list(islice(mixed(generation, 3), 3000))
    assert requests[:100] != list(islice(mixed(generation, 4), 100))
    kinds = Counter(request.kind for request in requests)
    assert {kind: pytest.approx(kinds[kind] / 30, abs=4) for kind in _SHARES} == _SHARES


@pytest.mark.parametrize(
    ("wrong", "error", "found"),
    [
        (False, None, {}),
        (True, "BAD_USER_INPUT", {}),
        (False, "OVERLOADED", {}),
        (False, "BAD_USER_INPUT", {"k: BAD_USER_INPUT": 1}),
        (True, None, {"k: no error": 1}),
        (True, "INTERNAL", {"k: INTERNAL": 1}),
    ],
)
def test_what_is_not_as_it_should_be_is_counted(wrong: bool, error: str | None, found: dict[str, int]):  # noqa: FBT001
    load = Load([Answer(0, 1.0, 0.0, {}, error)], 1.0, 0.1)
    assert unexpected([Mixed("{}", "k", wrong)], load) == found


def test_requests_without_an_answer_are_counted():
    assert unexpected([Mixed("{}", "k", wrong=False)], Load([], 1.0, 0.1)) == {"no answer": 1}


def test_without_an_index_the_way_to_one_is_told(tmp_path: Path):
    with pytest.raises(IndexNotReady, match="sightline index"):
        run(Settings(_env_file=None, index_path=tmp_path), requests=1000, serve=SERVE)
