"""The operator's install: only what it imports."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
UV = Path(sys.executable).with_name("uv")

NOWHERE = """
apiVersion: v1
kind: Config
current-context: nowhere
contexts: [{name: nowhere, context: {cluster: nowhere, user: nobody}}]
clusters: [{name: nowhere, cluster: {server: "http://127.0.0.1:9"}}]
users: [{name: nobody, user: {}}]
"""
"""A cluster that is not there, at the discard port: enough to be asked for everything else."""

IMPORT = """
import sys
from importlib.metadata import packages_distributions

owners, allowed = packages_distributions(), set(sys.argv.pop().split())


class Lock:
    def find_spec(self, name, path=None, target=None):
        if path is None and owners.get(name) and not allowed & {o.lower().replace("_", "-") for o in owners[name]}:
            raise ModuleNotFoundError(f"{name} is not in requirements-operator.lock")


sys.meta_path.insert(0, Lock())
import sightline

sys.argv = ["sightline", "operator", "run"]
sightline.main()
"""


def versions(lock: str) -> dict[str, str]:
    """Names and versions of a lock file, with the environments that they are for."""
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[[^]]*\])?==(.*?) \\$", (ROOT / lock).read_text(), re.MULTILINE))


def test_group_follows_the_dependencies():
    """What the operator needs is part of what the project needs, in the same versions, and without the heavy ones."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    operator = set(project["dependency-groups"]["operator"])
    assert operator < set(project["project"]["dependencies"])
    locked = versions("requirements-operator.lock")
    assert {re.split(r"[\[<>=;\s]", requirement)[0] for requirement in operator} <= set(locked)
    assert locked.items() <= versions("requirements.lock").items()
    assert not {"httpx", "numpy", "openvino", "pillow", "pyarrow", "skia-python", "torch"} & set(locked)


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    """The file that names `NOWHERE`."""
    file = tmp_path / "kubeconfig"
    file.write_text(NOWHERE)
    return file


def test_operator_imports_only_what_its_lock_file_has(kubeconfig: Path):
    """The operator starts, as far as its first question, where nothing else can be imported."""
    allowed = " ".join(["sightline", *versions("requirements-operator.lock")])
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, allowed],
        env={
            **os.environ,
            "QDRANT_URL": "",
            "KUBECONFIG": str(kubeconfig),
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "operator"))),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "is not in requirements-operator.lock" not in done.stderr
    assert done.returncode == 65
    assert "QDRANT_URL is empty" in done.stderr


@pytest.mark.programs
def test_install_of_the_operator(tmp_path: Path, kubeconfig: Path):
    """Installed from its own lock file it takes under 110 MB, and asks for what it needs."""
    home, python = tmp_path / "operator", tmp_path / "operator" / "bin" / "python"
    lock = ROOT / "requirements-operator.lock"
    install = [UV, "pip", "install", "--quiet", "--python", python, "--no-deps"]
    for command in (
        [UV, "venv", "--quiet", "--python", sys.executable, home],
        [*install, "--require-hashes", "--requirement", lock],
        [UV, "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable, "-o", tmp_path, ROOT],
    ):
        subprocess.run(command, check=True, timeout=600)
    size = sum(file.stat().st_size for file in home.rglob("*") if file.is_file() and not file.is_symlink())
    assert size < 110_000_000
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*install, wheel], check=True, timeout=600)

    environment = {"PATH": os.environ["PATH"], "KUBECONFIG": str(kubeconfig)}
    words = [python, "-m", "sightline", "operator", "run"]
    done = subprocess.run(words, env=environment, cwd="/", capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 65
    assert "QDRANT_URL is empty" in done.stderr
