"""The CRD: what its schema refuses and fills in, and that it says the same as the operator's own types."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from imageindex_operator.resource import ImageIndex, Spec, Status
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from tests.operator.specs import RULES, SCHEMA, TAKEN
from tests.operator.world import CRD, defaulted, image_index, schema


@pytest.fixture(scope="module")
def crd() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(CRD.read_text())
    return found


def test_the_shapes_are_schemas():
    """So that what follows means something."""
    Draft202012Validator.check_schema(schema())


def complaints(spec: dict[str, Any]) -> list[str]:
    """What a validator says about a spec, with the path to it."""
    shape = schema()["properties"]["spec"]
    found = Draft202012Validator(shape).iter_errors(defaulted(spec, shape))
    return [f"{'.'.join(map(str, error.path))} {error.message}" for error in found]


@pytest.mark.parametrize(("spec", "word"), [case[1:] for case in SCHEMA], ids=[case[0] for case in SCHEMA])
def test_what_is_out_of_bounds_is_refused_by_the_schema(spec: dict[str, Any], word: str):
    """And only for the reason that is meant."""
    found = complaints(spec)
    assert found
    assert all(word in one for one in found)


@pytest.mark.parametrize("spec", [case[1] for case in [*TAKEN, *RULES]], ids=[case[0] for case in [*TAKEN, *RULES]])
def test_what_is_within_bounds_is_taken_by_the_schema(spec: dict[str, Any]):
    """What CEL refuses is well formed otherwise."""
    assert complaints(spec) == []


def test_there_are_enough_refusals():
    """The matrix of the test plan."""
    assert len(SCHEMA) + len(RULES) >= 40


# ---------------------------------------------------------------- one meaning in two places


def fields(model: type[BaseModel], shape: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Path, field and schema of everything in a model and of everything in a schema, joined by name."""
    ours = {field.alias or name: field for name, field in model.model_fields.items()}
    theirs = shape.get("properties", {})
    for name in sorted(ours.keys() | theirs.keys()):
        here = f"{path}.{name}"
        yield here, ours.get(name), theirs.get(name)
        inner = next((one for one in parts(ours[name].annotation) if is_model(one)), None) if name in ours else None
        if inner is not None and name in theirs:
            yield from fields(inner, theirs[name].get("items", theirs[name]), here)


def parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in typing.get_args(annotation):
        yield from parts(inner)


def is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


@pytest.mark.parametrize(("model", "part"), [(Spec, "spec"), (Status, "status")])
def test_types_and_schema_have_the_same_fields(model: type[BaseModel], part: str):
    """What one has and the other has not would be pruned, or never read."""
    found = list(fields(model, schema()["properties"][part]))
    assert [path for path, ours, theirs in found if ours is None or theirs is None] == []
    assert len(found) > 15


def test_defaults_are_the_same_in_both():
    """Filled in by the API server, a small resource is what the operator would have read without it."""
    assert ImageIndex.parse(image_index()).spec == Spec.model_validate(TAKEN[0][1])


def test_defaults_stay_when_they_are_filled_in_twice():
    """A round trip through the API server changes nothing."""
    shape = schema()["properties"]["spec"]
    for _, spec in TAKEN:
        once = defaulted(spec, shape)
        assert defaulted(once, shape) == once


def test_every_field_of_the_spec_that_is_a_choice_or_a_number_says_what_it_is():
    """Kubectl explain is the documentation that is always there."""
    silent = [
        path
        for path, _, shape in fields(Spec, schema()["properties"]["spec"])
        if shape["type"] in {"integer", "number", "boolean"} and "description" not in shape
    ]
    assert silent == []


def test_every_list_and_text_that_cel_reads_is_bounded():
    """The API server estimates what a rule may cost, and refuses a CRD whose rules may cost too much."""

    def unbounded(shape: dict[str, Any], path: str = "") -> Iterator[str]:
        if shape.get("type") == "array" and "maxItems" not in shape:
            yield path
        if shape.get("type") == "string" and not shape.keys() & {"maxLength", "enum"}:
            yield path
        for name, part in shape.get("properties", {}).items():
            yield from unbounded(part, f"{path}.{name}")
        if "items" in shape:
            yield from unbounded(shape["items"], f"{path}[]")

    assert list(unbounded(schema()["properties"]["spec"])) == []


def test_columns_scale_and_short_name(crd: dict[str, Any]):
    """What kubectl shows and scales."""
    (version,) = crd["spec"]["versions"]
    columns = version["additionalPrinterColumns"]
    assert [column["name"] for column in columns if not column.get("priority")] == [
        "Ready",
        "Active",
        "Pending",
        "Shards",
        "Points",
        "Replicas",
        "Age",
    ]
    assert [column["name"] for column in columns if column.get("priority")] == ["Reason"]
    assert version["subresources"]["scale"]["labelSelectorPath"] == ".status.selector"
    assert crd["spec"]["names"]["shortNames"] == ["imgidx"]
