"""A server for the shutdown tests: it encodes "slow" only once the file named by GATE is there."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from engine.ports import Vectors
from engine.settings import Settings
from graphql_api import server
from tests.support.encoders import WordEncoder

GATE = Path(os.environ["GATE"])


class Gated(WordEncoder):
    """Says that it has begun by making a file, and waits for another."""

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """The vectors."""
        if "slow" in texts:
            GATE.with_suffix(".begun").touch()
            end = time.monotonic() + 20
            while not GATE.exists() and time.monotonic() < end:
                time.sleep(0.01)
        return super().encode_texts(texts)


server.run(Settings(_env_file=None), Gated())
