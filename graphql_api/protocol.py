"""HTTP/1.1 as uvicorn speaks it, with a door: in a flood, a refusal is written before anything is made of the request.

What uvicorn makes of one (a cycle, a task, an event) and its way through the application take longer than deciding. So
a request is held until it is read, and if that is soon, the `Shedder` decides. Whoever is let in goes through uvicorn
from the beginning, as ever.

In a flood the caches are cold, and every function that is called costs: a refusal took 0.06 ms more than the same bytes
written for nothing. So a head that was parsed is known again, and who sends it is refused without parsing.
"""

from __future__ import annotations

import asyncio
import time
from functools import lru_cache
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from graphql_api.app import SECURITY_HEADERS
from graphql_api.http import encode
from graphql_api.shedding import LONGEST, Shedder, media_type_for

_PATH: Final = b"/graphql"
_EMPTY_LINE: Final = b"\r\n\r\n"
_SOON_S: Final = 1.0  # that a body may come after its headers: who is slower is let in, and given up there


class SheddingProtocol(HttpToolsProtocol):
    """One connection. Needs the application's `Shedder`, which its lifespan gives as `state["shedder"]`."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._shedder: Shedder = self.app_state["shedder"]
        self._between = True  # requests: no part of the next one has come
        self._read = b""  # what came at once since then
        self._held: bytes | None = None  # the body so far of a request that uvicorn has not heard of yet
        self._media_type = ""  # to answer that one with
        self._since = 0.0
        self._late: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Reads what has come, and in a flood without the parser where it has seen the same head before."""
        if self._between and self._shedder.sheds and self._is_free():
            head, _, body = data.partition(_EMPTY_LINE)
            media_type = self._shedder.known(head, len(body))
            if media_type is not None:
                self._since = time.perf_counter()
                refusal = self._shedder.refusal(body)
                if refusal is not None:
                    self._answer(media_type, refusal)
                    return
        self._read = data if self._between else b""
        super().data_received(data)
        self._read = b""
        if self._held is not None and self._late is None:
            self._late = self.loop.call_later(_SOON_S, self._let_in)

    def on_message_begin(self) -> None:
        """Notes that a request has begun."""
        self._between = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Holds a request that may have to be refused."""
        if self.url == _PATH and self._shedder.sheds and self._is_free() and self._is_usual():
            media_type = media_type_for(self.headers)
            if media_type is not None:
                self._held, self._media_type, self._since = b"", media_type, time.perf_counter()
                return
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
        self._between = True
        if self._held is not None:
            head, _, body = self._read.partition(_EMPTY_LINE)
            if body == self._held:  # it came in one piece, not in chunks, and alone
                self._shedder.learn(head, len(body), self._media_type)
            refusal = self._shedder.refusal(self._held)
            if refusal is not None:
                self._release()
                self._answer(self._media_type, refusal)
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

    def _is_free(self) -> bool:
        """Whether nobody is to be answered before, and what is answered is read."""
        return (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused

    def _is_usual(self) -> bool:
        """Whether it is a POST after which the connection stays as it is; so is every one with its head."""
        return (
            not self.expect_100_continue
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
        head = _head(media_type, tuple(self.server_state.default_headers))
        total_ms = (time.perf_counter() - self._since) * 1000
        self.transport.write(
            b"%bserver-timing: total;dur=%.3f\r\ncontent-length: %d\r\n\r\n%b" % (head, total_ms, len(body), body)
        )
        self.on_response_complete()


@lru_cache(8)
def _head(media_type: str, default: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """The status line and the headers that answers of that type have in common in this second."""
    headers = [*default, *encode({}, 200, media_type).raw_headers, *SECURITY_HEADERS]
    return STATUS_LINE[200] + b"".join(b"%b: %b\r\n" % header for header in headers if header[0] != b"content-length")
