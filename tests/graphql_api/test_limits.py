from __future__ import annotations

from typing import Any

import pytest

from engine.settings import Settings
from graphql_api import limits
from tests.graphql_api.live import Api, Serve

SIMILAR = "similar(first: 1) { edges { node { %s } } }"
NESTED = "{ search(first: 1) { edges { node { %s } } } }" % (SIMILAR % (SIMILAR % (SIMILAR % "id")))


def _code(error: dict[str, Any]) -> Any:
    return error["extensions"]["code"]


def test_deep_queries_are_refused(api: Api):
    """Thirteen levels of fields are one too many."""
    assert _code(api.error(NESTED)) == "QUERY_TOO_DEEP"


def test_depth_hidden_in_fragments_counts(api: Api):
    """A fragment is as deep as what it stands for."""
    query = (
        "{ search { edges { node { ...A } } } }"
        + "".join(
            f" fragment {name} on Image {{ similar(first: 1) {{ edges {{ node {{ ...{then} }} }} }} }}"
            for name, then in ("AB", "BC", "CD")
        )
        + " fragment D on Image { id }"
    )
    assert _code(api.error(query)) == "QUERY_TOO_DEEP"


def test_many_aliases_are_refused(api: Api):
    """Thirty aliases pass, thirty-one do not."""
    query = "{%s}"
    assert "errors" not in api.ask(query % " ".join(f"a{n}: __typename" for n in range(30)))
    assert _code(api.error(query % " ".join(f"a{n}: __typename" for n in range(31)))) == "TOO_MANY_ALIASES"


def test_long_queries_are_refused_while_they_are_parsed(api: Api):
    """Two thousand and one tokens are too many, valid or not."""
    assert _code(api.error("{" + " id" * 2001)) == "QUERY_TOO_LONG"


def test_a_short_query_with_bad_syntax_is_not_called_long(api: Api):
    """Syntax errors stay as the GraphQL library words them."""
    error = api.error("{ search(")
    assert error["message"].startswith("Syntax Error")
    assert "extensions" not in error


def test_pages_of_pages_are_refused(api: Api):
    """A hundred neighbours of a hundred answers cost too much."""
    query = '{ search(query: "red", first: 100) { edges { node { similar(first: 100) { edges { node { id } } } } } } }'
    assert _code(api.error(query)) == "QUERY_TOO_COMPLEX"


@pytest.mark.parametrize("declared", ["$n: Int! = 100", "$n: Int!"])
def test_page_sizes_in_variables_count(api: Api, declared: str):
    """What a variable holds, or would hold by default, is weighed like a number in the query."""
    inner = "similar(first: $n) { edges { rank } }"
    query = f"query Q({declared}) {{ search(first: $n) {{ edges {{ node {{ {inner} }} }} }} }}"
    given = {} if "=" in declared else {"n": 100}
    assert _code(api.error(query, **given)) == "QUERY_TOO_COMPLEX"


def test_fragments_that_multiply_are_weighed_quickly(api: Api):
    """Forty fragments that each spread the next one twice would be 2^40 fields; the answer is a refusal, at once."""
    fragments = "".join(
        f" fragment F{n} on Query {{ ...F{n + 1} a{n}: health {{ status }} ...F{n + 1} }}" for n in range(40)
    )
    answer = api.ask("{ ...F0 }" + fragments + " fragment F40 on Query { health { status } }")
    assert {error["extensions"]["code"] for error in answer["errors"]} >= {"QUERY_TOO_COMPLEX"}


@pytest.mark.parametrize("levels", [40, 150, 190, 600])
def test_nested_filters_are_refused_with_a_reason(api: Api, levels: int):
    """However deep a filter nests, in the query or in a variable, the answer is an error that has a cause."""
    nested: dict[str, Any] = {"width": {"gte": 1}}
    for _ in range(levels):
        nested = {"not": nested}
    in_variable = api.error('query Q($f: ImageFilter) { search(query: "red", filter: $f) { cached } }', f=nested)
    text = "{not: " * levels + "{width: {gte: 1}}" + "}" * levels
    in_query = api.error(f'{{ search(query: "red", filter: {text}) {{ cached }} }}')
    for error in (in_variable, in_query):
        assert error.get("extensions", {}).get("code") != "INTERNAL", error


def test_a_filter_of_many_conditions_is_refused(api: Api):
    """Two hundred conditions are enough for anyone."""
    condition = {"or": [{"width": {"gte": number}} for number in range(300)]}
    error = api.error('query Q($f: ImageFilter) { search(query: "red", filter: $f) { cached } }', f=condition)
    assert _code(error) == "BAD_USER_INPUT"


def test_introspection_can_be_switched_off(serve: Serve):
    """With API_INTROSPECTION=false the schema can't be asked for; queries still work."""
    with serve(api_introspection=False) as api:
        answer = api.ask("{ __schema { queryType { name } } }")
        assert "data" not in answer
        assert all("introspection" in error["message"] for error in answer["errors"])
        assert api.data("{ __typename }") == {"__typename": "Query"}


def test_introspection_is_on_by_default(api: Api):
    """GraphiQL can read the schema."""
    assert api.data("{ __schema { queryType { name } } }")["__schema"]["queryType"]["name"] == "Query"


async def test_the_cache_of_documents_is_bounded_and_long_queries_pass_it_by():
    """A thousand different queries leave a fixed number in memory; one with a huge string leaves nothing."""
    documents = limits.Documents(Settings(_env_file=None))
    for number in range(1000):
        documents.read(f"{{ a{number}: __typename }}")
    assert len(documents) == limits.CACHED_DOCUMENTS
    fresh = limits.Documents(Settings(_env_file=None))
    fresh.read('{ __type(name: "%s") { name } }' % ("x" * limits.CACHED_CHARACTERS))
    assert len(fresh) == 0


def test_a_remembered_query_is_weighed_with_the_variables_of_each_request(api: Api):
    """The same text passes with a small page and is refused with a large one, in any order."""
    query = (
        'query Q($n: Int! = 1) { search(query: "red", first: 100) '
        "{ edges { node { similar(first: $n) { edges { node { id } } } } } } }"
    )
    for _ in range(2):
        assert "errors" not in api.ask(query)
        assert "errors" not in api.ask(query, n=2)
        assert _code(api.error(query, n=100)) == "QUERY_TOO_COMPLEX"
