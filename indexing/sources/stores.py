"""How bytes come from where an address points: stores of objects and disks through fsspec, the web through httpx.

Everything here is a coroutine for the loop of fsspec's own thread, so that one connection pool serves listing, which
happens in threads, and fetching, which goes on while the main loop encodes; `Stores.wait` is for callers in threads.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import email.utils
import errno
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any, Final, Protocol, TypeVar

from engine.errors import SourceError
from engine.settings import Settings
from indexing.decode import Reason
from indexing.sources import addresses
from indexing.sources.items import UNKNOWN_SIZE
from indexing.sources.retry import FetchError, persevere

T = TypeVar("T")

BLOCK: Final = 8 * 2**20
"""Bytes read at once from a store: all of most pictures, and enough of the rest to see whether they are any."""
_CHUNK: Final = 2**18
_REDIRECTS: Final = 5
_TRANSIENT: Final = frozenset((408, 425, 429, 500, 502, 503, 504))
_GONE: Final = frozenset((404, 410))
_TALKATIVE: Final = ("httpx", "httpcore", "fsspec", "s3fs", "aiobotocore", "botocore", "aiohttp")
"""Loggers that write addresses as they are."""
_TIMES: Final = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
_TAGS: Final = ("ETag", "etag", "md5Hash", "content_md5")


@dataclass(frozen=True, slots=True)
class About:
    """What a store says of an object: size in bytes or `UNKNOWN_SIZE`, and what tells its versions apart.

    `version` is its ETag, and `mtime_ns` 0 then: the same content put there again is no new version.
    """

    size: int
    mtime_ns: int = 0
    version: str = ""

    @property
    def identity(self) -> str:
        """All of it in a word."""
        return f"{self.size}-{self.mtime_ns}-{self.version}"


@dataclass(frozen=True, slots=True)
class Object:
    """One object of a listing; `key` is its path below the folder that was listed."""

    key: str
    address: str
    about: About


@dataclass(frozen=True, slots=True)
class Closed:
    """A folder, by its path with a "/" at the end, that may not be listed, and why."""

    key: str
    why: str


class Sink(Protocol):
    """Takes the bytes of one object. Both methods raise `FetchError` to refuse them."""

    async def begin(self, size: int) -> None:
        """So many bytes will come, or `UNKNOWN_SIZE`; what came before is forgotten. Waits until there is room."""
        ...

    def write(self, chunk: bytes) -> None:
        """The next bytes."""
        ...


Body = tuple[int, AsyncIterator[bytes]]
"""The size of what will come, in bytes or `UNKNOWN_SIZE`, and its parts."""


class Store(Protocol):
    """One kind of store, one attempt a call. Whatever a method raises, `fault` makes a `FetchError` of it."""

    async def about(self, address: str) -> About:
        """What is known of an object."""
        ...

    def open(self, address: str, start: int, length: int) -> AbstractAsyncContextManager[Body]:
        """The bytes from `start` on, `length` of them or all if that is `UNKNOWN_SIZE`."""
        ...

    def fault(self, error: Exception) -> FetchError:
        """Our error for the library's."""
        ...

    async def close(self) -> None:
        """Closes connections."""
        ...


class Stores:
    """The stores that a source's addresses name, each opened when it is first needed.

    Every request is repeated up to `settings.index_fetch_attempts` times.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._attempts = settings.index_fetch_attempts
        self._open: dict[str, Store] = {}
        self._lock = threading.Lock()
        self._waiting: set[concurrent.futures.Future[Any]] = set()
        self._closed = False

    # ---------------------------------------------------------------- for callers in threads

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine in the stores' loop and waits for it. `close` ends the waiting with `CancelledError`."""
        with self._lock:
            if self._closed:
                work.close()
                raise concurrent.futures.CancelledError
            waiting = asyncio.run_coroutine_threadsafe(work, loop())
            self._waiting.add(waiting)
        try:
            return waiting.result()
        finally:
            self._waiting.discard(waiting)

    def close(self) -> None:
        """Ends what is under way and closes all connections."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            waiting, opened, self._open = list(self._waiting), list(self._open.values()), {}
        for each in waiting:
            each.cancel()
        for store in opened:
            with suppress(Exception):
                asyncio.run_coroutine_threadsafe(store.close(), loop()).result(self._settings.index_fetch_timeout_s)

    # ---------------------------------------------------------------- requests

    async def about(self, address: str) -> About:
        """What is known of an object. Raises `FetchError`."""
        return await self._persevere(address, lambda store: store.about(address))

    async def read(self, address: str, start: int, length: int) -> bytes:
        """At most `length` bytes from `start` on: fewer where the object ends. Raises `FetchError`."""

        async def attempt(store: Store) -> bytes:
            async with store.open(address, start, length) as (_, chunks):
                parts = [chunk async for chunk in chunks]
            return b"".join(parts)[:length]

        return await self._persevere(address, attempt)

    async def download(self, address: str, start: int, length: int, sink: Sink) -> None:
        """Brings bytes into a sink; waiting for room in it is not counted as time. Raises `FetchError`."""

        async def attempt() -> None:
            store = self.of(address)
            if length != UNKNOWN_SIZE:
                await sink.begin(length)
            if length == 0:
                return
            async with AsyncExitStack() as stack:
                with self._translating(store):
                    async with asyncio.timeout(self._settings.index_fetch_timeout_s):
                        size, chunks = await stack.enter_async_context(store.open(address, start, length))
                    if length == UNKNOWN_SIZE:
                        await sink.begin(size)
                    async with asyncio.timeout(self._settings.index_fetch_timeout_s):
                        async for chunk in chunks:
                            sink.write(chunk)

        await persevere(attempt, self._attempts)

    async def save(self, address: str, file: IO[bytes]) -> None:
        """Writes a whole object into a file. Raises `FetchError`."""

        async def attempt() -> None:
            store = self.of(address)
            file.seek(0)
            file.truncate()
            with self._translating(store):
                async with store.open(address, 0, UNKNOWN_SIZE) as (_, chunks):
                    async for chunk in chunks:
                        file.write(chunk)

        await persevere(attempt, self._attempts)

    async def pages(self, address: str) -> AsyncIterator[list[Object | Closed]]:
        """Everything below a folder of a store, a part at a time, in no order. Raises `FetchError`."""
        store = self._files(address)
        step: _Step = store.first(address)
        while step is not None:
            found, step = await self._persevere(address, lambda _, step=step: store.page(step))  # type: ignore[misc]
            yield found

    async def matching(self, pattern: str) -> list[str]:
        """The addresses that a pattern with wildcards stands for, sorted. Raises `FetchError`."""
        store = self._files(pattern)
        return await self._persevere(pattern, lambda _: store.matching(pattern))

    def of(self, address: str) -> Store:
        """The store of an address, for use in the stores' loop. Raises `FetchError` if nothing reads such addresses."""
        kind = addresses.scheme(address)
        family = "web" if kind in addresses.WEB else kind
        with self._lock:
            if self._closed:
                raise FetchError(Reason.UNREACHABLE, "the source was closed")
            if family not in self._open:
                for name in _TALKATIVE:
                    logging.getLogger(name).setLevel(logging.WARNING)
                self._open[family] = _WebStore(self._settings) if family == "web" else _FileStore(kind, self._settings)
            return self._open[family]

    def _files(self, address: str) -> _FileStore:
        store = self.of(address)
        if not isinstance(store, _FileStore):
            raise SourceError(
                "A web server does not list its files. Name a list of addresses (.csv, .parquet) or tar shards "
                "(https://…/{000..099}.tar)."
            )
        return store

    async def _persevere(self, address: str, ask: Callable[[Store], Awaitable[T]]) -> T:
        async def attempt() -> T:
            store = self.of(address)
            with self._translating(store):
                async with asyncio.timeout(self._settings.index_fetch_timeout_s):
                    return await ask(store)

        return await persevere(attempt, self._attempts)

    def _translating(self, store: Store) -> _Translating:
        return _Translating(store, self._settings.index_fetch_timeout_s)


class _Translating:
    """A `with` block out of which only our errors come."""

    def __init__(self, store: Store, timeout_s: float) -> None:
        self._store = store
        self._timeout_s = timeout_s

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, TimeoutError):
            raise FetchError(Reason.UNREACHABLE, f"took longer than {self._timeout_s:g} s", again=True) from error
        if isinstance(error, Exception) and not isinstance(error, FetchError | SourceError):
            raise self._store.fault(error) from error


def loop() -> asyncio.AbstractEventLoop:
    """The loop that all requests run in: fsspec's, in a thread of its own."""
    from fsspec.asyn import get_loop  # noqa: PLC0415 - only for remote sources

    running: asyncio.AbstractEventLoop = get_loop()
    return running


_Step = tuple[str, list[str], str] | None
"""Where a listing is: its root, folders still to list, and S3's token for the next page."""


class _FileStore:
    """What fsspec reads: S3, Google's and Azure's stores and others, and this machine's disks for a path."""

    def __init__(self, kind: str, settings: Settings) -> None:
        import fsspec  # noqa: PLC0415 - only for sources that need it
        from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper  # noqa: PLC0415 - the same

        options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        self._is_s3 = kind in {"s3", "s3a"}
        if self._is_s3:
            patience = settings.index_fetch_timeout_s
            options["config_kwargs"] = {
                "connect_timeout": patience,
                "read_timeout": patience,
                "retries": {"total_max_attempts": 1, "mode": "standard"},
                "max_pool_connections": settings.index_fetches + 8,  # those of the listing beside it
            }
        try:
            files = fsspec.filesystem(kind or "file", **options)
        except (ImportError, ValueError) as error:
            raise SourceError(f"Addresses with {kind}: can't be read: {addresses.redact(str(error))}") from error
        if self._is_s3:
            files.retries = 1  # ours are enough
        self._prefix = f"{kind}://" if kind else ""
        self._files: Any = files if files.async_impl else AsyncFileSystemWrapper(files, asynchronous=True)
        self._one_by_one = asyncio.Semaphore(1 if kind == "memory" else settings.index_fetches + 8)

    async def about(self, address: str) -> About:
        """What is known of an object."""
        info = await self._files._info(self._bare(address))  # noqa: SLF001 - fsspec's way to call it in its loop
        if info["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        return _about(info)

    @asynccontextmanager
    async def open(self, address: str, start: int, length: int) -> AsyncIterator[Body]:
        """The bytes, block by block, none larger than `BLOCK`."""
        size = length if length != UNKNOWN_SIZE else (await self.about(address)).size - start
        yield size, self._blocks(self._bare(address), start, start + size)

    async def _blocks(self, path: str, start: int, end: int) -> AsyncIterator[bytes]:
        while start < end:
            stop = min(start + BLOCK, end)
            async with self._one_by_one:  # fsspec's files in memory have one position for all readers
                data: bytes = await self._files._cat_file(path, start=start, end=stop)  # noqa: SLF001 - the same
            yield data
            if len(data) < stop - start:
                return
            start = stop

    def first(self, address: str) -> _Step:
        """Where a listing begins."""
        root = self._bare(address).rstrip("/")
        return root, [root], ""

    async def page(self, step: tuple[str, list[str], str]) -> tuple[list[Object | Closed], _Step]:
        """A part of a listing, and where it goes on: a page of S3's flat one, or one folder."""
        return await (self._s3_page(step) if self._is_s3 else self._folder(step))

    async def _s3_page(self, step: tuple[str, list[str], str]) -> tuple[list[Object | Closed], _Step]:
        root, _, token = step
        bucket, _, prefix = root.partition("/")
        asked: dict[str, str] = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else ""}
        if token:
            asked["ContinuationToken"] = token
        told = await self._files._call_s3("list_objects_v2", **asked)  # noqa: SLF001 - the same
        found: list[Object | Closed] = [
            Object(info["Key"][len(asked["Prefix"]) :], f"{self._prefix}{bucket}/{info['Key']}", _about(info))
            for info in told.get("Contents", ())
        ]
        return found, (root, [], told["NextContinuationToken"]) if told.get("IsTruncated") else None

    async def _folder(self, step: tuple[str, list[str], str]) -> tuple[list[Object | Closed], _Step]:
        root, folders, _ = step
        folder, rest = folders[-1], folders[:-1]
        found: list[Object | Closed] = []
        try:
            listed = await self._files._ls(folder, detail=True)  # noqa: SLF001 - the same
        except PermissionError as error:
            if folder == root:
                raise
            return [Closed(f"{folder[len(root) :].lstrip('/')}/", str(error))], (root, rest, "") if rest else None
        for info in listed:
            name = info["name"].rstrip("/")
            if name == folder:
                if info["type"] != "directory":
                    raise NotADirectoryError(errno.ENOTDIR, "it is a file")
            elif info["type"] == "directory":
                rest.append(name)
            elif info["type"] == "file":
                found.append(Object(name[len(root) :].lstrip("/"), self._prefix + name.lstrip("/"), _about(info)))
        return found, (root, rest, "") if rest else None

    async def matching(self, pattern: str) -> list[str]:
        """The files that a pattern stands for."""
        names = await self._files._glob(self._bare(pattern))  # noqa: SLF001 - the same
        return sorted(self._prefix + (name.lstrip("/") if self._prefix else name) for name in names)

    def fault(self, error: Exception) -> FetchError:
        """Missing and forbidden things stay so; what S3 calls a bad request too; everything else may pass."""
        if isinstance(error, FileNotFoundError):
            return FetchError(Reason.MISSING, "not there")
        name = type(error).__name__
        if name in {"NoCredentialsError", "PartialCredentialsError"}:
            return FetchError(
                Reason.UNREACHABLE,
                "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or FSSPEC_S3_ANON=true for a public "
                "bucket",
            )
        lasting = isinstance(
            error, PermissionError | NotADirectoryError | IsADirectoryError | ValueError | TypeError | KeyError
        )
        refused = isinstance(error, OSError) and error.errno in {errno.EINVAL, errno.ENOSYS}
        return FetchError(Reason.UNREACHABLE, str(error) or name, again=not (lasting or refused))

    async def close(self) -> None:
        """Closes S3's connections; other file systems close theirs themselves."""
        if self._is_s3 and getattr(self._files, "_s3", None) is not None:
            await self._files._s3.close()  # noqa: SLF001 - s3fs has no public way that waits

    def _bare(self, address: str) -> str:
        path: str = self._files._strip_protocol(address)  # noqa: SLF001 - fsspec's own rule for each store
        return path


class _WebStore:
    """Web servers, which are followed from http to https but not back, and not far."""

    def __init__(self, settings: Settings) -> None:
        import httpx  # noqa: PLC0415 - only for sources that need it

        self._httpx = httpx
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(settings.index_fetch_timeout_s, pool=None),
            limits=httpx.Limits(max_connections=settings.index_fetches + 8, max_keepalive_connections=None),
            headers={"Accept-Encoding": "identity", "User-Agent": "Sightline"},
        )

    async def about(self, address: str) -> About:
        """What is known of a file, from a request for its first byte, which servers answer that refuse HEAD."""
        async with self._respond(address, {"Range": "bytes=0-0"}) as response:
            headers = response.headers
            if response.status_code == 206:  # noqa: PLR2004 - partial content
                size = headers.get("content-range", "").rpartition("/")[2]
            else:
                size = headers.get("content-length", "")
        known = int(size) if size.isdecimal() else UNKNOWN_SIZE
        tag = headers.get("etag", "").strip('"')
        changed = headers.get("last-modified", "")
        with suppress(ValueError):
            changed = str(int(email.utils.parsedate_to_datetime(changed).timestamp()))
        return About(known, 0 if tag or not changed.isdecimal() else int(changed) * 10**9, tag)

    @asynccontextmanager
    async def open(self, address: str, start: int, length: int) -> AsyncIterator[Body]:
        """The body, or a part of it from servers that answer for parts."""
        whole = start == 0 and length == UNKNOWN_SIZE
        end = "" if length == UNKNOWN_SIZE else start + length - 1
        async with self._respond(address, {} if whole else {"Range": f"bytes={start}-{end}"}) as response:
            if start and response.status_code != 206:  # noqa: PLR2004 - partial content
                raise FetchError(Reason.UNREACHABLE, "the server does not answer for parts of a file")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise FetchError(Reason.UNREACHABLE, "the server sent it compressed, though asked not to")
            size = response.headers.get("content-length", "")
            yield int(size) if size.isdecimal() else UNKNOWN_SIZE, self._chunks(response, length)

    async def _chunks(self, response: Any, length: int) -> AsyncIterator[bytes]:
        left = length
        async for chunk in response.aiter_raw(_CHUNK):
            yield chunk
            left -= len(chunk)
            if length != UNKNOWN_SIZE and left <= 0:  # a server without parts would send the rest too
                return

    @asynccontextmanager
    async def _respond(self, address: str, headers: dict[str, str]) -> AsyncIterator[Any]:
        """A response that says yes; each redirect is looked at before it is followed."""
        request = self._client.build_request("GET", address, headers=headers)
        for _ in range(_REDIRECTS + 1):
            response = await self._client.send(request, stream=True)
            try:
                if response.next_request is None:
                    self._judge(response)
                    yield response
                    return
            finally:
                await response.aclose()
            following = response.next_request
            if (request.url.scheme, following.url.scheme) not in {("http", "http"), ("http", "https"), ("https",) * 2}:
                raise FetchError(Reason.UNREACHABLE, f"redirected to {following.url.scheme}:, which is not followed")
            request = following
        raise FetchError(Reason.UNREACHABLE, f"redirected more than {_REDIRECTS} times")

    def _judge(self, response: Any) -> None:
        status = response.status_code
        if status in _GONE:
            raise FetchError(Reason.MISSING, f"HTTP {status}")
        if not response.is_success:
            wait = response.headers.get("retry-after", "")
            after = float(wait) if wait.isdecimal() else 0.0
            raise FetchError(Reason.UNREACHABLE, f"HTTP {status}", again=status in _TRANSIENT, after_s=after)

    def fault(self, error: Exception) -> FetchError:
        """Addresses that are none stay so; connections that failed may do better."""
        lasting = isinstance(error, self._httpx.InvalidURL | self._httpx.UnsupportedProtocol | ValueError)
        return FetchError(Reason.UNREACHABLE, str(error) or type(error).__name__, again=not lasting)

    async def close(self) -> None:
        """Closes connections."""
        await self._client.aclose()


def _about(info: dict[str, Any]) -> About:
    """A store's own words for size, time and version in ours."""
    size = info.get("size", info.get("Size"))
    tag = next((str(info[name]).strip('"') for name in _TAGS if info.get(name)), "")
    when = None if tag else next((info[name] for name in _TIMES if info.get(name)), None)
    if isinstance(when, str):
        with suppress(ValueError):
            when = datetime.fromisoformat(when)
    if isinstance(when, datetime):
        when = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    changed = int(when * 10**9) if isinstance(when, int | float) else 0
    return About(UNKNOWN_SIZE if size is None else int(size), changed, tag)
