"""What a process holds: anonymous memory and mapped files, each page once, and peaks."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

from indexing.bench.memory import Memory, PeakMemory, memory_of

MB = 1_000_000
SIZE = 32 * MB


def touch(mapped: mmap.mmap) -> None:
    """Reads a byte of each page."""
    assert sum(mapped[position] for position in range(0, SIZE, mmap.PAGESIZE)) == 0


def test_a_file_that_is_mapped_twice_counts_once(tmp_path: Path):
    """But twice as `ps` counts; what a process made itself is anonymous."""
    path = tmp_path / "zeros"
    path.write_bytes(bytes(SIZE))
    before = memory_of(os.getpid())
    with path.open("rb") as file:
        mapped = [mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) for _ in range(2)]
        for each in mapped:
            touch(each)
        after = memory_of(os.getpid())
        for each in mapped:
            each.close()
    assert after.files - before.files > 0.8 * SIZE
    assert after.files - before.files < 1.5 * SIZE
    assert after.resident - before.resident > 1.6 * SIZE
    assert after.total == after.anonymous + after.files


def test_the_peak_stays_when_the_memory_is_gone():
    """It is watched until the end, and a process that has ended holds nothing."""
    program = f"import sys; held = bytearray({SIZE}); print(len(held), flush=True); sys.stdin.readline()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        with PeakMemory(process.pid) as watched:
            pass
        process.communicate(b"\n")
    assert watched.peak.anonymous > 0.9 * SIZE
    assert memory_of(process.pid) == Memory()
