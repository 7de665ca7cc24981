"""The manifest of a generation: for every file of the source, whether it is in the index, and if not, why.

Its content is decided by the source and the model alone, so that two builds of the same pictures have equal manifests.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from engine.ports import ModelInfo
from indexing.decode import Reason
from indexing.ledger import Row
from indexing.sources import Problem

VERSION: Final = 1


def write_manifest(
    path: Path,
    *,
    source: str,
    model: ModelInfo,
    counts: dict[str, int],
    problems: Sequence[Problem],
    rows: Iterable[Row],
) -> None:
    """Writes the manifest as JSON, one line a file, and puts it in place of an older one when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    head = {"version": VERSION, "source": source, "model": model, "counts": counts}
    told = [{"key": problem.key, "reason": problem.reason, "sentence": problem.sentence} for problem in problems]
    with draft.open("wb") as file:
        file.write(orjson.dumps(head)[:-1] + b',\n"warnings": ' + orjson.dumps(told) + b',\n"items": {')
        before = b"\n"
        for row in rows:
            file.write(before + orjson.dumps(row.key) + b": " + orjson.dumps(_entry(row)))
            before = b",\n"
        file.write(b"\n}}\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _entry(row: Row) -> dict[str, Any]:
    if row.reason is None:
        return {"state": row.state, "id": row.id, "contentHash": row.content_hash}
    detail = {"detail": row.detail} if row.detail else {}
    return {"state": row.state, "reason": row.reason, "sentence": Reason(row.reason).sentence, **detail}
