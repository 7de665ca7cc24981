"""How long a server takes from its start to its first answer: compiled for the processor, and on PyTorch, in one run.

Ready means that `/readyz` said 200, which it does once a real query has gone through encoder and index. Each way is
started several times, in turns; files are in the page cache after the first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import httpx

from engine.encoders.choice import load_encoder
from engine.errors import SightlineError
from engine.settings import Settings
from indexing.bench.report import Figure, Report, Target
from indexing.bench.server import SERVE, running

_SEARCH: Final = '{ search(query: "a red boat at night") { edges { node { id } } } }'
_TARGETS_S: Final = {"ViT-B-32": 5.0, "ViT-H-14": 15.0}
_LEAN_TARGET_S: Final = 2.0


def run(settings: Settings, *, times: int = 3, lean: str | None = None) -> Report:
    """Starts the server `times` times each way. `lean` is the `sightline` program of an install without PyTorch."""
    load_encoder(settings.model_copy(update={"clip_runtime": "openvino"}))  # exports it, so that no start has to
    compiled = settings.model_copy(update={"clip_runtime": "openvino"})
    ways: dict[str, tuple[Settings, Sequence[str]]] = {"Sightline": (compiled, SERVE)}
    if lean:
        ways["Sightline without PyTorch"] = compiled, (lean, "serve")
    ways["Sightline on PyTorch"] = settings.model_copy(update={"clip_runtime": "torch"}), SERVE
    found: dict[str, list[tuple[float, float, float | None]]] = {name: [] for name in ways}
    for _ in range(times):
        for name, (chosen, command) in ways.items():
            found[name].append(_started(chosen, command))
    best = {name: min(ready for ready, _, _ in runs) for name, runs in found.items()}
    rows: list[dict[str, Figure]] = [
        {
            "server": name,
            "ready s": best[name],
            "slowest s": max(ready for ready, _, _ in runs),
            "first search ms": 1000 * min(first for _, first, _ in runs),
            "memory_mb": runs[-1][2],
            "times sooner than on PyTorch": best["Sightline on PyTorch"] / best[name],
        }
        for name, runs in found.items()
    ]
    targets = []
    if settings.clip_model in _TARGETS_S:
        targets.append(Target("seconds to ready", best["Sightline"], "<", _TARGETS_S[settings.clip_model]))
    if lean:
        targets.append(
            Target("seconds to ready without PyTorch", best["Sightline without PyTorch"], "<", _LEAN_TARGET_S)
        )
    return Report("From start to ready", {"model": settings.clip_model, "times": times}, rows, targets)


def _started(settings: Settings, command: Sequence[str]) -> tuple[float, float, float | None]:
    """Seconds to ready, seconds of the first search, megabytes then."""
    with running(settings, command) as server, httpx.Client(trust_env=False, timeout=60) as http:
        started = time.perf_counter()
        answer = http.post(f"{server.url}/graphql", json={"query": _SEARCH}).json()
        took = time.perf_counter() - started
        if answer.get("errors"):
            raise SightlineError(f"The first search failed: {answer['errors'][0]['message']}")
        return server.start_s, took, server.resident_mb()
