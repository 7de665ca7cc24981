"""The whole story, as a platform team lives it: install, apply, search, change the model, go back, delete."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.system.conftest import SCENES
from tests.e2e.system.crowd import Crowd, ask
from tests.e2e.system.installation import Installation, eventually, tutorial
from tests.support.s3 import CREDENTIALS, Bucket

pytestmark = pytest.mark.programs

INDEX = "pictures"
ASKED = 8
LOG = logging.getLogger(__name__)


def own(command: str, installation: Installation, bucket: Bucket) -> str:
    """A command of the tutorial with the names of one's own bucket, as it asks for."""
    for placeholder, value in {
        "MY-KEY-ID": CREDENTIALS["AWS_ACCESS_KEY_ID"],
        "MY-SECRET-KEY": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        '"s3://my-bucket/pictures"': f'"{bucket.address}/pictures", endpoint: "{installation.s3}"',
    }.items():
        command = command.replace(placeholder, value)
    return command


def test_from_an_empty_cluster_to_a_searched_bucket_and_on_through_its_life(
    installation: Installation, bucket: Bucket, captions: dict[str, str], second_model: Path
):
    """By the tutorial's five commands; an upgrade, blue/green and roll-back under load; deletion keeps the data."""
    _, secret, apply, wait, search = (own(command, installation, bucket) for command in tutorial())
    installation.shell("helm test sightline --namespace search")
    installation.shell(secret)
    began = time.monotonic()
    installation.shell(apply)
    installation.shell(wait)
    LOG.info("From apply to ready: %.0f s", time.monotonic() - began)
    assert "a red" in installation.shell(search)

    first = serving(installation)
    status = installation.status(INDEX)
    assert (status["imagesSeen"], status["pointsIndexed"]) == (SCENES, SCENES)
    assert (status["job"]["completedIndexes"], status["job"]["failedIndexes"]) == ("0-3", "")
    searches = {caption: name for name, caption in list(captions.items())[:ASKED]}
    url = installation.url(INDEX)
    with Crowd(url, list(searches)) as crowd:
        eventually(lambda: crowd.answered > len(searches) * 3, True)
        installation.shell("helm upgrade sightline charts/sightline --namespace search --wait --set logLevel=debug")
        assert serving(installation) == first
        change_the_model(installation, second_model)
        second = serving(installation)
        go_back(installation)
        assert serving(installation) == first
    assert (crowd.failures, crowd.refused) == ([], 0)
    assert crowd.contradictions() == []
    assert crowd.generations == [first, second]
    assert [name for caption, name in searches.items() if name not in crowd.answer(caption, first)] == []

    installation.kubectl("delete", "imageindex", INDEX)
    eventually(lambda: installation.names("jobs,deployments,services,poddisruptionbudgets,pods", INDEX), [])
    with httpx.Client(timeout=30) as client:
        kept = ask(client, f"{installation.url('sightline-api')}/graphql", next(iter(searches)), INDEX)
    assert kept["execution"]["generation"] == first


def change_the_model(installation: Installation, model: Path) -> None:
    """Its files come to the volume that all pods see; then one field is edited."""
    target = installation.folder_of_claim("sightline-data") / "models" / "second"
    shutil.copytree(model, target)
    before = serving(installation)
    installation.patch(INDEX, model={"pretrained": "/data/models/second"})
    eventually(lambda: serving(installation) != before, True)
    eventually(lambda: installation.condition(INDEX, "Ready"), "True Serving")
    eventually(lambda: len(installation.names("deployments", INDEX)), 1)


def go_back(installation: Installation) -> None:
    """By the same field; nothing is indexed again."""
    jobs = installation.names("jobs", INDEX)
    before = serving(installation)
    installation.patch(INDEX, model={"pretrained": ""})
    eventually(lambda: serving(installation) != before, True)
    assert installation.names("jobs", INDEX) == jobs
    eventually(lambda: installation.condition(INDEX, "Ready"), "True Serving")


def serving(installation: Installation) -> str:
    """The generation that serves, as the status says."""
    return str(installation.status(INDEX).get("activeCollection", ""))[-27:]
