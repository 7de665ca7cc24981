"""All that an index consists of, on servers and disk, and whether it is what the folder of pictures asks for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from engine.indexes.qdrant import QdrantIndex
from engine.indexes.qdrant_connection import QdrantConnection
from engine.settings import Settings
from tests.chaos.album import Expected
from tests.support.postgres import Postgres

_NEAR = 1e-4
_LEFT = timedelta(minutes=1)  # so long a collection is kept for servers that still search it: see the README of engine


@dataclass(frozen=True, slots=True)
class Collection:
    """One collection: what is noted of it, and its points by id, each with its payload and vector as bytes."""

    noted: dict[str, Any]
    points: dict[str, tuple[dict[str, Any], bytes]]


@dataclass(frozen=True, slots=True)
class State:
    """What there is. Two looks are equal if nothing was written between them; `files` has size, time and inode."""

    serving: str
    collections: dict[str, Collection]
    items: list[tuple[Any, ...]]
    builds: list[tuple[Any, ...]]
    problems: list[tuple[Any, ...]]
    files: dict[str, tuple[int, int, int]]

    def difference(self, other: State) -> list[str]:
        """Where two states differ, for a person to begin with."""
        found = [
            name for name in ("serving", "items", "builds", "problems") if getattr(self, name) != getattr(other, name)
        ]
        for name in ("collections", "files"):
            mine, others = getattr(self, name), getattr(other, name)
            found += [f"{name}: {key}" for key in sorted({*mine, *others}) if mine.get(key) != others.get(key)]
        return found


async def look(settings: Settings, postgres: Postgres, database: str) -> State:
    """The state of the index `settings.index_name`, as nobody writes to it."""
    alias = f"sightline-{settings.index_name}"
    connection = QdrantConnection(settings)
    try:
        target = await connection.alias_target(alias)
        names = await connection.collections()
        collections = {
            name.removeprefix(f"{alias}-"): Collection(await connection.metadata(name), await _points(name, settings))
            for name in names
        }
    finally:
        await connection.close()
    root = settings.index_path
    files = {str(path.relative_to(root)): path.stat() for path in root.rglob("*") if path.is_file()}
    return State(
        serving=str(target).removeprefix(f"{alias}-"),
        collections=collections,
        items=postgres.run("SELECT * FROM items ORDER BY generation, key", database),
        builds=postgres.run("SELECT * FROM builds ORDER BY generation", database),
        problems=postgres.run("SELECT * FROM problems ORDER BY 1, 2, 3, 4, 5", database),
        files={
            name: (about.st_size, about.st_mtime_ns, about.st_ino)
            for name, about in files.items()
            if Path(name).name != "lock"
        },
    )


async def _points(collection: str, settings: Settings) -> dict[str, tuple[dict[str, Any], bytes]]:
    index = await QdrantIndex.open(collection, settings)
    try:
        points = await index.retrieve(await index.ids(), vectors=True)
    finally:
        await index.close()
    return {point.id: (dict(point.payload), np.asarray(point.vector, np.float32).tobytes()) for point in points}


def require_complete(state: State, expected: Expected, settings: Settings, postgres: Postgres, database: str) -> None:
    """Fails unless index, manifest, ledger and thumbnails are what the folder asks for, and nothing else is there."""
    _require_points(state.collections[state.serving], expected)
    _require_manifest(settings.index_path / settings.index_name / "generations" / state.serving, expected)
    rows = postgres.run(
        f"SELECT key, state, id, content_hash, reason FROM items WHERE generation = '{state.serving}'",  # noqa: S608
        database,
    )
    pictures = {key: ("indexed", one.id, one.content_hash, None) for key, one in expected.pictures.items()}
    assert {row[0]: row[1:] for row in rows if row[1] == "indexed"} == pictures
    skipped = {row[0]: row[4] for row in rows if row[1] != "indexed"}
    assert skipped.items() <= expected.reasons.items()
    _require_nothing_else(state, settings)


def _require_points(collection: Collection, expected: Expected) -> None:
    points, wanted = collection.points, {one.id: (key, one) for key, one in expected.pictures.items()}
    assert points.keys() == wanted.keys(), _told(points.keys(), wanted.keys())
    for id_, (payload, vector) in points.items():
        key, picture = wanted[id_]
        told = (payload["objectKey"], payload["contentHash"], payload["category"])
        assert told == (key, picture.content_hash, picture.category), f"{payload} instead of {key}: {picture}"
        assert np.allclose(np.frombuffer(vector, np.float32), picture.vector, atol=_NEAR), f"{key} has another's vector"


def _require_manifest(folder: Path, expected: Expected) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    items = manifest["items"]
    indexed = {key: (item["id"], item["contentHash"]) for key, item in items.items() if item["state"] == "indexed"}
    wanted = {key: (one.id, one.content_hash) for key, one in expected.pictures.items()}
    assert indexed == wanted, _told(indexed, wanted)
    reasons = {key: item["reason"] for key, item in items.items() if item["state"] == "skipped"}
    reasons |= {warning["key"]: warning["reason"] for warning in manifest["warnings"]}
    assert reasons == expected.reasons, _told(reasons.items(), expected.reasons.items())
    assert manifest["counts"]["indexed"] == len(wanted)


def _require_nothing_else(state: State, settings: Settings) -> None:
    """Every generation is complete and known everywhere; every thumbnail is wanted, and there."""
    generations = set(state.collections)
    assert {name: found.noted.get("state") for name, found in state.collections.items()} == dict.fromkeys(
        generations, "ready"
    )
    assert {build[1] for build in state.builds} == generations
    assert {item[1] for item in state.items} == generations
    base = f"{settings.index_name}/"
    beside = {name.removeprefix(base).split("/")[1] for name in state.files if name.startswith(f"{base}generations/")}
    folders = {path.name for path in (settings.index_path / settings.index_name / "generations").iterdir()}
    assert beside == folders == generations, (beside, folders, generations)
    hashes = {payload["contentHash"] for one in state.collections.values() for payload, _ in one.points.values()}
    thumbnails = {name for name in state.files if name.startswith(f"{base}thumbnails/")}
    wanted = {f"{base}thumbnails/{content_hash[:2]}/{content_hash}.jpg" for content_hash in hashes}
    assert thumbnails == wanted, _told(thumbnails, wanted)
    assert all(state.files[name][0] > 0 for name in thumbnails)


def require_pruned(state: State, keep: int) -> None:
    """Fails if more generations are there than are kept, but for those that served until a minute ago."""
    promoted = datetime.fromisoformat(state.collections[state.serving].noted["served_at"])
    newest = sorted(state.collections, reverse=True)[:keep]
    left = {name: one.noted.get("left_at") for name, one in state.collections.items() if name not in newest}
    late = {name: at for name, at in left.items() if not at or datetime.fromisoformat(at) < promoted - _LEFT}
    assert not late, f"these were to be deleted: {late}"


def processes_of(settings: Settings, but: Iterable[int]) -> dict[int, str]:
    """The processes that work on this index and are not among `but`, with their command lines."""
    mark, known, found = f"INDEX_PATH={settings.index_path}".encode(), set(but), {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) in known:
            continue
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


def open_files(process: int) -> int:
    """How many files and connections a process holds."""
    return sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())


def _told(found: Iterable[Any], wanted: Iterable[Any]) -> str:
    """What is too much and what is missing."""
    much, missing = {*found} - {*wanted}, {*wanted} - {*found}
    return f"{len(much)} too many ({sorted(much)[:5]}), {len(missing)} missing ({sorted(missing)[:5]})"
