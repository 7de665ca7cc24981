"""Which ImageIndex owns an index's alias: the oldest of all that name it, in any namespace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Claim:
    """An ImageIndex that names an alias; the smallest claim wins."""

    created_at: str
    uid: str
    index: str
    name: str
    """Namespace and name."""

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Claim:
        """The claim of an ImageIndex as the API server gives it."""
        meta, spec = body["metadata"], body.get("spec") or {}
        index = (spec.get("collection") or {}).get("alias") or meta["name"]
        return cls(meta.get("creationTimestamp", ""), meta["uid"], index, f"{meta['namespace']}/{meta['name']}")


class Aliases:
    """All claims that are known, from watches and lists."""

    def __init__(self) -> None:
        self._claims: dict[str, Claim] = {}

    def told(self, body: Mapping[str, Any], *, gone: bool = False) -> list[str]:
        """An ImageIndex is there or gone; the names of others that may own the alias now."""
        claim = Claim.of(body)
        if not gone:
            self._claims[claim.uid] = claim
            return []
        self._claims.pop(claim.uid, None)
        return [other.name for other in self._claims.values() if other.index == claim.index]

    def listed(self, bodies: Iterable[Mapping[str, Any]]) -> None:
        """These are all that there are."""
        self._claims = {claim.uid: claim for claim in map(Claim.of, bodies)}

    def owner(self, body: Mapping[str, Any]) -> str | None:
        """The name of the ImageIndex that owns this one's alias instead of it; None when it is its own."""
        claim = Claim.of(body)
        rivals = [other for other in self._claims.values() if other.index == claim.index and other < claim]
        return min(rivals).name if rivals else None
