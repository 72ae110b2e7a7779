from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.rig import Place
from tests.integration.databases import cluster, databases, kind, url
from tests.postgres import Cluster

__all__ = ["cluster", "databases", "kind", "place", "url"]


@pytest.fixture
def place(kind: str, url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    started: Callable[[], Cluster] = lambda: request.getfixturevalue("cluster")  # noqa: E731
    return Place(kind=kind, folder=tmp_path, url=url, cluster=started)
