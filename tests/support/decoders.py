"""Decoders that go wrong on purpose, by the name of the file, for the workers to survive."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from indexing.decode import Failure, Outcome, Reason, Rules, decode


def rough(path: str, rules: Rules) -> Outcome:
    """Decodes like the real one, except that files named so hang, crash, eat memory, chatter or raise."""
    name = Path(path).stem
    if name.startswith("hang"):
        while True:
            signal.pause()
    if name.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if name.startswith("eat"):
        try:
            bytearray(2**36)
        except MemoryError:
            return Failure(Reason.OUT_OF_MEMORY)
    if name.startswith("chatter"):
        os.write(1, b"a library that prints\n" * 100)
        sys.stdout.write("and so does Python\n")
        sys.stdout.flush()
    if name.startswith("nonsense"):
        raise RuntimeError("an error that no decoder catches")
    return decode(path, rules)
