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
from functools import cache, lru_cache
from typing import Any, Final

import orjson
from prometheus_client import Histogram

from engine.errors import Overloaded
from graphql_api.limits import Documents
from graphql_api.media_types import preferred
from graphql_api.plain import Outline
from graphql_api.services import Services
from observability import metrics

FLOOD: Final = 100.0
"""Refusals a second that are a flood: fewer are looked at closely, which takes a hundredth of the machine."""

LONGEST: Final = 16_384
"""Bytes in a request's body that is looked at here."""

_SEEN: Final = 50_000  # requests whose words are known again: 7 MB
_HEADS: Final = 4096  # headers that are known again: each client's, times the lengths of what it asks


class Shedder:
    """Knows whether there is a flood, and whom to refuse then. Used from one event loop."""

    def __init__(self, services: Services, documents: Documents, clock: Callable[[], float] = time.monotonic) -> None:
        """`documents` remembers what the schema has read; `clock` gives seconds that never run backwards."""
        self._services = services
        self._documents = documents
        self._clock = clock
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._heads: OrderedDict[int, tuple[str, int]] = OrderedDict()
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
        _remember(self._seen, hash(body), None, _SEEN)

    def known(self, head: bytes, length: int) -> str | None:
        """The media type to answer with, if a request of such a head and so long a body has been told of."""
        media_type, its_length = self._heads.get(hash(head), (None, 0))
        return media_type if its_length == length else None

    def learn(self, head: bytes, length: int, media_type: str) -> None:
        """Remembers a request's head: what comes before the empty line, which says how long a body follows."""
        _remember(self._heads, hash(head), (media_type, length), _HEADS)

    def refusal(self, body: bytes) -> bytes | None:
        """The body of what a POST request is told at once; None to let it in.

        Let in is all that is not a query known to do nothing but search, in words that are new here.
        """
        searcher = self._services.busy_searcher
        if searcher is None or len(body) > LONGEST or hash(body) in self._seen:
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
        return _told(outline, searcher.refuse(outline.count).retry_after_ms)

    def _drain(self) -> None:
        now = self._clock()
        self._level = max(self._level - FLOOD * (now - self._at), 0.0)
        self._at = now


@cache
def _refused(asked: str) -> Histogram:
    """The measure of failed operations that ask for this, one of a few words: finding it takes longer than counting."""
    return metrics.graphql_duration.labels(asked, "error")


@lru_cache(256)
def _told(outline: Outline, retry_after_ms: int) -> bytes:
    """The body of a refusal. In a flood waits soon are the longest there are, of a few dozen lengths."""
    return orjson.dumps(outline.refused(Overloaded(retry_after_ms)))


def media_type_for(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
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


def _remember(memory: OrderedDict[int, Any], key: int, value: Any, most: int) -> None:
    """Has the key as the last one used. A dict would look for its oldest entry behind all that are gone."""
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > most:
        memory.popitem(last=False)
