"""What a benchmark says: rows of figures, targets met or missed, and the machine that they are true for.

Every benchmark prints the same two forms, a table for people and JSON for other programs. A figure without its machine
means little, so the report carries the processor and those of its instruction sets that decide how fast a model runs.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

Figure = float | int | str | bool | None

_FEW: Final = 8  # columns that fit beside each other

_FLAGS: Final = (
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "bf16",
    "i8mm",
)
"""Instruction sets that a model's speed depends on, by Linux's names for them."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it was measured: `cores` this process may use, `memory_gb` installed, `flags` of the processor."""

    processor: str
    cores: int
    memory_gb: float
    flags: tuple[str, ...]
    python: str


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of a distribution in milliseconds, over `count` measurements."""

    count: int
    p50: float
    p90: float
    p95: float
    p99: float
    mean: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Latency:
        """The percentiles of at least one measurement."""
        p50, p90, p95, p99 = (float(value) for value in np.percentile(milliseconds, (50, 90, 95, 99)))
        return cls(len(milliseconds), p50, p90, p95, p99, float(np.mean(milliseconds)))

    def row(self) -> dict[str, Figure]:
        """The percentiles as columns of a report."""
        return {"p50_ms": self.p50, "p95_ms": self.p95, "p99_ms": self.p99}


@dataclass(frozen=True, slots=True)
class Target:
    """What was aimed at: `measured` has to be `relation` `limit` ("<" a latency, ">=" a recall)."""

    name: str
    measured: float
    relation: Literal["<", ">="]
    limit: float

    @property
    def met(self) -> bool:
        """Whether it was reached."""
        return self.measured < self.limit if self.relation == "<" else self.measured >= self.limit


def this_machine() -> Machine:
    """The machine that this process runs on; what can't be found out is left empty."""
    facts = _cpu_facts()
    words = set((facts.get("flags") or facts.get("Features") or "").split())
    return Machine(
        processor=facts.get("model name") or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        flags=tuple(flag for flag in _FLAGS if flag in words),
        python=platform.python_version(),
    )


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one run. Each row is one of the things compared; `setup` says what was done, for a repetition."""

    title: str
    setup: Mapping[str, Figure]
    rows: Sequence[Mapping[str, Figure]]
    targets: Sequence[Target] = ()
    notes: Sequence[str] = ()
    machine: Machine = field(default_factory=this_machine)

    def as_json(self) -> dict[str, Any]:
        """All of it as plain JSON values, each target with whether it was met."""
        body = asdict(self)
        body["targets"] = [{**asdict(target), "met": target.met} for target in self.targets]
        return body

    def _table(self) -> Table:
        """The rows as they are, or on their side when their figures are too many for the width of a terminal."""
        names = list(dict.fromkeys(column for row in self.rows for column in row))
        lines = [[_shown(row.get(name)) for name in names] for row in self.rows]
        if len(names) > max(_FEW, len(lines)):
            names, *lines = [list(line) for line in zip(names, *lines, strict=True)]
        table = Table(title=self.title, title_justify="left", box=None, header_style="dim")
        for at, name in enumerate(names):
            table.add_column(name, justify="left" if at == 0 else "right", overflow="fold")
        for line in lines:
            table.add_row(*line)
        return table

    def show(self, console: Console) -> None:
        """Prints a table, the targets and the machine."""
        console.print(self._table())
        for target in self.targets:
            verdict = "[green]met[/green]" if target.met else "[red]missed[/red]"
            console.print(
                f"{verdict}  {target.name}: {_shown(target.measured)} (target {target.relation} {_shown(target.limit)})"
            )
        for note in self.notes:
            console.print(note, style="dim", markup=False)
        console.print(", ".join(f"{name} {_shown(value)}" for name, value in self.setup.items()), style="dim")
        machine = self.machine
        console.print(
            f"{machine.processor}, {machine.cores} cores, {machine.memory_gb:.0f} GB, {' '.join(machine.flags)}",
            style="dim",
        )


def repeat(work: Callable[[], object], times: int, warm_up: int = 3) -> list[float]:
    """How many milliseconds `work` takes, `times` times, after a few calls that are not counted."""
    for _ in range(warm_up):
        work()
    measured: list[float] = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        measured.append((time.perf_counter() - started) * 1000)
    return measured


def _cpu_facts() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _shown(value: Figure) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"  # noqa: PLR2004 - where decimals stop mattering
        case _:
            return value
