"""Plans: what grows with what, what can't be had, and what is said of figures that were not measured."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import yaml

from engine.errors import BadUserInput
from indexing.bench.laws import Law, LawBook, ModelCost
from indexing.capacity import Plan, Request, choose_layout, plan

BASE = Request(images=1e6, model="large", p95_ms=50, qps=100)


def law(unit: str, **terms: float) -> Law:
    """A law measured from 10,000 to 1,000,000 vectors of 512 and 1,024 dimensions."""
    named = {name.replace("_", " "): factor for name, factor in terms.items()}
    return Law(
        unit=unit,
        terms={"1": named.pop("one", 0.0), **named},
        counts=(1e4, 1e6),
        dimensions=(512, 1024),
        error=0.0,
        ahead=None,
        points=(),
    )


def model(text_ms: float, batch_ms: float, dimension: int = 1024, assumed: str = "") -> ModelCost:
    """A model that takes this long for a text alone, and for one of a batch."""
    return ModelCost(
        dimension=dimension,
        pretrained="tag",
        cores=2,
        text_ms=text_ms,
        batch_ms=batch_ms,
        images_per_s=10,
        memory_gb=2.5,
        assumed=assumed,
    )


@pytest.fixture(scope="module")
def book() -> LawBook:
    """Laws as an HNSW index has them, models that were measured, and a GPU that was not."""
    laws = {
        "build_s": law("s", N=2e-4, N_d_ln_N=7e-8),
        "anonymous_bytes": law("bytes", one=4e7, N=700),
        "originals_bytes": law("bytes", N_d=4),
        "int8_bytes": law("bytes", N_d=1),
        "graph_bytes": law("bytes", N=60),
        "payload_bytes": law("bytes", one=1e6, N=600),
        "other_bytes": law("bytes", N=30),
    }
    for ef, misses in ((64, 0.0025), (128, 0.001), (256, 0.0002)):
        laws[f"search_p50_ms@{ef}"] = law("ms", ln_N=ef / 2000)
        laws[f"search_p95_ms@{ef}"] = law("ms", ln_N=ef / 1200)
        laws[f"misses@{ef}"] = law("missed", ln_N=misses)
    assumptions = {
        "graphql_ms": 1.0,
        "network_ms": 1.0,
        "cached_answer_bytes": 48_000.0,
        "core_cost": 1.0,
        "gb_ram_cost": 0.1,
        "gb_disk_cost": 0.005,
        "gpu_cost": 15.0,
    }
    return LawBook.model_validate(
        {
            "measured": {"date": "2026-01-01", "command": "sightline bench growth", "machine": {"processor": "one"}},
            "laws": {name: value.model_dump() for name, value in laws.items()},
            "models": {"large": model(11.5, 5.1).model_dump(), "small": model(3, 1, 512).model_dump()},
            "gpu_models": {"large": model(6, 0.5, assumed="nobody measured a GPU").model_dump()},
            "assumptions": {
                name: {"value": value, "unit": "", "source": f"source of {name}"} for name, value in assumptions.items()
            },
        }
    )


def grown(book: LawBook, name: str, **ranges: Any) -> list[float]:
    """A figure of the plans for growing values of one field of the request."""
    ((field, values),) = ranges.items()
    return [plan(replace(BASE, **{field: value}), book).figure(name).value for value in values]


def rises(values: list[float]) -> bool:
    """Whether no value is smaller than the one before."""
    return all(later >= earlier for earlier, later in pairwise(values))


IMAGES = [float(number) for number in np.geomspace(1e3, 2e9, 150)]
QPS = [float(number) for number in np.geomspace(0.1, 50_000, 80)]


@pytest.mark.parametrize("qps", [1.0, 100.0, 3_000.0])
@pytest.mark.parametrize("originals", ["ram", "disk"])
def test_more_images_never_need_less(book: LawBook, qps: float, originals: Any):
    """RAM and the time to index rise with the number of images, at any load."""
    plans = [plan(replace(BASE, images=n, qps=qps, originals=originals), book) for n in IMAGES]
    for name in ("RAM", "encoding pictures", "jobs for one day"):
        assert rises([made.figure(name).value for made in plans]), name


def test_more_searches_never_need_less(book: LawBook):
    """API replicas, memory of the cache and RAM of the index rise with the searches a second."""
    for name in ("API replicas", "Redis memory", "RAM"):
        assert rises(grown(book, name, qps=QPS)), name
    assert grown(book, "API replicas", qps=[50_000.0])[0] > 100


def test_a_slower_p95_never_needs_more_replicas(book: LawBook):
    """Patience is cheaper: fewer replicas, and no more RAM."""
    patience = [25.0, 30.0, 50.0, 80.0, 200.0, 1000.0]
    for name in ("API replicas", "RAM"):
        values = grown(book, name, p95_ms=patience)
        assert rises(values[::-1]), name


def test_repeated_searches_save_replicas_and_cache(book: LawBook):
    """What the cache answers is not encoded, not searched and not remembered twice."""
    for name in ("API replicas", "Redis memory"):
        without, half = grown(book, name, repeated=[0.0, 0.5])
        assert half < without


def test_plans_keep_what_was_asked_for(book: LawBook):
    """The p95 and the recall of every plan are at least as good as the request, and its nodes hold what they must."""
    for images in (1e4, 1e6, 1e8):
        for p95_ms in (40.0, 100.0):
            for recall in (0.9, 0.98, 0.99):
                made = plan(replace(BASE, images=images, p95_ms=p95_ms, recall=recall, node_gb=128), book)
                assert made.figure("p95").value <= p95_ms
                assert made.figure("recall@10").value >= recall
                assert made.figure("RAM a node").value <= 128
                assert made.figure("Qdrant nodes").value >= made.figure("copies of each shard").value


def test_originals_on_disk_save_ram(book: LawBook):
    """Four bytes a component leave the RAM, and the figure says where they are."""
    there, gone = (plan(replace(BASE, originals=place), book) for place in ("ram", "disk"))
    saved = there.figure("RAM").value - gone.figure("RAM").value
    assert saved == pytest.approx(4 * 1024 * 1e6 / 0.8 / 1e9)
    assert there.figure("originals in RAM").value == gone.figure("originals on disk").value


def test_more_recall_costs_time(book: LawBook):
    """A higher recall is reached by a larger ef, or by smaller shards."""
    plain, exact = (plan(replace(BASE, recall=recall), book) for recall in (0.9, 0.99))
    assert (plain.figure("SEARCH_EF").value, exact.figure("SEARCH_EF").value) == (64, 256)
    assert exact.figure("p95 of the index").value > plain.figure("p95 of the index").value


# ---------------------------------------------------------------- what figures rest on


@pytest.mark.parametrize(("images", "mark"), [(1e6, False), (1e4, False), (1e9, True), (5e3, True)])
def test_extrapolation_is_marked_exactly_where_it_happens(book: LawBook, images: float, mark: bool):  # noqa: FBT001 - a parameter
    """Figures of the laws are marked when a shard holds more or less than was measured, and only then."""
    made = plan(replace(BASE, images=images, originals="disk", qps=0.1, node_gb=4_000), book)
    assert (10_000 <= images / made.figure("shards").value <= 1e6) is not mark
    for name in ("RAM", "int8 vectors", "graph", "disk a node", "recall@10", "p95 of the index", "p95"):
        marked = any("extrapolated" in said for said in made.figure(name).marks)
        assert marked is mark, name
    for name in ("API replicas", "Redis memory", "encoding pictures"):
        assert not any("extrapolated" in said for said in made.figure(name).marks), name


def test_assumptions_are_marked_with_their_source(book: LawBook):
    """A GPU that nobody measured is said to be one, wherever it counts; a CPU that was measured is not."""
    on_gpu, on_cpu = (plan(replace(BASE, gpu=gpu), book) for gpu in (True, False))
    for name in ("API replicas", "p95 of encoding", "encoding pictures", "RAM a replica", "p95"):
        assert "assumed: nobody measured a GPU" in on_gpu.figure(name).marks
        assert "assumed: nobody measured a GPU" not in on_cpu.figure(name).marks
    assert on_cpu.figure("Redis memory").marks == ("assumed: source of cached_answer_bytes",)
    assert on_cpu.figure("shards").marks == ()


def test_drivers_say_what_dominates(book: LawBook):
    """Shares of the cost, largest first, that make 1; many searches are dear in the API, many images in the index."""
    busy = plan(replace(BASE, images=1e4, qps=5_000), book)
    large = plan(replace(BASE, images=1e9, qps=1), book)
    for made in (busy, large):
        assert sum(made.drivers.values()) == pytest.approx(1)
        assert not rises(list(made.drivers.values()))
    assert next(iter(busy.drivers)).startswith("API")
    assert next(iter(large.drivers)).startswith("index")


# ---------------------------------------------------------------- what can't be had


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"p95_ms": 5.0}, r"11.5 ms to encode.*--p95 25ms or more or --model small"),
        ({"p95_ms": 12.0}, r"--model small or --gpu"),
        ({"p95_ms": 15.0, "images": 1e9}, r"p95: .*for the index.*--p95 \d+ms"),
        ({"recall": 0.9999}, r"at most 0\.99.*--recall 0\.99"),
        ({"node_gb": 0.01}, r"--node more memory, or --originals disk"),
        ({"model": "huge"}, r"'huge' on a CPU.*large, small"),
        ({"model": "small", "gpu": True}, r"'small' on a GPU.*large"),
    ],
)
def test_the_impossible_is_said_with_what_would_be_possible(book: LawBook, wanted: dict[str, Any], message: str):
    """Each limit has its own message, and names the options that would help."""
    with pytest.raises(BadUserInput, match=message):
        plan(replace(BASE, **wanted), book)


def test_advice_is_good(book: LawBook):
    """The p95 that a refusal proposes can be had."""
    for wanted in (replace(BASE, p95_ms=5), replace(BASE, p95_ms=15, images=1e9)):
        with pytest.raises(BadUserInput) as raised:
            plan(wanted, book)
        proposed = str(raised.value).partition("--p95 ")[2].partition("ms")[0]
        try:
            plan(replace(wanted, p95_ms=float(proposed)), book)
        except BadUserInput as still:  # the encoder's limit comes before the index's, which has its own advice
            proposed = str(still).partition("--p95 ")[2].partition("ms")[0]
            plan(replace(wanted, p95_ms=float(proposed)), book)


@pytest.mark.parametrize(
    "wrong",
    [
        {"images": 0.0},
        {"p95_ms": -1.0},
        {"qps": float("inf")},
        {"recall": 1.0},
        {"recall": 98.0},
        {"repeated": 1.0},
        {"node_cores": 0},
    ],
)
def test_senseless_amounts_are_refused(wrong: dict[str, Any]):
    """Before anything is computed, with the name of the amount."""
    with pytest.raises(BadUserInput):
        replace(BASE, **wrong)


def test_without_laws_there_is_no_plan(book: LawBook):
    """A book without laws says how they are measured."""
    with pytest.raises(BadUserInput, match="bench growth --save"):
        plan(BASE, book.model_copy(update={"laws": {}}))


def test_layouts_split_where_one_shard_is_not_enough(book: LawBook):
    """A large index is cut so that each shard is exact and small enough, and a small one is left whole."""
    assert choose_layout(BASE, book, 18).shards == 1
    large = replace(BASE, images=1e8, node_gb=4_000)
    assert choose_layout(large, book, 18).shards == 1
    assert choose_layout(replace(large, recall=0.997), book, 18).shards > 1
    assert choose_layout(replace(large, node_gb=64), book, 18).shards > 1


# ---------------------------------------------------------------- values for the chart


def read(made: Plan) -> dict[str, Any]:
    """The chart values, read back."""
    values: dict[str, Any] = yaml.safe_load(made.yaml())
    return values


def test_chart_values_are_yaml_of_the_plan(book: LawBook):
    """The snippet parses to the values, which have the operator's keys and the plan's figures."""
    made = plan(replace(BASE, images=1e8, qps=500), book)
    values = read(made)
    assert values == made.values
    index = values["imageIndex"]
    assert set(index) == {"model", "collection", "indexing", "serving"}
    assert index["model"] == {"name": "large", "pretrained": "tag", "dimension": 1024}
    assert index["collection"] == {
        "shardNumber": made.figure("shards").value,
        "replicationFactor": made.figure("copies of each shard").value,
    }
    assert index["indexing"]["parallelism"] <= index["indexing"]["shards"]
    assert index["serving"]["replicas"] == made.figure("API replicas").value
    assert index["serving"]["gpu"] == 0
    assert values["qdrant"]["replicaCount"] == made.figure("Qdrant nodes").value
    assert values["api"]["env"] == {"SEARCH_EF": str(int(made.figure("SEARCH_EF").value))}
    assert read(plan(replace(BASE, gpu=True), book))["imageIndex"]["serving"]["gpu"] == 1
