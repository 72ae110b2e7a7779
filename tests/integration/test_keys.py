"""Keys in the database, and by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import MetaData, select

from gammabeta.errors import KeyNotFound
from gammabeta.schemas.keys import KeyRequest, NewKey, Scope
from gammabeta.store import keys, projects
from gammabeta.store.engine import Database
from gammabeta.store.tables import DEFAULT_PROJECT, ProjectRow
from tests.integration.databases import Clock, Databases
from tests.unit.cli.conftest import Ran, Run, run

__all__ = ["run"]

DAY = 86_400_000


def make(db: Database, **changes: object) -> NewKey:
    request = KeyRequest.model_validate({"name": "ci", "scopes": ["train", "read"], **changes})
    with db.write() as session:
        return keys.create(session, DEFAULT_PROJECT, request)


def test_a_key_is_known_by_its_hash(db: Database) -> None:
    made = make(db)
    with db.read() as session:
        (found,) = keys.stored(session)
    assert (found.id, found.sha256) == (keys.id_of(made.key), keys.digest(made.key))
    assert (found.scopes, found.revoked, found.left_ms) == (frozenset({"read", "train"}), False, None)
    assert (found.project_id, found.owner_id) == (DEFAULT_PROJECT, made.id)


def test_nothing_in_the_database_is_a_usable_key(db: Database) -> None:
    made = make(db)
    secret = made.key.split("_")[2]
    stored = MetaData()
    with db.connection() as connection:
        stored.reflect(connection)
        dump = [row for table in stored.sorted_tables for row in connection.execute(table.select()).all()]
    assert [row for row in dump if made.id in row]
    for form in (secret, made.key):
        assert not [row for row in dump if form in repr(row) or form.encode().hex() in repr(row)]


def test_a_key_is_shown_as_it_is(db: Database, clock: Clock) -> None:
    first = make(db, name="old", expires="1d", owner="team-a")
    clock.advance(1)
    second = make(db)
    with db.write() as session:
        keys.revoke(session, DEFAULT_PROJECT, second.id)
        keys.note_use(session, [second.id])
    clock.advance(DAY - 2)
    assert [key.state for key in listed(db)] == ["revoked", "active"]
    clock.advance(1)
    newest, oldest = listed(db)
    assert (newest.id, newest.state, newest.owner, newest.scopes) == (
        second.id,
        "revoked",
        second.id,
        (Scope.READ, Scope.TRAIN),
    )
    assert newest.revoked_at == newest.last_used_at == newest.created_at
    assert (oldest.id, oldest.state, oldest.owner) == (first.id, "expired", "team-a")
    assert oldest.expires_at is not None
    assert (oldest.expires_at - oldest.created_at).total_seconds() == 86_400


def listed(db: Database) -> list[keys.Key]:
    with db.read() as session:
        return keys.find(session, DEFAULT_PROJECT)


def test_how_long_a_key_lives_is_counted_by_the_databases_clock(db: Database, clock: Clock) -> None:
    make(db, expires="1d")
    clock.advance(DAY + 5)
    with db.read() as session:
        assert [each.left_ms for each in keys.stored(session)] == [-5]
        assert not keys.any_works(session)


def test_each_change_is_noticed_and_use_is_none(db: Database) -> None:
    seen = []

    def look() -> None:
        with db.read() as session:
            seen.append(keys.changes(session))

    look()
    made = make(db)
    look()
    with db.write() as session:
        keys.revoke(session, DEFAULT_PROJECT, made.id)
    look()
    assert len(set(seen)) == 3
    with db.write() as session:
        keys.note_use(session, [made.id])
        keys.revoke(session, DEFAULT_PROJECT, made.id)
    look()
    assert seen[-1] == seen[-2]


def test_a_revoked_key_works_no_more_and_keeps_its_time(db: Database, clock: Clock) -> None:
    made = make(db)
    with db.read() as session:
        assert keys.any_works(session)
    for _ in range(2):
        with db.write() as session:
            keys.revoke(session, DEFAULT_PROJECT, made.id)
        clock.advance(1_000)
    (shown,) = listed(db)
    assert shown.revoked_at == shown.created_at
    with db.read() as session:
        assert not keys.any_works(session)
        assert [each.revoked for each in keys.stored(session)] == [True]


@pytest.mark.parametrize("key_id", ["key_00000000", "", "\0", "'; DROP TABLE api_keys; --"])
def test_a_key_that_there_is_not_cannot_be_revoked(db: Database, key_id: str) -> None:
    with pytest.raises(KeyNotFound, match="gammabeta keys list"), db.write() as session:
        keys.revoke(session, DEFAULT_PROJECT, key_id)


def test_a_key_of_another_project_is_not_there(db: Database) -> None:
    made = make(db)
    with pytest.raises(KeyNotFound), db.write() as session:
        keys.revoke(session, "other", made.id)
    with db.read() as session:
        assert keys.find(session, "other") == []
        assert [key.project for key in keys.find(session, None)] == [DEFAULT_PROJECT]


def test_a_project_is_made_once(db: Database) -> None:
    for _ in range(2):
        with db.write() as session:
            assert projects.ensure(session, "other") == "other"
            keys.create(session, "other", KeyRequest(name="ci", scopes=(Scope.READ,)))
    with db.read() as session:
        assert sorted(session.scalars(select(ProjectRow.id))) == ["default", "other"]
        assert len(keys.find(session, "other")) == 2


# ── the command line ──


@pytest.fixture
def address(kind: str, databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GAMMABETA_HOME", str(tmp_path))
    monkeypatch.setenv("GAMMABETA_DATABASE_URL", databases.migrated(kind, tmp_path))
    return kind


def created(run: Run, *options: str) -> Ran:
    return run("keys", "create", "--name", "ci", "--scope", "read", "--scope", "train", *options)


def test_the_command_line_prints_a_key_once(run: Run, address: str) -> None:
    ran = created(run, "--expires", "90d", "--owner", "team-a")
    key = ran.out.strip()
    assert (ran.code, keys.is_intact(key), "not shown again" in ran.err) == (0, True, True)
    shown = run("keys", "--json")
    assert key.split("_")[2] not in shown.out
    (only,) = json.loads(shown.out)
    assert (only["id"], only["scopes"], only["owner"], only["state"]) == (
        keys.id_of(key),
        ["read", "train"],
        "team-a",
        "active",
    )
    table = run("keys", "list").out
    assert all(word in table.replace("\n", "") for word in ("ci", "read", "team-a", "active"))


def test_the_first_key_is_made_once_whatever_became_of_it(run: Run, address: str) -> None:
    first = json.loads(created(run, "--first", "--json").out)
    again = created(run, "--first")
    assert (again.code, again.out) == (0, "")
    assert "There was a key before" in again.err
    assert run("keys", "revoke", first["id"]).code == 0
    assert created(run, "--first").out == ""
    assert len(json.loads(run("keys", "--json").out)) == 1


def test_the_command_line_revokes_a_key(run: Run, address: str) -> None:
    made = json.loads(created(run, "--json").out)
    ran = run("keys", "revoke", made["id"])
    assert (ran.code, "is revoked" in ran.err) == (0, True)
    assert json.loads(run("keys", "--json").out)[0]["state"] == "revoked"
    ran = run("keys", "revoke", "key_nothing0")
    assert (ran.code, ran.err.count("\n"), "gammabeta keys" in ran.err) == (1, 2, True)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--expires", "soon"], "expires"),
        (["--scope", "write"], "scopes"),
        (["--owner", "a b"], "owner"),
        (["--project", "a b"], "--project"),
    ],
)
def test_the_command_line_says_what_is_wrong_with_a_key(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], field: str
) -> None:
    monkeypatch.setenv("GAMMABETA_HOME", str(tmp_path / "home"))
    ran = created(run, *options)
    assert (ran.code, ran.out, ran.err.startswith(field)) == (2, "", True)
    assert not (tmp_path / "home").exists()


def test_the_first_key_makes_the_database(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAMMABETA_HOME", str(tmp_path / "home"))
    assert run("keys").code == 1
    assert created(run).code == 0
    assert run("keys").code == 0
