"""Writes every dashboard into a folder: `python -m observability.dashboards charts/sightline/files/dashboards`."""

from __future__ import annotations

import sys
from pathlib import Path

from observability.dashboards import written

for name, text in written().items():
    (Path(sys.argv[1]) / name).write_text(text)
