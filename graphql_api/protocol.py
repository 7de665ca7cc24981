"""HTTP/1.1 as uvicorn speaks it, with a door: in a flood, a refusal is written before anything is made of the request.

What uvicorn makes of one (a cycle, a task, an event) and its way through the application take about twice as long as
deciding, which is 0.008 ms. So a request is held until it is read, and if that is soon, the `Shedder` decides. Whoever
is let in goes through uvicorn from the beginning, as ever.
"""

from __future__ import annotations

import asyncio
import time
from functools import cache
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from graphql_api.app import SECURITY_HEADERS
from graphql_api.http import encode
from graphql_api.shedding import LONGEST, Shedder

_PATH: Final = b"/graphql"
_SOON_S: Final = 1.0  # that a body may come after its headers: who is slower is let in, and given up there


class SheddingProtocol(HttpToolsProtocol):
    """One connection. Needs the application's `Shedder`, which its lifespan gives as `state["shedder"]`."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._shedder: Shedder = self.app_state["shedder"]
        self._held: bytes | None = None  # the body so far of a request that uvicorn has not heard of yet
        self._since = 0.0
        self._late: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Reads what has come."""
        super().data_received(data)
        if self._held is not None and self._late is None:
            self._late = self.loop.call_later(_SOON_S, self._let_in)

    def on_headers_complete(self) -> None:
        """Holds a request that may have to be refused."""
        if self.url == _PATH and self._shedder.sheds and self._can_be_answered_at_once():
            self._held, self._since = b"", time.perf_counter()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Keeps what belongs to a request that is held, unless it is too long for that."""
        if self._held is None:
            super().on_body(body)
            return
        self._held += body
        if len(self._held) > LONGEST:
            self._let_in()

    def on_message_complete(self) -> None:
        """Refuses a request that is held, or lets it in."""
        if self._held is not None:
            refusal = self._shedder.refusal(self.headers, self._held)
            if refusal is not None:
                self._release()
                self._answer(*refusal)
                return
            self._let_in()
        super().on_message_complete()

    def shutdown(self) -> None:
        """Lets in who is held: whoever has been heard is answered."""
        self._let_in()
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets who is held: nobody is there to be answered."""
        self._release()
        super().connection_lost(exc)

    def _can_be_answered_at_once(self) -> bool:
        """Whether nobody is to be answered before, and the connection stays as it is."""
        return (
            (self.cycle is None or self.cycle.response_complete)
            and not self.expect_100_continue
            and not self.flow.write_paused
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
        )

    def _release(self) -> bytes | None:
        held, self._held = self._held, None
        if self._late is not None:
            self._late.cancel()
            self._late = None
        return held

    def _let_in(self) -> None:
        """Tells uvicorn of a request that was held, and of as much of its body as has come."""
        held = self._release()
        if held is not None:
            super().on_headers_complete()
            super().on_body(held)

    def _answer(self, media_type: str, body: bytes) -> None:
        """Writes an answer with the headers that the application gives to every one."""
        date = b"".join(b"%s: %s\r\n" % header for header in self.server_state.default_headers)
        total_ms = (time.perf_counter() - self._since) * 1000
        own = b"content-length: %d\r\nserver-timing: total;dur=%.3f\r\n\r\n" % (len(body), total_ms)
        self.transport.write(b"".join((STATUS_LINE[200], date, _headers(media_type), own, body)))
        self.on_response_complete()


@cache
def _headers(media_type: str) -> bytes:
    """The headers that answers of that type have in common, as they are sent."""
    headers = [*encode({}, 200, media_type).raw_headers, *SECURITY_HEADERS]
    return b"".join(b"%s: %s\r\n" % header for header in headers if header[0] != b"content-length")
