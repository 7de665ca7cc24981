"""The driver with the peers written by hand, which run in this very environment; no test installs another."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engine.errors import BadUserInput
from indexing.bench.peers.catalogue import PEERS
from indexing.bench.peers.driver import Effort, run
from indexing.bench.peers.environments import environment
from indexing.bench.peers.processes import PeerFailed
from indexing.bench.report import Report

pytestmark = pytest.mark.bench

LITTLE = Effort(alone=12, judged=10, seconds=0.5)


def here(_name: str) -> Path:
    """Every environment is this one: it has open_clip and a web server, but no faiss."""
    return Path(sys.executable)


def mentioning(word: str) -> list[str]:
    """The processes that have `word` in their command line or environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = [(process / file).read_bytes().decode(errors="replace") for file in ("cmdline", "environ")]
        except OSError:  # it has ended, or is another user's
            continue
        if any(word in text for text in told):
            found.append(told[0].replace("\0", " "))
    return found


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("peers")


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def report(work: Path, said: list[str]) -> Report:
    return run(
        "sightline-small",
        60,
        ["faiss", "numpy", "sightline"],
        work=work,
        effort=LITTLE,
        environments=here,
        say=said.append,
    )


def test_each_peer_that_was_asked_for_has_a_row_in_the_catalogues_order(report: Report) -> None:
    assert [row["peer"] for row in report.rows] == ["sightline", "numpy", "faiss"]


def test_exact_search_finds_all_of_the_truth(report: Report) -> None:
    assert report.rows[1]["recall@10"] == 1.0


def test_sightline_is_measured_through_its_own_commands(report: Report) -> None:
    ours = report.rows[0]
    assert "stopped" not in ours
    assert ours["recall@10"] >= 0.9  # type: ignore[operator] # a figure of a row that did not stop is a number
    assert (ours["x_p50"], ours["x_p95"]) == (1.0, 1.0)


@pytest.mark.parametrize("at", [0, 1])
def test_every_row_has_all_figures(report: Report, at: int) -> None:
    row = report.rows[at]
    for figure in ("p50_ms", "p95_ms", "p99_ms", "start_s", "memory_mb", "index_s"):
        assert isinstance(row[figure], float), figure
        assert row[figure] > 0, figure  # type: ignore[operator] # it is a float
    assert isinstance(row["searches_per_s"], float)
    assert row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]  # type: ignore[operator] # they are floats


def test_sightline_is_compared_with_every_peer_that_ran_and_only_with_those(report: Report) -> None:
    numpy = report.rows[1]
    assert numpy["x_p50"] == pytest.approx(numpy["p50_ms"] / report.rows[0]["p50_ms"])  # type: ignore[operator] # floats
    assert any("numpy" in target.name for target in report.targets)
    assert not any("faiss" in target.name or "sightline," in target.name for target in report.targets)


def test_a_peer_that_can_not_start_is_a_row_with_the_reason(report: Report, said: list[str]) -> None:
    assert report.rows[2].keys() == {"peer", "stopped"}
    assert "No module named 'faiss'" in str(report.rows[2]["stopped"])
    assert any(line.startswith("faiss stopped") for line in said)


def test_no_process_is_left(report: Report, work: Path) -> None:
    assert report.rows
    assert mentioning(str(work)) == []


def test_the_report_says_how_each_peer_was_run(report: Report) -> None:
    for name in ("sightline", "numpy", "faiss"):
        assert any(note.startswith(f"{name}:") for note in report.notes)


def test_a_peer_without_an_environment_is_a_row_and_without_sightline_nothing_is_compared(work: Path) -> None:
    def only_plain(name: str) -> Path:
        if name != "open-clip":
            raise PeerFailed("Its environment can't be installed.")
        return Path(sys.executable)

    report = run(pictures=60, names=["infinity"], work=work, effort=LITTLE, environments=only_plain)
    assert report.rows == [{"peer": "infinity", "stopped": "Its environment can't be installed."}]
    assert report.targets == []


def test_an_unknown_peer_is_told_which_there_are(work: Path) -> None:
    with pytest.raises(BadUserInput, match=r"no peer jina.*clip-server"):
        run(names=["jina"], work=work, environments=here)


def test_every_environment_is_pinned_with_hashes() -> None:
    folder = Path(run.__code__.co_filename).parent / "requirements"
    asked = {path.stem for path in folder.glob("*.in")}
    assert asked == {path.stem for path in folder.glob("*.lock")} == {"open-clip", *(peer.name for peer in PEERS[3:])}
    for lock in folder.glob("*.lock"):
        text = lock.read_text(encoding="utf-8")
        pins = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
        assert pins
        assert all("==" in pin and pin.endswith("\\") for pin in pins)
        assert "://" not in text


def test_an_environment_that_is_installed_is_not_installed_again(tmp_path: Path) -> None:
    import hashlib  # noqa: PLC0415 - this test alone forges a stamp

    lock = Path(run.__code__.co_filename).parent / "requirements" / "infinity.lock"
    python = tmp_path / "infinity" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    stamp = tmp_path / "infinity" / ".installed"
    stamp.write_text(hashlib.sha256(lock.read_bytes()).hexdigest(), encoding="ascii")
    before = stamp.stat().st_mtime_ns
    assert environment("infinity", tmp_path) == python
    assert stamp.stat().st_mtime_ns == before
