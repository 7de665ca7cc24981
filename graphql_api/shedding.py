"""Load shedding: in a flood, searches that would be refused are refused at the door.

A refusal takes its time from the searches that were let in, and in a flood there are several for each of those: looked
at closely (routed, planned, sought in the caches) they took half of what a server with a small model can do. So while
the machine has all it bears and refuses many, who asks in words that nobody has used here lately is refused unlooked
at, before the request reaches the application (`protocol.py`). Whoever used them before may have his answer remembered,
and who comes back as he was told may have made a mistake: both are let in, and refused there if that is how it is.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import cache
from typing import Final

import orjson
from prometheus_client import Histogram

from graphql_api.limits import Documents
from graphql_api.media_types import preferred
from graphql_api.services import Services
from observability import metrics

FLOOD: Final = 100.0
"""Refusals a second that are a flood: fewer are looked at closely, which takes a hundredth of the machine."""

LONGEST: Final = 16_384
"""Bytes in a request's body that is looked at here."""

_SEEN: Final = 50_000  # requests whose words are known again: 7 MB


class Shedder:
    """Knows whether there is a flood, and whom to refuse then. Used from one event loop."""

    def __init__(self, services: Services, documents: Documents, clock: Callable[[], float] = time.monotonic) -> None:
        """`documents` remembers what the schema has read; `clock` gives seconds that never run backwards."""
        self._services = services
        self._documents = documents
        self._clock = clock
        self._seen: OrderedDict[int, None] = OrderedDict()  # a dict looks for its oldest entry behind all that are gone
        self._level = 0.0
        self._at = clock()

    @property
    def sheds(self) -> bool:
        """Whether newcomers are refused now. Not in a drain: then answers say more, and the flood goes elsewhere."""
        return self._services.busy_searcher is not None and self.flooded and not self._services.draining

    @property
    def flooded(self) -> bool:
        """Whether there have been so many refusals lately."""
        self._drain()
        return self._level > FLOOD

    def refused(self) -> None:
        """Counts a refusal."""
        self._drain()
        self._level = min(self._level + 1, 2 * FLOOD)  # so that a second after the last one all is as ever

    def saw(self, body: bytes) -> None:
        """Remembers a request's words, as the last ones used."""
        if len(body) > LONGEST:
            return
        words = hash(body)
        self._seen[words] = None
        self._seen.move_to_end(words)
        if len(self._seen) > _SEEN:
            self._seen.popitem(last=False)

    def refusal(self, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> tuple[str, bytes] | None:
        """The media type and body of what a POST request is told at once; None to let it in.

        Let in is all that is not a query known to do nothing but search, in words that are new here.
        """
        searcher = self._services.busy_searcher
        if searcher is None or len(body) > LONGEST or hash(body) in self._seen:
            return None
        media_type = _media_type(headers)
        if media_type is None:
            return None
        try:
            asked = orjson.loads(body)
            query, name = asked["query"], asked.get("operationName") or None
            document = self._documents.known(query)
            outline = document.outline(name) if document else None
        except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):  # inside they are told what is wrong
            return None
        if document is None or outline is None:
            return None
        self.saw(body)
        self.refused()
        _refused(document.asked(name)).observe(0)
        return media_type, orjson.dumps(outline.refused(searcher.refuse(outline.count)))

    def _drain(self) -> None:
        now = self._clock()
        self._level = max(self._level - FLOOD * (now - self._at), 0.0)
        self._at = now


@cache
def _refused(asked: str) -> Histogram:
    """The measure of failed operations that ask for this, one of a few words: finding it takes longer than counting."""
    return metrics.graphql_duration.labels(asked, "error")


def _media_type(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """What to answer with to a plain body of JSON; None for any other."""
    accept, plain = b"", False
    for name, value in headers:
        if name == b"content-type":
            plain = value == b"application/json"
        elif name == b"accept":
            accept = value
        elif name == b"content-encoding":
            return None
    return preferred(accept.decode("latin-1"), "POST") if plain else None
