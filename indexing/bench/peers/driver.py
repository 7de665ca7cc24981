"""Starts the peers, asks all the same, and says how far each is from Sightline.

All run at the same time, and they are asked in turns: a machine that is slower for a minute is so for all of them.
Alone: one client, one request at a time, no query twice. Under load: the highest rate of Poisson arrivals that still
has a 95th percentile under 50 ms, found by halving. Recall: against exact comparison with plain open_clip's float32
vectors. A peer that does not start, answers wrongly or hangs is a row with the reason, and the others go on.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Final

import httpx
import orjson

from engine.errors import BadUserInput
from indexing.bench.load import Answer, Load, closed_loop, open_loop, sustained
from indexing.bench.peers.catalogue import PEERS, Peer
from indexing.bench.peers.environments import environment
from indexing.bench.peers.material import Environments, Material, prepare
from indexing.bench.peers.processes import Child, PeerFailed, free_port, running, tidy_at_sigterm
from indexing.bench.queries import distinct_queries
from indexing.bench.report import Figure, Latency, Report, Target

WORK: Final = Path("data/bench/peers")
"""Where pictures, converted weights, indexes and logs of the last run lie."""

LIMIT_MS: Final = 50.0
"""The 95th percentile that a rate has to keep."""

_START_S: Final = 180.0
_ASK_S: Final = 10.0
_ASK_AGAIN_S: Final = 0.05
_TURNS: Final = 4
_WARM_UP: Final = 5
_ALONE_SEED, _LOAD_SEED = 2, 3  # material.py has its own: no query is asked twice while it counts
_CLIENTS: Final = 8
_HALVINGS: Final = 5
_ROOM: Final = 1.2  # an open loop can't keep more than a closed one, but for noise
_LEAST_REQUESTS: Final = 40


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: queries `alone` and `judged` for recall, and the `seconds` of each run under load."""

    alone: int = 200
    judged: int = 100
    seconds: float = 4.0


_USUAL: Final = Effort()


def run(
    model: str = "sightline-small",
    pictures: int = 2000,
    names: Sequence[str] = (),
    *,
    work: Path = WORK,
    effort: Effort = _USUAL,
    environments: Environments = environment,
    say: Callable[[str], None] = lambda _line: None,
) -> Report:
    """Measures the peers with these `names` (all, if none is given) on `model` and so many drawn `pictures`.

    `say` is told what is being done. Raises `BadUserInput` for an unknown name, `PeerFailed` when plain open_clip,
    which makes the vectors and the truth for all, does not run.
    """
    known = {peer.name: peer for peer in PEERS}
    if unknown := set(names) - known.keys():
        raise BadUserInput(f"There is no peer {', '.join(sorted(unknown))}. Choose from {', '.join(known)}.")
    chosen = [peer for peer in PEERS if not names or peer.name in names]
    reasons: dict[str, str] = {}
    with tidy_at_sigterm(), ExitStack() as children:
        say("Drawing pictures, embedding them with plain open_clip")
        material = prepare(model, pictures, effort.judged, work, environments)
        candidates: list[_Candidate] = []
        for peer in chosen:
            with _reason(peer, reasons, say):
                candidates.append(_start(peer, material, environments, children, say))
        _measure(candidates, material, effort, reasons, say)
    figures = {candidate.peer.name: candidate.row() for candidate in candidates}
    rows: dict[str, Mapping[str, Figure]] = {
        peer.name: {"stopped": reasons[peer.name]} if peer.name in reasons else figures[peer.name] for peer in chosen
    }
    setup: dict[str, Figure] = {
        "model": model,
        "pictures": pictures,
        "dimension": material.vectors.shape[1],
        "queries_alone": effort.alone,
        "queries_judged": effort.judged,
        "seconds_of_load": effort.seconds,
    }
    notes = [*_NOTES, *(peer.note for peer in chosen)]
    compared = [{"peer": name, **row, **_ratios(row, rows.get("sightline", {}))} for name, row in rows.items()]
    return Report("Sightline and its peers", setup, compared, _targets(compared), notes)


# ---------------------------------------------------------------- all of them in turns


@dataclass(slots=True)
class _Candidate:
    """A peer that runs and answers, and what was measured of it so far."""

    peer: Peer
    child: Child
    url: str
    start_s: float
    index_s: float | None
    latencies_ms: list[float] = field(default_factory=list)
    recall: float | None = None
    searches_per_s: float | None = None
    memory_mb: float | None = None

    def row(self) -> dict[str, Figure]:
        """The figures as columns of the report."""
        return {
            **(Latency.of(self.latencies_ms).row() if self.latencies_ms else {}),
            "searches_per_s": self.searches_per_s,
            "recall@10": self.recall,
            "start_s": self.start_s,
            "memory_mb": self.memory_mb,
            "index_s": self.index_s,
        }


@contextmanager
def _reason(peer: Peer, reasons: dict[str, str], say: Callable[[str], None]) -> Iterator[None]:
    """Turns a failure of a peer into the reason why it has no figures."""
    try:
        yield
    except PeerFailed as error:
        reasons[peer.name] = str(error)
        say(f"{peer.name} stopped. {error}")


def _start(
    peer: Peer, material: Material, environments: Environments, children: ExitStack, say: Callable[[str], None]
) -> _Candidate:
    """Makes its index and starts it; its processes end with `children`, or now if it fails."""
    say(f"{peer.name}: making its index")
    index_s = peer.prepare(material, environments)
    say(f"{peer.name}: starting")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = peer.command(material, environments, port)
    with ExitStack() as on_failure:
        child = on_failure.enter_context(running(command, material.work / f"{peer.name}.log"))
        start_s = _wait(peer, material, child, url)
        peer.fill(material, url)
        children.push(on_failure.pop_all())
    return _Candidate(peer, child, url, start_s, index_s)


def _measure(
    candidates: Sequence[_Candidate],
    material: Material,
    effort: Effort,
    reasons: dict[str, str],
    say: Callable[[str], None],
) -> None:
    """Fills in the figures. Each gets the same queries; one that fails gets no more."""

    def going() -> Iterator[_Candidate]:
        return (candidate for candidate in candidates if candidate.peer.name not in reasons)

    for candidate in going():
        with _reason(candidate.peer, reasons, say):
            say(f"{candidate.peer.name}: judging its answers")
            candidate.recall = _recall(candidate, material, _ask(candidate, material.queries))
    queries = list(islice(distinct_queries(_ALONE_SEED), effort.alone))
    for turn in range(_TURNS):
        say(f"All alone in turns, {turn + 1} of {_TURNS}")
        for candidate in going():
            with _reason(candidate.peer, reasons, say):
                _ask(candidate, material.queries[:_WARM_UP])
                load = _ask(candidate, queries[turn::_TURNS])
                candidate.latencies_ms += _searched(candidate, material, load)
    for candidate in going():
        with _reason(candidate.peer, reasons, say):
            say(f"{candidate.peer.name}: under load")
            candidate.searches_per_s = _rate(candidate, effort.seconds)
            candidate.memory_mb = candidate.child.resident_mb()
            if (status := candidate.child.ended()) is not None:
                raise PeerFailed(f"It ended with status {status} under load. {candidate.child.words()}")


# ---------------------------------------------------------------- one peer


def _wait(peer: Peer, material: Material, child: Child, url: str) -> float:
    """Seconds from the start to the first answer that is one. Raises `PeerFailed`."""
    said = ""
    with httpx.Client(trust_env=False, timeout=_ASK_S) as http:
        while time.perf_counter() < child.started + _START_S:
            if (status := child.ended()) is not None:
                raise PeerFailed(f"It ended with status {status} while it started. {child.words()}")
            try:
                answer = http.post(f"{url}{peer.path}", content=peer.body(material.queries[0]), headers=_JSON)
                said = f"The last answer was {answer.status_code}: {answer.text[:200]}"
                if answer.status_code == httpx.codes.OK:
                    peer.found(material, answer.json())
                    return time.perf_counter() - child.started
            except (httpx.TransportError, LookupError, TypeError, ValueError):
                pass  # not yet: the port is closed, or the answer says that it isn't ready
            time.sleep(_ASK_AGAIN_S)
    raise PeerFailed(f"It gave no search result in {_START_S:.0f} s. {said} {child.words()}")


def _ask(candidate: _Candidate, queries: Sequence[str]) -> Load:
    """Asks one after the other and keeps the answers. Raises `PeerFailed` when one is an error."""
    peer = candidate.peer
    try:
        load = closed_loop(f"{candidate.url}{peer.path}", [peer.body(query) for query in queries], keep_bodies=True)
    except subprocess.SubprocessError as error:
        raise PeerFailed(f"It does not answer in time ({type(error).__name__}). {candidate.child.words()}") from error
    if load.errors:
        raise PeerFailed(f"It fails to answer: {load.errors}. {candidate.child.words()}")
    return load


def _found(peer: Peer, material: Material, answer: Answer) -> list[str]:
    try:
        return peer.found(material, orjson.loads(answer.body or ""))
    except (LookupError, TypeError, ValueError) as error:
        raise PeerFailed(f"An answer holds no pictures ({error}): {(answer.body or '')[:200]}") from error


def _recall(candidate: _Candidate, material: Material, load: Load) -> float:
    """The share of the true ten nearest that its answers hold."""
    return fmean(
        len(set(_found(candidate.peer, material, answer)) & material.best[answer.request])
        / len(material.best[answer.request])
        for answer in load.answers
    )


def _searched(candidate: _Candidate, material: Material, load: Load) -> list[float]:
    """Latencies in ms up to the pictures: what the caller does with an answer counts, be it the search itself."""
    latencies = []
    for answer in load.answers:
        started = time.perf_counter()
        _found(candidate.peer, material, answer)
        latencies.append(answer.latency_ms + (time.perf_counter() - started) * 1000)
    return latencies


def _rate(candidate: _Candidate, seconds: float) -> float:
    """The most searches a second that keep the limit; 0 for a peer that does not keep it alone."""
    latency = Latency.of(candidate.latencies_ms)
    if latency.p95 >= LIMIT_MS:
        return 0.0
    url, peer = f"{candidate.url}{candidate.peer.path}", candidate.peer
    fresh = distinct_queries(_LOAD_SEED)

    def bodies(count: float) -> list[str]:
        return [peer.body(query) for query in islice(fresh, max(int(count), 1))]

    def attempt(rate: float) -> Load:
        closed_loop(url, bodies(1))  # lets what the attempt before left behind be done
        return open_loop(url, bodies(max(rate * seconds, _LEAST_REQUESTS)), rate)

    most = bodies(_CLIENTS * seconds * 1000 / latency.p50)
    try:
        capacity = closed_loop(url, most, clients=_CLIENTS, seconds=seconds)
        return sustained(attempt, _ROOM * capacity.per_second, LIMIT_MS, _HALVINGS)[0]
    except subprocess.SubprocessError as error:
        raise PeerFailed(f"It hangs under load ({type(error).__name__}). {candidate.child.words()}") from error


# ---------------------------------------------------------------- telling

_JSON: Final = {"Content-Type": "application/json"}

_NOTES: Final = (
    (
        "Alone: p50, p95, p99. Under load: searches_per_s, the highest rate of Poisson arrivals with p95 < 50 ms. "
        "x_p50, x_p95, x_searches: how many times Sightline is better. start_s: until the first search is answered. "
        "memory_mb: resident after the load, all processes. index_s: from the picture files, with starting and loading "
        "the model."
    ),
    (
        "recall@10: against all vectors of plain open_clip in float32. Peers serve these very vectors; Sightline makes "
        "its own from the files."
    ),
)


def _ratios(row: Mapping[str, Figure], ours: Mapping[str, Figure]) -> dict[str, Figure]:
    """How many times Sightline is faster, and does more searches; nothing where either has no such figure."""
    return {
        name: better / worse
        for name, better, worse in (
            ("x_p50", row.get("p50_ms"), ours.get("p50_ms")),
            ("x_p95", row.get("p95_ms"), ours.get("p95_ms")),
            ("x_searches", ours.get("searches_per_s"), row.get("searches_per_s")),
        )
        if isinstance(better, float) and isinstance(worse, float) and worse > 0
    }


def _targets(rows: Sequence[Mapping[str, Figure]]) -> list[Target]:
    """Sightline ahead of every peer that ran, alone and under load."""
    return [
        Target(f"{what} of {row['peer']}, times Sightline's", ratio, ">=", 1.0)
        for row in rows
        if row["peer"] != "sightline"
        for name, what in (("x_p95", "p95"), ("x_searches", "time per search under load"))
        if isinstance(ratio := row.get(name), float)
    ]
