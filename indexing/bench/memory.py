"""What a process holds in memory, sampled from outside: Edge holds the GIL, so a build can't watch itself.

Linux tells several things apart. Anonymous memory is what a process made itself; only that has to be there. File-backed
memory is what it touched of memory-mapped files: it stays while there is room, and is taken back when there is not. And
resident memory (`ps`, `VmHWM`) counts a page once for each mapping, so what Edge maps twice, which is every vector and
payload, it counts twice. Here a page counts once, and what `ps` would say stands beside it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_EVERY_S: Final = 0.5  # reading takes some ms for each gigabyte
_KB: Final = 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: anonymous, file-backed, both together, and resident as `ps` counts."""

    anonymous: int = 0
    files: int = 0
    total: int = 0
    resident: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(
            self.anonymous + other.anonymous,
            self.files + other.files,
            self.total + other.total,
            self.resident + other.resident,
        )

    def highest(self, other: Memory) -> Memory:
        """The larger value of each."""
        return Memory(
            max(self.anonymous, other.anonymous),
            max(self.files, other.files),
            max(self.total, other.total),
            max(self.resident, other.resident),
        )


def memory_of(process: int) -> Memory:
    """What a process holds now; zeros when it is gone, and elsewhere than on Linux."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    except (OSError, ValueError):
        return Memory()
    told = {name: int(value.split()[0]) * _KB for name, _, value in (line.partition(":") for line in lines)}
    total, anonymous = told.get("Pss", 0), told.get("Pss_Anon", 0)
    return Memory(anonymous, total - anonymous, total, told.get("Rss", 0))


def resident_mb(process: int) -> float | None:
    """Resident megabytes (2^20 bytes) of a process, as `ps` counts, which is quick; None when that can't be told."""
    try:
        lines = Path(f"/proc/{process}/status").read_text("ascii", "replace").splitlines()
    except OSError:  # it has ended, or there is no /proc
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), None)


class PeakMemory:
    """Watches a process from a thread: `with PeakMemory(pid) as watched: …; watched.peak`. Each value's own peak."""

    def __init__(self, process: int) -> None:
        """`process`: its id."""
        self.peak = Memory()
        self._process = process
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        """Begins to watch."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops watching."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak = self.peak.highest(memory_of(self._process))
            if self._done.wait(_EVERY_S):
                return
