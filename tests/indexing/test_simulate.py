"""Simulated embeddings: spread as a CLIP model's are, the same every time, drawn as they are needed, and searchable."""

from __future__ import annotations

import tracemalloc
import uuid
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from engine.errors import BadUserInput, SourceError
from engine.filters import parse_date
from engine.generations import GenerationStore
from engine.indexes.edge import EdgeIndex
from engine.ports import ModelInfo, Point, VectorQuery, Vectors
from engine.settings import Settings
from indexing import simulate
from indexing.scenes.vocabulary import CATEGORIES
from indexing.simulate import BATCH, model_info, queries, simulate_images, simulate_vectors, vectors
from indexing.spaces import about_clusters, image_space, searches
from tests.support.encoders import WordEncoder


def stacked(points: list[Point]) -> Vectors:
    """The points' vectors, (n, d)."""
    return np.stack([point.vector for point in points if point.vector is not None])


def drawn(count: int, dimension: int, seed: int = 1) -> list[Point]:
    """All points in one list."""
    return [point for batch in vectors(count, dimension, seed) for point in batch]


def local_dimension(among: Vectors, neighbours: int = 20) -> float:
    """The intrinsic dimension by maximum likelihood from nearest neighbours (Levina and Bickel 2004)."""
    cosines = among @ among.T
    np.fill_diagonal(cosines, -2)
    nearest = -np.sort(-cosines, axis=1)[:, :neighbours]
    distances = np.sqrt(np.maximum(2 - 2 * nearest, 1e-12))
    return float(1 / np.log(distances[:, -1:] / distances[:, :-1]).mean())


def test_vectors_have_unit_norm_and_the_asked_shape():
    """As many as asked for, in batches, each of norm 1 in float32."""
    batches = list(vectors(BATCH + 100, 32, 1))
    assert [len(batch) for batch in batches] == [BATCH, 100]
    together = stacked([point for batch in batches for point in batch])
    assert (together.shape, together.dtype) == ((BATCH + 100, 32), np.float32)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_points_look_like_indexed_pictures():
    """Every category occurs, ids are distinct UUIDs, and the payload has the standard fields."""
    points = drawn(1_000, 16)
    assert {point.payload["category"] for point in points} == set(CATEGORIES)
    assert len({str(uuid.UUID(point.id)) for point in points}) == 1_000
    payload = points[41].payload
    assert payload["objectKey"] == f"{payload['category']}/image-000000042.jpg"
    assert payload["filePath"].endswith(f"/{payload['objectKey']}")
    assert payload["fileName"] == "image-000000042.jpg"
    assert payload["width"] > 0 < payload["height"]
    assert len(bytes.fromhex(payload["contentHash"])) == 32
    assert payload["metadata"]["category"] == payload["category"]
    assert 2015 <= parse_date(payload["takenAt"]).year <= 2024


def test_points_depend_on_the_seed_and_their_number_alone():
    """Fewer points are the first of more, a batch is the same without those before it, and another seed differs."""
    many = drawn(2 * BATCH, 16)
    few = drawn(10, 16)
    alone = simulate._batch(image_space(16, 1), 1, 1, BATCH)
    for same, at in ((few, 0), (alone, BATCH)):
        np.testing.assert_array_equal(stacked(same), stacked(many[at : at + len(same)]))
        assert [(p.id, p.payload) for p in same] == [(p.id, p.payload) for p in many[at : at + len(same)]]
    other = drawn(10, 16, seed=2)
    assert not np.allclose(stacked(few), stacked(other))
    assert {point.id for point in few}.isdisjoint(point.id for point in other)


def test_vectors_lie_in_a_cone_of_categories_of_clusters():
    """Cosines are 0.5 for unrelated pictures, more within a category, 0.75 within a cluster."""
    points = drawn(3_000, 256)
    cluster = np.array([point.payload["metadata"]["cluster"] for point in points])
    category = np.array([CATEGORIES.index(point.payload["category"]) for point in points])
    cosines = stacked(points) @ stacked(points).T
    same_cluster = cluster[:, None] == cluster
    same_category = (category[:, None] == category) & ~same_cluster
    np.fill_diagonal(same_cluster, val=False)
    unrelated = category[:, None] != category
    means = [float(cosines[pairs].mean()) for pairs in (unrelated, same_category, same_cluster)]
    np.testing.assert_allclose(means, [0.50, 0.58, 0.75], atol=0.04)


def test_clusters_are_of_very_unequal_size():
    """The largest cluster holds about 2 % of all, fifty times what the median one holds or more."""
    cluster = [point.payload["metadata"]["cluster"] for point in drawn(10_000, 8)]
    sizes = np.sort(np.bincount(cluster, minlength=1_000))
    assert 0.015 < sizes[-1] / 10_000 < 0.03
    assert sizes[-1] >= 40 * np.median(sizes)


def test_intrinsic_dimension_is_far_below_the_vectors_length():
    """Locally and in all, some dozens of 512 dimensions count; the same measure tells uniform vectors apart."""
    among = stacked(drawn(2_000, 512))
    noise = np.random.default_rng(1).standard_normal((2_000, 512)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    assert 10 < local_dimension(among) < 40
    assert local_dimension(noise) > 80
    variances = np.linalg.eigvalsh(np.cov(among.T))
    assert 20 < variances.sum() ** 2 / (variances**2).sum() < 60


def test_queries_lie_beside_the_pictures_and_near_some():
    """As texts do: unit norm, 0.1 from any picture, 0.3 to 0.5 from the nearest, in a cone of their own."""
    asked = queries(300, 256, 1)
    np.testing.assert_allclose(np.linalg.norm(asked, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(asked, queries(300, 256, 1))
    cosines = asked @ stacked(drawn(3_000, 256)).T
    assert 0.08 < cosines.mean() < 0.2
    assert 0.3 < cosines.max(axis=1).mean() < 0.5
    assert 0.4 < (asked @ asked.T).mean() < 0.6


def test_vectors_are_drawn_one_batch_at_a_time():
    """Of a trillion points none is drawn before it is asked for, and batches do not pile up."""
    endless = vectors(10**12, 256, 3)
    next(endless)
    tracemalloc.start()
    try:
        for batch in islice(endless, 6):
            assert len(batch) == BATCH
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * BATCH * (256 * 4 + 2_000)


@pytest.mark.parametrize(
    ("count", "dimension", "seed", "message"),
    [(0, 64, 1, "1 or more"), (1, 4, 1, "4 dimensions"), (1, 100_000, 1, "100000 dimensions"), (1, 64, -1, "seed -1")],
)
def test_impossible_arguments_are_named(count: int, dimension: int, seed: int, message: str):
    """An argument out of range is refused at once, with what it may be."""
    with pytest.raises(BadUserInput, match=message):
        vectors(count, dimension, seed)
    with pytest.raises(BadUserInput, match=message):
        queries(count, dimension, seed)


async def test_simulated_index_serves_and_finds_its_points(tmp_path: Path):
    """5,000 vectors become the serving generation: all there, each found by itself, and the graph agrees with exact."""
    settings = Settings(index_path=tmp_path)
    told: list[tuple[str, int, int]] = []
    generation = await simulate_vectors(5_000, 64, 7, "tried", settings, lambda *step: told.append(step))
    assert GenerationStore(tmp_path, "tried").current() == generation
    assert (generation.state, generation.points, generation.model) == ("ready", 5_000, model_info(64, 7))
    assert told == sorted(told, key=lambda step: (["writing", "optimizing", "promoting"].index(step[0]), step[1]))
    assert told[-1] == ("promoting", 5_000, 5_000)

    index = EdgeIndex.open(generation.shard, settings)
    try:
        info = await index.info()
        assert (info.points, info.indexed, info.dimension) == (5_000, 5_000, 64)
        points = drawn(5_000, 64, seed=7)[::500]
        for point, hits in zip(points, await index.search([VectorQuery(v, 1) for v in stacked(points)]), strict=True):
            assert (hits[0].id, dict(hits[0].payload)) == (point.id, dict(point.payload))
        asked = queries(50, 64, 7)
        found = await index.search([VectorQuery(vector, 10) for vector in asked])
        right = await index.search([VectorQuery(vector, 10, exact=True) for vector in asked])
        shared = [len({hit.id for hit in a} & {hit.id for hit in b}) for a, b in zip(found, right, strict=True)]
        assert sum(shared) >= 0.9 * 10 * 50
        assert sum(count for _, count in await index.facet("category")) == 5_000
    finally:
        await index.close()


async def test_failed_simulation_leaves_the_serving_generation(tmp_path: Path):
    """A run that ends early leaves nothing of itself, and what served before serves on."""
    settings = Settings(index_path=tmp_path)
    serving = await simulate_vectors(20, 8, 1, "tried", settings)

    def interrupt(stage: str, _written: int, _all: int) -> None:
        if stage == "optimizing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await simulate_vectors(30, 8, 2, "tried", settings, interrupt)
    store = GenerationStore(tmp_path, "tried")
    assert store.list() == [store.current()] == [serving]


async def test_unfinished_simulation_makes_way(tmp_path: Path):
    """What a killed simulation left behind is gone after the next."""
    store = GenerationStore(tmp_path, "tried")
    store.begin(model_info(8, 1))
    generation = await simulate_vectors(20, 8, 1, "tried", Settings(index_path=tmp_path))
    assert store.list() == [generation]


@pytest.mark.parametrize("finished", [True, False])
async def test_pictures_are_not_replaced(tmp_path: Path, *, finished: bool):
    """An index that holds pictures, or is being filled with some, is refused and stays as it is."""
    store = GenerationStore(tmp_path, "default")
    pictures = store.begin(ModelInfo("sightline-small", "", 8, 64, 28, "0123456789abcdef"))
    if finished:
        pictures = store.promote(store.finish(pictures, 1).id)
    with pytest.raises(BadUserInput, match="Name another index"):
        await simulate_vectors(20, 8, 1, "default", Settings(index_path=tmp_path))
    assert store.list() == [pictures]


async def test_too_small_disk_is_said_before_writing(tmp_path: Path):
    """More vectors than the disk holds are refused with how much they take, and nothing is begun."""
    with pytest.raises(SourceError, match=r"take up to .* GB to build.* MB are free"):
        await simulate_vectors(10**12, 1024, 1, "tried", Settings(index_path=tmp_path))
    assert GenerationStore(tmp_path, "tried").list() == []


# ---------------------------------------------------------------- in a model's space


async def test_model_index_is_searched_in_words(tmp_path: Path):
    """The generation is the encoder's, and a search in words finds images of a caption that means the same."""
    settings = Settings(index_path=tmp_path)
    encoder = WordEncoder()
    generation = await simulate_images(4_000, encoder, 1, "tried", settings)
    assert GenerationStore(tmp_path, "tried").current() == generation
    assert (generation.state, generation.points, generation.model) == ("ready", 4_000, encoder.model)

    index = EdgeIndex.open(generation.shard, settings)
    try:
        about = about_clusters(1)[:100]
        asked = encoder.encode_texts([caption.text for caption in about])
        right = await index.search([VectorQuery(vector, 10, exact=True) for vector in asked])
        for caption, hits in zip(about, right, strict=True):
            metadata = hits[0].payload["metadata"]
            assert (metadata["caption"], hits[0].payload["category"]) == (caption.text, caption.category)
        found = await index.search([VectorQuery(vector, 10) for vector in asked])
        shared = [len({hit.id for hit in a} & {hit.id for hit in b}) for a, b in zip(found, right, strict=True)]
        assert sum(shared) >= 0.9 * 10 * len(about)
    finally:
        await index.close()


async def test_model_index_makes_way_for_another_but_pictures_do_not(tmp_path: Path):
    """Simulations of a model replace each other, though they carry the name of a real one; its pictures stay."""
    settings = Settings(index_path=tmp_path)
    encoder = WordEncoder()
    first = await simulate_images(20, encoder, 1, "tried", settings)
    second = await simulate_images(30, encoder, 2, "tried", settings)
    store = GenerationStore(tmp_path, "tried")
    assert (store.current(), store.list()) == (second, [first, second])

    store = GenerationStore(tmp_path, "default")
    pictures = store.promote(store.finish(store.begin(encoder.model), 1).id)
    with pytest.raises(BadUserInput, match="Name another index"):
        await simulate_images(20, encoder, 1, "default", settings)
    assert store.list() == [pictures]


def test_searches_are_in_words_and_the_same_for_a_seed():
    """Many different ones, about what the clusters show; most are worded otherwise than the caption."""
    asked = searches(300, 1)
    assert asked == searches(300, 1) != searches(300, 2)
    assert len(set(asked)) > 200
    captions = {caption.text for caption in about_clusters(1)}
    assert 0 < sum(text in captions for text in asked) < 150
