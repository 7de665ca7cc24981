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
_OURS: Final = frozenset({"INTERNAL", "INDEX_NOT_FOUND", "INDEX_NOT_READY", "INDEX_CORRUPT", "ENCODER_UNAVAILABLE"})
"""Errors that a bad generation can be the reason of; a busy server and a wrong request are none."""

Counts = tuple[int, int]


class TrafficWatch:
    """Counts per pod at the first look after a promotion, and what came since."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], dict[str, Counts]] = {}

    async def look(self, uid: str, since: str, pods: Iterable[Mapping[str, Any]]) -> Traffic | None:
        """What these pods answered since the promotion at `since` of the ImageIndex `uid`; None if none tells."""
        running = [pod for pod in pods if (pod.get("status") or {}).get("podIP")][:_MOST_PODS]
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            counts = await asyncio.gather(*(_read(session, pod["status"]["podIP"]) for pod in running))
        now = {pod["metadata"]["uid"]: count for pod, count in zip(running, counts, strict=True) if count}
        if not now:
            return None
        key = (uid, since)
        if key not in self._first:
            self._first = {known: first for known, first in self._first.items() if known[0] != uid}
            self._first[key] = now
        first = self._first[key]
        deltas = [
            (searches - first.get(pod, (0, 0))[0], failed - first.get(pod, (0, 0))[1])
            for pod, (searches, failed) in now.items()
        ]
        return Traffic(sum(max(one, 0) for one, _ in deltas), sum(max(one, 0) for _, one in deltas))


async def _read(session: aiohttp.ClientSession, address: str) -> Counts | None:
    host = f"[{address}]" if ":" in address else address
    try:
        async with session.get(f"http://{host}:{PORT}/metrics") as answer:
            return counts_of(await answer.text())
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None


def counts_of(text: str) -> Counts:
    """Searches, and those that failed by a fault of ours, in Prometheus' text format."""
    searches = failed = 0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "sightline_search_duration_seconds_count":
                searches += int(sample.value)
            elif sample.name == "sightline_search_errors_total":
                searches += int(sample.value)
                failed += int(sample.value) if sample.labels.get("code") in _OURS else 0
    return searches, failed
