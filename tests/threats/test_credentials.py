"""Row 11: there is no default key, and what is stored, logged and answered is none."""

from __future__ import annotations

import re
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from gammabeta.schemas.keys import Scope
from gammabeta.store.keys import is_intact
from gammabeta.store.tables import DEFAULT_PROJECT
from service.__main__ import main
from tests.integration.service.test_keys import GUARDED
from tests.threats.conftest import Stocked, made_key
from tests.threats.test_every_route import BODIES

ELSEWHERE = ["0.0.0.0", "::", "10.0.0.1", "example.org"]  # noqa: S104 (must be refused)
DEFAULTS = ["admin", "password", "gammabeta", "key", "secret", "token", "gb_default", "null", "undefined"]


@pytest.mark.parametrize("host", ELSEWHERE)
def test_without_a_key_no_other_address_than_loopback_is_served(
    migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    (tmp_path / "gammabeta.db").write_bytes(migrated.read_bytes())
    monkeypatch.setattr(sys, "argv", ["service"])
    monkeypatch.setenv("GAMMABETA_HOME", str(tmp_path))
    monkeypatch.setenv("GAMMABETA_HOST", host)
    assert main() == 78
    assert "gammabeta keys create" in capsys.readouterr().err


@pytest.mark.parametrize("word", DEFAULTS)
def test_no_word_is_a_key(stocked: Stocked, word: str) -> None:
    headers = {b"Authorization": f"Bearer {word}".encode()}
    assert stocked.service.http.get("/v1/jobs", headers=headers).status_code == 401  # type: ignore[arg-type]


def test_a_dump_of_the_database_has_no_usable_key(stocked: Stocked) -> None:
    """Neither the keys, nor any value in it, nor what could be made of one, lets anybody in."""
    made = made_key(stocked.service, DEFAULT_PROJECT, *Scope)
    body = {"name": "dumped", "scopes": ["admin"]}
    over_http = stocked.ask("POST", "/v1/keys", json=body, headers={"Idempotency-Key": "dump"}).json()["key"]
    with sqlite3.connect(stocked.service.settings.home / "gammabeta.db") as database:
        dump = "\n".join(database.iterdump())
        (hashed,) = database.execute("select secret_sha256 from api_keys where name = 'dumped'").fetchone()
    for key in (made, over_http, stocked.own, *stocked.scoped.values()):
        assert key.split("_")[2] not in dump
    assert not [each for each in re.findall(r"gb_\w+", dump) if is_intact(each)]
    held = {hashed.hex(), over_http.replace(over_http.split("_")[2], hashed.hex()[:43])}
    for value in held:
        assert stocked.service.http.get("/v1/keys", headers={"Authorization": f"Bearer {value}"}).status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "operation"), GUARDED, ids=[f"{method} {path}" for method, path, _ in GUARDED]
)
def test_no_answer_repeats_the_key_it_came_with(
    stocked: Stocked, method: str, path: str, operation: dict[str, Any]
) -> None:
    wrong = stocked.own[:-1] + ("a" if stocked.own[-1] != "a" else "b")
    for key in (stocked.foreign, stocked.scoped["read"], wrong):
        body = BODIES.get(operation["operationId"])
        if operation["operationId"] != "create_key":
            answer = stocked.ask(method, stocked.addressed(path), key, json=body)
            assert key.split("_")[2] not in answer.text + str(answer.headers)


def test_a_key_is_found_by_its_id_and_compared_whole(stocked: Stocked) -> None:
    """Each letter counts, the last too; the checksum alone lets nobody in."""
    for place in range(len(stocked.own)):
        other = "a" if stocked.own[place] != "a" else "b"
        changed = stocked.own[:place] + other + stocked.own[place + 1 :]
        answer = stocked.service.http.get("/v1/version", headers={"Authorization": f"Bearer {changed}"})
        assert answer.status_code == 401, place
