from __future__ import annotations

import enum
from typing import Any

import pytest
import strawberry
from graphql import execute, parse
from strawberry.scalars import JSON

from graphql_api.execution import PlanningExecutor
from tests.graphql_api.live import Api

calls: list[str] = []


@strawberry.enum
class Colour(enum.Enum):
    RED = "r"
    BLUE = strawberry.enum_value("b", name="AZURE")


@strawberry.type
class Leaf:
    name: str
    size: int | None = None
    weight: float = 0.5
    colour: Colour = Colour.BLUE
    more: JSON | None = None

    @strawberry.field
    def shout(self) -> str:
        calls.append("shout")
        return self.name.upper()

    @strawberry.field
    def broken(self) -> str | None:
        message = f"broken {self.name}"
        raise ValueError(message)

    @strawberry.field
    def times(self, n: int = 2) -> str:
        return self.name * n

    @strawberry.field
    def where(self, info: strawberry.Info) -> str:
        return ".".join(str(key) for key in info.path.as_list())

    @strawberry.field
    async def later(self) -> str:
        return f"later {self.name}"


@strawberry.type
class Branch:
    leaves: list[Leaf]
    required: list[Leaf | None]
    best: Leaf | None
    label: str


@strawberry.type
class Query:
    @strawberry.field
    def branch(self) -> Branch | None:
        odd = Leaf(name="odd", size=2**40)  # type: ignore[call-arg]
        nameless = Leaf(name=None, weight=float("nan"))  # type: ignore[call-arg, arg-type]
        leaves = [Leaf(name="oak", size=3, more={"a": [1]}), Leaf(name="elm")]  # type: ignore[call-arg]
        return Branch(leaves=leaves, required=[odd, nameless, None], best=None, label=7)  # type: ignore[arg-type]


PLANNED = strawberry.Schema(query=Query, execution_context_class=PlanningExecutor)
LIBRARY = strawberry.Schema(query=Query)

QUERIES = [
    "{ branch { label leaves { name size weight colour more shout } } }",
    "{ branch { __typename first: label second: label leaves { __typename title: name } best { name } } }",
    "{ branch { leaves { ...A } leaves { size } ... on Branch { best { name } } } } fragment A on Leaf { name }",
    "{ a: branch { label } b: branch { leaves { name } } }",
    "query Q($yes: Boolean!) { branch { label @include(if: $yes) leaves { name size @skip(if: $yes) } } }",
    "query Q($yes: Boolean!) { branch { label leaves @skip(if: $yes) { name } } }",
    "{ branch { leaves { name times later where } } }",
    "{ branch { leaves { times(n: 3) } label } }",
    "{ branch { required { name size } label } }",
    "{ branch { required { weight } } }",
    "{ branch { required { size } } }",
    "{ branch { leaves { broken name } label } }",
    "{ branch { leaves { nothing } } }",
]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("yes", [True, False])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_plans_answer_what_the_library_answers(query: str, yes: bool, times: int):  # noqa: FBT001
    """Data, the order of keys, errors and their paths are equal: aliases, fragments, directives, nulls, faults."""
    document = f"# {yes} {times}\n{query}"
    for _ in range(times):
        variables = {"yes": yes} if "$yes" in query else None
        planned = await PLANNED.execute(document, variable_values=variables)
        library = await LIBRARY.execute(document, variable_values=variables)
        assert repr(planned.data) == repr(library.data)
        assert [_shown(error) for error in planned.errors or []] == [_shown(error) for error in library.errors or []]


def _shown(error: Any) -> Any:
    return error.message, error.path, error.locations


async def test_plain_values_are_read_without_the_library(monkeypatch: pytest.MonkeyPatch):
    """Below the field that resolves, the library executes no field."""
    executed: list[str] = []
    whole = PlanningExecutor.execute_field

    def noted(self: PlanningExecutor, parent: Any, *rest: Any) -> Any:
        executed.append(parent.name)
        return whole(self, parent, *rest)

    monkeypatch.setattr(PlanningExecutor, "execute_field", noted)
    await PLANNED.execute("{ branch { leaves { name shout colour } } }")
    assert executed == ["Query"]


async def test_a_selection_that_depends_on_variables_is_planned_anew_each_time():
    """One parsed document, two values of its variable, two answers."""
    document = parse("query Q($yes: Boolean!) { branch { label leaves { name @include(if: $yes) size } } }")
    keys = []
    for yes in (True, False, True):
        answer: Any = execute(PLANNED._schema, document, variable_values={"yes": yes}, executor_class=PlanningExecutor)
        keys.append(sorted(answer.data["branch"]["leaves"][0]))
    assert keys == [["name", "size"], ["size"], ["name", "size"]]


async def test_a_plan_is_made_once_for_a_parsed_document(monkeypatch: pytest.MonkeyPatch):
    """The second request with the same document compiles nothing."""
    compiled: list[str] = []
    whole = PlanningExecutor._compiled

    def noted(self: PlanningExecutor, kind: Any, details: Any) -> Any:
        compiled.append(kind.name)
        return whole(self, kind, details)

    monkeypatch.setattr(PlanningExecutor, "_compiled", noted)
    document = parse("{ branch { leaves { name } } }")
    for _ in range(3):
        execute(PLANNED._schema, document, executor_class=PlanningExecutor)
    assert compiled == ["Branch", "Leaf"]


def test_everything_a_gallery_asks_for_is_planned(api: Api, monkeypatch: pytest.MonkeyPatch):
    """Of a search with all its plain fields, the library executes the search alone."""
    executed: list[str] = []
    whole = PlanningExecutor.execute_field

    def noted(self: PlanningExecutor, parent: Any, *rest: Any) -> Any:
        executed.append(parent.name)
        return whole(self, parent, *rest)

    monkeypatch.setattr(PlanningExecutor, "execute_field", noted)
    found = api.data(
        """{ search(query: "red") {
          query latencyMs cached totalCount { value relation } pageInfo { hasNextPage endCursor }
          edges { cursor rank score node { id filePath fileName objectKey width height category takenAt contentHash
                                           url thumbnailUrl metadata } }
          execution { generation model strategy stages { name ms } } } }"""
    )
    assert len(found["search"]["edges"]) == 10
    assert executed == ["Query"]
