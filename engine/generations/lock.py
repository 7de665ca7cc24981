"""Who may build an index, as far as its folder is seen: one process, or the workers of a generation together."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import IndexBusy


@contextmanager
def folder_lock(folder: Path, index: str, *, shared: bool = False) -> Iterator[None]:
    """Held while building: by one process, or by any number of them that share it.

    It binds the processes that see this folder, on one machine or by a shared volume. Raises `IndexBusy` that names the
    other process. The lock of a process that dies is free at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip()
            raise IndexBusy(
                f"{f'Process {holder} is' if holder else 'Workers are'} building index {index!r} right now. Wait until "
                "that is done, or stop it, and run this again: it goes on where that one stopped."
            ) from error
        file.truncate(0)
        if not shared:
            file.write(str(os.getpid()))
            file.flush()
        yield


@contextmanager
def beginning_lock(folder: Path, index: str) -> Iterator[None]:
    """Held by the one worker of several that begins a generation. Raises `IndexBusy` when another one does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "beginning").open("a", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise IndexBusy(f"Another worker is beginning a generation of index {index!r}. Wait for it.") from error
        yield
