"""Grafana's dashboards, as code. Only who changes them imports this: it needs grafana-foundation-sdk.

`python -m observability.dashboards FOLDER` writes them; `make chart` does so for the chart.
"""

from __future__ import annotations

import json

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from observability.dashboards.engine import engine
from observability.dashboards.operations import operations
from observability.dashboards.service import service


def written() -> dict[str, str]:
    """The dashboards as files, by name: JSON with sorted keys, so that a change shows as what it is."""
    boards = {"service": service(), "engine": engine(), "operations": operations()}
    return {
        f"{name}.json": json.dumps(board, cls=JSONEncoder, sort_keys=True, indent=1) + "\n"
        for name, board in boards.items()
    }
