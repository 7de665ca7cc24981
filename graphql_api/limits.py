"""Bounds on what one query may cost, so that no single request can slow the server for everyone.

| limit       | bounds                                       | code                 |
|-------------|----------------------------------------------|----------------------|
| tokens      | parsing                                      | `QUERY_TOO_LONG`     |
| depth       | nesting, `similar` inside `similar`          | `QUERY_TOO_DEEP`     |
| aliases     | the same field many times in one request     | `TOO_MANY_ALIASES`   |
| complexity  | values computed: fields, times `first`       | `QUERY_TOO_COMPLEX`  |

What is found out about a document is remembered for a fixed number of short ones: clients send the same few queries
with other variables. Long documents pass the cache by, so that its bytes are bounded too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from graphql import (
    ArgumentNode,
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
    Visitor,
    get_named_type,
    get_operation_ast,
    parse,
    visit,
)
from graphql.language import Lexer
from strawberry.extensions import DisableIntrospection, SchemaExtension
from strawberry.schema.schema import validate_document

from engine.settings import Settings
from graphql_api import errors
from graphql_api.plain import Outline

CACHED_DOCUMENTS: Final = 256
CACHED_CHARACTERS: Final = 16_384
MAX_PAGE: Final = 100
_KEPT_COSTS: Final = 64
"""Page sizes for which the cost of one document is remembered, and names for which its outline is."""

_OTHER: Final = "other"


def extensions(settings: Settings, documents: Documents) -> list[Callable[[], SchemaExtension] | type[SchemaExtension]]:
    """Factories of a schema's extensions; the schema's documents are remembered between them."""

    def limits() -> Limits:
        return Limits(documents)

    return [limits] if settings.api_introspection else [DisableIntrospection, limits]


class Document:
    """A parsed query, and what was found out about it so far. All of it belongs to one schema."""

    def __init__(self, node: DocumentNode) -> None:
        self.node = node
        self.errors: list[GraphQLError] | None = None
        """What validation found, an empty list for a valid document; None before it was asked."""
        self._pages = _page_variables(node)
        self._costs: dict[tuple[str | int | None, ...], Cost] = {}
        self._outlines: dict[str | None, Outline | None] = {}
        self._asked: dict[str | None, str] = {}

    def outline(self, name: str | None) -> Outline | None:
        """The searches of the operation of that name; None if it does anything else, or was not found valid yet."""
        if self.errors != []:
            return None
        if name not in self._outlines:
            if len(self._outlines) >= _KEPT_COSTS:
                self._outlines.clear()
            self._outlines[name] = Outline.of(self.node, name)
        return self._outlines[name]

    def asked(self, name: str | None) -> str:
        """The one root field that the operation of that name asks for, or else "several", "introspection", "other"."""
        if self.errors != []:
            return _OTHER
        if name not in self._asked:
            if len(self._asked) >= _KEPT_COSTS:
                self._asked.clear()
            operation = get_operation_ast(self.node, name)
            self._asked[name] = _OTHER if operation is None else _summary(self._roots(operation.selection_set))
        return self._asked[name]

    def _roots(self, selections: SelectionSetNode) -> set[str]:
        """The names of the fields between one pair of braces, those of fragments included."""
        fragments = {
            node.name.value: node for node in self.node.definitions if isinstance(node, FragmentDefinitionNode)
        }
        found: set[str] = set()
        waiting = [selections]
        while waiting:
            for node in waiting.pop().selections:
                if isinstance(node, FieldNode):
                    found.add(node.name.value)
                elif isinstance(node, InlineFragmentNode):
                    waiting.append(node.selection_set)
                elif isinstance(node, FragmentSpreadNode) and (other := fragments.pop(node.name.value, None)):
                    waiting.append(other.selection_set)  # once is enough
        return found

    def cost(self, schema: GraphQLSchema, name: str | None, variables: Mapping[str, Any]) -> Cost | None:
        """What the operation of that name costs; None if there is no such operation. The document must be valid."""
        key = (name, *(_page_size(variables[page]) if page in variables else None for page in self._pages))
        known = self._costs.get(key)
        if known is not None:
            return known
        operation = get_operation_ast(self.node, name)
        if operation is None:
            return None
        if len(self._costs) >= _KEPT_COSTS:
            self._costs.clear()
        cost = self._costs[key] = measure(schema, self.node, operation, variables)
        return cost

    def refusals(
        self, schema: GraphQLSchema, name: str | None, variables: Mapping[str, Any], limits: Settings
    ) -> list[GraphQLError]:
        """Which limits the operation of that name exceeds, and what to do about it. The document must be valid."""
        cost = self.cost(schema, name, variables)
        if cost is None:
            return []
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


class Documents:
    """Queries of at most `api_max_tokens` tokens, parsed; the last short ones are remembered."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._remembered: OrderedDict[str, Document] = OrderedDict()

    def __len__(self) -> int:
        return len(self._remembered)

    def known(self, query: str) -> Document | None:
        """The document, if it is remembered."""
        document = self._remembered.get(query)
        if document is not None:
            self._remembered.move_to_end(query)
        return document

    def asked(self, query: str, name: str | None) -> str:
        """What an operation asks for, in one of few words that measurements can be told apart by.

        "other" is what is not valid, or too long to be remembered.
        """
        document = self.known(query)
        return _OTHER if document is None else document.asked(name)

    def read(self, query: str) -> Document:
        """The document; raises `GraphQLError` for a query that is too long or is none."""
        document = self.known(query)
        if document is not None:
            return document
        document = self._parsed(query)
        if len(query) <= CACHED_CHARACTERS:
            self._remembered[query] = document
            if len(self._remembered) > CACHED_DOCUMENTS:
                self._remembered.popitem(last=False)
        return document

    def _parsed(self, query: str) -> Document:
        most = self.settings.api_max_tokens
        try:
            return Document(parse(query, max_tokens=most))
        except GraphQLSyntaxError:
            if _has_more_tokens(query, most):
                message = f"The query has more than {most} tokens. Ask for less, or move values to variables."
                raise _refusal(errors.TOKENS, message) from None
            raise


class Limits(SchemaExtension):
    """Parses, validates and weighs one request's query, as far as that was not done before.

    Weighing comes after validation, so that fragments exist and have no cycles.
    """

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._document: Document | None = None

    def on_parse(self) -> Iterator[None]:
        """Fills in the document; raises `GraphQLError` for a query that is too long or is none."""
        context = self.execution_context
        self._document = self._documents.read(context.query or "")
        context.graphql_document = self._document.node
        yield

    def on_validate(self) -> Iterator[None]:
        """Fills in the errors of the document, or else the limits that the operation exceeds."""
        context, document = self.execution_context, self._document
        assert document is not None  # noqa: S101 - parsed before
        schema = context.schema._schema  # noqa: SLF001 - Strawberry's own extensions reach for it too
        if document.errors is None:
            try:
                document.errors = validate_document(schema, document.node, context.validation_rules)
            except RecursionError:
                document.errors = [_too_nested()]
        found = document.errors
        context.pre_execution_errors = found or document.refusals(
            schema, context.operation_name, context.variables or {}, self._documents.settings
        )
        yield


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
        return _page_size(value)


def _summary(fields: set[str]) -> str:
    """One word for the root fields of a valid operation."""
    known = {name for name in fields if not name.startswith("__")}
    if not known:
        return "introspection"
    return known.pop() if len(known) == 1 else "several"


def _page_size(value: Any) -> int:
    """How many items an argument `first` of this value can ask for, whether it is one that will be accepted or not."""
    return min(max(value, 1), MAX_PAGE) if isinstance(value, int) else MAX_PAGE


def _page_variables(document: DocumentNode) -> tuple[str, ...]:
    """The variables that are passed as some field's `first`."""
    found: dict[str, None] = {}

    class Pages(Visitor):
        def enter_argument(self, node: ArgumentNode, *_: Any) -> None:
            if node.name.value == "first" and isinstance(node.value, VariableNode):
                found[node.value.name.value] = None

    visit(document, Pages())
    return tuple(found)


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
