"""What replicas answered since a promotion, read from their own `/metrics`: enough to see that a generation is bad."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from imageindex_operator.builders.serving import PORT
from imageindex_operator.observed import Traffic

_TIMEOUT_S: Final = 2.0
_MOST_PODS: Final = 20
_OURS: Final = frozenset({"INTERNAL", "INDEX_CORRUPT", "ENCODER_UNAVAILABLE"})
"""Errors that a bad generation can be the reason of; a busy server and a wrong request, as of an index that is not
there or not ready, are none: replicas answer for any index by its name, and are not ready without their own."""

Counts = tuple[int, int]


class TrafficWatch:
    """What came since a promotion, look by look: pods go, and containers start again from nothing."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], _Seen] = {}

    async def look(self, uid: str, since: str, pods: Iterable[Mapping[str, Any]]) -> Traffic | None:
        """What these pods answered since the promotion at `since` of the ImageIndex `uid`; None if none tells."""
        running = [pod for pod in pods if (pod.get("status") or {}).get("podIP")][:_MOST_PODS]
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            counts = await asyncio.gather(*(_read(session, pod["status"]["podIP"]) for pod in running))
        now = {pod["metadata"]["uid"]: count for pod, count in zip(running, counts, strict=True) if count}
        if not now:
            return None
        if (seen := self._seen.get((uid, since))) is None:
            self._seen = {known: one for known, one in self._seen.items() if known[0] != uid}
            seen = self._seen[uid, since] = _Seen(now)
        seen.add(now)
        return Traffic(seen.searches, seen.failed)


class _Seen:
    """The last counts of each pod, and what has been added to them since the first."""

    def __init__(self, first: Mapping[str, Counts]) -> None:
        self._last = dict(first)
        self.searches = self.failed = 0

    def add(self, now: Mapping[str, Counts]) -> None:
        for pod, counts in now.items():
            last = self._last.get(pod, (0, 0))
            if counts[0] < last[0]:
                last = (0, 0)  # its container has started again
            self.searches += counts[0] - last[0]
            self.failed += counts[1] - last[1]
            self._last[pod] = counts


async def _read(session: aiohttp.ClientSession, address: str) -> Counts | None:
    host = f"[{address}]" if ":" in address else address
    try:
        async with session.get(f"http://{host}:{PORT}/metrics") as answer:
            return counts_of(await answer.text())
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None


def counts_of(text: str) -> Counts:
    """Searches, and those that failed by a fault of ours, in Prometheus' text format.

    Remembered answers count for nothing: they are given however the generation is.
    """
    searches = failed = 0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "sightline_search_duration_seconds_count":
                searches += int(sample.value) if sample.labels.get("cached") != "true" else 0
            elif sample.name == "sightline_search_errors_total":
                searches += int(sample.value)
                failed += int(sample.value) if sample.labels.get("code") in _OURS else 0
    return searches, failed
