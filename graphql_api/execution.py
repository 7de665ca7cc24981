"""Answers quickly: whatever below a resolver is only read is copied into the answer in one go.

GraphQL's executor treats each of an answer's two hundred values as if it could be a query of its own: it builds what a
resolver may want to know, asks whether the result has to be awaited, and remembers the path for an error. That is
5 µs a value, and more than all the rest of a request. Most values are attributes of an object that a resolver has
already answered with, so the selection below that object is compiled once into nested loops over getters, its plan.

A plan knows no errors. When anything is unusual (null where the schema forbids it, a value that does not fit its type,
a property that raises), the object is executed again by the library, which says what is wrong and where.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import isfinite
from operator import attrgetter
from typing import Any, Final

from graphql import (
    FieldNode,
    GraphQLBoolean,
    GraphQLField,
    GraphQLFloat,
    GraphQLID,
    GraphQLInt,
    GraphQLLeafType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLString,
    OperationDefinitionNode,
    Undefined,
    is_leaf_type,
)
from graphql.execution.collect_fields import FieldDetailsList
from graphql.pyutils import AwaitableOrValue, Path
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext
from strawberry.schema.schema_converter import GraphQLCoreConverter
from strawberry.types.field import StrawberryField

Copy = Callable[[Any], Any]
"""Turns what a field holds into what the answer says; raises when that is not possible."""

Plans = dict[tuple[Any, ...], Copy | None]
"""The plans of an operation by type and field nodes; None where fields have to be resolved one by one."""

INT_MAX: Final = 2**31 - 1
"""The largest `Int`. GraphQL also has one smaller than -INT_MAX, which nobody asks for."""


_PLANS: Final = "plans"


_TYPENAME: Final = GraphQLField(GraphQLNonNull(GraphQLString))
"""Every object's `__typename`, which clients that keep a store add to each selection."""


def plan_of(operation: OperationDefinitionNode, field: FieldNode) -> Copy | None:
    """How what `field` holds is copied, wherever it stands alone under its name; None while no execution found out."""
    plans: Plans = vars(operation).get(_PLANS, {})
    return next((plan for (_, *nodes), plan in plans.items() if nodes == [id(field)]), None)


class PlanningExecutor(StrawberryGraphQLCoreExecutionContext):
    """Strawberry's executor, which copies by plan where it can."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._plans = self._lasting_plans()
        middleware = self.middleware_manager
        self._wants_plans = not (middleware and middleware.middlewares) and self.abort_signal is None

    def collect_and_execute_subfields(
        self,
        return_type: GraphQLObjectType,
        field_details_list: FieldDetailsList,
        path: Path,
        result: Any,
        position_context: Any,
    ) -> AwaitableOrValue[dict[str, Any]]:
        """The selected fields of the object `result`."""
        if self._wants_plans and position_context is None:
            copy = self._plan(return_type, field_details_list)
            if copy is not None:
                with suppress(Exception):
                    copied: dict[str, Any] = copy(result)
                    return copied
        return super().collect_and_execute_subfields(return_type, field_details_list, path, result, position_context)

    def _lasting_plans(self) -> Plans:
        """Where plans are kept: on the operation, so that they live as long as it stays parsed.

        Without directives a selection is the same whatever the variables. With them it is not, and plans last only for
        the request.
        """
        place = self.operation.loc
        if place is None or "@" in place.source.body:
            return {}
        plans: Plans = vars(self.operation).setdefault(_PLANS, {})
        return plans

    def _plan(self, kind: GraphQLObjectType, details: FieldDetailsList) -> Copy | None:
        key = (kind, *(id(detail.node) for detail in details))
        try:
            return self._plans[key]
        except KeyError:
            plan = self._plans[key] = self._compiled(kind, details)
            return plan

    def _compiled(self, kind: GraphQLObjectType, details: FieldDetailsList) -> Copy | None:
        """How an object of this type is copied; None if a selected field needs its resolver called by the library."""
        fields, deferred, _ = self.collect_subfields(kind, details)
        if deferred or kind.is_type_of:
            return None
        steps: list[tuple[str, Copy, Copy]] = []
        for name, selected in fields.items():
            wanted = selected[0].node.name.value
            field = _TYPENAME if wanted == "__typename" else kind.fields.get(wanted)
            read = _constant(kind.name) if field is _TYPENAME else _reader(field) if field else None
            copy = self._completion(field.type, selected) if field and read else None
            if read is None or copy is None:
                return None
            steps.append((name, read, copy))

        def copied(source: Any) -> dict[str, Any]:
            return {name: copy(read(source)) for name, read, copy in steps}

        return copied

    def _completion(self, kind: GraphQLOutputType, details: FieldDetailsList) -> Copy | None:
        """How a value of this type is copied."""
        required = isinstance(kind, GraphQLNonNull)
        if isinstance(kind, GraphQLNonNull):
            kind = kind.of_type
        copy: Copy | None = None
        if is_leaf_type(kind):
            return _leaf(kind, required=required)
        if isinstance(kind, GraphQLList):
            copy = _listed(self._completion(kind.of_type, details))
        elif isinstance(kind, GraphQLObjectType):
            copy = self._plan(kind, details)
        return copy if copy is None or required else _nullable(copy)


def _reader(field: GraphQLField) -> Copy | None:
    """What reads a field from its object: an attribute, or a method that takes and awaits nothing; None for others."""
    definition = field.extensions.get(GraphQLCoreConverter.DEFINITION_BACKREF)
    if not isinstance(definition, StrawberryField) or definition.extensions or field.args:
        return None
    resolver = definition.base_resolver
    if resolver is None:
        return attrgetter(definition.python_name)
    asks = resolver.arguments or resolver.info_parameter or resolver.parent_parameter or resolver.root_parameter
    if definition.is_async or asks or not resolver.self_parameter:
        return None
    method: Copy = resolver._unbound_wrapped_func  # noqa: SLF001 - the method as the class has it
    return method


# ---------------------------------------------------------------- values, none of them null


def _nullable(copy: Copy) -> Copy:
    return lambda value: None if value is None else copy(value)


def _listed(item: Copy | None) -> Copy | None:
    if item is None:
        return None

    def copy(values: Any) -> list[Any]:
        if not isinstance(values, list | tuple):
            raise TypeError
        return [item(value) for value in values]

    return copy


def _leaf(kind: GraphQLLeafType, *, required: bool) -> Copy:
    """Scalars and enums: what already is as JSON has it passes as it is, the rest by the type's own rules."""

    def coerced(value: Any) -> Any:
        copied = kind.coerce_output_value(value)
        if copied is None or copied is Undefined:
            raise ValueError
        return copied

    def whole(value: Any) -> Any:
        return value if type(value) is int and -INT_MAX <= value <= INT_MAX else coerced(value)

    def real(value: Any) -> Any:
        return value if type(value) is float and isfinite(value) else coerced(value)

    match kind.name:
        case GraphQLString.name | GraphQLID.name:
            return _passing(str, coerced, required=required)
        case GraphQLBoolean.name:
            return _passing(bool, coerced, required=required)
        case GraphQLInt.name:
            return whole if required else _nullable(whole)
        case GraphQLFloat.name:
            return real if required else _nullable(real)
    return coerced if required else _nullable(coerced)


def _passing(kind: type, coerced: Copy, *, required: bool) -> Copy:
    """Lets values of a type pass, and null where it is allowed."""
    if required:
        return lambda value: value if type(value) is kind else coerced(value)
    return lambda value: value if value is None or type(value) is kind else coerced(value)


def _constant(value: str) -> Copy:
    return lambda _source: value
