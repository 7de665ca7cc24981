from __future__ import annotations

from pathlib import Path

from engine.settings import Settings
from graphql_api.schema import create_schema

SNAPSHOT = Path(__file__).parents[2] / "graphql_api" / "schema.graphql"


def test_the_snapshot_is_the_schema() -> None:
    """schema.graphql is what the code serves; run python -m graphql_api.schema > graphql_api/schema.graphql."""
    assert SNAPSHOT.read_text("utf-8").strip() == create_schema(Settings(_env_file=None)).as_str().strip()


def test_everything_is_described() -> None:
    """GraphiQL has a sentence for every type, field, argument, input and enum value."""
    undescribed = []
    for name, kind in create_schema(Settings(_env_file=None))._schema.type_map.items():
        if name.startswith("__"):
            continue
        if not kind.description:
            undescribed.append(name)
        undescribed += [
            f"{name}.{value}" for value, part in getattr(kind, "values", {}).items() if not part.description
        ]
        for field_name, field in getattr(kind, "fields", {}).items():
            if not field.description:
                undescribed.append(f"{name}.{field_name}")
            undescribed += [
                f"{name}.{field_name}({argument})"
                for argument, part in getattr(field, "args", {}).items()
                if not part.description
            ]
    assert undescribed == []
