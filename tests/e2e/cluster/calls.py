"""Calls to the API server without a process for each, for tests that ask many times a second."""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx

Body = dict[str, Any]

MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"
"""How a patch is understood: lists replaced, or lists of named things merged by name."""


class Calls:
    """The administrator's connection. Paths are as in `/api/v1/namespaces`. Raises httpx's `HTTPStatusError`."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        context = ssl.create_default_context(cadata=_decoded(cluster["certificate-authority-data"]))
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as pair:
            pair.write(_decoded(user["client-key-data"]) + _decoded(user["client-certificate-data"]))
            pair.flush()
            context.load_cert_chain(pair.name)
        self._client = httpx.Client(base_url=cluster["server"], verify=context, timeout=30)

    def get(self, path: str) -> Body | None:
        """An object or a list; None for what is not there."""
        return _unless_missing(self._client.get(path))

    def post(self, path: str, body: Mapping[str, Any]) -> Body:
        """Creates an object."""
        return _body(self._client.post(path, json=body))

    def patch(self, path: str, patch: Mapping[str, Any], how: str = MERGE) -> Body:
        """Changes an object."""
        return _body(self._client.patch(path, content=json.dumps(patch), headers={"Content-Type": how}))

    def apply(self, path: str, manifest: Mapping[str, Any]) -> Body:
        """Server-side apply, as a person's: what was applied before and is left out goes."""
        given = {"content": json.dumps(manifest), "headers": {"Content-Type": "application/apply-patch+yaml"}}
        return _body(self._client.patch(path, params={"fieldManager": "person", "force": "true"}, **given))

    def delete(self, path: str, *, propagation: str = "Background") -> Body | None:
        """Deletes an object and what depends on it, or all of a list; None for what is not there."""
        return _unless_missing(self._client.delete(path, params={"propagationPolicy": propagation}))

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()


def _decoded(data: str) -> str:
    return base64.b64decode(data).decode()


def _body(answer: httpx.Response) -> Body:
    if answer.is_error:
        message = f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}"
        raise httpx.HTTPStatusError(message, request=answer.request, response=answer)
    return dict(answer.json())


def _unless_missing(answer: httpx.Response) -> Body | None:
    return None if answer.status_code == httpx.codes.NOT_FOUND else _body(answer)
