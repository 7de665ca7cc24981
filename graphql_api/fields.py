"""Fields of the schema from typed methods: the docstring is the description, so that the two can't drift apart."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import strawberry

Resolver = TypeVar("Resolver", bound=Callable[..., Any])


def field(resolver: Resolver) -> Resolver:
    """A field that the method resolves; what its docstring says is what GraphiQL shows."""
    text = " ".join((inspect.getdoc(resolver) or "").split())
    return cast("Resolver", strawberry.field(resolver=resolver, description=text))
