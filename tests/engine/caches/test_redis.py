"""What is stored in Redis, and how it is reached. What all caches promise is in test_contract; faults: test_faults."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from engine.caches.redis import RedisCache
from observability import metrics
from tests.engine.caches.conftest import Connect
from tests.support.redis import RedisServer

pytestmark = pytest.mark.programs


def errors(reason: str) -> float:
    """How often that happened so far."""
    value: float = metrics.cache_errors.labels(tier="redis", reason=reason)._value.get()
    return value


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    with RedisServer(tmp_path) as server:
        yield server


async def stored(cache: RedisCache, key: str, value: bytes, ttl_s: float = 60) -> None:
    """Sets and waits until it is there."""
    await cache.set(key, value, ttl_s)
    await cache.settle()


async def test_keys_have_a_prefix_and_values_their_time(server: RedisServer, connect: Connect):
    """Redis is shared with others, and forgets by itself."""
    await stored(connect(server.url), "list:1", b"1", 30)
    assert server.stored() == ["sightline:list:1"]
    assert 0 < int(server.cli("pttl", "sightline:list:1")) <= 30_000


async def test_servers_share_what_they_remember(server: RedisServer, connect: Connect):
    """What one has stored another finds."""
    await stored(connect(server.url), "a", b"1")
    assert await connect(server.url).get_many(["a"]) == [b"1"]


def envelope(version: int, key: str, value: bytes) -> bytes:
    """What is stored, as the module describes it."""
    return b"SL" + struct.pack(">BI", version, zlib.crc32(value, zlib.crc32(key.encode()))) + value


GOOD = envelope(1, "a", b"value")


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"S",
        b"garbage, and enough of it",
        GOOD[:-1],
        GOOD + b"\0",
        GOOD[:-1] + b"E",
        b"sl" + GOOD[2:],
        envelope(0, "a", b"value"),
        envelope(2, "a", b"value"),
        envelope(1, "b", b"value"),
    ],
    ids=[
        "empty",
        "short",
        "garbage",
        "cut",
        "longer",
        "changed",
        "other",
        "older version",
        "newer version",
        "other key",
    ],
)
async def test_what_does_not_fit_its_header_is_a_miss(server: RedisServer, connect: Connect, damaged: bytes):
    """It is counted, and the next value replaces it."""
    cache, before = connect(server.url), errors("value")
    server_value = "".join(f"\\x{byte:02x}" for byte in damaged)
    server.cli("eval", f'redis.call("set", KEYS[1], "{server_value}")', "1", "sightline:a")
    assert await cache.get_many(["a"]) == [None]
    assert errors("value") == before + 1
    await stored(cache, "a", b"value")
    assert await cache.get_many(["a"]) == [b"value"]
    assert server.cli("--no-raw", "get", "sightline:a").encode() == b'"' + _escaped(GOOD) + b'"'


def _escaped(value: bytes) -> bytes:
    """As redis-cli shows it."""
    return b"".join(bytes([b]) if 32 <= b < 127 else b"\\x%02x" % b for b in value)


async def test_a_key_of_another_type_is_a_miss(server: RedisServer, connect: Connect):
    """MGET says nil, and storing replaces it."""
    server.cli("lpush", "sightline:a", "1")
    cache = connect(server.url)
    assert await cache.get_many(["a"]) == [None]
    await stored(cache, "a", b"1")
    assert await cache.get_many(["a"]) == [b"1"]


async def test_many_keys_are_one_request(server: RedisServer, connect: Connect):
    """However many searches there are in a query."""
    cache = connect(server.url)
    await cache.get_many(["warm"])
    server.cli("config", "resetstat")
    await cache.get_many([f"key {number}" for number in range(100)])
    assert "cmdstat_mget:calls=1," in server.cli("info", "commandstats")


async def test_connections_are_bounded_and_kept(server: RedisServer, connect: Connect):
    """So many that ask at once use no more than the pool has, over and over."""
    cache = connect(server.url, redis_pool=3)
    for _ in range(3):
        await asyncio.gather(*(cache.get_many([f"key {number}"]) for number in range(50)))
    received = int(server.cli("info", "stats").split("total_connections_received:")[1].split()[0])
    probes = 1 + 1  # the one that waited for the start, and redis-cli
    assert received <= 3 + probes


async def test_with_its_password_redis_answers(tmp_path: Path, connect: Connect):
    """In the URL, percent-encoded."""
    with RedisServer(tmp_path, "--requirepass", "p@ss word") as server:
        cache = connect(server.url.replace("//", "//:p%40ss%20word@"))
        await stored(cache, "a", b"1")
        assert await cache.get_many(["a"]) == [b"1"]
        assert await cache.ping()


@pytest.mark.parametrize("password", ["", ":wrong-secret@"], ids=["none", "wrong"])
async def test_without_its_password_every_look_is_a_miss(
    tmp_path: Path, connect: Connect, password: str, capfd: pytest.CaptureFixture[str]
):
    """Nobody is told the one that was tried."""
    with RedisServer(tmp_path, "--requirepass", "right-secret") as server:
        cache = connect(server.url.replace("//", f"//{password}"))
        for _ in range(10):
            await stored(cache, "a", b"1")
            assert await cache.get_many(["a"]) == [None]
        assert not await cache.ping()
    logged = "".join(capfd.readouterr())
    assert "searches go on without it" in logged
    assert "secret" not in logged


async def test_over_tls(tmp_path: Path, connect: Connect):
    """rediss:// with one's own authority; a certificate that is not trusted is a miss."""
    certificate, key = _certificate(tmp_path)
    files = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(certificate))
    with RedisServer(tmp_path, "--port", "0", "--tls-port", "{port}", "--tls-auth-clients", "no", *files) as server:
        url = server.url.replace("redis://", "rediss://")
        trusting, strict = connect(f"{url}?ssl_ca_certs={certificate}"), connect(url)
        await stored(trusting, "a", b"1")
        assert await trusting.get_many(["a"]) == [b"1"]
        assert await strict.get_many(["a"]) == [None]


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for the loopback address that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files
