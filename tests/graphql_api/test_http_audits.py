from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.graphql_api.live import Api

pytestmark = pytest.mark.programs

AUDITS = Path(__file__).parent / "audits"
COUNT = 61


@pytest.fixture(scope="session")
def node() -> str:
    """The Node.js program; without it these tests fail, for a server nobody audited is not known to be right."""
    found = shutil.which("node")
    if found is None:
        pytest.fail("Node.js is missing: `apt-get install nodejs npm`, or run the tests with `make test`.")
    if not (AUDITS / "node_modules" / "graphql-http").is_dir():
        install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(install, cwd=AUDITS, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"The audits can't be installed. In {AUDITS.name}/: {' '.join(install)} says\n{done.stderr}")
    return found


def test_every_audit_of_graphql_over_http_passes(node: str, api: Api):
    """The graphql-http suite finds nothing, not even a recommendation, that the server does otherwise."""
    command = [node, "audit.mjs", f"{api.url}/graphql"]
    done = subprocess.run(command, cwd=AUDITS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    audits = json.loads(done.stdout)
    assert len(audits) == COUNT
    assert [audit for audit in audits if audit["status"] != "ok"] == []
