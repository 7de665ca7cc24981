"""How many processors this process may keep busy: in a container, that is not how many the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(quota: Path = _QUOTA) -> int:
    """Cores that this process may use: its affinity, or its container's limit if that is less; at least 1.

    A model with a thread for each of 64 cores, limited to the time of two of them, is stopped for most of each 100 ms.
    """
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        limit, period = quota.read_text(encoding="ascii").split()
        return max(1, min(there, math.ceil(int(limit) / int(period))))
    except (OSError, ValueError):  # no such limit, or "max"
        return there
