"""`sightline plan` in words: what people type becomes a request, and a plan becomes what they read."""

from __future__ import annotations

import re

from rich.console import Console
from rich.table import Table

from engine.errors import BadUserInput
from indexing.bench.laws import parse_number
from indexing.capacity import Plan, Request


def parse_duration_ms(text: str) -> float:
    """Milliseconds from "50ms", "0.05s" or "50". Raises `BadUserInput` for anything else."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|)\s*", text)
    if not match:
        raise BadUserInput(f"--p95: {text!r} is no time. Write 50ms or 0.05s.")
    return float(match[1]) * (1000 if match[2] == "s" else 1)


def parse_node(text: str) -> tuple[int, float]:
    """Cores and gigabytes from "16x64". Raises `BadUserInput` for anything else."""
    cores, cross, memory = text.lower().partition("x")
    if not cross or not cores.strip().isdigit():
        raise BadUserInput(f"--node: {text!r} is no node. Write 16x64 for 16 cores and 64 GB.")
    return int(cores), parse_number(memory.strip().removesuffix("gb"), "--node")


def request_of(  # noqa: PLR0913, PLR0917 - the options of the command
    images: str,
    model: str,
    p95: str,
    qps: str,
    recall: float,
    gpu: bool,  # noqa: FBT001 - one of them is yes or no
    originals: str,
    repeated: float,
    node: str,
) -> Request:
    """A request from numbers as people write them. Raises `BadUserInput` that names what can't be read."""
    if originals not in ("ram", "disk"):
        raise BadUserInput(f"--originals: {originals!r} is no place for vectors. Write ram or disk.")
    cores, memory = parse_node(node)
    return Request(
        images=parse_number(images, "--images"),
        model=model,
        p95_ms=parse_duration_ms(p95),
        qps=parse_number(qps, "--qps"),
        recall=recall,
        gpu=gpu,
        originals="ram" if originals == "ram" else "disk",
        repeated=repeated,
        node_cores=cores,
        node_gb=memory,
    )


def show(made: Plan, console: Console) -> None:
    """Prints a plan: figures with what they rest on, what dominates the cost, and the chart's values."""
    notes = list(dict.fromkeys(mark for figure in made.figures for mark in figure.marks))
    table = Table("", "", "", "~", box=None, show_header=False)
    for at, figure in enumerate(made.figures):
        first = at == 0 or made.figures[at - 1].part != figure.part
        marks = " ".join(f"~{notes.index(mark) + 1}" for mark in figure.marks)
        table.add_row(figure.part if first else "", figure.name, figure.text, marks)
    console.print(table)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in made.drivers.items() if share >= 0.01)  # noqa: PLR2004
    console.print(f"Cost: {shares}", markup=False, highlight=False)
    for number, note in enumerate(notes, 1):
        console.print(f"~{number} {note}", style="dim", markup=False, highlight=False)
    machine = made.measured.get("machine", {})
    console.print(
        f"Laws measured {made.measured.get('date')} on {machine.get('processor')}, {machine.get('cores')} cores, by "
        f"`{made.measured.get('command')}`.",
        style="dim",
        markup=False,
        highlight=False,
    )
    console.print("\n# values for the chart", style="dim")
    console.print(made.yaml(), markup=False, highlight=False)
