"""One cluster for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.e2e.cluster.cluster import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster that tests share; where it has no containers, it has its control plane and simulated nodes."""
    with Cluster() as cluster:
        if cluster.no_containers and os.environ.get("CI"):
            pytest.fail(f"Continuous integration tests with real containers, and here {cluster.no_containers}.")
        yield cluster


@pytest.fixture(scope="session")
def node(cluster: Cluster) -> Cluster:
    """The same, where it runs containers; elsewhere the one line that says why a test can't run."""
    if cluster.no_containers:
        pytest.skip(cluster.no_containers)
    return cluster


@pytest.fixture(scope="session")
def python_image(node: Cluster) -> str:
    """The name of an image with Python that the node has."""
    name = node.images.base()
    node.load_image(node.images.archive(name))
    return name
