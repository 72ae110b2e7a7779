"""A PostgreSQL server of the tests' own: a cluster in a temporary folder that listens on a socket in that folder only,
so that nothing can be in its way. By default it promises no durability, so that it is fast; `durable=True` is for tests
that kill it. It can be restarted and frozen, and ends with the process that started it, however that ends."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import sql

START_SECONDS = 60
_COMMON = {"listen_addresses": "", "shared_buffers": "32MB", "max_connections": "100"}
_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off"}
Mode = Literal["immediate", "fast", "smart"]
_SIGNALS: dict[Mode, signal.Signals] = {
    "immediate": signal.SIGQUIT,
    "fast": signal.SIGINT,
    "smart": signal.SIGTERM,
}


class Cluster:
    """A running server. Its role `postgres` needs no password. Started and restarted from the main thread only: the
    kernel ends the server with the thread that started it."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.folder, self._settings = folder, settings
        self._numbers = count(1)
        self._server: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.folder / ".s.PGSQL.5432"

    @property
    def pid(self) -> int:
        """Of the process that starts all others."""
        assert self._server is not None
        return self._server.pid

    def create(self) -> str:
        """A new, empty database: its name."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return name

    def start(self) -> None:
        """Until it answers."""
        options = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            serve: list[str | Path] = [
                *_as_postgres(),
                "--pdeathsig",
                "QUIT",
                _programs() / "postgres",
                "-D",
                self.folder / "data",
                "-k",
                self.folder,
                *options,
            ]
            self._server = subprocess.Popen(serve, stdout=log, stderr=log)
        _wait(self._server, self)

    def stop(self, mode: Mode = "immediate") -> None:
        """Until it has ended. `immediate`: its processes die where they are, and the next start recovers."""
        assert self._server is not None
        self._server.send_signal(_SIGNALS[mode])
        self._server.wait(timeout=30)

    def restart(self, mode: Mode = "immediate") -> None:
        """As `pg_ctl restart -m` does it."""
        self.stop(mode)
        self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Frozen, every process of it, for as long as the block lasts: it accepts connections and answers nothing."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)  # first, so that it starts no other
        try:
            for pid in self._backends():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in (*self._backends(), self._server.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _backends(self) -> list[int]:
        assert self._server is not None
        children = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children").read_text()
        return [int(word) for word in children.split()]


@contextmanager
def running_cluster(*, durable: bool = False, **settings: str) -> Iterator[Cluster]:
    """A server that is stopped and removed at the end; `settings` go beside or before its own. `durable`: what it has
    committed outlives it, as by default of PostgreSQL."""
    folder = Path(tempfile.mkdtemp(prefix="gammabeta-pg-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        _initialise(folder / "data")
        cluster = Cluster(folder, _COMMON | ({} if durable else _FAST) | settings)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()  # at once: what it would still write is thrown away
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _initialise(data: Path) -> None:
    init = [_programs() / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
    done = subprocess.run([*_as_postgres(), *init], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"initdb failed:\n{done.stdout}{done.stderr}"


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
