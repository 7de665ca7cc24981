from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from indexing.bench.peers.processes import Child, Command, PeerFailed, finish, free_port, running

GRANDCHILD = """
import subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
print(subprocess.Popen([sys.executable, "-c", deaf]).pid, flush=True)
time.sleep(60)
"""


def python(code: str) -> Command:
    return Command((sys.executable, "-c", code))


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for_words(log: Path) -> str:
    end = time.monotonic() + 20
    while not (words := log.read_text(encoding="utf-8").strip()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return words


def test_what_a_child_started_ends_with_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(python(GRANDCHILD), log) as child:
        grandchild = int(wait_for_words(log))
        assert set(child.members()) >= {grandchild}
        assert (child.resident_mb() or 0) > 1
    assert not alive(grandchild)


def test_what_a_child_left_behind_ends_too(tmp_path: Path) -> None:
    """The child dies, its own child goes on: a flow whose gateway fails does that."""
    log = tmp_path / "log"
    child = Child(python(GRANDCHILD), log)
    grandchild = int(wait_for_words(log))
    os.kill(next(pid for pid in child.members() if pid != grandchild), signal.SIGKILL)
    child.stop()
    assert not alive(grandchild)
    assert child.members() == []


def test_stopping_twice_does_nothing(tmp_path: Path) -> None:
    child = Child(python("pass"), tmp_path / "log")
    child.stop()
    child.stop()
    assert child.ended() is not None


def test_a_failure_says_what_the_program_said_last(tmp_path: Path) -> None:
    with pytest.raises(PeerFailed, match=r"status 3. It said: first [|] last"):
        finish(python("print('first'); print(); print('last'); raise SystemExit(3)"), tmp_path / "log", 20)


def test_a_program_that_hangs_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(PeerFailed, match=r"longer than 0 s. It said nothing"):
        finish(python("import time; time.sleep(60)"), tmp_path / "log", 0.2)


def test_a_program_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(PeerFailed, match="nowhere can't be started"):
        finish(Command((str(tmp_path / "nowhere"),)), tmp_path / "log", 1)


DRIVER = """
import sys
from pathlib import Path
from indexing.bench.peers.processes import Command, finish, tidy_at_sigterm
with tidy_at_sigterm():
    finish(Command((sys.executable, "-c", sys.argv[1])), Path(sys.argv[2]), 60)
"""


def test_sigterm_ends_the_children_too(tmp_path: Path) -> None:
    log = tmp_path / "inner"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, GRANDCHILD, str(log)])
    end = time.monotonic() + 60
    while not log.exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    grandchild = int(wait_for_words(log))
    driver.terminate()
    assert driver.wait(60) == 128 + signal.SIGTERM
    assert not alive(grandchild)


def test_a_free_port_can_be_bound() -> None:
    assert 0 < free_port() < 65536
