"""What every vector index does: each behaviour is one function, whose name is the sentence.

`READING` takes an index that holds `POINTS` and changes nothing; it holds before and after `optimize`. `WRITING` takes
a maker of empty indexes. `ExactIndex` and the reference filter (`engine.filters.matches`) are the truth. Scores may
differ from it by `TOLERANCE`, because engines add up products in another order, and hits whose scores differ by less
may change places; nothing else may differ.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from engine.conformance.expectation import expect, expect_equal, refused
from engine.errors import BadUserInput
from engine.filters import matches
from engine.indexes.exact import ExactIndex
from engine.indexes.pages import pages_of_ids
from engine.ports import And, Filter, Hit, Match, Not, Or, Point, Range, VectorIndex, VectorQuery, Vectors

Make = Callable[[int], Awaitable[VectorIndex]]
"""Makes an empty index of vectors of this dimension; whoever gives it closes and removes what it made."""

TOLERANCE: Final = 1e-5
DIMENSION: Final = 24

_KINDS: Final = ("car", "dog", "cat", "boat", "tree")
_RECALL: Final = 0.97
_MANY: Final = 5000


def _vectors(count: int, seed: int, dimension: int = DIMENSION) -> Vectors:
    """Random unit vectors, (count, dimension)."""
    rows = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _payload(number: int) -> dict[str, Any]:
    """A payload with every type of value, and fields that some points lack."""
    fields: dict[str, Any] = {
        "category": ("vehicle", "animal", "plant")[number % 3],
        "width": 100 + number,
        "height": 80,
        "takenAt": f"2024-{1 + number % 12:02d}-15T10:30:00Z",
        "fileName": f"{number}.png",
        "metadata": {
            "objects": [
                {"kind": _KINDS[number % 5], "count": number % 4},
                {"kind": _KINDS[number % 7 % 5], "count": 2},
            ],
            "tags": ["new", "big"] if number % 2 else [],
            "night": number % 2 == 0,
            "score": number / 10,
            "taken by": "Ann" if number % 4 else "Bob",
            "nothing": None,
        },
    }
    if number % 10 == 0:
        del fields["category"], fields["takenAt"]
    return fields


def _id(number: int) -> str:
    return str(uuid.UUID(int=number))


ROWS: Final = _vectors(120, seed=1)
POINTS: Final = tuple(Point(_id(number * 7919), row, _payload(number)) for number, row in enumerate(ROWS))
UNKNOWN: Final = _id(1)

FILTERS: Final[tuple[Filter, ...]] = (
    Match("category", (1,)),
    Match("width", (True,)),
    Match("width", (105, "x", True)),
    Match("takenAt", ("2024-02-15T10:30:00Z",)),
    Match("category", ("animal",)),
    Match("category", ("animal", "plant")),
    Match("category", ()),
    Match("category", ("mineral",)),
    Match("width", (105, 107)),
    Match("width", ("105",)),
    Match("metadata.night", (True,)),
    Match("metadata.night", (False,)),
    Match("metadata.night", (1,)),
    Match("metadata.night", (True, "x", 3)),
    Match("metadata.score", (1,)),
    Match("metadata.tags", ("big",)),
    Match("metadata.tags[]", ("big",)),
    Match("metadata.tags[0]", ("big",)),
    Match("metadata.objects[].kind", ("cat",)),
    Match("metadata.objects[1].kind", ("cat",)),
    Match("metadata.objects.kind", ("cat",)),
    Match("metadata.objects", ("cat",)),
    Match('metadata."taken by"', ("Bob",)),
    Match("metadata.nothing", ("x",)),
    Match("nowhere", ("x",)),
    Range("width", 110, 115),
    Range("width", lte=103.5),
    Range("metadata.score", 2, 3.1),
    Range("metadata.objects[].count", gte=3),
    Range("metadata.night", gte=0),
    Range("category", gte=0),
    Range("takenAt", "2024-03-01", "2024-05-15T10:30:00Z"),
    Range("takenAt", "2024-05-15T12:30:00+02:00", "2024-05-15T12:30:00+02:00"),
    Range("takenAt", lte="2024-02-15"),
    Range("takenAt", gte=5),
    Range("width", gte="2024-01-01"),
    And(()),
    Or(()),
    Not(And(())),
    Not(Or(())),
    Or((And(()), Match("category", ("plant",)))),
    And((Or(()), Match("category", ("plant",)))),
    Not(Match("category", ("animal",))),
    And((Match("metadata.objects[].kind", ("dog", "boat")), Range("width", gte=150))),
    Or((Match("category", ("plant",)), Not(Range("width", lte=200)))),
    Not(And((Match("metadata.night", (True,)), Or((Range("width", gte=130), Match("width", (100,))))))),
)


async def _truth(points: Sequence[Point] = POINTS, dimension: int = DIMENSION) -> ExactIndex:
    truth = ExactIndex(dimension)
    await truth.upsert(points)
    return truth


async def _agree(index: VectorIndex, truth: ExactIndex, queries: Sequence[VectorQuery]) -> None:
    """Ids, order, scores and payloads of every answer are the truth's, but for what `TOLERANCE` leaves open."""
    answers = await index.search(queries)
    expect_equal(len(answers), len(queries), "lists of hits")
    everything = (await truth.info()).points
    for query, got in zip(queries, answers, strict=True):
        [ranked] = await truth.search([replace(query, limit=everything, score_threshold=None)])
        good = [hit for hit in ranked if query.score_threshold is None or hit.score >= query.score_threshold]
        _agree_once(got, good[: query.limit], {hit.id: hit for hit in ranked}, query)


def _agree_once(got: Sequence[Hit], wanted: Sequence[Hit], known: dict[str, Hit], query: VectorQuery) -> None:
    asked = f"limit {query.limit}, threshold {query.score_threshold}, exact {query.exact}, filter {query.filter}"
    expect_equal(len(got), len(wanted), f"number of hits ({asked})")
    expect_equal(len({hit.id for hit in got}), len(got), f"number of different hits ({asked})")
    for rank, (hit, right) in enumerate(zip(got, wanted, strict=True), 1):
        expect(hit.id in known, f"hit {rank} ({asked}) is {hit.id}, which the filter does not admit")
        true = known[hit.id]
        expect(
            abs(hit.score - true.score) <= TOLERANCE,
            f"hit {rank} ({asked}) scores {hit.score}, but its cosine is {true.score}",
        )
        expect(
            hit.id == right.id or abs(true.score - right.score) <= TOLERANCE,
            f"hit {rank} ({asked}) is {hit.id} with {hit.score}, expected {right.id} with {right.score}",
        )
        expect_equal(hit.payload, true.payload, f"payload of hit {rank} ({asked})")


# ---------------------------------------------------------------- reading


async def filters_admit_what_the_reference_admits(index: VectorIndex) -> None:
    """Search and count under every kind of filter agree with `matches`."""
    answers = await index.search([VectorQuery(ROWS[3], limit=200, filter=tree, payload=False) for tree in FILTERS])
    for tree, hits in zip(FILTERS, answers, strict=True):
        admitted = {point.id for point in POINTS if matches(tree, point.payload)}
        expect_equal({hit.id for hit in hits}, admitted, f"ids found under {tree}")
        expect_equal(await index.count(tree), len(admitted), f"count under {tree}")


async def searches_return_the_nearest_with_their_cosines(index: VectorIndex) -> None:
    """Ids, order, scores and payloads equal the truth for each query of a batch, in its order, exact or not."""
    rows = _vectors(20, seed=2)
    for exact in (False, True):
        await _agree(index, await _truth(), [VectorQuery(row * 3, limit=10, exact=exact) for row in rows])


async def random_searches_under_random_filters_agree_with_the_truth(index: VectorIndex) -> None:
    """60 searches whose filter, limit, threshold and exactness are drawn from a seed."""
    rng, truth = np.random.default_rng(7), await _truth()
    queries: list[VectorQuery] = []
    for row in _vectors(60, seed=8):
        one, other, third = (FILTERS[place] for place in rng.integers(len(FILTERS), size=3))
        tree = And((Or((one, other)), Not(third))) if rng.integers(2) else Or((Not(one), other, third))
        [ranked] = await truth.search([VectorQuery(row, limit=len(POINTS), filter=tree)])
        threshold = None
        if len(ranked) > 1 and rng.integers(2):
            cut = rng.integers(1, len(ranked))
            threshold = (ranked[cut - 1].score + ranked[cut].score) / 2  # between two scores, never one of them
        limit, exact = int(rng.integers(1, 130)), bool(rng.integers(2))
        queries.append(VectorQuery(row, limit, tree, threshold, exact))
    await _agree(index, truth, queries)


async def hits_come_without_payload_when_none_is_asked_for(index: VectorIndex) -> None:
    """The same hits, empty payloads; queries of one batch may differ in that."""
    bare, full = await index.search([VectorQuery(ROWS[3], 5, payload=False), VectorQuery(ROWS[3], 5)])
    expect_equal([hit.id for hit in bare], [hit.id for hit in full], "ids without payload")
    expect_equal([hit.payload for hit in bare], [{}] * 5, "payloads that were not asked for")
    expect(all(hit.payload for hit in full), "a hit came without the payload that was asked for")


async def no_query_has_no_answer(index: VectorIndex) -> None:
    """An empty batch is answered with an empty list."""
    expect_equal(await index.search([]), [], "the answer to no query")


async def a_threshold_keeps_the_hits_that_are_good_enough(index: VectorIndex) -> None:
    """All hits that score at least the threshold, and no other."""
    query = _vectors(1, seed=3)[0]
    [everything] = await (await _truth()).search([VectorQuery(query, limit=1000)])
    threshold = (everything[6].score + everything[7].score) / 2
    [hits] = await index.search([VectorQuery(query, limit=1000, score_threshold=threshold)])
    expect_equal([hit.id for hit in hits], [hit.id for hit in everything[:7]], f"hits from {threshold} on")


async def a_limit_cuts_the_list(index: VectorIndex) -> None:
    """As many hits as asked for, or as there are points."""
    for limit in (1, 7, 120, 500):
        [hits] = await index.search([VectorQuery(ROWS[0], limit=limit)])
        expect_equal(len(hits), min(limit, len(POINTS)), f"hits with limit {limit}")


async def retrieved_points_keep_the_order_of_the_ids(index: VectorIndex) -> None:
    """Known ids in the caller's order; unknown ones and nonsense are left out; vectors only when asked for."""
    wanted = [POINTS[9], POINTS[2], POINTS[4]]
    points = await index.retrieve([wanted[0].id, UNKNOWN, wanted[1].id, "nonsense", wanted[2].id])
    expect_equal([point.id for point in points], [point.id for point in wanted], "ids in their order")
    expect_equal([point.vector for point in points], [None] * 3, "vectors that were not asked for")
    expect_equal([point.payload for point in points], [point.payload for point in wanted], "payloads")
    [whole] = await index.retrieve([wanted[0].id], vectors=True)
    _expect_near(whole, ROWS[9])
    bare = await index.retrieve([wanted[0].id, UNKNOWN], payload=False)
    expect_equal([(point.id, point.payload) for point in bare], [(wanted[0].id, {})], "a point without its payload")


async def every_id_is_listed_in_order(index: VectorIndex) -> None:
    """All ids, sorted, or a page of those that come after one, whether it is there or not."""
    ids = sorted(point.id for point in POINTS)
    expect_equal(await index.ids(), ids, "ids")
    expect_equal(await index.ids(limit=7), ids[:7], "the first seven ids")
    expect_equal(await index.ids(ids[6], 7), ids[7:14], "the next seven ids")
    expect_equal(await index.ids(ids[-8]), ids[-7:], "the ids that come last")
    expect_equal(await index.ids(ids[-1], 7), [], "ids after the last one")
    between = str(uuid.UUID(int=uuid.UUID(ids[3]).int + 1))
    expect_equal(await index.ids(between, 2), ids[4:6], "ids after one that is not there")


async def facets_count_points(index: VectorIndex) -> None:
    """Values with their numbers of points, most frequent first, equal ones by value, cut to the limit."""
    truth = await _truth()
    fields = ("category", "metadata.objects[].kind", "metadata.night", "width", 'metadata."taken by"', "nowhere")
    for field in fields:
        for tree in (None, Match("metadata.night", (True,))):
            for limit in (2, 100):
                got, wanted = await index.facet(field, tree, limit), await truth.facet(field, tree, limit)
                expect_equal(got, wanted, f"facet of {field} with limit {limit} under {tree}")


async def facets_count_a_point_once_for_each_value(index: VectorIndex) -> None:
    """Two dogs in one picture are one picture with a dog; the numbers are those that the filter gives."""
    for kind, count in await index.facet("metadata.objects[].kind"):
        expect_equal(count, await index.count(Match("metadata.objects[].kind", (kind,))), f"points with a {kind}")


async def info_gives_size_and_shape(index: VectorIndex) -> None:
    """Points and dimension are those that were written."""
    info = await index.info()
    expect_equal((info.points, info.dimension), (len(POINTS), DIMENSION), "points and dimension")


async def filters_that_mean_nothing_are_refused(index: VectorIndex) -> None:
    """A wrong path or bound is the caller's mistake, in searches as in counts."""
    for tree in (Match("a b", ("x",)), Range("width"), Range("width", "yesterday")):
        with refused(BadUserInput, tree.field, f"a search under {tree}"):
            await index.search([VectorQuery(ROWS[0], limit=1, filter=tree)])
        with refused(BadUserInput, tree.field, f"a count under {tree}"):
            await index.count(tree)


READING: Final[tuple[Callable[[VectorIndex], Awaitable[None]], ...]] = (
    filters_admit_what_the_reference_admits,
    searches_return_the_nearest_with_their_cosines,
    random_searches_under_random_filters_agree_with_the_truth,
    hits_come_without_payload_when_none_is_asked_for,
    no_query_has_no_answer,
    a_threshold_keeps_the_hits_that_are_good_enough,
    a_limit_cuts_the_list,
    retrieved_points_keep_the_order_of_the_ids,
    every_id_is_listed_in_order,
    facets_count_points,
    facets_count_a_point_once_for_each_value,
    info_gives_size_and_shape,
    filters_that_mean_nothing_are_refused,
)


# ---------------------------------------------------------------- writing


async def an_empty_index_answers_with_nothing(make: Make) -> None:
    """No hits, no points, no ids, no facets."""
    index = await make(DIMENSION)
    expect_equal(await index.search([VectorQuery(ROWS[0], limit=5)]), [[]], "hits")
    expect_equal(await index.count(), 0, "count")
    expect_equal(await index.ids(), [], "ids")
    expect_equal(await index.facet("category"), [], "facet")
    await index.optimize()
    expect_equal((await index.info()).points, 0, "points after optimize")


async def equal_scores_are_sorted_by_id(make: Make) -> None:
    """The same picture under several ids comes in the order of the ids."""
    index = await make(DIMENSION)
    ids = [_id(number) for number in (5, 1, 9, 3)]
    await index.upsert([Point(id_, ROWS[0], {}) for id_ in ids])
    [hits] = await index.search([VectorQuery(ROWS[0], limit=10)])
    expect_equal([hit.id for hit in hits], sorted(ids), "ids of equal scores")


async def an_upsert_replaces_vector_and_payload(make: Make) -> None:
    """A second write under the same id leaves nothing of the first."""
    index = await _filled(make)
    await index.upsert([Point(POINTS[0].id, ROWS[1], {"category": "changed"})])
    [point] = await index.retrieve([POINTS[0].id], vectors=True)
    expect_equal(point.payload, {"category": "changed"}, "payload after the second write")
    _expect_near(point, ROWS[1])
    expect_equal(await index.count(), len(POINTS), "count after the second write")


async def the_last_of_equal_ids_in_one_upsert_wins(make: Make) -> None:
    """Writing an id twice in one call is writing the later one."""
    index = await make(DIMENSION)
    await index.upsert([Point(POINTS[0].id, ROWS[0], {"n": n}) for n in range(3)])
    points = await index.retrieve([POINTS[0].id])
    expect_equal([point.payload for point in points], [{"n": 2}], "payload of the id that was written thrice")


async def deleted_points_are_gone(make: Make) -> None:
    """Not found, not counted, not listed; unknown ids and nonsense are ignored."""
    index = await _filled(make)
    gone = POINTS[5].id
    await index.delete([gone, UNKNOWN, "nonsense"])
    [hits] = await index.search([VectorQuery(ROWS[5], limit=200)])
    expect(gone not in {hit.id for hit in hits}, "the deleted point is still found")
    expect_equal(await index.retrieve([gone]), [], "the deleted point, retrieved")
    expect_equal(await index.count(), len(POINTS) - 1, "count after deleting one")
    expect(gone not in await index.ids(), "the deleted point is still listed")


async def more_points_than_one_page_or_batch_holds_are_all_there(make: Make) -> None:
    """Every point that one call writes, listed, counted and facetted."""
    index = await make(2)
    ids = [_id(number) for number in range(_MANY)]
    half = np.full(2, 0.5, dtype=np.float32)
    await index.upsert([Point(id_, half, {"metadata": {"n": n % 2}}) for n, id_ in reversed(list(enumerate(ids)))])
    expect(await index.ids() == ids, f"not all of {_MANY} ids are listed, or not in order")
    paged = [id_ async for page in pages_of_ids(index) for id_ in page]
    expect(paged == ids, f"not all of {_MANY} ids are listed page by page, or not in order")
    expect_equal(await index.count(), _MANY, "count")
    expect_equal(await index.facet("metadata.n"), [("0", _MANY // 2), ("1", _MANY // 2)], "facet over all pages")
    expect_equal(len(await index.retrieve(ids)), _MANY, "points retrieved at once")
    await index.delete(ids[1:])
    expect_equal(await index.ids(), ids[:1], "ids after deleting all but one at once")


async def payloads_come_back_as_they_were(make: Make) -> None:
    """Every JSON type keeps its type and value: 1 and 1.0, empty lists and objects, null, big numbers, any text."""
    index = await make(DIMENSION)
    payload: dict[str, Any] = {
        "whole": 1,
        "real": 1.0,
        "big": 2**53 + 1,
        "negative": -(2**63),
        "tiny": 5e-324,
        "yes": True,
        "no": False,
        "null": None,
        "text": 'ünïcödé 🐈 "quoted"\n\0',
        "": "an empty key",
        "a.b[0]": "a key like a path",
        "empty": {"list": [], "object": {}},
        "nested": [[1, [2.5, None]], {"deep": [{"deeper": [True]}]}],
    }
    await index.upsert([Point(POINTS[0].id, ROWS[0], payload)])
    [point] = await index.retrieve([POINTS[0].id])
    expect_equal(point.payload, payload, "payload")
    types = [type(point.payload[key]) for key in ("whole", "real", "big", "yes")]
    expect_equal(types, [int, float, int, bool], "types of whole, real, big, yes")


async def vectors_of_another_shape_are_refused(make: Make) -> None:
    """A query or point of another model is the caller's mistake, and changes nothing."""
    index = await _filled(make)
    for shape in ((DIMENSION + 1,), (1, DIMENSION)):
        alien = np.ones(shape, dtype=np.float32)
        with refused(BadUserInput, "shape", f"a query of shape {shape}"):
            await index.search([VectorQuery(alien, limit=1)])
        with refused(BadUserInput, "shape", f"a point of shape {shape}"):
            await index.upsert([Point(POINTS[0].id, alien, {})])
    expect_equal(await index.count(), len(POINTS), "count after what was refused")


async def payloads_that_are_not_json_are_refused(make: Make) -> None:
    """What JSON can't hold is refused before anything is written."""
    index = await make(DIMENSION)
    for value in (float("nan"), {1, 2}, object()):
        with refused(BadUserInput, "plain JSON", f"a payload with {value!r}"):
            await index.upsert([POINTS[0], Point(UNKNOWN, ROWS[0], {"value": value})])
    expect_equal(await index.count(), 0, "count after what was refused")


async def closing_twice_is_harmless(make: Make) -> None:
    """The second close does nothing."""
    index = await make(DIMENSION)
    await index.close()
    await index.close()


async def the_nearest_are_found_after_optimize(make: Make) -> None:
    """2,000 clustered points after `optimize`: recall@10 at least 0.97, exact searches agree with the truth."""
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((20, 64))
    rows = centres[rng.integers(20, size=2100)] + 0.6 * rng.standard_normal((2100, 64))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    points = [Point(_id(number), row, {"width": number}) for number, row in enumerate(rows[:2000])]
    index, truth = await make(64), await _truth(points, 64)
    await index.upsert(points)
    await index.optimize()
    queries = [VectorQuery(row, limit=10) for row in rows[2000:]]
    found = [{hit.id for hit in hits} for hits in await index.search(queries)]
    wanted = [{hit.id for hit in hits} for hits in await truth.search(queries)]
    recall = float(np.mean([len(got & want) / 10 for got, want in zip(found, wanted, strict=True)]))
    expect(recall >= _RECALL, f"recall@10 is {recall:.3f}, less than {_RECALL}")
    few = Range("width", 100, 160)
    await _agree(
        index, truth, [VectorQuery(row, 10, few if n % 2 else None, exact=True) for n, row in enumerate(rows[2080:])]
    )


WRITING: Final[tuple[Callable[[Make], Awaitable[None]], ...]] = (
    an_empty_index_answers_with_nothing,
    equal_scores_are_sorted_by_id,
    an_upsert_replaces_vector_and_payload,
    the_last_of_equal_ids_in_one_upsert_wins,
    deleted_points_are_gone,
    more_points_than_one_page_or_batch_holds_are_all_there,
    payloads_come_back_as_they_were,
    vectors_of_another_shape_are_refused,
    payloads_that_are_not_json_are_refused,
    closing_twice_is_harmless,
    the_nearest_are_found_after_optimize,
)


async def _filled(make: Make) -> VectorIndex:
    index = await make(DIMENSION)
    await index.upsert(POINTS)
    return index


def _expect_near(point: Point, row: Vectors) -> None:
    vector = point.vector
    expect(vector is not None and vector.dtype == np.float32, f"the vector of {point.id} is no float32 array")
    near = vector is not None and vector.shape == row.shape and bool(np.allclose(vector, row, atol=TOLERANCE))
    expect(near, f"the vector of {point.id} is not the one that was written")
