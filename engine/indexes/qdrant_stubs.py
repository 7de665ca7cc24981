"""Qdrant's protobuf messages and gRPC stubs, which `qdrant-client` ships, without the client around them.

Measured: `import qdrant_client` takes 1.6 s, because it loads pydantic models of the whole HTTP API; its `grpc` folder
alone takes 0.2 s. A server that starts waits for that, so the folder is loaded here as a package of its own. Whoever
imports `qdrant_client.grpc` later gets the same classes, because protobuf keeps one of each.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def _load() -> ModuleType:
    found = importlib.util.find_spec("qdrant_client")
    assert found is not None  # noqa: S101 - it is a dependency
    assert found.origin is not None  # noqa: S101 - it has an __init__.py
    folder = Path(found.origin).parent / "grpc"
    name = f"{__name__}.grpc"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None  # noqa: S101 - the file's name ends in .py
    assert spec.loader is not None  # noqa: S101 - the same
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, because its files import each other
    spec.loader.exec_module(module)
    return module


pb: Any = _load()
"""The messages and stubs by their names: `pb.QueryPoints`, `pb.PointsStub`."""
