"""What a run tells: how it goes on, and in the end what it did."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from indexing.decode import Reason
from indexing.sharding import WHOLE, Shard
from indexing.sources import Problem


class Progress(Protocol):
    """Hears how a run goes on. It may raise to end the run, and the run can be continued like any other."""

    def stage(self, name: str) -> None:
        """A step begins: reading, encoding, writing, deleting, checking, optimizing, promoting and others."""
        ...

    def start(self, total: int) -> None:
        """So many files have to be decoded."""
        ...

    def advance(self, key: str, reason: Reason | None) -> None:
        """One file is done; None means that it will be indexed."""
        ...


@dataclass(slots=True)
class Report:
    """What a run did. `skipped` has every file that is not in the index, from this run or an earlier one, by reason.

    `total` is how many pictures the generation has now, of a worker's shard if the run did one; `generation` has its
    `manifest` when it is complete; `resumed` tells that an interrupted run was continued, `changed` that a new
    generation was promoted, `held` that it was left to be promoted by a person. `recall` is what the verification of a
    new one measured. `replaced` is the source that the index was made from before, if that was another one. `seconds`
    is the whole run, `encoding_seconds` the part from the first file to the last, without loading the model and
    building the graph.
    """

    index: str
    source: str
    shard: Shard = WHOLE
    indexed: int = 0
    unchanged: int = 0
    deleted: int = 0
    total: int = 0
    skipped: dict[str, list[str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    generation: str = ""
    manifest: Path | None = None
    resumed: bool = False
    changed: bool = False
    held: bool = False
    recall: float | None = None
    replaced: str | None = None
    seconds: float = 0.0
    encoding_seconds: float = 0.0
