"""A PostgreSQL server of the tests' own: a cluster in a temporary folder that listens on a socket in that folder only,
so that nothing can be in its way, with no promise of durability, so that it is fast. It ends with the process that
started it, however that ends."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg
from psycopg import sql

START_SECONDS = 60
_FAST = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "autovacuum": "off",
}


@dataclass(frozen=True)
class Cluster:
    """A running server. Its role `postgres` needs no password."""

    folder: Path
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def create(self) -> str:
        """A new, empty database: its name."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return name


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A server that is stopped and removed at the end."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="gammabeta-pg-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        data = folder / "data"
        init: list[str | Path] = [
            programs / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
        ]
        done = subprocess.run([*_as_postgres(), *init], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"initdb failed:\n{done.stdout}{done.stderr}"
        options = [word for name, value in _FAST.items() for word in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            serve: list[str | Path] = [
                *_as_postgres(),
                "--pdeathsig",
                "QUIT",
                programs / "postgres",
                "-D",
                data,
                "-k",
                folder,
                *options,
            ]
            server = subprocess.Popen(serve, stdout=log, stderr=log)
        try:
            _wait(server, Cluster(folder))
            yield Cluster(folder)
        finally:
            server.send_signal(signal.SIGQUIT)  # at once: what it would still write is thrown away
            server.wait(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    """The folder of the server's programs. Debian keeps them out of PATH."""
    candidates = []
    if shutil.which("pg_config"):
        found = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=True)
        candidates.append(Path(found.stdout.strip()))
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda each: -int(each.parent.name))
    on_path = shutil.which("postgres")
    if on_path:
        candidates.append(Path(on_path).parent)
    for folder in candidates:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise FileNotFoundError(
        "The tests need the programs postgres and initdb. Looked where pg_config says, in /usr/lib/postgresql/*/bin "
        "and on PATH. Install them: apt-get install postgresql, or start the tests with scripts/test, which does."
    )


def _as_postgres() -> list[str]:
    """The server refuses to run as root."""
    if os.geteuid() != 0:
        return ["setpriv"]
    user = pwd.getpwnam("postgres")
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups"]


def _wait(server: subprocess.Popen[bytes], cluster: Cluster) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(cluster.url("postgres")).close()
        except psycopg.OperationalError:
            log = (cluster.folder / "log").read_text(errors="replace")
            assert server.poll() is None, f"postgres ended:\n{log}"
            assert time.monotonic() < deadline, f"postgres did not answer for {START_SECONDS} s:\n{log}"
            time.sleep(0.02)
        else:
            return
