"""How the operator's process ends when it is told to, whatever the API server does meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.operator.api_server import ApiServer, Fault

ROOT = Path(__file__).parents[2]
GRACE_S = 30
"""What the chart gives its pod."""


@pytest.mark.parametrize("fault", [None, "cut", "broken", "silent"])
async def test_a_signal_ends_it_with_0_whatever_befell_a_visit(tmp_path: Path, fault: Fault | None):
    """In the midst of one; and the Lease is free at once if the API server lets it go."""
    server = ApiServer()
    async with server.running(tmp_path) as kubeconfig, started(kubeconfig) as operator:
        async with asyncio.timeout(60):
            await server.children_asked.wait()
        operator.send_signal(signal.SIGTERM)
        server.fault = fault
        server.held.set()
        async with asyncio.timeout(GRACE_S):
            assert await operator.wait() == 0
    if fault is None:
        assert server.lease
        assert server.lease["spec"]["holderIdentity"] == ""


async def test_a_signal_ends_one_that_waits_for_the_lease(tmp_path: Path):
    """From an API server that says nothing at all."""
    server = ApiServer()
    server.fault = "silent"
    async with server.running(tmp_path) as kubeconfig, started(kubeconfig) as operator:
        async with asyncio.timeout(60):
            await server.lease_asked.wait()
        operator.send_signal(signal.SIGTERM)
        async with asyncio.timeout(GRACE_S):
            assert await operator.wait() == 0


@asynccontextmanager
async def started(kubeconfig: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The operator as a process, gone in the end."""
    operator = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sightline", "operator", "run"),
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "operator")]),
            "KUBECONFIG": str(kubeconfig),
            "QDRANT_URL": "http://127.0.0.1:9",
            "OPERATOR_PORT": "0",
        },
    )
    try:
        yield operator
    finally:
        with suppress(ProcessLookupError):
            operator.kill()
        await operator.wait()
