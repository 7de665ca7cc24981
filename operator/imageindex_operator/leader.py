"""One of several operators works: the one that holds a Lease, renews it, and stops at once when it can't.

kopf's peering locks nothing, and pauses everybody where priorities are equal. A Lease is written only if nobody wrote
it since it was read, so two can't hold it. Times of other holders are never compared with our clock: a Lease has
expired when *we* have seen it unchanged for as long as it is good for.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from engine.errors import ClusterRefused, ClusterUnavailable
from imageindex_operator.api import Api
from imageindex_operator.names import digest
from observability import metrics

log = structlog.get_logger(__name__)

NAME: Final = "sightline-operator"
LEASE_S: Final = 15.0
"""Seconds that a Lease is good for; another operator takes over when it was not renewed for so long."""
RENEW_S: Final = 10.0
"""Seconds after which a holder that could not renew it gives up: less than the Lease is good for."""
RETRY_S: Final = 2.0
RELEASE_S: Final = 3.0
"""Seconds in which it is tried to give the Lease back."""

_CONFLICT: Final = 409


class Lease:
    """Our claim to a Lease of the operator's namespace."""

    def __init__(
        self, api: Api, namespace: str, identity: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.identity = identity or f"{socket.gethostname()}-{digest([time.time_ns(), random.random()], 6)}"
        self._api = api
        self._namespace = namespace
        self._clock = clock
        self._seen: tuple[str, float] = ("", 0.0)
        self._renewed = 0.0
        self.held = False

    async def acquire(self) -> None:
        """Waits until the Lease is ours."""
        while not await self._try():  # noqa: ASYNC110 - the API server is what changes
            await asyncio.sleep(RETRY_S * random.uniform(0.8, 1.2))
        log.info("leading", lease=NAME, identity=self.identity)

    async def hold(self) -> None:
        """Renews the Lease, and returns when it is lost: then nothing may be written any more."""
        while self.held:
            await asyncio.sleep(RETRY_S)
            try:
                async with asyncio.timeout(max(self._renewed + RENEW_S - self._clock(), 0.1)):
                    ours = await self._try()
            except TimeoutError:
                ours = False
            if not ours and (self._clock() - self._renewed >= RENEW_S or not self.held):
                self._lose()
        log.warning("the lease is lost", lease=NAME, identity=self.identity)

    async def release(self) -> None:
        """Gives the Lease back, so that the next one need not wait; as well as it goes, and for a few seconds only."""
        self._lose()
        with suppress(TimeoutError, ClusterRefused):
            async with asyncio.timeout(RELEASE_S):
                while not await self._given_back():  # noqa: ASYNC110 - the API server is what changes
                    await asyncio.sleep(RETRY_S / 4)

    async def _given_back(self) -> bool:
        """Whether the Lease is not ours any more: an answer that was lost may have made it ours without our knowing."""
        try:
            found = await self._api.get("Lease", self._namespace, NAME)
            if found and found["spec"].get("holderIdentity") == self.identity:
                found["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._api.replace(found)
        except ClusterUnavailable:
            return False
        return True

    async def _try(self) -> bool:
        """One attempt to take or renew it. Another holder's Lease that has not expired is lost to us at once."""
        try:
            found = await self._api.get("Lease", self._namespace, NAME)
            if found is None:
                await self._api.create(self._written({"metadata": {"name": NAME, "namespace": self._namespace}}))
            else:
                holder = found.get("spec", {}).get("holderIdentity")
                if holder not in {None, "", self.identity}:
                    self._lose()
                    if not self._expired(found):
                        return False
                await self._api.replace(self._written(found))
        except ClusterRefused as error:
            if error.status != _CONFLICT:
                log.warning("the lease can't be had", error=str(error))
            return False
        except ClusterUnavailable:
            return False
        self._renewed = self._clock()
        self.held = True
        metrics.operator_leading.set(1)
        return True

    def _expired(self, found: dict[str, Any]) -> bool:
        version, now = found["metadata"]["resourceVersion"], self._clock()
        if version != self._seen[0]:
            self._seen = (version, now)
        return now - self._seen[1] >= float(found["spec"].get("leaseDurationSeconds") or LEASE_S)

    def _written(self, lease: dict[str, Any]) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = lease.get("spec") or {}
        ours = before.get("holderIdentity") == self.identity
        spec = {
            **before,
            "holderIdentity": self.identity,
            "leaseDurationSeconds": int(LEASE_S),
            "acquireTime": before.get("acquireTime") if ours else now,
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (0 if ours or not before else 1),
        }
        return {**lease, "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": spec}

    def _lose(self) -> None:
        self.held = False
        metrics.operator_leading.set(0)
