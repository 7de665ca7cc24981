"""Collections and aliases of the stand-in, on disk: what it has answered survives a SIGKILL.

    DATA/lock                                one server at a time; free when its process is gone
    DATA/aliases.json                        alias to collection
    DATA/aliases.log                         the same after each call that changed it, one line each, for tests to read
    DATA/collections/NAME/config.pb          qdrant.CollectionConfig
    DATA/collections/NAME/shard/             Edge's files, once somebody has written to it or searched it
    DATA/snapshots/NAME/*.snapshot           tar files of the above

Folders appear under their names complete, and are renamed before they are deleted.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import qdrant_edge as edge

from engine.indexes.qdrant_stubs import pb
from tests.support.qdrant_server.refusals import collection_exists, no_collection, not_covered, wrong_input

KINDS: Final = {
    pb.FieldTypeKeyword: (edge.PayloadSchemaType.Keyword, pb.Keyword),
    pb.FieldTypeInteger: (edge.PayloadSchemaType.Integer, pb.Integer),
    pb.FieldTypeFloat: (edge.PayloadSchemaType.Float, pb.Float),
    pb.FieldTypeBool: (edge.PayloadSchemaType.Bool, pb.Bool),
    pb.FieldTypeDatetime: (edge.PayloadSchemaType.Datetime, pb.Datetime),
    pb.FieldTypeUuid: (edge.PayloadSchemaType.Uuid, pb.Uuid),
}
_SEGMENT_KB: Final = 1_000_000
_EMPTY: Final = SimpleNamespace(payload_schema={}, segments_count=1, points_count=0, indexed_vectors_count=0)


class Stored:
    """One open collection."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: Any = pb.CollectionConfig.FromString((folder / "config.pb").read_bytes())
        self._files = folder / "shard"
        self._shard = self._open() if self._files.exists() else None
        self.dirty = True  # whether points may have come since the last build

    @classmethod
    def create(cls, folder: Path, config: Any) -> None:
        """Writes an empty collection to a folder that does not exist yet."""
        temporary = folder.with_name(f".new-{folder.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _write(temporary / "config.pb", config.SerializeToString())
        temporary.rename(folder)

    @property
    def shard(self) -> edge.EdgeShard:
        """Edge's part, made when it is needed first: an empty one takes 20 MB of disk and 50 MB of memory."""
        if self._shard is None:
            temporary = self.folder / ".new-shard"
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            made = edge.EdgeShard.create(str(temporary), _edge_config(self.config, wal_enabled=False))
            made.flush()
            made.close()
            temporary.rename(self._files)
            self._shard = self._open()
        return self._shard

    def _open(self) -> edge.EdgeShard:
        return edge.EdgeShard.load(str(self._files), _edge_config(self.config))

    @property
    def dimension(self) -> int:
        return int(self.config.params.vectors_config.params.size)

    @property
    def building(self) -> bool:
        """Whether graphs are to be built at all."""
        return int(self.config.optimizer_config.indexing_threshold) > 0

    def info(self) -> Any:
        """Edge's information about the shard."""
        return _EMPTY if self._shard is None else self._shard.info()

    def write(self, operation: edge.UpdateOperation) -> None:
        self.shard.update(operation)
        self.shard.flush()
        self.dirty = True

    def reconfigure(self, config: Any) -> None:
        """Takes other settings, which apply from the next build."""
        _write(self.folder / "config.pb", config.SerializeToString())
        self.config = config
        if self._shard is not None:
            self.close()
            self._shard = self._open()
        self.dirty = True

    def build(self) -> None:
        """What the real server does in the background whenever it has to."""
        if self.building and self.dirty and self._shard is not None:
            self.shard.optimize()
            self.shard.flush()
        self.dirty = False

    def close(self) -> None:
        if self._shard is not None:
            self._shard.flush()
            self._shard.close()
            self._shard = None


class Storage:
    """All collections under a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._folder = root / "collections"
        self._folder.mkdir(exist_ok=True)
        for rest in (*self._folder.glob(".new-*"), *self._folder.glob(".old-*")):
            shutil.rmtree(rest)
        self.collections = {folder.name: Stored(folder) for folder in self._folder.iterdir()}
        aliases = root / "aliases.json"
        self.aliases: dict[str, str] = json.loads(aliases.read_bytes()) if aliases.exists() else {}

    def get(self, name: str) -> Stored:
        """A collection by its name or an alias."""
        name = self.aliases.get(name, name)
        if name not in self.collections:
            raise no_collection(name)
        return self.collections[name]

    def create(self, name: str, config: Any) -> None:
        if name in self.collections:
            raise collection_exists(name)
        if name in self.aliases:
            raise wrong_input(f"Can't create collection with name {name}. Alias with the same name already exists")
        Stored.create(self._folder / name, config)
        self.collections[name] = Stored(self._folder / name)

    def delete(self, name: str) -> bool:
        """Whether there was one. Its aliases go with it."""
        if name not in self.collections:
            return False
        self.point_aliases({alias: target for alias, target in self.aliases.items() if target != name})
        self.collections.pop(name).close()
        trash = self._folder / f".old-{name}"
        (self._folder / name).rename(trash)
        shutil.rmtree(trash)
        return True

    def point_aliases(self, aliases: dict[str, str]) -> None:
        _write(self.root / "aliases.json", json.dumps(aliases).encode())
        self.aliases = aliases

    def record_aliases(self) -> None:
        """Notes what callers see from now on. Between the steps of one call nobody sees anything."""
        with (self.root / "aliases.log").open("a") as log:
            log.write(json.dumps(self.aliases) + "\n")

    def snapshot(self, name: str) -> Path:
        stored = self.get(name)
        stored.shard.flush()
        folder = self.root / "snapshots" / stored.folder.name
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{stored.folder.name}-{datetime.now(UTC):%Y-%m-%d-%H-%M-%S-%f}.snapshot"
        with tarfile.open(file, "w") as packed:
            packed.add(stored.folder, arcname=".")
        return file

    def snapshots(self, name: str) -> list[Path]:
        return sorted((self.root / "snapshots" / self.get(name).folder.name).glob("*.snapshot"))

    def close(self) -> None:
        for stored in self.collections.values():
            stored.close()
        os.close(self._lock)


def _edge_config(config: Any, *, wal_enabled: bool | None = None) -> edge.EdgeConfig:
    """A collection's settings as Edge's."""
    vectors, hnsw, kind = config.params.vectors_config.params, config.hnsw_config, config.quantization_config
    quantization = None
    match kind.WhichOneof("quantization"):
        case "scalar":
            quantization = edge.ScalarQuantizationConfig(
                type=edge.ScalarType.Int8, quantile=kind.scalar.quantile, memory=edge.Memory.Pinned
            )
        case None:
            pass
        case other:
            raise not_covered(f"{other} quantization")
    return edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(size=vectors.size, distance=edge.Distance.Cosine, memory=edge.Memory.Cached),
        hnsw_config=edge.HnswIndexConfig(
            m=hnsw.m, ef_construct=hnsw.ef_construct, full_scan_threshold=hnsw.full_scan_threshold
        ),
        quantization_config=quantization,
        payload_memory=edge.Memory.Cached,
        optimizers=edge.EdgeOptimizersConfig(
            indexing_threshold=config.optimizer_config.indexing_threshold,
            default_segment_number=1,
            max_segment_size=_SEGMENT_KB,
        ),
        wal_enabled=wal_enabled,
    )


def _write(file: Path, content: bytes) -> None:
    """Replaces a file atomically and durably."""
    temporary = file.with_name(f".{file.name}")
    with temporary.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    temporary.replace(file)
