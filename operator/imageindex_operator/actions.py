"""What can be done to the world, as values: `plan` makes them, `reconcile` carries them out, tests compare them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Apply:
    """A child as it should be; nothing is written where it is so already.

    With `anew` it is written all the same: to let go of a field, which no comparison of values can tell.
    """

    manifest: Mapping[str, Any]
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Seed:
    """Sets a Deployment's replicas for an autoscaler to go on from, owned by nobody who applies again."""

    deployment: str
    replicas: int


@dataclass(frozen=True, slots=True)
class Delete:
    """A child that is not wanted any more; what depends on it goes first."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Promote:
    """Moves the alias to a generation."""

    generation: str


@dataclass(frozen=True, slots=True)
class Discard:
    """Deletes a generation that was begun and is not wanted any more."""

    generation: str


@dataclass(frozen=True, slots=True)
class Prune:
    """Deletes complete generations but so many."""

    keep: int


@dataclass(frozen=True, slots=True)
class Erase:
    """Deletes the index from Qdrant, alias and generations, after a snapshot of what serves if that is wanted."""

    snapshot: bool


@dataclass(frozen=True, slots=True)
class Hold:
    """Puts the finalizer there, or takes it away."""

    finalizer: bool


Action = Apply | Seed | Delete | Promote | Discard | Prune | Erase | Hold


@dataclass(frozen=True, slots=True)
class Note:
    """Something to tell people, as an Event of the ImageIndex."""

    reason: str
    message: str
    warning: bool = False
