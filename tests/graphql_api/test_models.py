"""One server, several models: every generation is searched with its own, and changing the model fails no search."""

from __future__ import annotations

import asyncio
import threading
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from engine import serving
from engine.encoders import loaded
from engine.encoders.choice import export_model, load_encoder
from engine.encoders.exported import place_of
from engine.generations import Generation, generations_of
from engine.ports import Encoder
from engine.settings import Settings
from graphql_api.app import create_app
from graphql_api.services import Services
from tests.engine.conftest import built, id_of
from tests.graphql_api.live import Api, eventually, run_server
from tests.support.encoders import PALETTE, Shelf
from tests.support.models import shipped

CAPTIONS = [f"{colour} car" for colour in PALETTE]
SEARCH = """query($q: String!, $index: String) {
  search(query: $q, index: $index, first: 3) {
    edges { score node { metadata id } }
    execution { generation model }
  }
}"""
SIMILAR = """query($id: ID!) {
  image(index: "other", id: $id) { similar(first: 1) { execution { model } totalCount { value } } }
}"""
BOTH = """{
  mine: search(query: "pink car", first: 1) { ...page }
  others: search(query: "pink car", first: 1, index: "other") { ...page }
}
fragment page on SearchConnection { edges { score node { metadata id } } execution { generation model } }"""
HEALTH = "{ health { status model encoderLoaded problems models { name dimension device runtime fingerprint } } }"


@pytest.fixture(autouse=True)
def _watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers look at their pointers all the time."""
    monkeypatch.setattr(serving, "_REFRESH_S", 0.02)


@pytest.fixture
def shelf() -> Shelf:
    """Models of any name, all of one dimension."""
    return Shelf()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a server that starts with the model "first"."""
    return Settings(_env_file=None, index_path=tmp_path / "data", clip_model="first", search_timeout_s=30)


def promoted(settings: Settings, encoder: Encoder, index: str = "default") -> Generation:
    """What `sightline index` does in another process: a generation of the encoder's model, which then serves."""

    async def work() -> Generation:
        async with generations_of(settings, index) as store:
            generation = await built(store, CAPTIONS, encoder, metadata={"model": encoder.model.name})
            return await store.promote(generation.id)

    return asyncio.run(work())


def turn(settings: Settings, generation: Generation) -> None:
    """Has a generation serve that is there."""

    async def work() -> None:
        async with generations_of(settings, generation.index) as store:
            await store.promote(generation.id)

    asyncio.run(work())


def judged(found: dict[str, Any], text: str, model: str) -> str:
    """What is wrong with the answer of a generation of this model, or nothing."""
    best = found["edges"][0]
    wanted = (model, id_of(CAPTIONS.index(text)), model, True)
    given = (found["execution"]["model"], best["node"]["id"], best["node"]["metadata"]["model"], best["score"] > 0.999)
    return "" if given == wanted else f"{text}: {given} instead of {wanted}"


def spoken(api: Api) -> list[str]:
    """The models in memory, as health says."""
    return [model["name"] for model in api.data(HEALTH)["health"]["models"]]


def test_two_indexes_of_a_server_are_searched_with_their_own_models(settings: Settings, shelf: Shelf):
    """In one request, by words and by a picture; the model of the second is loaded when words are searched there."""
    promoted(settings, shelf.encoder("first"))
    promoted(settings, shelf.encoder("second"), "other")
    with run_server(create_app(settings, services=Services(settings, shelf))) as api:
        similar = api.data(SIMILAR, id=id_of(0))["image"]["similar"]
        assert similar == {"execution": {"model": "second"}, "totalCount": {"value": len(CAPTIONS) - 1}}
        assert len(api.data("{ indexes { name ready } }")["indexes"]) == 2
        assert spoken(api) == ["first"]
        for text in CAPTIONS:
            assert judged(api.data(SEARCH, q=text)["search"], text, "first") == ""
            assert judged(api.data(SEARCH, q=text, index="other")["search"], text, "second") == ""
        answers = api.data(BOTH)
        assert judged(answers["mine"], "pink car", "first") == ""
        assert judged(answers["others"], "pink car", "second") == ""
        health = api.data(HEALTH)["health"]
        assert (health["status"], health["model"], health["problems"]) == ("HEALTHY", "first", [])
        assert health["models"] == [
            {
                "name": name, "dimension": 16, "device": "cpu", "runtime": "NumPy",
                "fingerprint": shelf.encoder(name).model.fingerprint,
            }
            for name in ("first", "second")
        ]  # fmt: skip


def test_ready_means_that_the_model_of_the_default_index_is_loaded(settings: Settings, shelf: Shelf):
    """Whatever CLIP_MODEL says; that one is let go, because nothing needs it."""
    promoted(settings, shelf.encoder("second"))
    shelf.missing = {"second"}
    with run_server(create_app(settings, services=Services(settings, shelf)), wait=False) as api:
        eventually(lambda: "weights of second are not here" in api.client.get("/readyz").text)
        health = api.data(HEALTH)["health"]
        assert (health["status"], health["encoderLoaded"], spoken(api)) == ("DEGRADED", False, ["first"])
        assert "can't be searched in words" in health["problems"][0]
        error = api.error(SEARCH, q="red car")
        assert error["extensions"]["code"] == "MODEL_UNAVAILABLE"
        assert "CLIP_MODEL=second" in error["message"]
        shelf.missing.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loaded, "_RETRY_S", 0)
            eventually(lambda: api.client.get("/readyz").status_code == 200)
        assert judged(api.data(SEARCH, q="red car")["search"], "red car", "second") == ""
        eventually(lambda: shelf.names() == ["second"])
        assert spoken(api) == ["second"]


def test_a_promoted_model_that_is_not_here_is_reported_until_it_is(
    settings: Settings, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
):
    """Searches go on with the old generation and its model; health says what is missing and where to put it."""
    promoted(settings, shelf.encoder("first"))
    with run_server(create_app(settings, services=Services(settings, shelf))) as api:
        shelf.missing = {"second"}
        promoted(settings, shelf.encoder("second"))
        eventually(lambda: api.data(HEALTH)["health"]["status"] == "DEGRADED")
        health = api.data(HEALTH)["health"]
        assert (health["model"], health["encoderLoaded"]) == ("first", True)
        assert "goes on with generation" in health["problems"][0]
        assert "sightline models export" in health["problems"][0]
        for text in CAPTIONS:
            assert judged(api.data(SEARCH, q=text)["search"], text, "first") == ""
        assert api.client.get("/readyz").status_code == 200
        monkeypatch.setattr(loaded, "_RETRY_S", 0)
        shelf.missing.clear()
        eventually(lambda: api.data(HEALTH)["health"]["model"] == "second")
        health = api.data(HEALTH)["health"]
        assert (health["status"], health["problems"]) == ("HEALTHY", [])
        assert judged(api.data(SEARCH, q="blue car")["search"], "blue car", "second") == ""


def test_real_models_are_changed_under_load_without_a_wrong_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Compiled for the processor, six times to and fro, while four clients search; one is in memory in the end."""
    paths = {"index_path": tmp_path / "data", "search_timeout_s": 30}
    settings = shipped(tmp_path, monkeypatch, "vit", "resnet").model_copy(update=paths)
    generations = {}
    for name in ("resnet", "vit"):
        named = settings.model_copy(update={"clip_model": name})
        export_model(named, place_of(named))
        generations[name] = promoted(settings, load_encoder(named))
    with run_server(create_app(settings)) as api:
        load = Load(api)
        try:
            for name in ["resnet", "vit"] * 3:
                turn(settings, generations[name])
                eventually(lambda name=name: api.data(HEALTH)["health"]["model"] == name, 60)
                eventually(load.grown)
        finally:
            load.stop()
        assert load.wrong == []
        eventually(lambda: spoken(api) == ["vit"])


class Load:
    """Four clients that search without a pause and judge every answer."""

    def __init__(self, api: Api) -> None:
        self.answers = 0
        self.wrong: list[str] = []
        self._seen = 0
        self._api = api
        self._stopped = threading.Event()
        self._clients = [threading.Thread(target=self._run) for _ in range(4)]
        for client in self._clients:
            client.start()

    def grown(self) -> bool:
        """Whether there are twenty answers more than when it last was."""
        if self.answers < self._seen + 20:
            return False
        self._seen = self.answers
        return True

    def stop(self) -> None:
        self._stopped.set()
        for client in self._clients:
            client.join(60)

    def _run(self) -> None:
        for text in cycle(CAPTIONS):
            if self._stopped.wait(0.002):
                return
            answer = self._api.ask(SEARCH, q=text)
            found = (answer.get("data") or {}).get("search")
            model = found["execution"]["model"] if found else ""
            reason = judged(found, text, model) if found else f"{text}: {answer['errors']}"
            self.answers += 1
            if reason:
                self.wrong.append(reason)
