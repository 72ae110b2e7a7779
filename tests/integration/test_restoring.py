"""docs/backup.md, followed: its commands as they stand, but for the folders and the database that they name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

from gammabeta.store import models
from gammabeta.store.engine import Database
from gammabeta.store.tables import DEFAULT_PROJECT
from tests.integration.databases import Databases
from tests.integration.workshop import damage, workshop

PAGE = Path(__file__).resolve().parents[2] / "docs/backup.md"
SQLITE, POSTGRESQL, PLACE_SQLITE, PLACE_POSTGRESQL = (
    [line.strip() for line in block.strip().splitlines()]
    for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
)
BLOBS, (ENTER, *_, PLACE_BLOBS) = [SQLITE[0], *SQLITE[2:]], PLACE_SQLITE
BACKUP = {"sqlite": SQLITE, "postgresql": POSTGRESQL + BLOBS}
RESTORE = {"sqlite": PLACE_SQLITE, "postgresql": [ENTER, *PLACE_POSTGRESQL, PLACE_BLOBS]}


class Shell:
    """Of somebody who follows the page."""

    def __init__(self, home: Path, backups: Path, url: str, host: Path | None) -> None:
        self._backups, self._database = backups, make_url(url).database
        (home / "bin").mkdir()
        (home / "bin/gammabeta").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m gammabeta.cli "$@"\n')
        (home / "bin/gammabeta").chmod(0o755)
        self._environment = {
            "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(PAGE.parents[1]),
            "GAMMABETA_HOME": str(home),
            "GAMMABETA_DATABASE_URL": url,
        } | ({} if host is None else {"PGHOST": str(host), "PGUSER": "postgres"})

    def run(self, *commands: str) -> subprocess.CompletedProcess[str]:
        script = "\n".join(commands).replace("/backups", str(self._backups))
        script = re.sub(r"((?:drop|create)db(?: --force)?) gammabeta", rf"\1 {self._database}", script)
        ran = ["sh", "-euc", script]
        return subprocess.run(ran, env=self._environment, capture_output=True, text=True, check=False)


def test_the_page_is_followed_and_all_that_the_backup_has_is_there(
    kind: str, databases: Databases, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    home, backups = tmp_path / "home", tmp_path / "backups"
    home.mkdir()
    backups.mkdir()
    url = databases.migrated(kind, home)
    host = request.getfixturevalue("cluster").folder if kind == "postgresql" else None
    shell = Shell(home, backups, url, host)
    with workshop(home, url) as shop:
        worker = shop.start()
        dataset_id = shop.ready_dataset()
        assert shop.ended(shop.train(dataset_id, epochs=2)).version == 1
        copied = shell.run(*BACKUP[kind])
        assert copied.returncode == 0, copied.stderr
        shop.ended(shop.train(dataset_id, epochs=3))
        worker.end()
        shop.db.dispose()
        shutil.rmtree(home / "blobs")
        steps = ("gammabeta db upgrade", "gammabeta db restored", "gammabeta db check --deep")
        followed = shell.run(*RESTORE[kind], *steps)
        assert followed.returncode == 0, followed.stderr
        assert "All is as it must be" in followed.stderr
        shop.start()
        assert shop.ended(shop.train(dataset_id, epochs=2)).version == 2
        damage(shop.blobs.path(_weights(shop.db)))
        assert shell.run("gammabeta db check --deep").returncode == 4
        shop.audited = True


def _weights(db: Database) -> str:
    with db.read() as session:
        return models.get_version(session, DEFAULT_PROJECT, "toy", version="1").weights_sha256
