from __future__ import annotations

import asyncio
import json
import re
import sys
import uuid
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import IndexNotReady, SightlineError
from engine.generations import GenerationStore
from engine.indexes.edge import EdgeIndex
from engine.ports import Encoder, Point
from engine.settings import Settings
from indexing.bench.queries import distinct_queries
from indexing.bench.search import _best, _generation, run
from indexing.bench.server import running
from tests.support.encoders import WordEncoder

pytestmark = pytest.mark.bench

SERVE = (sys.executable, "-m", "tests.indexing.bench.word_server")
COUNT = 400


def words(_settings: Settings) -> Encoder:
    """The tests' encoder."""
    return WordEncoder()


def points() -> list[Point]:
    """Captions as if they were pictures."""
    captions = list(islice(distinct_queries(7), COUNT))
    vectors = WordEncoder().encode_texts(captions)
    return [
        Point(str(uuid.uuid5(uuid.NAMESPACE_URL, caption)), vector, {"fileName": f"{caption}.jpg"})
        for caption, vector in zip(captions, vectors, strict=True)
    ]


def caption_index(folder: Path) -> Settings:
    """An index of captions, promoted, and the settings for it."""
    settings = Settings(_env_file=None, index_path=folder, index_name="captions")
    store = GenerationStore(settings.index_path, "captions")
    generation = store.begin(WordEncoder().model)

    async def build() -> None:
        index = EdgeIndex.create(generation.shard, generation.model.dimension, settings)
        await index.upsert(points())
        await index.optimize()
        await index.close()

    asyncio.run(build())
    store.finish(generation, COUNT)
    store.promote(generation.id)
    return settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An index of captions."""
    return caption_index(tmp_path_factory.mktemp("bench"))


def test_a_run_measures_what_it_says(settings: Settings):
    """Every load has its row, answers are judged, cached is cached, and nothing failed that was let in."""
    report = run(settings, queries=40, seconds=1, serve=SERVE, encoder=words)
    rows: dict[str, Any] = {str(row["what"]).split(",")[0] + str(at): row for at, row in enumerate(report.rows)}
    alone, cached, capacity, busy, crowd, flood, beside, sustained, idle = rows.values()
    assert (alone["requests"], alone["cached"], alone["errors"]) == (40, 0, 0)
    assert (cached["requests"], cached["cached"], cached["errors"]) == (40, 1, 0)
    assert alone["recall@10"] == 1
    assert alone["server_p50_ms"] > alone["graphql_p50_ms"] > 0
    assert alone["p50_ms"] > alone["server_p50_ms"]
    assert alone["p50_ms"] > alone["encode_p50_ms"] + alone["search_p50_ms"]
    assert "encode_p50_ms" not in cached
    assert capacity["per_second"] > 0
    errors = [note for note in report.notes if note.startswith("Errors in")]
    assert {code for note in errors for code in re.findall(r"'(.+?)'", note)} <= {"OVERLOADED"}
    assert busy["requests"] >= 20
    assert crowd["requests"] >= 20
    assert flood["requests"] >= 20
    assert beside["per_second"] > 0
    assert sustained["requests"] >= 20
    assert sustained["cached"] < 1
    assert "server_p50_ms" not in idle
    assert report.setup["start_s"]
    assert {target.name for target in report.targets} >= {"recall@10", "cached search, server p95 ms"}
    json.dumps(report.as_json())


def test_the_truth_is_what_numpy_finds(settings: Settings):
    """The nearest ten of each query, by comparing everything."""
    queries = list(islice(distinct_queries(1), 12))
    everything = points()
    matrix = np.stack([point.vector for point in everything if point.vector is not None])
    scores = WordEncoder().encode_texts(queries) @ matrix.T
    for row, found in zip(scores, _best(settings, _generation(settings), queries, words), strict=True):
        worst = np.sort(row)[-10]
        assert len(found) == 10
        assert {point.id for point, score in zip(everything, row, strict=True) if score > worst + 1e-5} <= found
        assert min(row[at] for at, point in enumerate(everything) if point.id in found) > worst - 1e-5


def test_without_an_index_the_way_to_one_is_told(tmp_path: Path):
    """The error names the commands that make one."""
    with pytest.raises(IndexNotReady, match="sightline index"):
        run(Settings(_env_file=None, index_path=tmp_path), queries=20, serve=SERVE, encoder=words)


def test_a_server_that_does_not_start_is_quoted(settings: Settings):
    """What it wrote last is in the error."""
    command = (sys.executable, "-c", "import sys; sys.exit('the model is missing')")
    with pytest.raises(SightlineError, match="the model is missing"), running(settings, command):
        pass
