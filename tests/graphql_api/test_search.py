from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.graphql_api.live import Api, CountingEncoder, Serve
from tests.support.redis import RedisServer

PAGE = """query Page($query: String, $first: Int!, $after: String, $filter: ImageFilter, $threshold: Float! = 0) {
  search(query: $query, first: $first, after: $after, filter: $filter, scoreThreshold: $threshold) {
    query latencyMs cached totalCount { value relation } pageInfo { hasNextPage endCursor }
    edges { cursor rank score node { id fileName category width metadata } }
    execution { generation model strategy stages { name ms } }
  }
}"""


def test_words_find_the_pictures_they_describe(api: Api):
    """The six red pictures come first for "red", best first, ranked from 1."""
    found = api.data(PAGE, query="red", first=6)["search"]
    assert {edge["node"]["fileName"].split("-")[0] for edge in found["edges"]} == {"red"}
    assert [edge["rank"] for edge in found["edges"]] == [1, 2, 3, 4, 5, 6]
    scores = [edge["score"] for edge in found["edges"]]
    assert scores == sorted(scores, reverse=True)
    assert found["query"] == "red"


def test_an_answer_says_how_it_came_about(api: Api):
    """Generation, model, strategy and stage times are part of the answer."""
    found = api.data(PAGE, query="green", first=1)["search"]
    assert found["execution"]["model"] == "words"
    assert found["execution"]["generation"]
    assert found["execution"]["strategy"]
    assert found["execution"]["stages"]
    assert found["latencyMs"] > 0


def test_a_repeated_search_is_cached(api: Api):
    """The second of two equal searches says that it was remembered."""
    first = api.data(PAGE, query="a purple thing", first=3)["search"]
    second = api.data(PAGE, query="a purple thing", first=3)["search"]
    assert (first["cached"], second["cached"]) == (False, True)
    assert first["edges"] == second["edges"]


def test_pages_hold_every_picture_once(api: Api):
    """Paging to the end gives as many pictures as the count says, none twice, ranks without gaps."""
    seen, ranks, after, more = [], [], None, True
    while more:
        page = api.data(PAGE, query="blue", first=7, after=after, threshold=0.0, filter={"width": {"gte": 1}})["search"]
        seen += [edge["node"]["id"] for edge in page["edges"]]
        ranks += [edge["rank"] for edge in page["edges"]]
        after, more = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"]
    assert len(seen) == len(set(seen)) == page["totalCount"]["value"]
    assert ranks == list(range(1, len(seen) + 1))


@pytest.mark.parametrize(
    ("condition", "numbers"),
    [
        ({"category": ["plants"]}, range(2, 60, 3)),
        ({"fileName": ["red-0.png", "red-1.png"]}, [0, 1]),
        ({"width": {"gte": 50, "lte": 52}}, [10, 11, 12]),
        ({"takenAt": {"lte": "2025-01-01T12:00:00Z"}}, [0, 28, 56]),
        ({"metadata": [{"path": "objects[].color", "in": ["white"]}]}, range(54, 60)),
        ({"metadata": [{"path": "number", "gte": 57}]}, [57, 58, 59]),
        ({"metadata": [{"path": "number", "in": [3, 4]}]}, [3, 4]),
        ({"or": [{"metadata": [{"path": "number", "in": [3]}]}, {"width": {"lte": 40}}]}, [0, 3]),
        ({"and": [{"width": {"gte": 50}}, {"width": {"lte": 50}}]}, [10]),
        ({"not": {"width": {"gte": 42}}}, [0, 1]),
    ],
)
def test_filters_admit_exactly_what_they_say(api: Api, condition: dict[str, Any], numbers: Iterable[int]):
    """Every kind of condition leaves the pictures that meet it, and no others."""
    query = """query F($f: ImageFilter) {
      facets(fields: [{path: "metadata.number", first: 100}], filter: $f) { values { value } } }"""
    (facet,) = api.data(query, f=condition)["facets"]
    assert {int(value["value"]) for value in facet["values"]} == set(numbers)
    found = api.data(PAGE, query="something", first=100, filter=condition)["search"]["edges"]
    assert {edge["node"]["metadata"]["number"] for edge in found} <= set(numbers)


def test_an_image_is_a_term(api: Api):
    """Searching by an indexed image finds its like."""
    image = api.data(PAGE, query="yellow", first=1)["search"]["edges"][0]["node"]["id"]
    query = "query T($id: ID!) { search(terms: [{source: {imageId: $id}}], first: 5) { edges { node { fileName } } } }"
    found = api.data(query, id=image)["search"]["edges"]
    assert {edge["node"]["fileName"].split("-")[0] for edge in found} == {"yellow"}


def test_terms_are_weighed(api: Api):
    """A negative weight moves away: red and blue without red is blue."""
    query = """{ search(terms: [{source: {text: "red blue"}}, {source: {text: "red"}, weight: -0.7}], first: 6) {
      edges { node { fileName } } } }"""
    found = api.data(query)["search"]["edges"]
    assert {edge["node"]["fileName"].split("-")[0] for edge in found} == {"blue"}


def test_a_vector_is_a_term(api: Api, encoder: CountingEncoder):
    """Clients may send an embedding of the index's own model."""
    vector = [float(value) for value in encoder.encode_texts(["pink"])[0]]
    query = (
        "query V($v: [Float!]!) { search(terms: [{source: {vector: $v}}], first: 6) { edges { node { fileName } } } }"
    )
    found = api.data(query, v=vector)["search"]["edges"]
    assert {edge["node"]["fileName"].split("-")[0] for edge in found} == {"pink"}


@pytest.mark.parametrize("source", ["{}", '{text: "red", imageId: "x"}', "{text: null}"])
def test_a_term_has_exactly_one_source(api: Api, source: str):
    """@oneOf: none, two and null are refused before anything runs."""
    error = api.error(f"{{ search(terms: [{{source: {source}}}]) {{ cached }} }}")
    assert "TermSource" in error["message"]
    assert "path" not in error


def test_searches_of_one_request_are_one_batch(api: Api, encoder: CountingEncoder):
    """Three searches under aliases are one pass of the encoder."""
    before = len(encoder.batches)
    api.data('{ a: search(query: "one") {cached} b: search(query: "two") {cached} c: search(query: "three") {cached} }')
    assert [sorted(batch) for batch in encoder.batches[before:]] == [["one", "three", "two"]]


def test_similar_images_of_all_answers_come_at_once(api: Api):
    """`similar` inside a search answers neighbours, the image itself left out."""
    query = """{ search(query: "orange", first: 3) {
      edges { node { id similar(first: 4) { edges { node { id fileName } } } } } } }"""
    for edge in api.data(query)["search"]["edges"]:
        near = [inner["node"] for inner in edge["node"]["similar"]["edges"]]
        assert len(near) == 4
        assert edge["node"]["id"] not in {node["id"] for node in near}
        assert {node["fileName"].split("-")[0] for node in near} == {"orange"}


def test_one_failing_search_leaves_the_others_their_answers(api: Api):
    """An error is at its own path; its neighbour in the request has data."""
    answer = api.ask('{ good: search(query: "red") {cached} bad: search(query: "red", first: 0) {cached} }')
    assert answer["data"]["good"] is not None
    assert answer["data"]["bad"] is None
    assert [(error["path"], error["extensions"]["code"]) for error in answer["errors"]] == [(["bad"], "BAD_USER_INPUT")]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ('query: ""', "BAD_USER_INPUT"),
        (f'query: "{"x" * 513}"', "BAD_USER_INPUT"),
        ('query: "red", first: 101', "BAD_USER_INPUT"),
        ('query: "red", scoreThreshold: 1.5', "BAD_USER_INPUT"),
        ('query: "red", after: "nonsense"', "BAD_USER_INPUT"),
        ("terms: [{source: {vector: [1, 2]}}]", "BAD_USER_INPUT"),
        ('query: "red", filter: {metadata: [{path: "a"}]}', "BAD_USER_INPUT"),
        ('query: "red", filter: {metadata: [{path: "a", in: [1.5]}]}', "BAD_USER_INPUT"),
        ('query: "red", filter: {metadata: [{path: "a", gte: "soon"}]}', "BAD_USER_INPUT"),
        ('query: "red", filter: {metadata: [{path: "a[", in: [1]}]}', "BAD_USER_INPUT"),
        ('query: "red", filter: {width: {}}', "BAD_USER_INPUT"),
        ('query: "red", index: "nowhere"', "INDEX_NOT_FOUND"),
        ('terms: [{source: {imageId: "6d1f8d22-95a5-4d9e-9a58-0d1f6b1b6f00"}}]', "IMAGE_NOT_FOUND"),
    ],
)
def test_what_is_wrong_has_a_code(api: Api, arguments: str, code: str):
    """Expected errors carry a stable code and a message that says more than the code."""
    error = api.error(f"{{ search({arguments}) {{ cached }} }}")
    assert error["extensions"]["code"] == code
    assert len(error["message"]) > 20


def test_a_cursor_of_another_search_is_stale(api: Api):
    """A cursor belongs to its query: with another one it says so instead of answering nonsense."""
    cursor = api.data(PAGE, query="red", first=2)["search"]["pageInfo"]["endCursor"]
    error = api.error(PAGE, query="blue", first=2, after=cursor)
    assert error["extensions"]["code"] == "CURSOR_STALE"


def test_an_image_by_its_id(api: Api):
    """`image` has all the standard fields, and null for an id that is not there."""
    id_ = api.data(PAGE, query="brown", first=1)["search"]["edges"][0]["node"]["id"]
    fields = "id filePath fileName objectKey width height category takenAt contentHash url thumbnailUrl metadata"
    image = api.data(f"query I($id: ID!) {{ image(id: $id) {{ {fields} }} }}", id=id_)["image"]
    assert all(image[name] is not None for name in fields.split())
    assert image["takenAt"].startswith("2025-01-")
    assert api.data('{ image(id: "6d1f8d22-95a5-4d9e-9a58-0d1f6b1b6f00") { id } }') == {"image": None}


def test_facets_count_values(api: Api):
    """Counts per value, most frequent first, within the filter."""
    query = """{ facets(fields: [{path: "category"}, {path: "metadata.objects[].color", first: 1}],
                        filter: {width: {gte: 41}}) { path values { value count } } }"""
    category, colour = api.data(query)["facets"]
    assert [(row["value"], row["count"]) for row in category["values"]] == [
        ("plants", 20), ("vehicles", 20), ("animals", 19),
    ]  # fmt: skip
    assert colour == {"path": "metadata.objects[].color", "values": [{"value": "grey", "count": 59}]}


def test_indexes_are_listed(api: Api):
    """Name, generation, size and model of the index."""
    (index,) = api.data("{ indexes { name ready reason generation points indexed dimension model } }")["indexes"]
    assert index | {"generation": "", "indexed": 0} == {
        "name": "colours", "ready": True, "reason": None, "generation": "", "points": 60, "indexed": 0,
        "dimension": 64, "model": "words",
    }  # fmt: skip


def test_a_healthy_server_says_so(api: Api):
    """All parts reachable, the device, the model and what runs it named."""
    asked = "{ health { status encoderLoaded indexReachable cacheReachable device model runtime } }"
    assert api.data(asked)["health"] == {
        "status": "HEALTHY", "encoderLoaded": True, "indexReachable": True, "cacheReachable": True,
        "device": "cpu", "model": "words", "runtime": "NumPy",
    }  # fmt: skip


def test_a_lost_cache_is_a_degraded_server_that_answers(serve: Serve):
    """Nobody listens where Redis should be: health says so, and searches are answered as ever."""
    with serve(redis_url="redis://127.0.0.1:9/0") as api:
        asked = "{ health { status encoderLoaded indexReachable cacheReachable } }"
        assert api.data(asked)["health"] == {
            "status": "DEGRADED", "encoderLoaded": True, "indexReachable": True, "cacheReachable": False,
        }  # fmt: skip
        answers = [api.data('{ search(query: "red") { cached edges { rank } } }')["search"] for _ in range(2)]
        metrics = api.client.get("/metrics").text
    assert [(answer["cached"], len(answer["edges"])) for answer in answers] == [(False, 10), (True, 10)]
    assert 'sightline_cache_errors_total{reason="connection",tier="redis"}' in metrics


@pytest.mark.programs
def test_servers_share_what_they_remember(serve: Serve, tmp_path: Path):
    """A server that has just started, on the same generation, finds in Redis what another one made."""
    encoders = [CountingEncoder(), CountingEncoder()]
    with RedisServer(tmp_path) as redis:
        for encoder in encoders:
            with serve(encoder=encoder, redis_url=redis.url, redis_timeout_ms=20_000) as api:
                assert api.data("{ health { status } }") == {"health": {"status": "HEALTHY"}}
                cached = api.data('{ search(query: "a shared red") { cached } }')["search"]["cached"]
            assert cached == (encoder is encoders[1])
            shutil.rmtree(tmp_path / "data")
        kinds = sorted({key.rpartition(":")[0] for key in redis.stored()})
    assert [encoder.batches.count(["a shared red"]) for encoder in encoders] == [1, 0]
    assert kinds == ["sightline:embedding", "sightline:list"]


def test_percentiles_wait_for_enough_samples(serve: Serve):
    """p95 is null under 20 samples and p99 under 100; mean and median are there from the first."""
    latencies = "window { total { count mean min max p50 p95 p99 } embedding { count } }"
    query = f"{{ stats {{ uptimeSeconds {latencies} collections {{ name points }} }} }}"
    with serve(cache_max_bytes=0) as api:
        for number in range(21):
            api.data(PAGE, query=f"search {number}", first=1)
        stats = api.data(query)["stats"]
    total = stats["window"]["total"]
    assert total["count"] >= 21
    assert total["p95"] >= total["p50"] > 0
    assert total["p99"] is None
    assert stats["collections"] == [{"name": "colours", "points": 60}]
    assert stats["uptimeSeconds"] > 0
