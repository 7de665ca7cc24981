"""Going back by itself: a promotion that turns out bad in service, in ways that real ones do, while people search."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import pytest

from engine.generations.qdrant import QdrantGenerations
from engine.indexes.qdrant import QdrantIndex
from engine.settings import Settings
from tests.e2e.system.crowd import Crowd, ask
from tests.e2e.system.installation import NAMESPACE, Installation, eventually
from tests.support.s3 import Bucket

pytestmark = pytest.mark.programs

T = TypeVar("T")
LOG = logging.getLogger(__name__)

FEWER: Final = 100
ASKED: Final = 8
MORE: Final = 60
"""Answers that are waited for where some must be good."""
ROLLOUT: Final = {"scaleDownDelaySeconds": 300}
"""So long is a promotion watched: a busy machine may take its time until something is broken."""

Sources = tuple[dict[str, Any], dict[str, Any]]


class Gallery:
    """An ImageIndex, as people see it who apply it, search it, and have their hands in Qdrant."""

    def __init__(self, installation: Installation, name: str, captions: dict[str, str]) -> None:
        self.name = name
        self._installation = installation
        self._captions = {caption: file for file, caption in captions.items()}
        key = installation.get("secret", "sightline-stores")["data"]["QDRANT_API_KEY"]
        self._settings = Settings(
            _env_file=None,
            qdrant_url=installation.cluster.service_url("sightline-qdrant", 6334, NAMESPACE),
            qdrant_api_key=base64.b64decode(key).decode(),
        )

    # ---------------------------------------------------------------- at Kubernetes

    def apply(self, source: dict[str, Any], **spec: Any) -> str:
        """Waits until it serves what this says; the generation."""
        before = self.serving()
        self._installation.index(self.name, source, **spec)
        eventually(lambda: self.serving() not in {"", before}, True)
        eventually(lambda: self.condition("Promoted"), "True Serving")
        eventually(lambda: self.condition("Ready"), "True Serving")
        return self.serving()

    def annotate(self, annotation: str) -> None:
        """Sets an annotation of our group."""
        self._installation.kubectl("annotate", "imageindex", self.name, f"sightline.dev/{annotation}", "--overwrite")

    def serving(self) -> str:
        """The generation that serves, as the status says."""
        found = self._installation.get("imageindexes")["items"]
        status = next((one.get("status", {}) for one in found if one["metadata"]["name"] == self.name), {})
        return str(status.get("activeCollection", ""))[-27:]

    def condition(self, type_: str) -> str:
        """Status and reason."""
        return self._installation.condition(self.name, type_)

    def events(self, reason: str) -> list[str]:
        """The messages of its Events of this reason."""
        selector = f"--field-selector=involvedObject.name={self.name},reason={reason}"
        return [one["message"] for one in self._installation.get("events", selector)["items"]]

    def children(self, kinds: str) -> list[str]:
        """The names of its children."""
        return sorted(self._installation.names(kinds, self.name))

    # ---------------------------------------------------------------- at Qdrant

    def served(self) -> list[str]:
        """Every generation that the alias ever stood for, in order; "" for a time when it stood for nothing."""
        (claim,) = (name for name in self._installation.names("pvc") if "qdrant" in name)
        log = self._installation.folder_of_claim(claim) / "storage" / "aliases.log"
        found = [""]
        for line in log.read_text().splitlines():
            if (id_ := json.loads(line).get(f"sightline-{self.name}", "")[-27:]) != found[-1]:
                found.append(id_)
        return found[1:]

    def contents(self, generation: str) -> list[tuple[str, list[float], dict[str, Any]]]:
        """All points of a generation: ids, vectors and payloads."""

        async def read(index: QdrantIndex) -> list[tuple[str, list[float], dict[str, Any]]]:
            found = await index.retrieve(await index.ids(), vectors=True)
            return [(one.id, [] if one.vector is None else one.vector.tolist(), dict(one.payload)) for one in found]

        return self._with_index(generation, read)

    def lose(self, generation: str) -> None:
        """Somebody deletes the collection, perhaps for another one."""

        async def drop(index: QdrantIndex) -> None:
            await index.connection.drop(index.collection)

        self._with_index(generation, drop)

    def damage(self, generation: str) -> None:
        """Somebody restores something else over the collection: the record and the alias are as they were."""

        async def replace(index: QdrantIndex) -> None:
            record = await index.connection.metadata(index.collection)
            await index.connection.drop(index.collection)
            other = await QdrantIndex.create(index.collection, 8, self._settings)
            await other.connection.set_metadata(index.collection, record)
            await other.connection.switch_alias(f"sightline-{self.name}", index.collection)
            await other.close()

        self._with_index(generation, replace)

    def _with_index(self, generation: str, do: Callable[[QdrantIndex], Awaitable[T]]) -> T:
        async def done() -> T:
            store = QdrantGenerations(self._settings, self.name)
            index = await store.open_index(await store.get(generation))
            try:
                return await do(index)  # type: ignore[arg-type] - Qdrant's
            finally:
                await index.close()
                await store.close()

        return asyncio.run(done())

    # ---------------------------------------------------------------- as people search

    def crowd(self) -> Crowd:
        """People who ask for something new each time: what is remembered says nothing of a generation."""
        queries = [f"{caption}, number {number}" for number in range(50) for caption in self._captions.values()]
        return Crowd(self._installation.url(self.name), queries)

    def wrong(self) -> list[str]:
        """The captions of which the picture is not found."""
        url = f"{self._installation.url(self.name)}/graphql"
        with httpx.Client(timeout=30) as client:
            found = {caption: ask(client, url, caption)["edges"] for caption in list(self._captions)[:ASKED]}
        return [
            caption
            for caption, edges in found.items()
            if self._captions[caption] not in {edge["node"]["fileName"] for edge in edges}
        ]


@pytest.fixture(scope="module")
def sources(bucket: Bucket, scenes: Path, source: dict[str, Any]) -> Sources:
    """All pictures, and another folder with some of them."""
    for file in sorted(scenes.glob("*.jpg"))[:FEWER]:
        bucket.put(f"fewer/{file.name}", file.read_bytes())
    return source, {"s3": {**source["s3"], "url": f"{bucket.address}/fewer"}}


def test_a_promotion_whose_searches_fail_is_taken_back(
    installation: Installation, sources: Sources, captions: dict[str, str]
):
    """Seen in the replicas' own counts; searches fail only until then. A damaged generation is not promoted again."""
    gallery = Gallery(installation, "damaged", captions)
    everything, fewer = sources
    first = gallery.apply(everything, rollout=ROLLOUT)
    contents = gallery.contents(first)
    with gallery.crowd() as crowd:
        second = gallery.apply(fewer, rollout=ROLLOUT)
        eventually(lambda: second in crowd.generations, True)
        jobs = gallery.children("jobs")
        assert crowd.failures == []

        gallery.annotate("paused=true")  # what follows is one step at a real Qdrant, and not to be seen half done
        eventually(lambda: gallery.condition("ReconciliationPaused"), "True Paused")
        gallery.damage(second)
        gallery.annotate("paused=false")
        went_back(gallery, crowd, first)
        eventually(lambda: any("searches failed after" in message for message in gallery.events("RolledBack")), True)
        assert gallery.served() == [first, second, "", second, first]
        assert gallery.children("jobs") == jobs
        assert gallery.contents(first) == contents

        gallery.annotate("retry=1")
        eventually(lambda: gallery.condition("Degraded"), "True Failed")
        failed = len(crowd.failures)
        gallery.annotate("reindex=1")
        eventually(lambda: gallery.serving() not in {first, second}, True)
        eventually(lambda: gallery.condition("Promoted"), "True Serving")
        third = gallery.serving()
        eventually(lambda: third in crowd.generations, True)
        assert len(crowd.failures) == failed
    assert gallery.served() == [first, second, "", second, first, third]
    assert crowd.contradictions() == []
    installation.kubectl("delete", "imageindex", gallery.name)


def test_a_generation_that_is_deleted_after_its_promotion_is_followed_by_the_one_before(
    installation: Installation, sources: Sources, captions: dict[str, str]
):
    """By an honest mistake, at Qdrant. Told to go on, it is built anew; the old spec takes no Job at all."""
    gallery = Gallery(installation, "deleted", captions)
    everything, fewer = sources
    first = gallery.apply(everything, rollout=ROLLOUT)
    contents = gallery.contents(first)
    with gallery.crowd() as crowd:
        second = gallery.apply(fewer, rollout=ROLLOUT)
        eventually(lambda: second in crowd.generations, True)
        assert crowd.failures == []
        gallery.lose(second)
        went_back(gallery, crowd, first)
        assert gallery.served() == [first, second, "", first]
        eventually(lambda: gallery.events("GenerationGone") != [], True)

        failed = len(crowd.failures)
        gallery.annotate("retry=1")
        eventually(lambda: gallery.serving() not in {first, second, ""}, True)
        eventually(lambda: gallery.condition("Promoted"), "True Serving")
        third = gallery.serving()
        eventually(lambda: third in crowd.generations, True)
        assert len(crowd.failures) == failed

        gallery.lose(third)
        went_back(gallery, crowd, first)
        failed = len(crowd.failures)
        jobs = gallery.children("jobs")
        installation.patch(gallery.name, source=everything)
        eventually(lambda: gallery.condition("Promoted"), "True Serving")
        assert gallery.serving() == first
        assert gallery.condition("Degraded") == "False AsExpected"
        assert gallery.children("jobs") == jobs
        assert len(crowd.failures) == failed
    assert gallery.served() == [first, second, "", first, third, "", first]
    assert gallery.contents(first) == contents
    assert crowd.contradictions() == []
    installation.kubectl("delete", "imageindex", gallery.name)


def test_replicas_that_die_after_a_promotion_are_followed_by_those_before(
    installation: Installation, sources: Sources, captions: dict[str, str], second_model: Path
):
    """The files of their model are gone, and so is, a moment later, the only replica that had read them."""
    gallery = Gallery(installation, "bereft", captions)
    everything, _ = sources
    first = gallery.apply(everything, rollout=ROLLOUT)
    (before,) = gallery.children("deployments")
    model = installation.folder_of_claim("sightline-data") / "models" / "bereft"
    shutil.copytree(second_model, model)
    with gallery.crowd() as crowd:
        other = {"name": "sightline-small", "pretrained": "/data/models/bereft"}
        second = gallery.apply(everything, model=other, rollout=ROLLOUT)
        (after,) = set(gallery.children("deployments")) - {before}
        eventually(lambda: second in crowd.generations, True)
        assert crowd.failures == []
        shutil.rmtree(model)
        (replica,) = (name for name in gallery.children("pods") if name.startswith(after))
        installation.kubectl("delete", "pod", replica)
        went_back(gallery, crowd, first)
        assert gallery.served() == [first, second, first]
        eventually(lambda: any("no replica was available" in one for one in gallery.events("RolledBack")), True)
    assert crowd.contradictions() == []
    installation.kubectl("delete", "imageindex", gallery.name)


def went_back(gallery: Gallery, crowd: Crowd, generation: str) -> None:
    """By itself, and says so; people who search are answered again, right, and by this generation."""
    eventually(lambda: gallery.condition("Promoted"), "False RolledBack")
    eventually(gallery.serving, generation)
    eventually(lambda: gallery.condition("Ready"), "True Serving")
    assert gallery.condition("Degraded") == "True RolledBack"
    eventually(lambda: gallery.events("RolledBack") != [], True)
    eventually(lambda: good_again(gallery), True)
    more(crowd)  # who asked before is answered
    failed = len(crowd.failures)
    LOG.info("%d of %d searches failed until then: %s", failed, failed + crowd.answered, gallery.events("RolledBack"))
    assert failed > 0
    more(crowd)
    assert len(crowd.failures) == failed, crowd.failures[failed:]


def good_again(gallery: Gallery) -> bool:
    """Whether searches find what they should."""
    try:
        return gallery.wrong() == []
    except (httpx.HTTPError, ValueError):
        return False


def more(crowd: Crowd) -> None:
    """Waits for answers."""
    wanted = crowd.answered + MORE
    eventually(lambda: crowd.answered >= wanted, True)
