"""A server with the tests' encoder, for benchmarks that start one. Settings come from the environment."""

from __future__ import annotations

from engine.settings import Settings
from graphql_api import server
from tests.support.encoders import WordEncoder

if __name__ == "__main__":
    server.run(Settings(_env_file=None), WordEncoder())
