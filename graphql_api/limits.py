"""Bounds on what one query may cost, so that no single request can slow the server for everyone.

| limit       | bounds                                       | code                 |
|-------------|----------------------------------------------|----------------------|
| tokens      | parsing                                      | `QUERY_TOO_LONG`     |
| depth       | nesting, `similar` inside `similar`          | `QUERY_TOO_DEEP`     |
| aliases     | the same field many times in one request     | `TOO_MANY_ALIASES`   |
| complexity  | values computed: fields, times `first`       | `QUERY_TOO_COMPLEX`  |

Parsed and validated documents are remembered in caches of a fixed number of short documents: clients send the same few
queries with other variables. Long documents pass the caches by, so that their bytes are bounded too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLSyntaxError,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    Source,
    TokenKind,
    VariableNode,
    get_named_type,
    get_operation_ast,
    parse,
)
from graphql.language import Lexer
from strawberry.extensions import DisableIntrospection, ParserCache, SchemaExtension, ValidationCache
from strawberry.schema.schema import validate_document

from engine.settings import Settings
from graphql_api import errors

CACHED_DOCUMENTS: Final = 256
CACHED_CHARACTERS: Final = 16_384
MAX_PAGE: Final = 100


def extensions(settings: Settings) -> list[Callable[[], SchemaExtension] | type[SchemaExtension]]:
    """Factories of the schema's extensions, in the order they must run: parse, validate, then weigh."""
    chosen: list[Callable[[], SchemaExtension] | type[SchemaExtension]] = [
        lambda: DocumentCache(settings.api_max_tokens),
        ValidatedCache,
        lambda: CostLimits(settings),
    ]
    return chosen if settings.api_introspection else [DisableIntrospection, *chosen]


class DocumentCache(ParserCache):
    """Parses a query of at most `max_tokens` tokens, or takes the parsed one from the cache."""

    def __init__(self, max_tokens: int) -> None:
        super().__init__(maxsize=CACHED_DOCUMENTS)
        self._max_tokens = max_tokens

    def on_parse(self) -> Iterator[None]:
        """Fills in the document; raises `GraphQLError` for a query that is too long or is none."""
        query = self.execution_context.query or ""
        parser = self.cached_parse_document if len(query) <= CACHED_CHARACTERS else parse
        try:
            self.execution_context.graphql_document = parser(query, max_tokens=self._max_tokens)
        except GraphQLSyntaxError:
            if _has_more_tokens(query, self._max_tokens):
                message = (
                    f"The query has more than {self._max_tokens} tokens. Ask for less, or move values to variables."
                )
                raise _refusal(errors.TOKENS, message) from None
            raise
        yield


class ValidatedCache(ValidationCache):
    """Remembers which short documents are valid; long ones are validated every time."""

    def __init__(self) -> None:
        super().__init__(maxsize=CACHED_DOCUMENTS)

    def on_validate(self) -> Iterator[None]:
        """Fills in the errors of the document, an empty list when it is valid."""
        context = self.execution_context
        assert context.graphql_document is not None  # noqa: S101 - parsed before
        short = len(context.query or "") <= CACHED_CHARACTERS
        validate = self.cached_validate_document if short else validate_document
        try:
            errors_found = validate(context.schema._schema, context.graphql_document, context.validation_rules)  # noqa: SLF001
        except RecursionError:
            errors_found = [_too_nested()]
        context.pre_execution_errors = errors_found
        yield


class CostLimits(SchemaExtension):
    """Refuses a query whose depth, aliases or complexity exceed the settings.

    It comes after validation, so that fragments exist and have no cycles.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def on_validate(self) -> Iterator[None]:
        """Weighs the operation that will run; a query that is not valid has its own errors already."""
        context = self.execution_context
        document = context.graphql_document
        if document is not None and not context.pre_execution_errors:
            operation = get_operation_ast(document, context.operation_name)
            if operation is not None:
                cost = measure(context.schema._schema, document, operation, context.variables or {})  # noqa: SLF001
                if refusals := self._refusals(cost):
                    context.pre_execution_errors = refusals
        yield

    def _refusals(self, cost: Cost) -> list[GraphQLError]:
        limits = self._settings
        checks = (
            (errors.DEEP, cost.depth, limits.api_max_depth, "levels deep", "Nest fewer fields"),
            (errors.ALIASES, cost.aliases, limits.api_max_aliases, "aliases", "Send several requests"),
            (
                errors.COMPLEX,
                cost.complexity,
                limits.api_max_complexity,
                "complexity",
                "Ask for fewer fields or less `first`",
            ),
        )
        return [
            _refusal(code, f"The query has {found} {what}; {most} are allowed. {advice}.")
            for code, found, most, what, advice in checks
            if found > most
        ]


@dataclass(frozen=True, slots=True)
class Cost:
    """How deep fields nest, how many are aliased, and how many values they ask for (with `first` counted in)."""

    depth: int = 0
    aliases: int = 0
    complexity: int = 0


def measure(
    schema: GraphQLSchema, document: DocumentNode, operation: OperationDefinitionNode, variables: Mapping[str, Any]
) -> Cost:
    """What an operation of a valid document costs. Each fragment is weighed once, however often it is spread."""
    defaults = {
        definition.variable.name.value: int(definition.default_value.value)
        for definition in operation.variable_definitions or ()
        if isinstance(definition.default_value, IntValueNode)
    }
    return _Scales(schema, document, {**defaults, **variables}).weigh(
        operation.selection_set, schema.get_root_type(operation.operation)
    )


class _Scales:
    """Weighs selections of one document."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode, variables: Mapping[str, Any]) -> None:
        self._schema = schema
        self._variables = variables
        self._fragments = {
            node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)
        }
        self._weighed: dict[str, Cost] = {}

    def weigh(self, selections: SelectionSetNode, parent: Any) -> Cost:
        """The cost of everything between one pair of braces."""
        depth = aliases = complexity = 0
        for node in selections.selections:
            cost = self._cost(node, parent)
            depth = max(depth, cost.depth)
            aliases += cost.aliases
            complexity += cost.complexity
        return Cost(depth, aliases, complexity)

    def _cost(self, node: Any, parent: Any) -> Cost:
        if isinstance(node, FragmentSpreadNode):
            return self._fragment(node.name.value)
        if isinstance(node, InlineFragmentNode):
            narrowed = self._schema.get_type(node.type_condition.name.value) if node.type_condition else parent
            return self.weigh(node.selection_set, narrowed)
        return self._field(node, parent)

    def _fragment(self, name: str) -> Cost:
        if name not in self._weighed:
            fragment = self._fragments[name]
            condition = self._schema.get_type(fragment.type_condition.name.value)
            self._weighed[name] = self.weigh(fragment.selection_set, condition)
        return self._weighed[name]

    def _field(self, node: FieldNode, parent: Any) -> Cost:
        alias = 1 if node.alias else 0
        if node.name.value.startswith("__"):  # introspection has a limit of its own in the validation rules
            return Cost(1, alias, 1)
        field = parent.fields[node.name.value] if isinstance(parent, GraphQLObjectType | GraphQLInterfaceType) else None
        if node.selection_set is None or field is None:
            return Cost(1, alias, 1)
        inside = self.weigh(node.selection_set, get_named_type(field.type))
        times = self._page(node) if "first" in field.args else 1
        return Cost(1 + inside.depth, alias + inside.aliases, 1 + times * inside.complexity)

    def _page(self, node: FieldNode) -> int:
        """How many items the field is asked for, within what it may answer."""
        value: Any = 10
        for argument in node.arguments or ():
            if argument.name.value == "first":
                if isinstance(argument.value, IntValueNode):
                    value = int(argument.value.value)
                elif isinstance(argument.value, VariableNode):
                    value = self._variables.get(argument.value.name.value, value)
        return min(max(value, 1), MAX_PAGE) if isinstance(value, int) else MAX_PAGE


def _refusal(code: str, message: str) -> GraphQLError:
    return GraphQLError(message, extensions={"code": code})


def _too_nested() -> GraphQLError:
    return _refusal(errors.DEEP, "The query nests too deep to be read. Nest fewer fields.")


def _has_more_tokens(query: str, most: int) -> bool:
    """Whether reading the query passes `most` tokens before anything in it that is no token."""
    lexer = Lexer(Source(query))
    try:
        return any(lexer.advance().kind is TokenKind.EOF for _ in range(most + 1)) is False
    except GraphQLSyntaxError:
        return False
