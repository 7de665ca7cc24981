"""A private PostgreSQL for tests, from Debian's programs, that can be killed and started again on the same data."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql

PASSWORD = "a-secret%that/never:shows@up"  # noqa: S105 - of a server that lives for a test
USER = "sightline"

_BOUND_S = 60
_MEMORY = Path("/dev/shm")  # noqa: S108 - a place for the disk's work, not for secrets


class Postgres:
    """A server on a free loopback port, its data in a temporary folder. Its language sorts unlike code points.

    PostgreSQL refuses to run as root, so for root it runs as the user that Debian made for it, or as nobody. `durable`
    has it flush to the disk as in production.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._programs = _find_programs()
        self._owner = _unprivileged() if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="sightline-postgres-", dir=_MEMORY if _MEMORY.is_dir() else None))
        self._data = self._folder / "data"
        self._durable = durable
        self._process: subprocess.Popen[str] | None = None
        self._log: list[str] = []
        self.port = _free_port()
        if self._owner:
            os.chown(self._folder, self._owner.pw_uid, self._owner.pw_gid)
        try:
            self._make()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Starts it, after a kill on what that one left, and returns when it answers."""
        until = time.monotonic() + _BOUND_S
        # Processes of a server that was killed hold its memory until they notice; PostgreSQL refuses to start so long.
        while not self._start():
            assert time.monotonic() < until, "PostgreSQL does not start:\n" + "".join(self._log[-20:])

    def stop(self) -> None:
        """Ends it at once; connections to it break."""
        if self._process:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(_BOUND_S)
            self._process = None

    def kill(self) -> None:
        """SIGKILL to it and to all of its processes, as if the machine had lost its power."""
        assert self._process, "it does not run"
        number = self._process.pid
        children = Path(f"/proc/{number}/task/{number}/children").read_text(encoding="ascii").split()
        for each in (number, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self._process.wait(_BOUND_S)
        self._process = None

    def url(self, database: str, password: str = PASSWORD) -> str:
        """The address of a database, with the password in it."""
        hidden = "".join(f"%{ord(letter):02X}" for letter in password)
        return f"postgresql://{USER}:{hidden}@127.0.0.1:{self.port}/{database}"

    def create(self, template: str = "template1") -> str:
        """The name of a new database, a copy of `template`."""
        name = f"test_{secrets.token_hex(6)}"
        self.run(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
        return name

    def drop(self, database: str) -> None:
        """Removes a database, whoever is connected."""
        self.run(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))

    def run(self, statement: sql.Composable | str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Runs one statement and returns its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def _make(self) -> None:
        secret = self._folder / "password"
        secret.write_text(PASSWORD, encoding="ascii")
        secret.chmod(0o644)
        options = ["--username", USER, "--pwfile", str(secret), "--auth", "scram-sha-256", "--encoding", "UTF8"]
        options += ["--locale", "C", "--locale-provider", "icu", "--icu-locale", "en", "--no-sync"]
        made = self._popen("initdb", "--pgdata", str(self._data), *options)
        told, _ = made.communicate(timeout=_BOUND_S)
        assert made.returncode == 0, told

    def _start(self) -> bool:
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "on" if self._durable else "off",
            "max_connections": "50",
            "shared_buffers": "16MB",
        }
        flags = [flag for name, value in options.items() for flag in ("-c", f"{name}={value}")]
        self._process = self._popen("postgres", "-D", str(self._data), "-p", str(self.port), *flags)
        ready = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(self._process, ready), daemon=True)
        self._reader.start()
        assert ready.wait(_BOUND_S), "PostgreSQL does not start:\n" + "".join(self._log[-20:])
        if self._process.poll() is None:
            return True
        self._process = None
        return False

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        """Reads all it says, until its last process is gone."""
        assert process.stdout
        with process.stdout:
            for line in process.stdout:
                self._log.append(line)
                if "ready to accept connections" in line:
                    ready.set()
        process.wait()
        ready.set()

    def _popen(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self._programs / program), *arguments],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            text=True,
            user=self._owner.pw_uid if self._owner else None,
            group=self._owner.pw_gid if self._owner else None,
            extra_groups=[] if self._owner else None,
        )


def _find_programs() -> Path:
    """The folder of the newest PostgreSQL's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    assert on_path, "These tests need PostgreSQL 15 or newer. Install Debian's package postgresql; `make test` does."
    return Path(on_path).resolve().parent


def _unprivileged() -> pwd.struct_passwd:
    with suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
