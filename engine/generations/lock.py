"""One process at a time builds an index, as far as its folder is seen."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import IndexUnavailable


@contextmanager
def folder_lock(folder: Path, index: str) -> Iterator[None]:
    """Held while building. It binds the processes that see this folder, on one machine or by a shared volume.

    Raises `IndexUnavailable` that names the other process. The lock of a process that dies is free at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise IndexUnavailable(
                f"Process {file.read().strip() or 'unknown'} is building index {index!r} right now. Wait until it is "
                "done, or stop it, and run this again: it goes on where that one stopped."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
