from __future__ import annotations

import pytest

from gammabeta.store.settings import StoreSettings
from service.settings import ServiceSettings
from worker.settings import WorkerSettings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]"])
def test_loopback_addresses_are_known(host: str) -> None:
    assert ServiceSettings(host=host).on_loopback


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "10.0.0.1", "example.org", "", "localhost.evil.example"],  # noqa: S104 (must be refused)
)
def test_other_addresses_are_not_loopback(host: str) -> None:
    assert not ServiceSettings(host=host).on_loopback


def test_allowed_hosts_come_from_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAMMABETA_ALLOWED_HOSTS", "ml.example.org, Box")
    assert {"ml.example.org", "box", "localhost"} <= ServiceSettings().hosts


@pytest.mark.parametrize(("host", "name"), [("10.0.0.1", "10.0.0.1"), ("fe80::1", "[fe80::1]"), ("[::1]", "[::1]")])
def test_the_address_to_listen_on_is_a_name_of_the_service(host: str, name: str) -> None:
    assert name in ServiceSettings(host=host).hosts


def test_service_and_worker_share_no_variable_but_those_of_the_store() -> None:
    """`gammabeta up` starts both in one environment. What they do share means the same in both; the port of metrics,
    which only one of them can have, it gives to the worker."""
    shared = ServiceSettings.model_fields.keys() & WorkerSettings.model_fields.keys()
    assert shared == StoreSettings.model_fields.keys() | {
        "log_level",
        "lease_seconds",
        "metrics_host",
        "metrics_port",
    }


def test_every_setting_says_what_it_is() -> None:
    assert not [name for name, field in ServiceSettings.model_fields.items() if not field.description]
