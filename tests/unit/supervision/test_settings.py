"""The worker's settings: documented, checked, and forgotten before a child starts."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from worker.settings import WorkerSettings


@pytest.mark.parametrize("name", WorkerSettings.model_fields)
def test_every_setting_is_documented(name: str) -> None:
    assert (WorkerSettings.model_fields[name].description or "").endswith(".")


def test_a_lease_must_outlive_two_heartbeats() -> None:
    with pytest.raises(ValidationError, match="at least twice GAMMABETA_HEARTBEAT_SECONDS"):
        WorkerSettings(heartbeat_seconds=5, lease_seconds=9)


def _run(code: str, **environment: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_child_inherits_nothing_but_what_is_harmless() -> None:
    code = (
        "import subprocess; from worker.settings import WorkerSettings, forget_environment;"
        "settings = WorkerSettings(); forget_environment();"
        "print(settings.database_url, subprocess.run(['env'], capture_output=True, text=True).stdout)"
    )
    secrets = {"PGPASSWORD": "hidden1", "AWS_SECRET_ACCESS_KEY": "hidden2", "GAMMABETA_API_KEY": "hidden3"}
    printed = _run(code, PATH="/usr/bin:/bin", GAMMABETA_DATABASE_URL="sqlite:///x.db", OMP_NUM_THREADS="1", **secrets)
    assert printed.startswith("sqlite:///x.db")
    assert "OMP_NUM_THREADS=1" in printed
    assert "hidden" not in printed
    assert "GAMMABETA" not in printed


def test_the_supervisor_never_loads_torch_and_an_ingestion_neither_torch_nor_sql() -> None:
    loaded = "import sys, {}; print(sorted({{'torch', 'sqlalchemy', 'polars'}} & set(sys.modules)))"
    assert _run(loaded.format("worker.__main__")) == "['sqlalchemy']"
    assert _run(loaded.format("worker.ingestion")) == "['polars']"


@pytest.mark.parametrize(
    ("url", "seconds", "expected"),
    [
        (None, None, 0.2),
        ("sqlite:///x.db", None, 0.2),
        ("postgresql://gammabeta@db/gammabeta", None, 2.0),
        ("postgresql://gammabeta@db/gammabeta", 0.5, 0.5),
    ],
)
def test_slots_look_less_often_where_the_database_tells_of_jobs(
    url: str | None, seconds: float | None, expected: float
) -> None:
    assert WorkerSettings(database_url=url, poll_seconds=seconds).resolved_poll_seconds == expected
