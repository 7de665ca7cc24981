"""What was found: ranked lists of hits, how a deeper one continues a shallower one, and what a cache holds of them.

Everything here is pure. `engine.search` decides how a list is made and which page of it is shown.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import orjson

from engine.ports import Hit, VectorQuery
from engine.requests import TIERS

Strategy = Literal["hnsw", "hnsw_filtered", "exact"]

SCHEMA: Final = 2
"""Of lists in a cache; raise it when their form or meaning changes."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A list of hits, cut at a depth; `more` says that there were further ones. Deep lists hold no payloads."""

    hits: list[Hit]
    more: bool
    total: int
    total_exact: bool
    strategy: Strategy
    cached: bool = False
    stages_ms: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, query: VectorQuery, found: Sequence[Hit], depth: int, admitted: int, without: Container[str]) -> Ranked:
        """The list that an index's answer makes, of `admitted` images that could be in it, some ids left out."""
        hits = [hit for hit in found if hit.id not in without]
        more = len(hits) > depth
        if query.score_threshold is None:
            total, total_exact = admitted, True
        else:
            total, total_exact = min(len(hits), depth), query.exact and not more
        strategy: Strategy = "exact" if query.exact else "hnsw" if query.filter is None else "hnsw_filtered"
        return cls(_shortened(hits, depth), more, total, total_exact, strategy)

    @classmethod
    def decoded(cls, stored: bytes | None) -> Ranked | None:
        """A list from a cache; None when there is none or what lies there is damaged."""
        if stored is None:
            return None
        try:
            rows, more, total, total_exact, strategy = orjson.loads(stored)
            hits = [Hit(str(id_), float(score), dict(payload)) for id_, score, payload in rows]
            return cls(hits, bool(more), int(total), bool(total_exact), strategy, cached=True)
        except (ValueError, TypeError):
            return None

    def encoded(self) -> bytes:
        """For a cache: all but the times, which were those of making it."""
        hits = [[hit.id, hit.score, hit.payload] for hit in self.hits]
        return orjson.dumps([hits, self.more, self.total, self.total_exact, self.strategy])

    def continuing(self, above: Ranked, depth: int) -> Ranked:
        """This list, begun with a shallower one: who saw its pages sees what follows, and nothing again."""
        seen = {hit.id for hit in above.hits}
        hits = above.hits + [hit for hit in self.hits if hit.id not in seen]
        return replace(self, hits=_shortened(hits, depth), more=self.more or len(hits) > depth)


def _shortened(hits: list[Hit], depth: int) -> list[Hit]:
    """At most `depth` hits; payloads only in the shallowest list, where every page needs them."""
    return hits[:depth] if depth == TIERS[0] else [replace(hit, payload={}) for hit in hits[:depth]]
