"""One Python environment a peer, made by uv from a lock file with hashes and kept in the user's cache.

The peers exclude each other: they want different versions of NumPy, open_clip and pydantic. `requirements/NAME.in` says
what is asked for and why, `NAME.lock` what was found; uv links packages from its cache, so PyTorch lies there once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Final

from platformdirs import user_cache_path

from indexing.bench.peers.processes import Command, PeerFailed, finish

_REQUIREMENTS: Final = Path(__file__).parent / "requirements"
_PYTHON: Final = "3.11"  # what the lock files are for: the youngest that all peers install on
_STAMP: Final = ".installed"
_TRIES: Final = 4  # a download may break off
_INSTALL_S: Final = 900.0


def environment(name: str, home: Path | None = None) -> Path:
    """The Python of a peer's environment, installed if it is not there or its lock file has changed.

    `home` holds all environments; by default a folder of the user's cache. Raises `PeerFailed`.
    """
    folder = (home or user_cache_path("sightline") / "peers") / name
    lock = _REQUIREMENTS / f"{name}.lock"
    python = folder / "bin" / "python"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    stamp = folder / _STAMP
    if python.is_file() and stamp.is_file() and stamp.read_text(encoding="ascii") == wanted:
        return python
    uv = _uv()
    log = folder.with_name(f"{name}.log")
    if not python.is_file():
        _persist(Command((uv, "venv", "--python", _PYTHON, str(folder))), log)
    _persist(Command((uv, "pip", "sync", "--require-hashes", "--python", str(python), str(lock))), log)
    stamp.write_text(wanted, encoding="ascii")
    return python


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("uv")
    if not found:
        raise PeerFailed("Its environment needs uv. Install it with `pip install uv`.")
    return found


def _persist(command: Command, log: Path) -> None:
    for again in range(_TRIES):
        try:
            finish(command, log, _INSTALL_S)
        except PeerFailed as error:
            if again == _TRIES - 1:
                raise PeerFailed(f"Its environment can't be installed. {error}") from error
            time.sleep(2**again)
        else:
            return
