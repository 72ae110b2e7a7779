"""Row 19: a trainer that was taken over. What a child of the worker has, and what it may do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import service.__main__
import worker.__main__
from gammabeta.cli import admin
from gammabeta.store import migrations
from tests.test_architecture import ROOT, _reached
from worker import children
from worker.settings import forget_environment

SECRETS = {
    "GAMMABETA_DATABASE_URL": "postgresql://u:hunter2@db/gammabeta",
    "GAMMABETA_API_KEY": "gb_secret",
    "AWS_SECRET_ACCESS_KEY": "hunter2",
    "PGPASSWORD": "hunter2",
    "MYSTERY_TOKEN": "hunter2",
}


@pytest.fixture(scope="module")
def said() -> list[dict[str, Any]]:
    """By a child that was forked, as on the CPU, and one that was spawned, as on a GPU."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **SECRETS}
    command = [sys.executable, "-P", "-m", "tests.threats.starting"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_no_thread_of_a_child_can_gain_privileges(said: list[dict[str, Any]]) -> None:
    assert len(said) == 2
    for each in said:
        assert len(each["no_new_privs"]) >= 2
        assert set(each["no_new_privs"]) == {1}


def test_a_child_leaves_no_core(said: list[dict[str, Any]]) -> None:
    assert [each["core"] for each in said] == [[0, 0]] * 2


def test_a_child_has_no_secret_in_its_environment(said: list[dict[str, Any]]) -> None:
    for each in said:
        assert not set(each["environment"]) & set(SECRETS)
        assert not [name for name in each["environment"] if name.startswith(("GAMMABETA", "AWS", "PG"))]


def test_the_environment_is_forgotten_before_the_first_child(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    kept = dict(os.environ)
    try:
        forget_environment()
        assert not set(SECRETS) & set(os.environ)
    finally:
        os.environ.update(kept)


def test_every_child_begins_with_its_confinement() -> None:
    """By the one function that all of them begin with, before a module of theirs is imported."""
    names = children.run_module.__code__.co_names
    assert names.index("confine") < names.index("import_module")
    source = Path(children.__file__).read_text()
    assert source.count("target=") == source.count("target=run_module") == 1


def _up() -> None:
    admin.up(host=None, port=0, home=None)


LOOKING = """
import ctypes, os, sys
from gammabeta.confinement import conceal
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)  # who is root reads everything
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as of a program that was started so
if sys.argv[1] == "concealed":
    conceal()
if os.fork() == 0:
    try:
        print("hunter2" in open(f"/proc/{os.getppid()}/environ").read())
    except OSError as error:
        print(type(error).__name__)
    sys.stdout.flush()
    os._exit(0)
os.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux'")
@pytest.mark.parametrize(("parent", "seen"), [("open", "True"), ("concealed", "PermissionError")])
def test_a_child_cannot_read_what_the_worker_was_started_with(parent: str, seen: str) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **SECRETS}
    command = [sys.executable, "-P", "-c", LOOKING, parent]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == seen


class Concealed(Exception):
    """In the place of the real thing, which this process could not take back."""


def concealed() -> None:
    raise Concealed


@pytest.mark.parametrize(
    ("program", "start"),
    [(worker.__main__, worker.__main__.main), (service.__main__, service.__main__.main), (admin, _up)],
    ids=["worker", "service", "up"],
)
def test_each_program_conceals_itself_before_it_starts_anything(
    program: ModuleType, start: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have the same environment; a child that cannot look into one would look into the next."""
    monkeypatch.setenv("GAMMABETA_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["program"])
    monkeypatch.setattr(os, "environ", dict(os.environ))
    migrations.upgrade(f"sqlite:///{tmp_path / 'gammabeta.db'}")
    monkeypatch.setattr(program, "conceal", concealed)
    with pytest.raises(Concealed):
        start()


def test_a_child_knows_no_database() -> None:
    for name in ("trainer", "predictor", "ingestion"):
        assert not [each for each in _reached(f"worker.{name}") if each.startswith("gammabeta.store")]
