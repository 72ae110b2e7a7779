import os

import pytest

from tests.integration.databases import clock, cluster, databases, db, kind, url

__all__ = ["clock", "cluster", "databases", "db", "full", "kind", "url"]


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether checks that can go on for hours shall: GAMMABETA_TEST_FULL=1."""
    return os.environ.get("GAMMABETA_TEST_FULL", "0") not in ("", "0")
