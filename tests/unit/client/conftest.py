from __future__ import annotations

import pytest

from tests.unit.client.fake_service import FakeService


@pytest.fixture
def service() -> FakeService:
    return FakeService()
