"""The servers of `docs/production/` and the settings that name them: as Docker Compose and Sightline read them.

No image can be fetched here, so nothing is started but Redis, with the options that it would have there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import make_url

from engine.conformance.check import PARTS, verdicts
from engine.settings import Settings
from indexing.conformance.postgresql import POSTGRESQL
from tests.support.redis import RedisServer

FOLDER = Path(__file__).parents[2] / "docs/production"
COMPOSE = FOLDER / "compose.yaml"
EXAMPLE = FOLDER / "example.env"
SECRETS = {"QDRANT_API_KEY": "one", "REDIS_PASSWORD": "two", "POSTGRES_PASSWORD": "three"}
NAME = re.compile(r"^([A-Z_]+)=(.*)$", re.MULTILINE)


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """The example with its passwords written into it, as a person would."""
    text = EXAMPLE.read_text()
    for name, secret in SECRETS.items():
        assert f"\n{name}=\n" in text
        text = text.replace(f"\n{name}=\n", f"\n{name}={secret}\n")
    path = tmp_path / ".env"
    path.write_text(text)
    return path


@pytest.fixture
def settings(environment: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What Sightline makes of it."""
    for name, _ in NAME.findall(EXAMPLE.read_text()):
        monkeypatch.delenv(name, raising=False)
    return Settings(_env_file=environment)


def services() -> dict[str, dict[str, Any]]:
    """The services as they are written."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def compose(environment: Path) -> subprocess.CompletedProcess[str]:
    """What Docker Compose makes of the file; it needs no engine for that."""
    command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    assert shutil.which(command[0]), "Docker Compose is missing: run tools/install-test-programs, or install it"
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    return subprocess.run(
        [*command, "--env-file", str(environment), "--file", str(COMPOSE), "config"],
        env=clean,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.programs
def test_compose_accepts_the_file(environment: Path):
    """With every password in its place."""
    done = compose(environment)
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)["services"]
    assert set(read) == {"qdrant", "redis", "postgres"}
    assert read["qdrant"]["environment"]["QDRANT__SERVICE__API_KEY"] == SECRETS["QDRANT_API_KEY"]
    assert read["redis"]["environment"]["REDISCLI_AUTH"] == SECRETS["REDIS_PASSWORD"]
    assert read["postgres"]["environment"]["POSTGRES_PASSWORD"] == SECRETS["POSTGRES_PASSWORD"]


@pytest.mark.programs
@pytest.mark.parametrize("name", SECRETS)
def test_compose_starts_nothing_without_a_password(environment: Path, name: str):
    """None of the three may be left empty."""
    environment.write_text(environment.read_text().replace(f"{name}={SECRETS[name]}\n", f"{name}=\n"))
    done = compose(environment)
    assert done.returncode != 0
    assert "write a password into .env" in done.stderr


@pytest.mark.programs
async def test_its_redis_is_one_to_rely_on(environment: Path, settings: Settings, tmp_path: Path):
    """`sightline check` says yes to a Redis with these options, whose password is that of REDIS_URL."""
    program, *options = yaml.safe_load(compose(environment).stdout)["services"]["redis"]["command"]
    assert program == "redis-server"
    [redis] = [part for part in PARTS if part.name == "Redis"]
    with RedisServer(tmp_path, *options) as server:
        url = settings.redis_url.get_secret_value().replace(":6379/", f":{server.port}/")
        here = Settings(_env_file=None, redis_url=url, redis_timeout_ms=20_000)
        found = [verdict async for verdict in verdicts(redis, here)]
    assert [verdict for verdict in found if not verdict.holds] == []


def test_every_name_means_something(settings: Settings):
    """It is a setting of Sightline, or a value that the file asks for; and all that the file asks for is there."""
    names = [name for name, _ in NAME.findall(EXAMPLE.read_text())]
    asked = set(re.findall(r"\$\{([A-Z_]+)", COMPOSE.read_text()))
    assert [name for name in names if name.lower() not in Settings.model_fields and name not in asked] == [
        "COMPOSE_PROJECT_NAME"
    ]
    assert asked <= set(names)
    mentioned = re.findall(r"\b(?:QDRANT|REDIS|INDEX)_(?!_)[A-Z_]+\b", COMPOSE.read_text())
    assert [name for name in mentioned if name.lower() not in Settings.model_fields and name not in names] == []
    assert all(part.is_named(settings) for part in (*PARTS, POSTGRESQL))


def test_the_addresses_are_those_of_the_servers(settings: Settings):
    """Ports, users and passwords agree."""
    published = {name: service["ports"][0].rsplit(":", 1)[0] for name, service in services().items()}
    assert settings.qdrant_url == f"http://{published['qdrant']}"
    assert settings.qdrant_api_key.get_secret_value() == "one"
    assert settings.redis_url.get_secret_value() == f"redis://:two@{published['redis']}/0"
    url = make_url(settings.index_database_url.get_secret_value())
    given = services()["postgres"]["environment"]
    assert f"{url.host}:{url.port}" == published["postgres"]
    assert (url.username, url.password, url.database) == (given["POSTGRES_USER"], "three", given["POSTGRES_DB"])


@pytest.mark.parametrize("name", ["qdrant", "redis", "postgres"])
def test_every_server_is_pinned_watched_and_for_this_machine(name: str):
    """An image of one version, a health check, ports of the loopback address, and a volume unless it is a cache."""
    service = services()[name]
    assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+(\.\d+)?(-alpine)?", service["image"])
    assert service["healthcheck"]["test"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    volumes = yaml.safe_load(COMPOSE.read_text())["volumes"]
    kept = [volume.split(":")[0] for volume in service.get("volumes", [])]
    assert kept == ([] if name == "redis" else [name])
    assert set(kept) <= set(volumes)
