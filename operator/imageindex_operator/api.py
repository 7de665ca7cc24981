"""The few calls to the Kubernetes API that the operator makes, on dictionaries, with aiohttp and kopf's credentials.

Both come with kopf anyway. A whole client library would bring models of every kind and a second way to log in; what
is needed here are eight verbs. Answers of 429 and 5xx are tried again as the server asks, everything else is raised.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlencode

import aiohttp
import kopf
import orjson

from engine.errors import BadUserInput, ClusterRefused, ClusterUnavailable
from imageindex_operator.names import API_VERSION, MANAGER

Body = dict[str, Any]

_TIMEOUT: Final = aiohttp.ClientTimeout(total=30)
_ATTEMPTS: Final = 3
_LONGEST_PAUSE_S: Final = 10.0
_PAGE: Final = 500
_APPLY: Final = "application/apply-patch+yaml"
_MERGE: Final = "application/merge-patch+json"
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

_UNDECLARED: Final = "field not declared in schema"

_NOT_FOUND: Final = 404
_GONE: Final = 410
_UNAUTHORIZED: Final = 401
_TOO_MANY: Final = 429
_SERVER: Final = 500
_ERROR: Final = 400


@dataclass(frozen=True, slots=True)
class Kind:
    """Where the objects of a kind are."""

    api_version: str
    plural: str

    def path(self, namespace: str | None, name: str | None = None, subresource: str = "") -> str:
        """The path of one object, or of all of them."""
        root = "api" if "/" not in self.api_version else "apis"
        parts = [root, self.api_version]
        parts += ["namespaces", namespace] if namespace else []
        parts += [self.plural, *([name] if name else []), *([subresource] if subresource else [])]
        return "/" + "/".join(parts)


KINDS: Final = {
    "ImageIndex": Kind(API_VERSION, "imageindexes"),
    "Job": Kind("batch/v1", "jobs"),
    "CronJob": Kind("batch/v1", "cronjobs"),
    "Deployment": Kind("apps/v1", "deployments"),
    "Service": Kind("v1", "services"),
    "ConfigMap": Kind("v1", "configmaps"),
    "PodDisruptionBudget": Kind("policy/v1", "poddisruptionbudgets"),
    "HorizontalPodAutoscaler": Kind("autoscaling/v2", "horizontalpodautoscalers"),
    "ScaledObject": Kind("keda.sh/v1alpha1", "scaledobjects"),
    "Namespace": Kind("v1", "namespaces"),
    "Pod": Kind("v1", "pods"),
    "Secret": Kind("v1", "secrets"),
    "PersistentVolumeClaim": Kind("v1", "persistentvolumeclaims"),
    "Event": Kind("v1", "events"),
    "Lease": Kind("coordination.k8s.io/v1", "leases"),
}


def login() -> kopf.ConnectionInfo:
    """The cluster and who we are there: the pod's service account, else the kubeconfig of KUBECONFIG."""
    settings, logger = kopf.OperatorSettings(), logging.getLogger("kopf")
    for way in (kopf.login_with_service_account, kopf.login_with_kubeconfig):
        found = way(settings=settings, logger=logger)
        if isinstance(found, kopf.ConnectionInfo):
            return found
    raise BadUserInput("There is no cluster to log in to. Run this in a pod, or set KUBECONFIG to a kubeconfig file.")


def session(info: kopf.ConnectionInfo, limit: int) -> aiohttp.ClientSession:
    """At most so many connections to that cluster, or any number with 0; requests bring their paths and deadlines."""
    secure = info.as_ssl_context() if info.server.startswith("https:") else False
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=secure, limit=limit),
        headers=info.as_http_headers(),
        proxy=info.proxy_url,
        trust_env=info.trust_env,
    )


class Api:
    """A connection to the API server. Use it as an async context manager, from one event loop.

    Calls raise `ClusterUnavailable` when the server does not answer, and `ClusterRefused` with its status otherwise.
    """

    def __init__(self, log_in: Callable[[], kopf.ConnectionInfo] = login) -> None:
        self._log_in = log_in
        self._session: aiohttp.ClientSession | None = None
        self._server = ""
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Logs in."""
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    # ---------------------------------------------------------------- verbs

    async def get(self, kind: str, namespace: str | None, name: str) -> Body | None:
        """An object, or None. A namespace is in none."""
        return await self._unless_missing("GET", KINDS[kind].path(namespace, name))

    async def exists(self, kind: str, namespace: str, name: str) -> bool:
        """Whether an object is there; asks for its metadata only, so that no secret travels."""
        path = KINDS[kind].path(namespace, name)
        return await self._unless_missing("GET", path, headers={"Accept": _METADATA_ONLY}) is not None

    async def list(
        self,
        kind: str,
        namespace: str | None,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Body]:
        """All objects of a kind with these labels and fields; none of a kind that the cluster doesn't know."""
        first = {"limit": str(_PAGE)}
        for selector, wanted in (("labelSelector", labels), ("fieldSelector", fields)):
            if wanted:
                first[selector] = ",".join(f"{name}={value}" for name, value in sorted(wanted.items()))
        query, found = dict(first), list[Body]()
        while True:
            try:
                answer = await self._unless_missing("GET", f"{KINDS[kind].path(namespace)}?{urlencode(query)}")
            except ClusterRefused as error:
                if error.status != _GONE or "continue" not in query:
                    raise
                query, found = dict(first), []  # the server has forgotten the version of the first page
                continue
            if answer is None:
                return found
            about = {"apiVersion": KINDS[kind].api_version, "kind": kind}  # items of a list do not say
            found += [{**about, **item} for item in answer.get("items") or []]
            if not (more := answer.get("metadata", {}).get("continue")):
                return found
            query["continue"] = more

    async def apply(self, manifest: Mapping[str, Any], manager: str = MANAGER, subresource: str = "") -> Body:
        """Server-side apply: these fields are ours from now on, and what we applied before and left out goes."""
        meta = manifest["metadata"]
        path = KINDS[manifest["kind"]].path(meta["namespace"], meta["name"], subresource)
        query = urlencode({"fieldManager": manager, "force": "true", "fieldValidation": "Warn"})
        return await self._call("PATCH", f"{path}?{query}", manifest, _APPLY)

    async def create(self, manifest: Mapping[str, Any]) -> Body:
        """Creates an object; 409 when it is there."""
        path = KINDS[manifest["kind"]].path(manifest["metadata"]["namespace"])
        return await self._call("POST", f"{path}?{urlencode({'fieldManager': MANAGER})}", manifest)

    async def replace(self, manifest: Mapping[str, Any]) -> Body:
        """Replaces an object whose `resourceVersion` is still the given one; 409 when it is not."""
        meta = manifest["metadata"]
        path = KINDS[manifest["kind"]].path(meta["namespace"], meta["name"])
        return await self._call("PUT", f"{path}?{urlencode({'fieldManager': MANAGER})}", manifest)

    async def merge(self, kind: str, namespace: str, name: str, patch: Mapping[str, Any]) -> Body:
        """A merge patch."""
        path = KINDS[kind].path(namespace, name)
        return await self._call("PATCH", f"{path}?{urlencode({'fieldManager': MANAGER})}", patch, _MERGE)

    async def delete(self, kind: str, namespace: str, name: str, *, foreground: bool = True) -> None:
        """Deletes an object, its dependents first; nothing if it is gone."""
        options = {"propagationPolicy": "Foreground" if foreground else "Background"}
        await self._unless_missing("DELETE", KINDS[kind].path(namespace, name), options)

    # ---------------------------------------------------------------- calls

    async def _unless_missing(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Body | None:
        try:
            return await self._call(method, path, body, headers=headers)
        except ClusterRefused as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> Body:
        data = None if body is None else orjson.dumps(body)
        sent = {**({"Content-Type": content} if data else {}), "Accept": "application/json", **(headers or {})}
        for attempt in range(1, _ATTEMPTS + 1):
            last = attempt == _ATTEMPTS
            connected = await self._open()
            try:
                async with connected.request(
                    method, self._server + path, data=data, headers=sent, timeout=_TIMEOUT
                ) as answer:
                    text = await answer.read()
                    status, pause = answer.status, answer.headers.get("Retry-After", "")
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise ClusterUnavailable(f"The Kubernetes API at {self._server} does not answer: {error}.") from error
            if status == _UNAUTHORIZED and not last:
                await self._log_in_again(connected)
            elif (status == _TOO_MANY or status >= _SERVER) and not last:
                await asyncio.sleep(min(float(pause) if pause.isdigit() else attempt * 0.5, _LONGEST_PAUSE_S))
            else:
                return _answer(method, path, status, text)
        raise AssertionError  # the last attempt returns or raises

    async def _open(self) -> aiohttp.ClientSession:
        async with self._lock:
            if self._session is None:
                info = await asyncio.to_thread(self._log_in)
                self._server = info.server.rstrip("/")
                self._session = session(info, limit=32)
            return self._session

    async def _log_in_again(self, old: aiohttp.ClientSession) -> None:
        """Tokens of service accounts are replaced every hour; the file has the next."""
        async with self._lock:
            if self._session is old:
                self._session = None
                await old.close()


def _answer(method: str, path: str, status: int, text: bytes) -> Body:
    try:
        body = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError:
        body = {"message": text[:200].decode(errors="replace")}
    if status < _ERROR:
        return dict(body)
    message = f"{method} {path.partition('?')[0]}: {status} {body.get('message') or body.get('reason') or ''}".rstrip()
    if _UNDECLARED in message:  # which the API server answers with 500
        hint = " The definition of ImageIndex is older than this operator: upgrade it, as the chart does."
        raise ClusterRefused(f"The Kubernetes API refused {message}.{hint}", status)
    if status == _TOO_MANY or status >= _SERVER:
        raise ClusterUnavailable(f"The Kubernetes API is too busy: {message}.")
    hint = " Give the operator's service account that right." if status == 403 else ""  # noqa: PLR2004
    raise ClusterRefused(f"The Kubernetes API refused {message}.{hint}", status)
