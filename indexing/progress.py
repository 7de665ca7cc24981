"""What a person sees of a run: a bar with pictures per second and the time left, and in the end what became of it.

Where nobody watches, in a log or a pipe, there is no bar but a line now and then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from indexing.decode import Reason
from indexing.report import Report
from indexing.sharding import WHOLE

_LINE_EVERY_S: Final = 15.0
_DRAWN_PER_S: Final = 4  # while the bar is drawn, nothing else in Python moves
_NAMED: Final = 3
_SAID: Final = {
    "reading": "Looking for pictures",
    "loading the model": "Loading the model",
    "deleting": "Removing what is gone",
    "checking": "Checking",
    "optimizing": "Building the search graph",
    "promoting": "Switching over",
}


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} pictures/s" if task.speed else "", style="progress.data.speed")


class TerminalProgress:
    """A bar on a terminal, lines elsewhere; use it as a context manager. `on_stage` hears every step first."""

    def __init__(self, console: Console, on_stage: Callable[[str], None] = lambda _: None) -> None:
        self._console = console
        self._on_stage = on_stage
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Speed(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[skipped]}"),
            console=console,
            disable=not console.is_terminal,
            refresh_per_second=_DRAWN_PER_S,
        )
        self._total = self._done = self._skipped = 0
        self._begun = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def stage(self, name: str) -> None:
        """Says what is done now, if it is worth a line."""
        if name in _SAID:
            self._bar.stop()
            self._say(f"{_SAID[name]} …")
        self._on_stage(name)

    def start(self, total: int) -> None:
        """Begins a bar for so many files."""
        self._total, self._done, self._skipped = total, 0, 0
        self._begun = self._last_line = time.monotonic()
        self._bar.add_task("Indexing", total=total, skipped="")
        self._bar.start()

    def advance(self, key: str, reason: Reason | None) -> None:  # noqa: ARG002 - the summary names files
        """Counts a file."""
        self._done += 1
        self._skipped += reason is not None
        newest = self._bar.task_ids[-1]
        self._bar.update(newest, advance=1, skipped=f"{self._skipped} skipped" if self._skipped else "")
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            speed = self._done / (now - self._begun)
            left = (self._total - self._done) / speed
            self._say(f"{self._done} of {self._total}, {speed:.0f} pictures/s, {left:.0f} s left")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_summary(report: Report, console: Console) -> None:
    """A table of what was indexed, unchanged, removed and skipped and why, then where the rest is written."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(justify="right")
    table.add_column()
    pace = ""
    if report.indexed and report.encoding_seconds:
        pace = f", {report.indexed / report.encoding_seconds:.0f} pictures/s once the model was loaded"
    table.add_row(str(report.indexed), f"indexed in {report.seconds:.1f} s{pace}")
    table.add_row(str(report.unchanged), "unchanged")
    if report.deleted:
        table.add_row(str(report.deleted), "removed, because their files are gone")
    for reason, keys in report.skipped.items():
        table.add_row(str(len(keys)), Text(f"skipped: {Reason(reason).sentence} {_names(keys)}"))
    for problem in report.problems[:_NAMED]:
        table.add_row("!", Text(f"{_shown(problem.key)}: {problem.sentence}"))
    if len(report.problems) > _NAMED:
        table.add_row("!", f"and {len(report.problems) - _NAMED} more warnings")
    console.print(table)
    resumed = " An interrupted run was continued." if report.resumed else ""
    if report.shard != WHOLE or not report.manifest:
        said = f"Generation {report.generation} has {report.total} pictures in {report.shard}. When every shard is "
        said += f"done: `sightline generations finish {report.generation} --index {report.index}`."
        console.print(said, markup=False, highlight=False, soft_wrap=True)
        return
    if report.held:
        said = f"Generation {report.generation} of {report.total} pictures is ready. To have it serve: "
        said += f"`sightline generations promote {report.generation} --index {report.index}`.{resumed}"
    else:
        said = f"Index {report.index!r} serves {report.total} pictures.{resumed}"
    lines = [
        said,
        f"What became of every file: {report.manifest}",
    ]
    if report.replaced:
        lines.append(
            f"Before, this index was of {report.replaced}. `sightline generations rollback` brings that back, and "
            "`--index NAME` keeps folders apart."
        )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _names(keys: list[str]) -> str:
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return f"({', '.join(map(_shown, keys[:_NAMED]))}{more})"


def _shown(key: str) -> str:
    """A file's name without characters that a terminal would obey."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in key)
