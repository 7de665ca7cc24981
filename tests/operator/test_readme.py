"""What the README says is shown, is."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_test_that_the_table_of_promises_names_is_there():
    """A row may name several, and only the first of them with its file."""
    table = (ROOT / "operator/README.md").read_text().split("### Twenty-one promises")[1].split("\n## ")[0]
    named = 0
    rows = re.findall(r"^\| \d+ \|.*$", table, re.MULTILINE)
    assert len(rows) == 21
    for row in rows:
        file = ""
        for given, test in re.findall(r"`((?:system/)?[a-z_]+\.py)?::(\w+)`", row):
            file = given or file
            folder = "tests/e2e" if file.startswith("system/") else "tests/e2e/operator"
            assert f"def {test}(" in (ROOT / folder / file).read_text(), test
            named += 1
    assert named >= 28
