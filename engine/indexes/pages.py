"""An index walked through in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from engine.ports import VectorIndex

PAGE: Final = 1024
"""Points looked at together: with vectors and payloads a few megabytes."""


async def pages_of_ids(index: VectorIndex) -> AsyncIterator[list[str]]:
    """All ids in their order, `PAGE` at a time. Points may be deleted meanwhile once their page has been given."""
    after = ""
    while page := await index.ids(after, PAGE):
        yield page
        after = page[-1]
