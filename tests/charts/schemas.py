"""JSON schemas of what the chart renders and the operator makes, for kubeconform, which can't fetch any: made and kept.

Kubernetes' own come from the OpenAPI document in its Go module, in the version that the tests' cluster runs; those of
other projects' kinds from the definitions in theirs. Each module is pinned by the hash that Go's checksum database has.
Strict: a field that a kind doesn't have is an error.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.cluster.programs import CACHE, MODULES, ProgramMissing, alone

Schema = dict[str, Any]

LOCATION = "{{ .ResourceKind }}-{{ .Group }}-{{ .ResourceAPIVersion }}.json"
"""How kubeconform finds the file of a kind, below the folder."""


@dataclass(frozen=True)
class Module:
    """A Go module, and the files in it that describe kinds."""

    path: str
    version: str
    hash: str
    files: tuple[str, ...]


def kubernetes() -> Module:
    """Kubernetes in the version and with the hash that the tests' cluster is built from."""
    path = "k8s.io/kubernetes"
    lines = (MODULES / "kubernetes" / "go.sum").read_text().splitlines()
    [(_, version, found)] = [
        words for line in lines if (words := line.split())[0] == path and not words[1].endswith("/go.mod")
    ]
    return Module(path, version, found, ("api/openapi-spec/swagger.json",))


OTHERS = (
    Module(
        "sigs.k8s.io/gateway-api",
        "v1.4.0",
        "h1:ZwlNM6zOHq0h3WUX2gfByPs2yAEsy/EenYJB78jpQfQ=",
        ("config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",),
    ),
    Module(
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        tuple(
            f"example/prometheus-operator-crd/monitoring.coreos.com_{kind}.yaml"
            for kind in ("servicemonitors", "podmonitors", "prometheusrules")
        ),
    ),
    Module(
        "github.com/kedacore/keda/v2",
        "v2.21.0",
        "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps=",
        ("config/crd/bases/keda.sh_scaledobjects.yaml",),
    ),
)


def folder() -> Path:
    """The folder with a file for each kind; made the first time, in a minute or two.

    Raises:
        ProgramMissing: when there is no Go, a module can't be had, or it is not the one that is pinned.
    """
    modules = (kubernetes(), *OTHERS)
    made_from = hashlib.sha256(repr(modules).encode() + Path(__file__).read_bytes()).hexdigest()[:12]
    place = CACHE / f"schemas-{made_from}"
    if not place.is_dir():
        with alone("schemas"):
            if not place.is_dir():
                _make(modules, place)
    return place


def of_definition(definition: Mapping[str, Any]) -> Iterator[tuple[str, Schema]]:
    """File names and schemas of the versions of a CustomResourceDefinition."""
    spec = definition["spec"]
    for version in spec["versions"]:
        schema = copy.deepcopy(version["schema"]["openAPIV3Schema"])
        for name in ("apiVersion", "kind", "metadata"):
            schema["properties"][name] = {"type": "string" if name != "metadata" else "object"}
        yield _file(spec["names"]["kind"], spec["group"], version["name"]), _strict(schema)


def of_openapi(document: Mapping[str, Any]) -> Iterator[tuple[str, Schema]]:
    """File names and schemas of the kinds of Kubernetes' OpenAPI document, each with all that it refers to."""
    definitions = {name: _strict(schema) for name, schema in document["definitions"].items()}
    definitions[_QUANTITY] = {"type": ["string", "number"]}
    definitions[_INT_OR_STRING] = {"type": ["string", "integer"]}
    for name, schema in definitions.items():
        kinds = schema.get("x-kubernetes-group-version-kind", [])
        if len(kinds) != 1 or not schema.get("properties", {}).get("metadata"):
            continue
        needed = {other: definitions[other] for other in _closure(name, definitions)}
        [kind] = kinds
        yield (
            _file(kind["kind"], kind["group"], kind["version"]),
            {"$ref": f"#/definitions/{name}", "definitions": needed},
        )


_QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
_INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"


def _make(modules: tuple[Module, ...], place: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="schemas-") as made:
        for module in modules:
            for text in _read(module):
                for document in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
                    found = of_openapi(document) if "definitions" in document else of_definition(document)
                    for name, schema in found:
                        (Path(made) / name).write_text(json.dumps(schema))
        shutil.copytree(made, Path(made).with_suffix(".done"))
        Path(made).with_suffix(".done").rename(place)


def _read(module: Module) -> list[str]:
    """The contents of a module's files. Go fetches it, and what else it fetched is removed again."""
    go = shutil.which("go")
    if go is None:
        raise ProgramMissing("Go fetches the schemas of Kubernetes' kinds, and there is none here. Install Go.")
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="go-") as scratch:
        environment = {**os.environ, "GOMODCACHE": scratch, "GOFLAGS": "-modcacherw", "GOWORK": "off"}
        done = subprocess.run(
            [go, "mod", "download", "-json", f"{module.path}@{module.version}"],
            cwd=scratch,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ProgramMissing(f"{module.path} {module.version} can't be had: {done.stderr or done.stdout}")
        told = json.loads(done.stdout)
        if told["Sum"] != module.hash:
            raise ProgramMissing(f"{module.path} {module.version} has the hash {told['Sum']}, not {module.hash}.")
        return [(Path(told["Dir"]) / name).read_text() for name in module.files]


def _file(kind: str, group: str, version: str) -> str:
    """What `LOCATION` makes of a kind. To kubeconform the core group is called as its version."""
    return f"{kind.lower()}-{group or version}-{version}.json"


def _strict(schema: Any) -> Any:
    """A schema that refuses fields which it doesn't name."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items() if key not in {"description", "default", "example"}}
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        return {"type": ["string", "integer"]}
    if "properties" in schema:  # of which one may be called description
        made["properties"] = {name: _strict(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    made.pop("format", None)  # of numbers and times
    return made


def _closure(name: str, definitions: Mapping[str, Schema]) -> set[str]:
    """A definition and all that it refers to, however far."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        if (current := waiting.pop()) not in seen:
            seen.add(current)
            waiting += _references(definitions[current])
    return seen


def _references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [found for each in schema for found in _references(each)]
    if not isinstance(schema, dict):
        return []
    found = [name for each in schema.values() for name in _references(each)]
    if isinstance(reference := schema.get("$ref"), str):
        found.append(reference.removeprefix("#/definitions/"))
    return found
