"""A local S3 server (moto's), and a bucket in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIATESTTESTTEST",
    "AWS_SECRET_ACCESS_KEY": "a-secret-that-must-not-be-seen",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def s3_server() -> Iterator[str]:
    """Runs the server on a free loopback port and gives its address."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


class Bucket:
    """A new bucket of the server."""

    def __init__(self, endpoint: str, name: str) -> None:
        self.name = name
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
        )
        self.client.create_bucket(Bucket=name)

    @property
    def address(self) -> str:
        """How sources name it."""
        return f"s3://{self.name}"

    def put(self, key: str, data: bytes) -> None:
        """Puts an object there."""
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def put_tree(self, folder: Path, prefix: str) -> None:
        """Puts every file of a folder there."""
        for file in folder.rglob("*"):
            if file.is_file():
                self.put(f"{prefix}/{file.relative_to(folder).as_posix()}", file.read_bytes())

    def delete(self, key: str) -> None:
        """Removes an object."""
        self.client.delete_object(Bucket=self.name, Key=key)

    def close(self) -> None:
        """Closes the connections."""
        self.client.close()


def use_credentials(monkeypatch: pytest.MonkeyPatch, endpoint: str, without: Mapping[str, str] | None = None) -> None:
    """Lets this process find the server as it would find a real one: by its environment."""
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": endpoint}.items():
        if name not in (without or {}):
            monkeypatch.setenv(name, value)
