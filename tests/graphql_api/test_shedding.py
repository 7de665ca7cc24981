"""Searches for which there is no room: refused early, with the very answer that they would get in the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from graphql import parse

from engine.requests import SearchRequest
from graphql_api.shedding import Outline
from tests.graphql_api.live import Api, Serve

SEARCH = "query S($q: String, $n: Int = 10) { search(query: $q, first: $n) { cached edges { node { fileName } } } }"


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
