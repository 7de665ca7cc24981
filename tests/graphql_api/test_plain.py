"""Operations that do nothing but search: past the executor, they get the very answer that they would get from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import strawberry
from graphql import parse

from engine.errors import IndexUnavailable
from engine.requests import SearchRequest
from engine.search import Searcher
from graphql_api.plain import Outline
from tests.graphql_api.live import Api, Serve

GALLERY = """query Gallery($query: String!, $first: Int, $after: String, $least: Float) {
  search(query: $query, first: $first, after: $after, scoreThreshold: $least) {
    query totalCount { value relation } pageInfo { hasNextPage endCursor }
    edges { cursor rank score node { id fileName width takenAt category url thumbnailUrl metadata __typename } }
    execution { generation model strategy }
  }
}"""

SEARCH = "query S($q: String, $n: Int = 10) { search(query: $q, first: $n) { cached edges { node { fileName } } } }"


# ---------------------------------------------------------------- answering


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every query that was executed by the library."""
    queries: list[str] = []
    execute = strawberry.Schema.execute

    async def noted(self: strawberry.Schema, query: str, **values: Any) -> Any:
        queries.append(query)
        return await execute(self, query, **values)

    monkeypatch.setattr(strawberry.Schema, "execute", noted)
    return queries


@pytest.mark.parametrize(
    "variables",
    [
        {"query": "red", "first": 10},
        {"query": "blue", "first": 3},
        {"query": " yellow ", "first": 100, "least": 0.9},
        {"query": "green", "first": 7, "least": 1, "after": None, "unknown": 5},
        {"query": "", "first": 10},
        {"query": "grey", "first": 0},
        {"query": "grey", "first": 10, "after": "bogus"},
        {"query": "x" * 600, "first": 10},
    ],
)
def test_plain_answers_are_those_of_the_executor(api: Api, executed: list[str], variables: dict[str, Any]):
    """Errors, places and the order of keys included; only the first time a query is seen it goes the whole way."""
    api.data(GALLERY, query="white", first=1)
    executed.clear()
    plain = api.ask(GALLERY, **variables)
    assert executed == []
    whole = api.ask("# another document\n" + GALLERY, **variables)
    for error in whole.get("errors", ()):
        error["locations"][0]["line"] -= 1
    assert str(plain) == str(whole)


def test_several_searches_are_one_batch_and_fail_by_themselves(api: Api, executed: list[str]):
    """Under their aliases, in their order."""
    query = "query($a: String, $n: Int!) { a: search(query: $a) { cached } b: search(query: "
    query += '"red", first: $n) { edges { rank } } }'
    whole = api.ask(query, a="pink", n=2)
    assert len(executed) == 1
    assert api.ask(query, a="pink", n=2)["data"] == whole["data"] | {"a": {"cached": True}}
    failed = api.ask(query, a="pink", n=1000)
    assert failed["data"] == {"a": {"cached": True}, "b": None}
    assert [(error["path"], error["extensions"]["code"]) for error in failed["errors"]] == [(["b"], "BAD_USER_INPUT")]
    assert len(executed) == 1


@pytest.mark.parametrize(
    ("fault", "code"), [(IndexUnavailable("It is away."), "INDEX_UNAVAILABLE"), (ValueError("secret"), "INTERNAL")]
)
def test_what_fails_is_told_as_ever(api: Api, monkeypatch: pytest.MonkeyPatch, fault: Exception, code: str):
    """An error of ours with its code, a fault with an id and nothing of what it says."""

    async def fails(_self: Searcher, _requests: Any) -> Any:
        raise fault

    api.data(GALLERY, query="white", first=1)
    monkeypatch.setattr(Searcher, "search_many", fails)
    plain = api.ask(GALLERY, query="red", first=1)
    whole = api.ask("\n" + GALLERY, query="red", first=1)
    for answer in (plain, whole):
        (error,) = answer["errors"]
        assert error["extensions"].pop("errorId", None) or code != "INTERNAL"
        assert "secret" not in error["message"]
        error["message"] = error["message"][:10]
        error["locations"] = []
    assert plain == whole
    assert plain["errors"][0]["extensions"] == {"code": code}


@pytest.mark.parametrize(
    "variables", [{"q": 5}, {"q": "red", "n": 2**31}, {"q": "red", "n": -(2**31) - 1}, {"q": "red", "n": "two"}]
)
def test_variables_that_do_not_fit_are_told_by_graphql(api: Api, executed: list[str], variables: dict[str, Any]):
    """As if the query had never been seen."""
    api.data(SEARCH, q="white")
    executed.clear()
    (error,) = api.ask(SEARCH, **variables)["errors"]
    assert "has invalid value" in error["message"]
    assert executed == [SEARCH]


@pytest.mark.parametrize(
    "query",
    [
        "query S($q: String) { search(query: $q) { edges { node { similar(first: 1) { cached } } } } }",
        "query S($q: String) { search(query: $q) { cached @include(if: true) } }",
        "query S($q: String) { search(query: $q) { cached } health { status } }",
        "query S($q: String) { __typename search(query: $q) { cached } }",
    ],
)
def test_what_needs_the_executor_has_it_every_time(api: Api, executed: list[str], query: str):
    """Fields that search themselves, directives, other questions."""
    for number in (1, 2):
        assert api.data(query, q="red")["search"]
        assert len(executed) == number


def test_limits_hold_for_a_page_that_is_larger_than_the_one_before(serve: Serve, executed: list[str]):
    """What is allowed depends on the variables."""
    with serve(api_max_complexity=100) as api:
        api.data(SEARCH, q="red", n=10)
        (error,) = api.ask(SEARCH, q="red", n=90)["errors"]
        assert error["extensions"]["code"] == "QUERY_TOO_COMPLEX"
        assert len(executed) == 2


def test_a_picture_that_is_unusual_gets_the_executors_words(api: Api, monkeypatch: pytest.MonkeyPatch):
    """A value that does not fit its type is an error of that value, beside all others."""
    api.data(GALLERY, query="red", first=2)
    search_many = Searcher.search_many

    async def damaged(self: Searcher, requests: Any) -> Any:
        answers: Any = await search_many(self, requests)
        answers[0].edges[0].hit.payload["width"] = "wide"
        return answers

    monkeypatch.setattr(Searcher, "search_many", damaged)
    answer = api.ask(GALLERY, query="orange", first=2)
    assert [edge["node"]["width"] is None for edge in answer["data"]["search"]["edges"]] == [True, False]
    assert [error["path"] for error in answer["errors"]] == [["search", "edges", 0, "node", "width"]]


# ---------------------------------------------------------------- refusing


@pytest.fixture
def full(serve: Serve) -> Iterator[Api]:
    """A server without room, which remembers what was found for "red"."""
    with serve() as api:
        api.data('{ search(query: "red") { cached } }')
        admission = api.app.state.services.searcher._admission
        with admission.admitted(admission.limit):
            yield api


@pytest.fixture
def shed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every answer that was given early."""
    answers: list[dict[str, Any]] = []
    refused = Outline.refused

    def kept(self: Outline, error: Any) -> dict[str, Any]:
        answers.append(refused(self, error))
        return answers[-1]

    monkeypatch.setattr(Outline, "refused", kept)
    return answers


def _told(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer without its times, which differ from one to the next."""
    for error in answer["errors"]:
        assert str(error["extensions"].pop("retryAfterMs")) in error.pop("message")
    return answer


@pytest.mark.parametrize(
    "query",
    [
        SEARCH,
        "query S($q: String!, $t: Float) {\n  found: search(query: $q, scoreThreshold: $t) { cached }\n}",
        'query S($q: String) { a: search(query: $q) { cached } b: search(query: "blue", first: 3) { cached } }',
    ],
)
def test_the_early_answer_is_the_one_that_would_come_in_the_end(full: Api, shed: list[dict[str, Any]], query: str):
    """The first time a query is seen it goes the whole way, which finds out that it is valid."""
    in_the_end = _told(full.ask(query, q="green"))
    assert not shed
    assert _told(full.ask(query, q="yellow")) == in_the_end
    assert len(shed) == 1
    assert {error["extensions"]["code"] for error in in_the_end["errors"]} == {"OVERLOADED"}


def test_what_is_remembered_is_answered(full: Api, shed: list[dict[str, Any]]):
    """Whichever page of the list, in whatever spelling; also beside a search that is refused."""
    full.ask(SEARCH, q="green")
    assert full.data(SEARCH, q="red")["search"]["cached"]
    assert full.data(SEARCH, q="  red ", n=3)["search"]["cached"]
    both = 'query S($q: String) { a: search(query: $q) { cached } b: search(query: "red") { cached } }'
    for _ in range(2):
        answer = full.ask(both, q="pink")
        assert answer["data"] == {"a": None, "b": {"cached": True}}
    assert not shed


def test_other_questions_are_answered(full: Api, shed: list[dict[str, Any]]):
    """They need no place."""
    for _ in range(2):
        assert full.data("{ health { status } }")["health"]["status"] == "HEALTHY"
        assert full.ask("query S($q: String) { search(query: $q) { cached } health { status } }", q="grey")["data"] == {
            "search": None,
            "health": {"status": "HEALTHY"},
        }
    assert not shed


@pytest.mark.parametrize(
    "query",
    [
        'query S($q: String) { search(query: $q, filter: {field: {path: "width", gte: 1}}) { cached } }',
        "query S($q: String!) { search(terms: [{source: {text: $q}}]) { cached } }",
        "query S($q: String) { search(query: $q) @include(if: true) { cached } }",
        "query S($q: String) { ...A } fragment A on Query { search(query: $q) { cached } }",
        "query S($q: String) { search(query: $q) { cached } search(query: $q) { edges { rank } } }",
    ],
)
def test_what_is_not_plain_goes_the_whole_way(full: Api, shed: list[dict[str, Any]], query: str):
    """And has the answer that it always had."""
    answers = [full.ask(query, q=q) for q in ("grey", "brown")]
    assert not shed
    assert _codes(answers[0]) == _codes(answers[1])


@pytest.mark.parametrize(
    "variables", [{"q": 5}, {"q": ["red"]}, {"q": "grey", "n": "ten"}, {"q": "grey", "n": 10.5}, {"q": ""}, {}]
)
def test_wrong_variables_are_told_as_ever(full: Api, shed: list[dict[str, Any]], variables: dict[str, Any]):
    """What is wrong with a request is worth more than when to send it again."""
    full.ask(SEARCH, q="grey")
    assert _codes(full.ask(SEARCH, **variables)) != ["OVERLOADED"]
    assert not shed


def test_when_there_is_room_again_everything_is_found(full: Api, shed: list[dict[str, Any]]):
    """At once."""
    full.ask(SEARCH, q="grey")
    full.ask(SEARCH, q="grey")
    assert len(shed) == 1
    full.app.state.services.searcher._admission._limit = 1000.0
    assert not full.data(SEARCH, q="grey")["search"]["cached"]


def _codes(answer: dict[str, Any]) -> list[Any]:
    return [error.get("extensions", {}).get("code") for error in answer["errors"]]


# ---------------------------------------------------------------- reading


def _requests(query: str, name: str | None = None, **variables: Any) -> list[SearchRequest] | None:
    outline = Outline.of(parse(query), name)
    return outline and outline.requests(variables, "mine")


def test_arguments_come_from_literals_variables_and_defaults():
    """As GraphQL reads them: what is left out has the schema's default, a whole number fits a Float."""
    query = "query A($q: String!, $t: Float = 0.5, $n: Int) { search(query: $q, scoreThreshold: $t, first: $n) { id } }"
    assert _requests(query, q="red") == [SearchRequest("mine", "red", score_threshold=0.5, first=10)]
    assert _requests(query, q="red", t=1, n=3) == [SearchRequest("mine", "red", score_threshold=1.0, first=3)]
    literal = '{ search(index: "other", query: "red", first: 2, after: null, scoreThreshold: 1) { id } }'
    assert _requests(literal) == [SearchRequest("other", "red", score_threshold=1.0, first=2)]


def test_an_operation_is_found_by_its_name():
    """Of several in a document."""
    query = 'query A { search(query: "a") { id } } query B { health { status } }'
    assert _requests(query, "A") == [SearchRequest("mine", "a")]
    assert _requests(query, "B") is None
    assert _requests(query, "C") is None
    assert _requests(query) is None


def test_a_variable_that_must_have_a_value_and_has_none_is_left_to_graphql():
    query = "query A($q: String!) { search(query: $q) { id } }"
    assert _requests(query) is None
    assert _requests(query, q=None) is None
