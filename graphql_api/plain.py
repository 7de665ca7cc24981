"""Plain operations: those that do nothing but search, answered past GraphQL's executor.

Nearly every request is one that a client has sent a thousand times, with other words in its variables. Executor,
extensions, resolvers and loader find out anew what it asks for, which costs more than all the rest of an answer, and
much more than a refusal: in a flood, that would take a third of the time that searches need. So what the first
execution has found out is used again. The arguments are read straight from the document and the variables, and what
the engine answers is copied by the plan that the executor has made. Whatever is less plain goes the whole way, and so
does everything at its first time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from graphql import (
    ConstValueNode,
    DocumentNode,
    FieldNode,
    FloatValueNode,
    IntValueNode,
    NonNullTypeNode,
    NullValueNode,
    OperationDefinitionNode,
    OperationType,
    StringValueNode,
    ValueNode,
    VariableNode,
    get_operation_ast,
)
from graphql.language import get_location

from engine.errors import Overloaded, SightlineError
from engine.requests import SearchRequest
from engine.search import SearchResult
from graphql_api import errors
from graphql_api.execution import INT_MAX, Copy, plan_of
from graphql_api.types import SearchConnection

_FIELD: Final = "search"
_THRESHOLD: Final = "score_threshold"
_ARGUMENTS: Final[Mapping[str, tuple[str, tuple[type, ...]]]] = {
    "index": ("index", (str, type(None))),
    "query": ("query", (str, type(None))),
    "scoreThreshold": (_THRESHOLD, (float, int)),
    "first": ("first", (int,)),
    "after": ("after", (str, type(None))),
}
"""Arguments that are plain values: their names in a `SearchRequest`, and the types that they may have."""

_TYPES: Final = dict(_ARGUMENTS.values())


class _NotPlain(Exception):
    """There is something in an operation that only the executor understands."""


@dataclass(frozen=True, slots=True)
class _Variable:
    name: str


@dataclass(frozen=True, slots=True)
class _Search:
    """One field: what its answer is called, where it stands, and its arguments by their names in a request."""

    key: str
    node: FieldNode
    line: int
    column: int
    arguments: dict[str, Any]

    def failed(self, error: BaseException) -> errors.Formatted:
        """What the client is told of an error, as `errors.present` would."""
        told = {"message": str(error), "locations": [{"line": self.line, "column": self.column}], "path": [self.key]}
        if isinstance(error, SightlineError):
            return told | {"extensions": errors.extensions(error)}
        return told | errors.masked(error, path=[self.key])


class Outline:
    """The searches of an operation that consists of nothing else."""

    def __init__(
        self,
        operation: OperationDefinitionNode,
        searches: list[_Search],
        required: list[str],
        defaults: dict[str, Any],
    ) -> None:
        """`required` names the variables that must have a value, `defaults` has those of the others."""
        self._operation = operation
        self._searches = searches
        self._required = required
        self._defaults = defaults
        self._plans: list[Copy] | None = None

    @classmethod
    def of(cls, document: DocumentNode, name: str | None) -> Outline | None:
        """The outline of a valid document's operation of that name; None where it is not plain."""
        operation = get_operation_ast(document, name)
        if operation is None or operation.operation is not OperationType.QUERY or operation.directives:
            return None
        variables = operation.variable_definitions or ()
        try:
            searches = [_search(node) for node in operation.selection_set.selections]
            defaults = {
                variable.variable.name.value: _literal(variable.default_value)
                for variable in variables
                if variable.default_value is not None
            }
        except _NotPlain:
            return None
        if len({search.key for search in searches}) < len(searches):
            return None  # fields of one name are one field
        required = [
            variable.variable.name.value
            for variable in variables
            if isinstance(variable.type, NonNullTypeNode) and variable.default_value is None
        ]
        return cls(operation, searches, required, defaults)

    @property
    def count(self) -> int:
        """How many searches there are."""
        return len(self._searches)

    def requests(self, variables: Mapping[str, Any], index: str) -> list[SearchRequest] | None:
        """What is searched for, in `index` where none is named; None if a variable has a value that does not fit."""
        if any(variables.get(name) is None for name in self._required):
            return None
        known = {**self._defaults, **variables}
        requests = []
        for search in self._searches:
            values: dict[str, Any] = {}
            for name, given in search.arguments.items():
                if isinstance(given, _Variable):
                    if given.name not in known:
                        continue
                    value = known[given.name]
                else:
                    value = given
                if type(value) not in _TYPES[name] or (type(value) is int and not -INT_MAX <= value <= INT_MAX):
                    return None
                values[name] = float(value) if name == _THRESHOLD else value
            if values.get("index") is None:
                values["index"] = index
            requests.append(SearchRequest(**values))
        return requests

    def plans(self) -> list[Copy] | None:
        """How the answer of each search is copied; None before the executor has found that out for all of them."""
        if self._plans is None:
            plans = [plan for search in self._searches if (plan := plan_of(self._operation, search.node)) is not None]
            self._plans = plans if len(plans) == len(self._searches) else None
        return self._plans

    def answered(
        self, plans: Sequence[Copy], requests: Sequence[SearchRequest], answers: Sequence[SearchResult | BaseException]
    ) -> dict[str, Any]:
        """The body of the answer. Raises what a plan raises: the executor then finds the words for it."""
        data: dict[str, Any] = {}
        failed = []
        for search, plan, request, answer in zip(self._searches, plans, requests, answers, strict=True):
            if isinstance(answer, SearchResult):
                assert request.index is not None  # noqa: S101 - `requests` has named it
                data[search.key] = plan(SearchConnection.of(answer, request.index))
            else:
                data[search.key] = None
                failed.append(search.failed(answer))
        return {"errors": failed, "data": data} if failed else {"data": data}

    def refused(self, error: Overloaded) -> dict[str, Any]:
        """The body of an answer in which each search has this error."""
        return {
            "errors": [search.failed(error) for search in self._searches],
            "data": dict.fromkeys(search.key for search in self._searches),
        }


def _search(node: Any) -> _Search:
    if not isinstance(node, FieldNode) or node.name.value != _FIELD or node.directives or node.loc is None:
        raise _NotPlain
    arguments: dict[str, Any] = {}
    for argument in node.arguments or ():
        if argument.name.value not in _ARGUMENTS:
            raise _NotPlain
        name, _ = _ARGUMENTS[argument.name.value]
        arguments[name] = _value(argument.value)
    place = get_location(node.loc.source, node.loc.start)
    return _Search((node.alias or node.name).value, node, place.line, place.column, arguments)


def _value(node: ValueNode) -> Any:
    return _Variable(node.name.value) if isinstance(node, VariableNode) else _literal(node)


def _literal(node: ValueNode | ConstValueNode) -> Any:
    match node:
        case StringValueNode():
            return node.value
        case IntValueNode():
            return int(node.value)
        case FloatValueNode():
            return float(node.value)
        case NullValueNode():
            return None
    raise _NotPlain
