"""The way to a Qdrant server: pooled connections, deadlines, one retry, and errors in our words.

Every call has a deadline, its retry included. A connection on which a call was lost or ran out of time is replaced at
once, so that nobody waits for a broken one to be noticed or for gRPC to try again after a pause. All calls here may be
made twice without harm (points are written by id), except the few that say so.

A server that hangs would cost every search its whole deadline. So after several reads in a row that ran out of time,
reads fail at once, and one at a time is let through to see whether the server is well again. A server that is gone
needs none of that: its refusals come at once, and it is taken back with the next call.

Whoever builds is patient instead: a call that found no server, or ran out of time, is made again with growing pauses
until one has been waited for long enough, and nobody counts how often it hung. Nothing is made again whose repetition
could do harm: see `create` and `switch_alias`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import grpc
import grpc.aio
import structlog

from engine.breaker import FAILURES, Breaker
from engine.errors import BadUserInput, IndexCorrupt, IndexNotFound, IndexUnavailable, Overloaded, SightlineError
from engine.indexes.qdrant_stubs import pb
from engine.indexes.qdrant_terms import packed_fields, unpacked_fields
from engine.patience import pauses
from engine.settings import Settings

T = TypeVar("T")

_PORT: Final = 6334
_WRITES: Final = 6  # times a read's deadline: a write waits until its replicas have it
_SNAPSHOT_S: Final = 3600.0  # a snapshot copies and packs the whole collection before it is answered
_RETRY_MS: Final = 1000  # advised when the server limits our rate and does not say for how long
_OTHER_VECTORS: Final = "Vector dimension error"  # we send none of another length than the collection was made for
_REPLACED: Final = (
    "Somebody has put another collection in its place. Go back with `sightline generations rollback`, or build the "
    "index again with `sightline index`."
)
_OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),  # batches are bounded where they are made
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # otherwise all channels to one address would share one connection
)

log = structlog.get_logger()


class _Line:
    """One connection and its stubs."""

    def __init__(self, address: str, *, tls: bool) -> None:
        if tls:
            self.channel = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(), _OPTIONS)
        else:
            self.channel = grpc.aio.insecure_channel(address, _OPTIONS)
        self._stubs: dict[str, Any] = {}

    def method(self, name: str) -> Any:
        """The callable of "Service/Method"."""
        service, _, method = name.partition("/")
        if service not in self._stubs:
            self._stubs[service] = getattr(pb, f"{service}Stub")(self.channel)
        return getattr(self._stubs[service], method)


class QdrantConnection:
    """A pool of connections to the server that QDRANT_URL names. Connects at the first call; one event loop at a time.

    What belongs to the server and not to one collection is here too: collections by name, their metadata, aliases.
    """

    def __init__(self, settings: Settings, *, patience_s: float = 0.0) -> None:
        """With `patience_s` a server that is away is waited for so many seconds; what searches has none.

        Raises `BadUserInput` when QDRANT_URL is empty or no address.
        """
        url = urlsplit(settings.qdrant_url)
        try:
            port = url.port or _PORT
        except ValueError:
            port = 0
        if not url.hostname or not port:
            raise BadUserInput(
                f"QDRANT_URL: {settings.qdrant_url!r} is no address. Write http://host:{_PORT}, or https:// for TLS."
            )
        host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
        self.address: Final = f"{host}:{port}"
        self._tls = url.scheme == "https"
        self._timeout_s = settings.qdrant_timeout_s
        key = settings.qdrant_api_key.get_secret_value()
        self._metadata = (("api-key", key),) if key else ()
        self._pool = settings.qdrant_pool
        self._patience_s = patience_s
        self._waiting = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lines: list[_Line] = []
        self._next = 0
        self._retired: set[asyncio.Task[None]] = set()
        self._breaker = Breaker()
        self._trying = False
        self._closed = False

    async def read(self, method: str, request: Any) -> Any:
        """The answer to a reading call, "Points/Count" for instance, or one of our errors."""
        if self._patience_s:
            return await self._patiently(partial(self._call, method, request, self._timeout_s))
        if self._breaker.closed:
            return await self._judged(method, request)
        if self._trying or not self._breaker.due:
            raise IndexUnavailable(
                f"Qdrant at {self.address} hangs: {FAILURES} calls in a row took longer than {self._timeout_s:g} s. It "
                "is tried again every few seconds. Look at its load and its log."
            )
        self._trying = True
        try:
            return await self._judged(method, request, trial=True)
        finally:
            self._trying = False

    async def write(self, method: str, request: Any, *, timeout_s: float | None = None, again: bool = True) -> Any:
        """The answer to a call that changes something; `again` when it may be made twice without harm."""
        call = partial(self._call, method, request, timeout_s or self._timeout_s * _WRITES, again=again)
        return await (self._patiently(call) if again else call())

    async def close(self) -> None:
        """Ends all connections, and the calls that are still under way on them; harmless when done twice."""
        self._closed = True
        lines, self._lines = self._lines, []
        retired, self._retired = self._retired, set()
        if self._loop is not asyncio.get_running_loop():
            return
        for task in retired:
            task.cancel()
        await asyncio.gather(*retired, *(line.channel.close() for line in lines), return_exceptions=True)

    # ---------------------------------------------------------------- collections and aliases

    async def version(self) -> str:
        """The server's version, as it says it."""
        reply = await self.read("Qdrant/HealthCheck", pb.HealthCheckRequest())
        return str(reply.version)

    async def collections(self, prefix: str = "") -> list[str]:
        """The names of the collections that begin like this, sorted."""
        reply = await self.read("Collections/List", pb.ListCollectionsRequest())
        return sorted(found.name for found in reply.collections if found.name.startswith(prefix))

    async def exists(self, collection: str) -> bool:
        """Whether there is a collection, or an alias, of this name."""
        reply = await self.read("Collections/CollectionExists", pb.CollectionExistsRequest(collection_name=collection))
        return bool(reply.result.exists)

    async def create(self, request: Any) -> None:
        """Makes a collection as the message says. Raises `IndexUnavailable` when there is one of that name already.

        A second attempt would meet what the first one made, so who is patient looks before it: no two builders make
        collections of one name.
        """
        asked = False

        async def make() -> None:
            nonlocal asked
            if not (asked and await self.exists(request.collection_name)):
                asked = True
                await self.write("Collections/Create", request, again=False)

        await self._patiently(make)

    async def drop(self, collection: str) -> None:
        """Deletes a collection with all its points, and the aliases that point to it; nothing if there is none."""
        await self.write("Collections/Delete", pb.DeleteCollection(collection_name=collection))

    async def count(self, collection: str, filter: Any = None) -> int:
        """How many points of a collection the filter, a message, admits, exactly."""
        request = pb.CountPoints(collection_name=collection, filter=filter, exact=True)
        reply = await self.read("Points/Count", request)
        return int(reply.result.count)

    async def metadata(self, collection: str) -> dict[str, Any]:
        """What was stored about a collection with `set_metadata`. Qdrant keeps it from version 1.16 on."""
        reply = await self.read("Collections/Get", pb.GetCollectionInfoRequest(collection_name=collection))
        return unpacked_fields(reply.result.config.metadata)

    async def set_metadata(self, collection: str, fields: Mapping[str, Any]) -> None:
        """Stores JSON values about a collection; fields that are not named stay as they are."""
        request = pb.UpdateCollection(collection_name=collection, metadata=packed_fields(fields))
        await self.write("Collections/Update", request)

    async def alias_target(self, alias: str) -> str | None:
        """The collection that an alias stands for, or None."""
        reply = await self.read("Collections/ListAliases", pb.ListAliasesRequest())
        return next((str(found.collection_name) for found in reply.aliases if found.alias_name == alias), None)

    async def switch_alias(self, alias: str, collection: str) -> None:
        """Lets an alias stand for this collection, in one step: no search sees it stand for nothing.

        Raises `IndexNotFound` when there is no such collection; the alias then stays where it was. Qdrant applies the
        steps of a switch one by one and does not take back the first when the second fails, hence the question before.
        It is asked again before each attempt: while one waits, the collection may have been deleted.
        """
        await self._patiently(partial(self._switch_alias, alias, collection))

    async def _switch_alias(self, alias: str, collection: str) -> None:
        if not await self.exists(collection):
            raise IndexNotFound(f"Qdrant at {self.address} has no collection {collection!r} to switch {alias!r} to.")
        create = pb.CreateAlias(alias_name=alias, collection_name=collection)
        actions = [pb.AliasOperations(create_alias=create)]
        if await self.alias_target(alias) is not None:
            actions.insert(0, pb.AliasOperations(delete_alias=pb.DeleteAlias(alias_name=alias)))
        await self._call("Collections/UpdateAliases", pb.ChangeAliases(actions=actions), self._timeout_s * _WRITES)

    async def delete_alias(self, alias: str) -> None:
        """Removes an alias, not its collection; nothing if there is none."""
        delete = pb.AliasOperations(delete_alias=pb.DeleteAlias(alias_name=alias))
        await self.write("Collections/UpdateAliases", pb.ChangeAliases(actions=[delete]))

    async def snapshot(self, collection: str) -> str:
        """Has the server write a snapshot of a collection into its snapshot storage; returns its name."""
        request = pb.CreateSnapshotRequest(collection_name=collection)
        reply = await self.write("Snapshots/Create", request, timeout_s=_SNAPSHOT_S, again=False)
        return str(reply.snapshot_description.name)

    async def snapshots(self, collection: str) -> list[str]:
        """The names of a collection's snapshots, oldest first."""
        reply = await self.read("Snapshots/List", pb.ListSnapshotsRequest(collection_name=collection))
        found = sorted(reply.snapshot_descriptions, key=lambda one: (one.creation_time.ToNanoseconds(), one.name))
        return [str(one.name) for one in found]

    # ---------------------------------------------------------------- calls

    async def _judged(self, method: str, request: Any, *, trial: bool = False) -> Any:
        """A read that tells whether the server hangs: who answers, whatever that is, does not."""
        try:
            reply = await self._call(method, request, self._timeout_s)
        except SightlineError as error:
            if not _ran_out_of_time(error):
                self._answers()
            elif trial:
                self._breaker.trial_failed()
            elif self._breaker.failed():
                log.warning("Qdrant hangs, reads fail at once until it answers", address=self.address)
            raise
        self._answers()
        return reply

    def _answers(self) -> None:
        if self._breaker.succeeded():
            log.info("Qdrant answers again", address=self.address)

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What an attempt returns, made again while the server is away, from its first failure until patience ends.

        An error that ends patience is of another kind than those that are waited for, so an attempt may hold others.
        """
        loop = asyncio.get_running_loop()
        pause_s = pauses()
        since: float | None = None
        try:
            while True:
                try:
                    return await attempt()
                except IndexUnavailable as error:
                    if not self._patience_s or not _is_away(error):
                        raise
                    if since is None:
                        since = loop.time()
                        self._begin_to_wait(error)
                    pause = next(pause_s)
                    if loop.time() + pause > since + self._patience_s:
                        raise IndexUnavailable(f"{error} It was waited for {self._patience_s:g} s in vain.") from error
                    await asyncio.sleep(pause)
        finally:
            if since is not None:
                self._waiting -= 1

    def _begin_to_wait(self, error: IndexUnavailable) -> None:
        """Counts who waits, and tells it once however many they are."""
        self._waiting += 1
        if self._waiting == 1:
            log.warning(
                "Qdrant does not answer and is waited for",
                address=self.address,
                at_most_s=self._patience_s,
                reason=str(error),
            )

    async def _call(self, method: str, request: Any, timeout_s: float, *, again: bool = True) -> Any:
        if self._closed:
            raise IndexUnavailable(f"The connection to Qdrant at {self.address} is closed. Open the index again.")
        ends = asyncio.get_running_loop().time() + timeout_s
        line = self._line()
        while True:
            left = ends - asyncio.get_running_loop().time()
            try:
                return await line.method(method)(request, timeout=max(left, 0), metadata=self._metadata)
            except grpc.aio.AioRpcError as error:
                lost = _lost(error)
                if self._closed or not (lost or error.code() is grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise self._ours(error, method, timeout_s) from error
                line = self._replaced(line)
                if not (lost and again):
                    raise self._ours(error, method, timeout_s) from error
                again = False

    def _line(self) -> _Line:
        """The next connection in turn."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # connections belong to the loop that they were made in
            self._loop = loop
            self._retired.clear()
            self._lines = [_Line(self.address, tls=self._tls) for _ in range(self._pool)]
        self._next = (self._next + 1) % len(self._lines)
        return self._lines[self._next]

    def _replaced(self, line: _Line) -> _Line:
        """A new connection in the place of one that failed; other calls on the old one may still end."""
        if line not in self._lines:  # somebody else's call failed on it too
            return self._line()
        new = self._lines[self._lines.index(line)] = _Line(self.address, tls=self._tls)
        task = asyncio.get_running_loop().create_task(line.channel.close(grace=self._timeout_s * _WRITES))
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)
        return new

    def _ours(  # noqa: PLR0911 - one for each kind of failure
        self, error: grpc.aio.AioRpcError, method: str, timeout_s: float
    ) -> SightlineError:
        """An error of gRPC in our terms."""
        server, details = f"Qdrant at {self.address}", (error.details() or "no reason given").rstrip(".")
        match error.code():
            case grpc.StatusCode.UNAVAILABLE:
                return IndexUnavailable(
                    f"{server} does not answer: {details}. Check that it runs and that QDRANT_URL names its gRPC port, "
                    f"usually {_PORT}, then try again."
                )
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return IndexUnavailable(
                    f"{server} took longer than {timeout_s:g} s for {method}. Try again; if it stays slow, look at its "
                    "load, or raise QDRANT_TIMEOUT_S."
                )
            case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
                return IndexUnavailable(
                    f"{server} refuses the API key: {details}. Set QDRANT_API_KEY to one that may read and write."
                )
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                return Overloaded(_retry_after_ms(error))
            case grpc.StatusCode.NOT_FOUND:
                return IndexNotFound(f"{server} says: {details}. Build the index again with `sightline index`.")
            case grpc.StatusCode.INVALID_ARGUMENT if _OTHER_VECTORS in details:
                return IndexCorrupt(f"{server} refuses {method}: {details}. {_REPLACED}")
            case grpc.StatusCode.INVALID_ARGUMENT if "already exists" not in details:
                return BadUserInput(f"{server} refuses {method}: {details}.")
            case code:
                return IndexUnavailable(f"{server} failed at {method}: {details} ({code.name}). Its log says more.")


def _is_away(error: SightlineError) -> bool:
    """Whether a call failed because the server was not to be had, and may go well when it is back."""
    cause = error.__cause__
    return _ran_out_of_time(error) or (isinstance(cause, grpc.aio.AioRpcError) and _lost(cause))


def _ran_out_of_time(error: SightlineError) -> bool:
    cause = error.__cause__
    return isinstance(cause, grpc.aio.AioRpcError) and cause.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def _lost(error: grpc.aio.AioRpcError) -> bool:
    """Whether the call got lost with its connection, and may be answered on another."""
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return True
    return "RST_STREAM" in (error.details() or "")


def _retry_after_ms(error: grpc.aio.AioRpcError) -> int:
    told = {key: value for key, value in error.trailing_metadata() or ()}  # noqa: C416 - it is no mapping
    try:
        return int(float(told["retry-after"]) * 1000)
    except (KeyError, ValueError):
        return _RETRY_MS
