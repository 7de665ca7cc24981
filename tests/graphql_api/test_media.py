from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from engine.ports import Point
from engine.settings import Settings
from graphql_api.media import Media, _inside
from tests.graphql_api.live import Api, Library

ONE = """query One($name: [String!]) {
  search(query: "x", first: 1, filter: {fileName: $name}) { edges { node { id url thumbnailUrl contentHash } } }
}"""


def _node(api: Api, name: str) -> dict[str, str]:
    (edge,) = api.data(ONE, name=[name])["search"]["edges"]
    node: dict[str, str] = edge["node"]
    return node


def test_an_original_is_served_as_what_it_is(api: Api, library: Library):
    """The bytes of the file, its media type by content, shown rather than downloaded, never guessed."""
    response = api.client.get(_node(api, "red-0.png")["url"])
    assert response.content == (library.pictures / "red-0.png").read_bytes()
    assert response.headers["content-type"] == "image/png"
    assert response.headers["content-disposition"].startswith("inline")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in response.headers["content-security-policy"]


def test_formats_that_browsers_cannot_show_are_their_thumbnail(api: Api):
    """A BMP is answered as the WebP that was made of it."""
    response = api.client.get(_node(api, "red-5.bmp")["url"])
    assert response.headers["content-type"] == "image/webp"
    assert response.content[8:12] == b"WEBP"


def test_thumbnails_are_kept_forever(api: Api):
    """The address holds the content's hash, so it may be kept; asked again with the tag, nothing is sent."""
    node = _node(api, "blue-24.png")
    response = api.client.get(node["thumbnailUrl"])
    assert response.headers["content-type"] == "image/webp"
    assert "immutable" in response.headers["cache-control"]
    assert node["contentHash"] in response.headers["etag"]
    again = api.client.get(node["thumbnailUrl"], headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_thumbnails_without_the_hash_are_asked_for_again(api: Api):
    """An address that does not name the content may change."""
    response = api.client.get(_node(api, "blue-24.png")["thumbnailUrl"].partition("?")[0])
    assert response.headers["cache-control"] == "no-cache"


def test_a_file_that_is_gone_is_410(api: Api, library: Library):
    """The answer says what to do; the thumbnail is still there."""
    node = _node(api, "white-58.png")
    file = library.pictures / "white-58.png"
    content = file.read_bytes()
    file.unlink()
    try:
        response = api.client.get(node["url"])
    finally:
        file.write_bytes(content)
    assert response.status_code == 410
    assert response.json()["errors"][0]["extensions"]["code"] == "IMAGE_GONE"
    assert api.client.get(node["thumbnailUrl"]).status_code == 200


def test_a_file_that_is_no_picture_any_more_is_not_served(api: Api, library: Library):
    """What stands in an indexed picture's place, such as a page with a script, is not sent."""
    node = _node(api, "white-57.png")
    file = library.pictures / "white-57.png"
    content = file.read_bytes()
    file.write_text("<script>alert(1)</script>")
    try:
        assert api.client.get(node["url"]).status_code == 410
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize("path", ["s3://bucket/a.jpg", "https://host/a.jpg", "/shards/x.tar/0001.jpg"])
async def test_an_original_that_lies_elsewhere_is_its_thumbnail(tmp_path: Path, path: str):
    """The server has no credentials for stores and fetches nothing for clients; it shows what it has."""
    (tmp_path / "pets" / "thumbnails").mkdir(parents=True)
    (tmp_path / "pets" / "thumbnails" / "ab.jpg").write_bytes(b"\xff\xd8\xff" + bytes(20))
    id_ = "6d1f8d22-95a5-4d9e-9a58-0d1f6b1b6f00"
    payload = {"filePath": path, "fileName": "a.jpg", "contentHash": "ab", "thumbnail": "thumbnails/ab.jpg"}

    async def image(*_: str) -> Point:
        return Point(id_, None, payload)

    services: Any = SimpleNamespace(settings=Settings(index_path=tmp_path), searcher=SimpleNamespace(image=image))
    app = Starlette(routes=[Route("/images/{index}/{id}", Media(services).image)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        response = await client.get(f"/images/pets/{id_}")
    assert (response.status_code, response.headers["content-type"]) == (200, "image/jpeg")


@pytest.mark.parametrize("route", ["images", "thumbnails"])
@pytest.mark.parametrize(
    "address",
    [
        "colours/6d1f8d22-95a5-4d9e-9a58-0d1f6b1b6f00",
        "nowhere/6d1f8d22-95a5-4d9e-9a58-0d1f6b1b6f00",
        "colours/..%2f..%2fetc%2fpasswd",
        "..%2fcolours/x",
        "%2e%2e/6d1f8d22-95a5-4d9e-9a58-0d1f6b1b6f00",
        "colours/current",
        "colours/%00",
        "colours/../../../etc/passwd",
    ],
)
def test_nothing_else_can_be_reached(api: Api, route: str, address: str):
    """Unknown ids and every way of climbing out of the folder are 404."""
    assert api.client.get(f"/{route}/{address}").status_code == 404


def test_a_thumbnail_outside_the_index_is_not_served(library: Library):
    """Even an index whose payload points elsewhere gives nothing away."""
    inside = library.data / "colours"
    (thumbnail,) = list((inside / "thumbnails").rglob("*.webp"))[:1]
    assert _inside(inside, str(thumbnail.relative_to(inside))) is not None
    assert _inside(inside / "generations", f"../{thumbnail.relative_to(inside)}") is None
    assert _inside(inside / "generations", str(thumbnail)) is None
