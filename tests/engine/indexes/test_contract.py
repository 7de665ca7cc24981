"""The same calls on every index, answered alike; `ExactIndex` and the reference filter are the truth."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import BadUserInput
from engine.filters import matches
from engine.indexes.edge import EdgeIndex
from engine.indexes.exact import ExactIndex
from engine.indexes.process import ProcessIndex
from engine.ports import And, Filter, Match, Not, Or, Point, Range, VectorIndex, VectorQuery, Vectors
from engine.settings import Settings

DIMENSION = 24
SETTINGS = Settings(_env_file=None)

KINDS = ("car", "dog", "cat", "boat", "tree")


def vectors(count: int, seed: int, dimension: int = DIMENSION) -> Vectors:
    """Random unit vectors, (count, dimension)."""
    rows = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def payload(number: int) -> dict[str, Any]:
    """A payload with every type of value, and fields that some points lack."""
    fields: dict[str, Any] = {
        "category": ("vehicle", "animal", "plant")[number % 3],
        "width": 100 + number,
        "height": 80,
        "takenAt": f"2024-{1 + number % 12:02d}-15T10:30:00Z",
        "fileName": f"{number}.png",
        "metadata": {
            "objects": [
                {"kind": KINDS[number % 5], "count": number % 4},
                {"kind": KINDS[number % 7 % 5], "count": 2},
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


ROWS = vectors(120, seed=1)
QUERY = ROWS[3]
POINTS = [Point(str(uuid.UUID(int=i * 7919)), row, payload(i)) for i, row in enumerate(ROWS)]

FILTERS: list[Filter] = [
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
]

MakeIndex = Callable[[int], Awaitable[VectorIndex]]


@pytest.fixture(params=["exact", "edge", "process"], scope="module")
def engine(request: pytest.FixtureRequest) -> str:
    """The engine under test."""
    name: str = request.param
    return name


async def new_index(engine: str, folder: Path, dimension: int) -> VectorIndex:
    """An empty index."""
    match engine:
        case "exact":
            return ExactIndex(dimension)
        case "edge":
            return EdgeIndex.create(folder, dimension, SETTINGS)
        case _:
            return await ProcessIndex.create(folder, dimension, SETTINGS)


@pytest.fixture(scope="module", params=["fresh", "optimized"])
def filled(
    request: pytest.FixtureRequest, engine: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VectorIndex]:
    """An index that holds `POINTS`, before and after the graph is built; for tests that only read."""
    index = asyncio.run(new_index(engine, tmp_path_factory.mktemp("filled") / "shard", DIMENSION))
    asyncio.run(index.upsert(POINTS))
    if request.param == "optimized":
        asyncio.run(index.optimize())
    yield index
    asyncio.run(index.close())


@pytest.fixture
async def make(engine: str, tmp_path: Path) -> AsyncIterator[MakeIndex]:
    """Makes empty indexes of one engine, and closes them."""
    made: list[VectorIndex] = []

    async def make(dimension: int) -> VectorIndex:
        made.append(await new_index(engine, tmp_path / str(len(made)), dimension))
        return made[-1]

    yield make
    for index in made:
        await index.close()


@pytest.fixture
async def index(make: MakeIndex) -> VectorIndex:
    """An index that holds `POINTS`, for tests that write."""
    index = await make(DIMENSION)
    await index.upsert(POINTS)
    return index


@pytest.fixture
async def truth() -> VectorIndex:
    """The exact index over `POINTS`."""
    truth = ExactIndex(DIMENSION)
    await truth.upsert(POINTS)
    return truth


async def test_filters_admit_what_the_reference_admits(filled: VectorIndex):
    """Search and count under every kind of filter agree with `matches`."""
    answers = await filled.search([VectorQuery(QUERY, limit=200, filter=tree) for tree in FILTERS])
    counts = [await filled.count(tree) for tree in FILTERS]
    admitted = [{point.id for point in POINTS if matches(tree, point.payload)} for tree in FILTERS]
    found = [{hit.id for hit in hits} for hits in answers]
    assert [tree for tree, got, wanted in zip(FILTERS, found, admitted, strict=True) if got != wanted] == []
    assert counts == [len(ids) for ids in admitted]


@pytest.mark.parametrize("exact", [False, True])
async def test_searches_return_the_nearest_with_their_cosines(
    filled: VectorIndex,
    truth: VectorIndex,
    exact: bool,  # noqa: FBT001
):
    """Ids, order, cosine scores and payloads equal the ground truth, for each query of a batch, in its order."""
    queries = [VectorQuery(vector * 3, limit=10, exact=exact) for vector in vectors(20, seed=2)]
    for got, wanted in zip(await filled.search(queries), await truth.search(queries), strict=True):
        assert [hit.id for hit in got] == [hit.id for hit in wanted]
        assert [hit.score for hit in got] == pytest.approx([hit.score for hit in wanted], abs=1e-6)
        assert [hit.payload for hit in got] == [hit.payload for hit in wanted]


async def test_hits_come_without_payload_when_none_is_asked_for(filled: VectorIndex):
    """The same hits, empty payloads; queries of one batch may differ in that."""
    bare, full = await filled.search([VectorQuery(QUERY, 5, payload=False), VectorQuery(QUERY, 5)])
    assert [(hit.id, hit.score) for hit in bare] == [(hit.id, hit.score) for hit in full]
    assert [hit.payload for hit in bare] == [{}] * 5
    assert all(hit.payload for hit in full)


async def test_threshold_keeps_the_hits_that_are_good_enough(filled: VectorIndex, truth: VectorIndex):
    """All hits that score at least the threshold, and no other."""
    query = vectors(1, seed=3)[0]
    [everything] = await truth.search([VectorQuery(query, limit=1000)])
    threshold = (everything[6].score + everything[7].score) / 2
    [hits] = await filled.search([VectorQuery(query, limit=1000, score_threshold=threshold)])
    assert [hit.id for hit in hits] == [hit.id for hit in everything[:7]]


@pytest.mark.parametrize("limit", [1, 7, 120, 500])
async def test_limit_cuts_the_list(filled: VectorIndex, limit: int):
    """As many hits as asked for, or as there are points."""
    [hits] = await filled.search([VectorQuery(ROWS[0], limit=limit)])
    assert len(hits) == min(limit, len(POINTS))


async def test_equal_scores_are_sorted_by_id(make: MakeIndex):
    """The same picture under several ids comes in the order of the ids."""
    index = await make(DIMENSION)
    ids = [str(uuid.UUID(int=i)) for i in (5, 1, 9, 3)]
    await index.upsert([Point(id_, ROWS[0], {}) for id_ in ids])
    [hits] = await index.search([VectorQuery(ROWS[0], limit=10)])
    assert [hit.id for hit in hits] == sorted(ids)


async def test_upsert_replaces_vector_and_payload(index: VectorIndex):
    """A second write under the same id leaves nothing of the first."""
    changed = Point(POINTS[0].id, ROWS[1], {"category": "changed"})
    await index.upsert([changed])
    [point] = await index.retrieve([POINTS[0].id], vectors=True)
    assert point.payload == {"category": "changed"}
    assert point.vector == pytest.approx(ROWS[1], abs=1e-6)
    assert await index.count() == len(POINTS)


async def test_the_last_of_equal_ids_in_one_upsert_wins(make: MakeIndex):
    """Writing an id twice in one call is writing the later one."""
    index = await make(DIMENSION)
    await index.upsert([Point(POINTS[0].id, ROWS[0], {"n": n}) for n in range(3)])
    assert [point.payload for point in await index.retrieve([POINTS[0].id])] == [{"n": 2}]


async def test_deleted_points_are_gone(index: VectorIndex):
    """Not found, not counted, not listed; unknown ids and nonsense are ignored."""
    gone = POINTS[5].id
    await index.delete([gone, str(uuid.UUID(int=1)), "nonsense"])
    [hits] = await index.search([VectorQuery(ROWS[5], limit=200)])
    assert gone not in {hit.id for hit in hits}
    assert await index.retrieve([gone]) == []
    assert await index.count() == len(POINTS) - 1
    assert gone not in await index.ids()


async def test_retrieve_keeps_the_order_of_the_ids(filled: VectorIndex):
    """Known ids in the caller's order; unknown ones and nonsense are left out; vectors only when asked for."""
    wanted = [POINTS[9].id, POINTS[2].id, POINTS[4].id]
    points = await filled.retrieve([wanted[0], str(uuid.UUID(int=1)), wanted[1], "nonsense", wanted[2]])
    assert [point.id for point in points] == wanted
    assert [point.vector for point in points] == [None, None, None]
    assert [point.payload for point in points] == [POINTS[9].payload, POINTS[2].payload, POINTS[4].payload]
    [with_vector] = await filled.retrieve([wanted[0]], vectors=True)
    assert with_vector.vector is not None
    assert with_vector.vector.dtype == np.float32
    assert with_vector.vector == pytest.approx(ROWS[9], abs=1e-6)


async def test_ids_are_all_there_and_sorted(make: MakeIndex):
    """Every id, also when there are more than one read returns."""
    index = await make(2)
    ids = [str(uuid.UUID(int=i)) for i in range(5000)]
    await index.upsert([Point(id_, np.ones(2, dtype=np.float32), {}) for id_ in reversed(ids)])
    assert await index.ids() == ids


@pytest.mark.parametrize(
    "field", ["category", "metadata.objects[].kind", "metadata.night", "width", 'metadata."taken by"', "nowhere"]
)
@pytest.mark.parametrize("filter", [None, Match("metadata.night", (True,))], ids=["all", "some"])
@pytest.mark.parametrize("limit", [2, 100])
async def test_facets_count_points(
    filled: VectorIndex,
    truth: VectorIndex,
    field: str,
    filter: Filter | None,
    limit: int,
):
    """Values with their numbers of points, most frequent first, equal ones by value, cut to the limit."""
    facet = await filled.facet(field, filter, limit)
    assert facet == await truth.facet(field, filter, limit)
    assert facet == sorted(facet, key=lambda item: (-item[1], item[0]))


async def test_a_facet_counts_a_point_once_for_each_value(filled: VectorIndex):
    """Two dogs in one picture are one picture with a dog; the numbers are those that the filter gives."""
    for kind, count in await filled.facet("metadata.objects[].kind"):
        assert count == await filled.count(Match("metadata.objects[].kind", (kind,)))


async def test_info_gives_size_and_shape(filled: VectorIndex):
    """Points and dimension are those that were written."""
    info = await filled.info()
    assert (info.points, info.dimension) == (len(POINTS), DIMENSION)


async def test_closing_twice_is_harmless(index: VectorIndex):
    """The second close does nothing."""
    await index.close()
    await index.close()


@pytest.mark.parametrize("shape", [(DIMENSION + 1,), (1, DIMENSION)])
async def test_vectors_of_another_shape_are_refused(index: VectorIndex, shape: tuple[int, ...]):
    """A query or point of another model is the caller's mistake, and changes nothing."""
    alien = np.ones(shape, dtype=np.float32)
    with pytest.raises(BadUserInput, match="shape"):
        await index.search([VectorQuery(alien, limit=1)])
    with pytest.raises(BadUserInput, match="shape"):
        await index.upsert([Point(POINTS[0].id, alien, {})])
    assert await index.count() == len(POINTS)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
async def test_payloads_that_are_not_json_are_refused(index: VectorIndex, value: object):
    """What JSON can't hold is refused before anything is written."""
    bad = Point(str(uuid.UUID(int=1)), ROWS[0], {"value": value})
    with pytest.raises(BadUserInput, match="plain JSON"):
        await index.upsert([POINTS[0], bad])
    assert await index.count() == len(POINTS)


@pytest.mark.parametrize("filter", [Match("a b", ("x",)), Range("width"), Range("width", "yesterday")], ids=repr)
async def test_filters_that_mean_nothing_are_refused(filled: VectorIndex, filter: Filter):
    """A wrong path or bound is named, in searches as in counts."""
    with pytest.raises(BadUserInput, match=r"filter|field"):
        await filled.search([VectorQuery(ROWS[0], limit=1, filter=filter)])
    with pytest.raises(BadUserInput, match=r"filter|field"):
        await filled.count(filter)


async def test_recall_on_clustered_vectors(make: MakeIndex):
    """After `optimize`, ten nearest of 2,000 clustered points: recall at least 0.97 against all comparisons."""
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((20, 64))
    rows = centres[rng.integers(20, size=2100)] + 0.6 * rng.standard_normal((2100, 64))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    points = [Point(str(uuid.UUID(int=i)), row, {}) for i, row in enumerate(rows[:2000])]
    index, truth = await make(64), ExactIndex(64)
    await index.upsert(points)
    await index.optimize()
    await truth.upsert(points)
    queries = [VectorQuery(row, limit=10) for row in rows[2000:]]
    found = [{hit.id for hit in hits} for hits in await index.search(queries)]
    wanted = [{hit.id for hit in hits} for hits in await truth.search(queries)]
    assert np.mean([len(got & want) / 10 for got, want in zip(found, wanted, strict=True)]) >= 0.97
