"""An API server that is busy, breaks, loses answers and ends watches: the same end, nothing done twice."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Self

import pytest

from tests.e2e.cluster.cluster import Cluster
from tests.e2e.operator.conftest import Operator, Shop, eventually
from tests.e2e.operator.steps import built_by_jobs, served
from tests.support.faulty_api import ENDINGS, FAULTS, FaultyApi
from tests.support.qdrant import QdrantServer

pytestmark = pytest.mark.programs

H14 = {"name": "ViT-H-14", "pretrained": "laion2b_s32b_b79k"}
SOON = {"scaleDownDelaySeconds": 3}


class Restarted(Operator):
    """As a context: an operator that reaches the API through a proxy, and is started again if it ends, as pods are.

    It ends when it could not renew its Lease for ten seconds, which bad days of the API server may bring. In the end a
    signal ends it with 0, however the API server answers.
    """

    def __init__(self, cluster: Cluster, qdrant: QdrantServer, namespace: str, kubeconfig: Path) -> None:
        super().__init__(cluster, qdrant, namespace, "one")
        self._environment["KUBECONFIG"] = str(kubeconfig)
        self._over = False
        self._thread = threading.Thread(target=self._keep)

    def __enter__(self) -> Self:
        self.start()
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over = True
        status = self.end()
        self._thread.join()
        assert status == 0

    def _keep(self) -> None:
        while self._process:
            self._process.wait()
            if self._over:
                break
            self.start()


@pytest.mark.parametrize("seed", [19, 410])
def test_rollouts_converge_whatever_the_api_server_does(
    plane: Cluster, qdrant: QdrantServer, namespace: str, shop: Shop, tmp_path: Path, seed: int
):
    """Two rollouts and a repair: every generation has one Job, the alias moves once for each, and all is as asked."""
    with (
        FaultyApi(plane.kubeconfig, tmp_path, seed=seed) as api,
        Restarted(plane, qdrant, namespace, api.kubeconfig),
    ):
        shop.apply(rollout=SOON)
        first = served(shop)
        shop.apply(model=H14, rollout=SOON)
        second = served(shop, "ViT-H-14")
        eventually(lambda: len(shop.children("deployments")), 1)
        shop.kubectl("delete", "service", "shop")
        eventually(lambda: len(shop.children("services")), 1)
        eventually(lambda: shop.condition("Promoted"), "True Serving")
        eventually(lambda: shop.condition("Degraded"), "False AsExpected")
        eventually(lambda: {*FAULTS, *ENDINGS} - set(api.befell), set())
    assert shop.served() == [first, second]
    jobs = [path for path in api.created if re.search(r"/jobs/", path)]
    assert len(jobs) == len(set(jobs)) == 2
    assert sorted(built_by_jobs(shop)) == [first, second]
