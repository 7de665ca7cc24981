"""What is known of one generation, and how generations and indexes are named."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from engine.errors import BadUserInput
from engine.ports import ModelInfo, Point
from engine.settings import Settings

State = Literal["building", "ready"]

Wanted = Callable[[Sequence[Point]], Awaitable[Sequence[Point]]]
"""Those of a page of points that belong to a generation."""

NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
"""The name of an index."""

ID: Final = re.compile(r"\d{8}-\d{6}-\d{6}-[0-9a-f]{4}")
"""The id of a generation: when it was begun, so that ids sort by age, and four random digits."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One build. `points` is how many images it holds, 0 until it is ready.

    `path` is the folder of what lies beside its vectors, such as the manifest. `held` says why a ready one is not to
    be promoted without a person's wish; None if nothing speaks against it.
    """

    id: str
    index: str
    path: Path
    state: State
    model: ModelInfo
    created_at: str
    points: int
    held: str | None = None

    @property
    def shard(self) -> Path:
        """The folder of the vector index's files, where they are in a folder."""
        return self.path / "shard"


WAITS: Final = "it was built not to be promoted"
"""Why a generation is held that is fit to serve, but was not wanted to by whoever built it."""


def check_name(index: str) -> str:
    """The same name. Raises `BadUserInput` when it is no name of an index."""
    if not NAME.fullmatch(index):
        raise BadUserInput(
            f"index: {index!r} is no name of an index. Use at most 63 lower-case letters, digits, _ and -, the "
            "first of them a letter or digit."
        )
    return index


def check_id(id_: str) -> str:
    """The same id. Raises `BadUserInput` when it is no id of a generation."""
    if not ID.fullmatch(id_):
        raise BadUserInput(
            f"{id_!r} is no id of a generation: date, time, microseconds and four hexadecimal digits, such as "
            f"{new_id()}. Ids sort by age, so begin each with the time when it was made up (UTC)."
        )
    return id_


def folder_of(root: Path, index: str, id_: str) -> Path:
    """Where the files of a generation lie; `root` is INDEX_PATH."""
    return root / index / "generations" / id_


def new_id() -> str:
    """The id of a generation that is begun now."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{secrets.token_hex(2)}"


def new_generation(root: Path, index: str, model: ModelInfo, id_: str | None = None) -> Generation:
    """A generation that is begun now, with an id of its own if it is given none."""
    id_ = id_ or new_id()
    return Generation(id_, index, folder_of(root, index, id_), "building", model, datetime.now(UTC).isoformat(), 0)


def described(generation: Generation, settings: Settings) -> dict[str, Any]:
    """A generation as JSON values, with the settings that its index is built with."""
    return {
        "id": generation.id,
        "index": generation.index,
        "state": generation.state,
        "model": asdict(generation.model),
        "created_at": generation.created_at,
        "points": generation.points,
        "held": generation.held,
        "hnsw": {
            "m": settings.search_hnsw_m,
            "ef_construct": settings.search_ef_construct,
            "quantile": settings.search_quantile,
        },
    }


def restored(stored: Mapping[str, Any], index: str, id_: str, path: Path) -> Generation:
    """The generation that was described. Raises `KeyError` and `TypeError` when that is not what is stored."""
    return Generation(
        id=id_,
        index=index,
        path=path,
        state=stored["state"],
        model=ModelInfo(**stored["model"]),
        created_at=stored["created_at"],
        points=stored["points"],
        held=stored.get("held"),
    )
