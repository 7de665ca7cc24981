"""A small web server on a loopback port that goes wrong on purpose."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar


class Web:
    """What the server has, by path, and how often each path was asked for.

    A path that begins with /twice/ fails with 503 two times, then works; /down/ always fails; /missing/ is 404;
    /forbidden/ is 403; /cut/ ends in the middle; /chunked/ tells no size; /loop/ redirects to itself; /file/ redirects
    to a file of the machine; /moved/X redirects to /X; /stuck/ never answers. The rest of the path names the content.
    `down` makes all paths fail, `down_after` all requests after so many; requests wait for `gate`, if there is one.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        self.authorizations: list[str | None] = []
        self.busy = 0
        self.most_busy = 0
        self.port = 0
        self.closing = threading.Event()
        self.down = False
        self.down_after: int | None = None
        self.gate: threading.Event | None = None

    @property
    def address(self) -> str:
        """The server's address, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"


class _Handler(BaseHTTPRequestHandler):
    web: ClassVar[Web]
    lock: ClassVar[threading.Lock]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        web = self.web
        path = self.path.partition("?")[0]
        with self.lock:
            web.asked[path] += 1
            web.authorizations.append(self.headers.get("Authorization"))
            web.busy += 1
            web.most_busy = max(web.most_busy, web.busy)
        try:
            if web.gate:
                web.gate.wait(30)
            self._answer(path)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with self.lock:
                web.busy -= 1

    def _answer(self, path: str) -> None:
        web = self.web
        _, kind, *_ = path.split("/")
        content = web.files.get(path.rpartition("/")[2], web.files.get(path[1:]))
        faults = {
            "missing": (404, {}),
            "forbidden": (403, {}),
            "down": (503, {}),
            "twice": (503, {"Retry-After": "0"}),
            "loop": (302, {"Location": path}),
            "file": (302, {"Location": "file:///etc/hostname"}),
            "moved": (302, {"Location": path.removeprefix("/moved")}),
        }
        with self.lock:
            if web.down_after is not None:
                web.down_after -= 1
            down = web.down or (web.down_after is not None and web.down_after < 0)
        if down:
            self._send(503, b"")
        elif kind in faults and not (kind == "twice" and web.asked[path] > 2):
            status, headers = faults[kind]
            self._send(status, b"", **headers)
        elif kind == "stuck":
            web.closing.wait(30)
            self.close_connection = True
        elif content is None:
            self._send(404, b"no")
        elif kind in {"cut", "chunked"}:
            self._send_badly(kind, content)
        else:
            self._send_part(content)

    def _send_badly(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        if kind == "cut":
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for at in range(0, len(content), 2**16):
            part = content[at : at + 2**16]
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def _send_part(self, content: bytes) -> None:
        asked = self.headers.get("Range")
        if not asked:
            self._send(200, content, ETag='"1"')
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(content)), len(content) - 1)
        self._send(206, content[start : end + 1], **{"Content-Range": f"bytes {start}-{end}/{len(content)}"})

    def _send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that break off are what these tests are made of."""


@contextmanager
def web_server() -> Iterator[Web]:
    """Runs the server."""
    web = Web()
    handler = type("Handler", (_Handler,), {"web": web, "lock": threading.Lock()})
    with _Server(("127.0.0.1", 0), handler) as server:
        web.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield web
        finally:
            web.closing.set()
            server.shutdown()
            thread.join()
