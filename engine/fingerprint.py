"""Which weights a vector came from, in 16 characters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_SAMPLES: Final = 64
_SAMPLE_BYTES: Final = 64 * 1024


def fingerprint(name: str, path: Path, preprocess: Mapping[str, Any]) -> str:
    """16 hex characters that differ for models whose vectors can't be compared.

    Of the weights it reads the size, the safetensors header and 64 chunks of 64 KiB spread over the file, because
    reading 4 GB takes seconds. Training changes all weights, so that suffices to tell models apart; it is no
    protection against tampering.
    """
    digest = hashlib.sha256(json.dumps([name, preprocess], sort_keys=True).encode())
    size = path.stat().st_size
    digest.update(size.to_bytes(8))
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        digest.update(file.read(header))
        for offset in range(8 + header, size, max(_SAMPLE_BYTES, (size - header) // _SAMPLES)):
            file.seek(offset)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]
