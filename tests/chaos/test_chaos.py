from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.story import Story

SEED = 2026
KILLS = 50


@pytest.mark.programs
async def test_an_index_is_as_if_nothing_had_happened_after_fifty_kills(tmp_path: Path):
    """Jobs, index server, PostgreSQL and Redis are killed at random instants; nothing is lost, doubled or wrong."""
    report = await Story(tmp_path, SEED, KILLS).tell()
    assert len(report.kills) == KILLS
