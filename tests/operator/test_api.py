"""The client of the Kubernetes API, against a real HTTP server that says what an API server says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import kopf
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from imageindex_operator.api import KINDS, Api

from engine.errors import ClusterRefused, ClusterUnavailable

JOB = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a", "namespace": "web"}, "spec": {}}


class Server:
    """Answers from a list, the last one for ever, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any, dict[str, str]]] = [(200, {}, {})]
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.logins = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.path_qs, dict(request.headers), await request.read()))
        status, body, headers = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return web.Response(status=status, body=orjson.dumps(body), headers=headers)


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
async def api(server: Server) -> AsyncIterator[Api]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    async with TestServer(app) as running:

        def log_in() -> kopf.ConnectionInfo:
            server.logins += 1
            return kopf.ConnectionInfo(server=f"http://127.0.0.1:{running.port}/", token=f"token-{server.logins}")

        async with Api(log_in) as api:
            yield api


async def test_server_side_apply_names_the_manager_and_forces(api: Api, server: Server):
    """As one field manager; a field that another one set becomes ours."""
    server.answers = [(200, JOB, {})]
    assert await api.apply(JOB) == JOB
    ((method, path, headers, body),) = server.asked
    assert method == "PATCH"
    assert path.startswith("/apis/batch/v1/namespaces/web/jobs/a?fieldManager=sightline-operator&force=true")
    assert headers["Content-Type"] == "application/apply-patch+yaml"
    assert headers["Authorization"] == "Bearer token-1"
    assert orjson.loads(body) == JOB


async def test_the_status_is_applied_to_its_subresource(api: Api, server: Server):
    """So that a status never changes a spec."""
    body = {"kind": "ImageIndex", "metadata": {"name": "a", "namespace": "web"}, "status": {}}
    await api.apply(body, subresource="status")
    assert "/apis/sightline.dev/v1alpha1/namespaces/web/imageindexes/a/status?" in server.asked[0][1]


@pytest.mark.parametrize("kind", KINDS)
def test_paths_are_those_of_the_kinds_groups(kind: str):
    """The core group has a root of its own."""
    path = KINDS[kind].path("web", "a")
    assert path.startswith("/api/v1/" if KINDS[kind].api_version == "v1" else "/apis/")
    assert path.endswith(f"/namespaces/web/{KINDS[kind].plural}/a")


async def test_lists_are_read_page_by_page_and_items_say_what_they_are(api: Api, server: Server):
    """An API server leaves kind and version out of a list's items."""
    server.answers = [
        (200, {"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "a"}}]}, {}),
        (200, {"metadata": {}, "items": [{"metadata": {"name": "b"}}]}, {}),
    ]
    found = await api.list("Job", "web", {"b": "2", "a": "1"})
    assert [(one["kind"], one["metadata"]["name"]) for one in found] == [("Job", "a"), ("Job", "b")]
    assert "labelSelector=a=1,b=2" in unquote(server.asked[0][1])
    assert "continue=more" in server.asked[1][1]


async def test_a_list_whose_version_was_forgotten_meanwhile_is_read_anew(api: Api, server: Server):
    """410 for the second page: the first one is of another time."""
    server.answers = [
        (200, {"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "a"}}]}, {}),
        (410, {"reason": "Expired"}, {}),
        (200, {"metadata": {}, "items": [{"metadata": {"name": "b"}}]}, {}),
    ]
    found = await api.list("Job", "web", fields={"metadata.name": "b"})
    assert [one["metadata"]["name"] for one in found] == ["b"]
    assert ["continue=more" in asked[1] for asked in server.asked] == [False, True, False]
    assert all("fieldSelector=metadata.name=b" in unquote(asked[1]) for asked in server.asked)


async def test_what_is_not_there_is_none_and_an_unknown_kind_has_no_objects(api: Api, server: Server):
    """KEDA need not be installed; deleting twice is fine."""
    server.answers = [(404, {"message": "not found"}, {})]
    assert await api.get("Job", "web", "a") is None
    assert await api.list("ScaledObject", "web") == []
    await api.delete("Job", "web", "a")


async def test_a_secret_is_looked_at_without_its_contents(api: Api, server: Server):
    """Its metadata only."""
    assert await api.exists("Secret", "web", "s3-keys")
    assert "PartialObjectMetadata" in server.asked[0][2]["Accept"]


@pytest.mark.parametrize(("status", "attempts"), [(429, 3), (500, 3), (503, 3)])
async def test_a_busy_server_is_asked_again_and_then_left(api: Api, server: Server, status: int, attempts: int):
    """As long as it says, a few times."""
    server.answers = [(status, {"message": "busy"}, {"Retry-After": "0"})]
    with pytest.raises(ClusterUnavailable, match="busy"):
        await api.get("Job", "web", "a")
    assert len(server.asked) == attempts


async def test_a_field_that_the_definition_lacks_is_no_busy_server(api: Api, server: Server):
    """The API server answers with 500, but it will say the same until the definition is upgraded."""
    server.answers = [(500, {"message": ".status.new: field not declared in schema"}, {"Retry-After": "0"})]
    with pytest.raises(ClusterRefused, match=r"definition of ImageIndex is older than this operator: upgrade it"):
        await api.apply(JOB, subresource="status")


async def test_a_server_that_was_busy_answers_the_second_time(api: Api, server: Server):
    """And nobody notices."""
    server.answers = [(429, {}, {"Retry-After": "0"}), (200, JOB, {})]
    assert await api.get("Job", "web", "a") == JOB


async def test_a_token_that_has_expired_is_replaced(api: Api, server: Server):
    """The file of a service account has the next one."""
    server.answers = [(401, {}, {}), (200, JOB, {})]
    assert await api.get("Job", "web", "a") == JOB
    assert [asked[2]["Authorization"] for asked in server.asked] == ["Bearer token-1", "Bearer token-2"]


@pytest.mark.parametrize("status", [403, 409, 422])
async def test_a_refusal_carries_its_status_and_the_servers_words(api: Api, server: Server, status: int):
    """Once; asking again would not help."""
    server.answers = [(status, {"message": "no, because"}, {})]
    with pytest.raises(ClusterRefused, match="no, because") as refusal:
        await api.apply(JOB)
    assert refusal.value.status == status
    assert len(server.asked) == 1


async def test_a_server_that_is_not_there_is_unavailable():
    """The queue tries again, with growing pauses."""
    async with Api(lambda: kopf.ConnectionInfo(server="http://127.0.0.1:9")) as api:
        with pytest.raises(ClusterUnavailable, match="does not answer"):
            await api.get("Job", "web", "a")
