"""Rows 6 to 8, which hold since nothing is there to attack: no URL is taken, and the service asks nobody for anything.

What speaks to another machine is what the operator has set: the database, and a bucket by obstore.
"""

from __future__ import annotations

import ast
import json
import socket
from typing import Any

import pytest

from tests.integration.service.test_keys import DOCUMENT
from tests.test_architecture import MODULES, _imports
from tests.threats.conftest import Stocked

CLIENTS = {"httpx", "requests", "aiohttp", "urllib3", "httpcore", "websockets", "ftplib", "smtplib", "telnetlib"}
"""Libraries that ask other machines."""
CLIENT_MODULES = {"urllib.request", "urllib.robotparser", "http.client", "xmlrpc.client"}
INSIDE = [each for each in MODULES if each.split(".")[0] in ("service", "worker") or "store" in each.split(".")]
CONNECTING = {"create_connection", "open_connection", "open_unix_connection", "urlopen", "connect_tcp"}

URL_FIELDS = (
    "url uri source source_url dataset_url model_url callback callback_url webhook webhook_url href link".split()
)
TRAINING = {"dataset": "people", "model": "m", "network": {"preset": "mlp"}, "training": {"batch_size": 4}}
HOSTS = (
    "127.0.0.1 localhost 127.1 0x7f.1 0x7f000001 2130706433 017700000001 0 0.0.0.0 [::] [::1] [::ffff:127.0.0.1] "
    "[::ffff:7f00:1] [64:ff9b::7f00:1] [2002:7f00:1::] 127.0.0.1. user@127.0.0.1 user:word@127.0.0.1 "
    "example.org@127.0.0.1 127.0.0.1#@example.org localhost.localdomain"
).split()
ELSEWHERE = [
    "http://169.254.169.254/latest/meta-data/",
    "http://[::ffff:169.254.169.254]/",
    "http://100.100.100.200/",
    "http://192.0.0.192/",
    "http://metadata.google.internal/",
    "file:///etc/passwd",
    "gopher://127.0.0.1/",
    "s3://bucket/key",
]


def urls(port: int) -> list[str]:
    ours = [f"{scheme}://{host.partition('#')[0]}:{port}/x" for scheme in ("http", "https") for host in HOSTS[:16]]
    return [*ours, *ELSEWHERE]


@pytest.mark.parametrize("module", INSIDE)
def test_nothing_that_asks_other_machines_is_imported(module: str) -> None:
    found = _imports(module)
    assert {each.split(".")[0] for each in found} & CLIENTS == set()
    assert found & CLIENT_MODULES == set()
    called = {
        node.func.attr
        for node in ast.walk(ast.parse(MODULES[module].read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert called & CONNECTING == set()


def test_the_description_has_no_field_for_an_address() -> None:
    named = {each["name"] for path in DOCUMENT["paths"].values() for op in path.values() for each in _parameters(op)}
    for schema in DOCUMENT["components"]["schemas"].values():
        named |= set(schema.get("properties", {}))
    assert named & {*URL_FIELDS, "webhooks", "callbacks"} == set()
    assert "webhooks" not in DOCUMENT
    assert '"format": "uri"' not in json.dumps(DOCUMENT)


def _parameters(operation: dict[str, Any]) -> list[dict[str, Any]]:
    return list(operation.get("parameters", []))


@pytest.mark.parametrize("field", URL_FIELDS)
def test_a_field_for_an_address_is_422(stocked: Stocked, field: str) -> None:
    address = "http://127.0.0.1/data.csv"
    query = {"name": "d", "format": "csv", "target": "y", field: address}
    upload = stocked.ask("POST", "/v1/datasets", params=query, content=b"a,y\n1,2\n")
    submitted = stocked.ask("POST", "/v1/jobs", json=TRAINING | {field: address})
    for answer in (upload, submitted):
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


def test_cve_2023_43654_ssrf(stocked: Stocked) -> None:
    """40 addresses in every place for a text: the listener that they lead to is asked by nobody."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        addresses = urls(listener.getsockname()[1])
        assert len(addresses) == 40
        for url in addresses:
            for answer in _sent_everywhere(stocked, url):
                assert answer.status_code in (404, 415, 422), answer.text
        with pytest.raises(BlockingIOError):
            listener.accept()


def _sent_everywhere(stocked: Stocked, url: str) -> list[Any]:
    upload = {"name": "d", "format": "csv", "target": "y"}
    return [
        *(
            stocked.ask("POST", "/v1/datasets", params=upload | {key: url})
            for key in ("name", "format", "target", "of")
        ),
        *(stocked.ask("POST", "/v1/jobs", json=TRAINING | {key: url}) for key in ("dataset", "model", "network")),
        *(stocked.ask("GET", f"/v1/{kind}/{url}") for kind in ("datasets", "models", "jobs")),
        stocked.ask("POST", "/v1/datasets", params=upload, headers={"Content-Type": "message/external-body"}),
        stocked.ask("PUT", "/v1/models/income/aliases/far", json={"version": url}),
        stocked.ask("POST", "/v1/models/income/predict", json={"instances": [{"age": url}]}),
    ]
