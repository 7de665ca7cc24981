"""The container images that `make images` builds: what is in them, what is not, and that they work as pods run them."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from packaging.requirements import Requirement

from indexing.scenes.dataset import write_scenes
from tests.e2e.images.container import USER, Image, has_rights_of_its_owner, terminate
from tests.test_operator_install import NOWHERE

pytestmark = pytest.mark.programs

ROOT = Path(__file__).parents[3]
LOCKS = {"api": "serving", "indexer": "serving", "operator": "operator"}
LIMITS = {"api": 1_000_000_000, "indexer": 1_000_000_000, "operator": 250_000_000}
PATIENCE_S = 120
FOUND = '{ search(query: "a red boat", first: 3) { edges { node { id } } } health { runtime } }'


@pytest.fixture(scope="session")
def unpacked(image_archives: Path) -> Iterator[Callable[[str], Image]]:
    """Gives an image by its target, unpacked once. On the disk, because they are large for a memory."""
    with TemporaryDirectory(dir=image_archives, prefix="unpacked-") as folder:
        Path(folder).chmod(0o755)

        @cache
        def unpack(target: str) -> Image:
            root = Path(folder) / target
            root.mkdir()
            return Image.unpack(image_archives / f"{target}.tar", root)

        yield unpack


@pytest.fixture(params=LOCKS)
def image(request: pytest.FixtureRequest, unpacked: Callable[[str], Image]) -> Image:
    """Each image in turn."""
    return unpacked(request.param)


def name_of(image: Image) -> str:
    """Its target."""
    return str(image.config["config"]["Labels"]["org.opencontainers.image.title"]).removeprefix("sightline-")


def test_is_small(image: Image):
    """Unpacked, as a node keeps them: 1 GB to serve and to index, 250 MB to look after both."""
    assert image.size < LIMITS[name_of(image)]


def test_says_what_it_is_and_how_to_run_it(image: Image):
    """User, signal, entry point and labels; no health check, because Kubernetes has its own."""
    config = image.config["config"]
    assert config["User"] == f"{USER}:{USER}"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Entrypoint"] == ["sightline"]
    assert "Healthcheck" not in config
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert labels["version"] == version[1]
    assert re.fullmatch("[0-9a-f]{40}", labels["revision"])
    assert labels["licenses"] == "Apache-2.0"
    assert labels["description"]


def test_holds_exactly_what_its_lock_file_says(image: Image):
    """Every distribution in the version of its lock file, Sightline beside them, and nothing else."""
    lines = re.findall(
        r"^([a-z0-9].*) \\$", (ROOT / f"requirements-{LOCKS[name_of(image)]}.lock").read_text(), re.MULTILINE
    )
    python = {"python_full_version": image.python}
    applicable = [one for one in map(Requirement, lines) if one.marker is None or one.marker.evaluate(python)]
    assert image.installed() == {
        "sightline": image.config["config"]["Labels"]["org.opencontainers.image.version"],
        **{one.name: str(one.specifier).removeprefix("==") for one in applicable},
    }


def test_bill_of_materials_lists_all_of_it(image: Image):
    """The SBOM names what is installed, version by version, with licences."""
    sbom = json.loads((image.root / "usr/share/sbom/sightline.cdx.json").read_text())
    assert sbom["bomFormat"] == "CycloneDX"
    listed = {part["name"].lower().replace("_", "-").replace(".", "-"): part for part in sbom["components"]}
    assert {name: part["version"] for name, part in listed.items()} == image.installed()
    assert all(part["purl"].startswith("pkg:pypi/") for name, part in listed.items() if name != "sightline")
    assert sum("licenses" in part for part in listed.values()) > 0.9 * len(listed)


def test_holds_nothing_to_build_with(image: Image):
    """No PyTorch, no installers, no compilers, neither as programs nor as modules."""
    modules = {file.name for file in image.root.glob("opt/sightline/lib/python3*/site-packages/*")}
    assert not modules & {"torch", "open_clip", "pip", "uv", "cyclonedx_py"}
    programs = {
        file.name
        for folder in ("usr/bin", "usr/local/bin", "opt/sightline/bin")
        for file in image.root.glob(f"{folder}/*")
    }
    assert not programs & {"pip", "pip3", "uv", "gcc", "cc", "c++", "make", "ld"}
    assert "sightline" in programs


def test_everything_is_compiled(image: Image):
    """Nothing can be written where it runs, so Python finds its modules compiled: no start compiles them again."""
    sources = image.root.glob("opt/sightline/lib/python3*/site-packages/**/*.py")
    assert not [file for file in sources if not list((file.parent / "__pycache__").glob(f"{file.stem}.cpython-3*.pyc"))]


def test_gives_nobody_more_rights(image: Image):
    """What is laid over the base runs with the rights of who runs it, belongs to root, and only root can change it."""
    assert not [file.name for file in image.late if has_rights_of_its_owner(file)]
    own = {"cache", "data"}
    strange = [file.name for file in image.late if (file.uid, file.gid) != (0, 0) and file.name.strip("./") not in own]
    assert not strange
    assert not [file.name for file in image.late if not file.issym() and file.mode & 0o002]


def test_tells_nothing_of_where_it_was_built(image: Image):
    """No address, secret or folder of the building machine, neither in its history nor in files."""
    told = json.dumps([image.config["history"], image.config["config"]])
    assert "://" not in told
    assert str(ROOT) not in told
    assert str(Path.home()) not in told
    assert not (image.root / "etc/pip.conf").exists()
    assert not list(image.root.glob("run/secrets/*"))
    assert not list(image.root.glob("etc/apt/sources.list.d/*"))
    assert not list(image.root.glob("opt/sightline/lib/python3*/site-packages/*.dist-info/direct_url.json"))
    for file in [
        *image.root.glob("opt/sightline/share/sightline/models/*/model.json"),
        *image.root.glob("opt/sightline/bin/sightline"),
        image.root / "usr/share/sbom/sightline.cdx.json",
    ]:
        text = file.read_text()
        assert str(ROOT) not in text
        assert "file://" not in text


def test_indexes_and_serves(unpacked: Callable[[str], Image], tmp_path: Path):
    """On a read-only root, the small model makes an index of pictures, answers on it, and ends in order."""
    data = tmp_path / "data"
    data.mkdir()
    write_scenes(24, 5, data / "pictures", 128)
    index = {"INDEX_NAME": "scenes"}
    done = unpacked("indexer").run(data, "index", "/data/pictures", timeout_s=PATIENCE_S, **index)
    assert done.returncode == 0, done.stderr
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    settings = {**index, "API_HOST": "127.0.0.1", "API_PORT": port, "API_DRAIN_S": "0"}
    with unpacked("api").running(data, **settings) as container:
        until_answered(f"http://127.0.0.1:{port}/readyz", data / "log")
        answer: Any = httpx.post(f"http://127.0.0.1:{port}/graphql", json={"query": FOUND}, timeout=30).json()
        assert len(answer["data"]["search"]["edges"]) == 3
        assert answer["data"]["health"]["runtime"].startswith("OpenVINO")
        assert terminate(container) == 0, (data / "log").read_text()


def test_operator_helps_and_asks(unpacked: Callable[[str], Image], tmp_path: Path):
    """It prints its help, and without QDRANT_URL it says what it needs."""
    data = tmp_path / "data"
    assert "ImageIndexes" in unpacked("operator").run(data, "operator", "run", "--help").stdout
    (data / "kubeconfig").write_text(NOWHERE)
    asked = unpacked("operator").run(data, KUBECONFIG="/data/kubeconfig")
    assert asked.returncode == 65
    assert "QDRANT_URL is empty" in asked.stderr


def test_operator_ends_when_told(unpacked: Callable[[str], Image], tmp_path: Path):
    """Its probe answers while it waits for a cluster, and SIGTERM ends it in order."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "kubeconfig").write_text(NOWHERE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    settings = {"KUBECONFIG": "/data/kubeconfig", "QDRANT_URL": "http://127.0.0.1:9", "OPERATOR_NAMESPACE": "default"}
    with unpacked("operator").running(data, OPERATOR_HOST="127.0.0.1", OPERATOR_PORT=port, **settings) as container:
        until_answered(f"http://127.0.0.1:{port}/livez", data / "log")
        assert terminate(container) == 0, (data / "log").read_text()


def until_answered(address: str, log: Path) -> None:
    """Returns when a probe says yes."""
    end, pause = time.monotonic() + PATIENCE_S, threading.Event()
    while time.monotonic() < end:
        try:
            if httpx.get(address, timeout=5).is_success:
                return
        except httpx.HTTPError:
            pass
        pause.wait(0.1)
    pytest.fail(f"{address} did not answer:\n{log.read_text()}")
