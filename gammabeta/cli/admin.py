"""`gammabeta up`, `gammabeta db` and `gammabeta keys`: what the person who runs a service needs.

    up ──► migrate SQLite ──► service ──► /readyz ──► print the address
                         └──► worker                    │
                              both started again when they end, until Ctrl-C

Of the command line this file alone knows the database. It imports it inside its commands: alembic and SQLAlchemy take
as long to load as everything else together, and no other command needs them.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.text import Text

from gammabeta import __version__
from gammabeta.cli import show
from gammabeta.cli.failures import Damaged, WrongDatabase
from gammabeta.cli.options import AsJson, ListByDefault
from gammabeta.cli.processes import Program, Programs, stop_signals
from gammabeta.cli.settings import beside_worker, environment, from_environment
from gammabeta.client.client import Client
from gammabeta.confinement import conceal
from gammabeta.errors import InvalidRequest
from gammabeta.schemas.base import NAME_PATTERN
from gammabeta.schemas.keys import KeyRequest
from gammabeta.schemas.problems import invalid

if TYPE_CHECKING:
    from gammabeta.store.audit import Report
    from gammabeta.store.engine import Database
    from gammabeta.store.stored import Blobs

READY_SECONDS = 120.0

app = typer.Typer(help="Look after the database.")
keys_app = typer.Typer(cls=ListByDefault, help="Make, list and revoke API keys, in the database.")


def up(
    host: Annotated[str | None, typer.Option(help="Default: GAMMABETA_HOST, or 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Default: GAMMABETA_PORT, or 8000. 0: a free one.")
    ] = None,
    home: Annotated[
        Path | None, typer.Option(help="Where data and models are kept. Default: GAMMABETA_HOME, or ~/.gammabeta.")
    ] = None,
) -> None:
    """Start the service and a worker, and keep both alive until Ctrl-C."""
    conceal()
    settings = from_environment()
    host = host or settings.host
    port = free_port(host, settings.port if port is None else port)
    home = writable(home.expanduser().absolute() if home else settings.folder)
    _migrate(home)
    _check_key(host, home)
    variables = environment(home=home, host=host, port=port)
    each = [
        Program(name=name, command=[sys.executable, "-P", "-m", name], environment=own)
        for name, own in (("service", beside_worker(variables)), ("worker", variables))
    ]
    programs = Programs(each, say=show.note, grace=settings.grace_seconds)
    url = f"http://{reached_at(host)}:{port}"
    with stop_signals() as stopped, programs as running, Client(url) as client:
        if running.wait_until(client.ready, seconds=READY_SECONDS, stopped=stopped):
            show.out(show.addresses(url, home, __version__))
            running.tend(stopped=stopped)
        show.note("Stopping.")


@app.command()
def upgrade() -> None:
    """Bring the database to the newest schema."""
    home = from_environment().folder
    _upgrade(home)
    show.note(_check(home))


@app.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="The schema of the older version, such as 0002.")],
) -> None:
    """Go back to the schema of an older version; refused where that would lose something."""
    from gammabeta.store import migrations  # noqa: PLC0415

    with _refusals():
        migrations.downgrade(_address(from_environment().folder), to=revision)
    show.note(f"The database has the schema {revision}. Install the version that it belongs to.")


@app.command()
def check(
    deep: Annotated[bool, typer.Option("--deep", help="Read and hash every byte that a row names.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say whether this version may use the database, and whether what is stored holds together.

    Exit code 1: it may not; 3: database or blobs do not answer; 4: something is damaged.
    """
    from gammabeta.store import audit  # noqa: PLC0415

    home = from_environment().folder
    schema = _schema(home)
    try:
        said = _check(home)
    except WrongDatabase:
        if as_json:
            show.json({"schema": schema})
        raise
    with _database(home) as database:
        found = audit.report(database, _blobs(home), deep=deep)
    if as_json:
        show.json({"schema": schema, "deep": deep, **asdict(found)})
    else:
        show.note(said)
        show.note(_looked_at(found, deep=deep))
    if found.findings:
        raise Damaged("\n".join(["What is stored is damaged:", *map(str, found.findings)]))


@app.command()
def backup(target: Annotated[Path, typer.Argument(metavar="FILE", help="A file that is not there yet.")]) -> None:
    """Copy a SQLite database into a file while programs go on with it. Copy the blobs after it: docs/backup.md."""
    from gammabeta.store import backups  # noqa: PLC0415

    target = target.expanduser().absolute()
    with _refusals():
        copied = backups.copy(_address(from_environment().folder), target)
    show.note(
        f"{target} has what {copied.source} had: {copied.jobs:,} jobs and {copied.versions:,} versions, "
        f"{copied.bytes:,} bytes. Copy the blobs now."
    )


@app.command()
def restored() -> None:
    """Let the jobs of a database that was restored from a backup go on, and no worker from before.

    To be run before service and workers are started: what ran is queued again, and every fence goes up.
    """
    from gammabeta.store import backups, ownership  # noqa: PLC0415

    home = from_environment().folder
    with _database(home) as database:
        blobs = _blobs(home)
        with database.write() as session:
            done = backups.restored(session)
        ownership.take(database, blobs)
        lost = backups.forget_lost_checkpoints(database, blobs)
    show.note(
        f"{done.raised:,} jobs that may run again have fences raised by {done.by:,}, so that no worker from before the "
        f"restore can publish; {done.given_back:,} of them were running. {lost:,} checkpoints whose files are not "
        f"there were forgotten. {blobs.location} belongs to this database from now on, and no other removes anything "
        "there. Run `gammabeta db check --deep` next, then start service and workers."
    )


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for.")],
    scope: Annotated[list[str], typer.Option(help="read, train, predict or admin; more than one by repeating it.")],
    expires: Annotated[
        str | None, typer.Option(help="After how long it stops working: 90d, 12h, 30m. Default: never.")
    ] = None,
    owner: Annotated[
        str | None, typer.Option(help="Whose jobs are counted together. Default: each key is its own.")
    ] = None,
    project: Annotated[str, typer.Option(help="Whose things it sees; made where it is new.")] = "default",
    first: Annotated[bool, typer.Option("--first", help="Only if no key was ever made; else nothing happens.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a key, and print it this once. From the first key on the service asks for one."""
    from gammabeta.store import keys, projects  # noqa: PLC0415

    if not re.fullmatch(NAME_PATTERN, project):
        raise InvalidRequest.of("--project", "must be a name such as 'team-a'", project)
    try:
        request = KeyRequest.model_validate({"name": name, "scopes": scope, "expires": expires, "owner": owner})
    except ValidationError as exc:
        raise invalid(exc) from exc
    home = writable(from_environment().folder)
    _migrate(home)
    with _database(home) as database, database.write() as session:
        if first and keys.any_was_made(session):
            show.note("There was a key before; none is made.")
            return
        made = keys.create(session, projects.ensure(session, project), request)
    if as_json:
        show.as_json(made)
        return
    show.out(Text(made.key or "", no_wrap=True, overflow="ignore"))
    show.note(f"{made.id} is made. Keep the key: it is not shown again. The client takes it from GAMMABETA_API_KEY.")


@keys_app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List all keys, the newest first, with their scopes and when they were used last."""
    from gammabeta.store import keys  # noqa: PLC0415

    with _database(from_environment().folder) as database, database.read() as session:
        found = keys.find(session, None)
    show.as_json(found) if as_json else show.out(show.keys(found))


@keys_app.command("revoke")
def revoke_key(key: Annotated[str, typer.Argument(help="The id, such as key_Ab12Cd34.")]) -> None:
    """End a key for ever. Within two seconds no service takes it any more."""
    from gammabeta.store import keys  # noqa: PLC0415

    with _database(from_environment().folder) as database, database.write() as session:
        keys.revoke(session, None, key)
    show.note(f"{key} is revoked.")


@contextmanager
def _database(home: Path) -> Iterator[Database]:
    """The database, if this version may use it."""
    _check(home)
    with _any_database(home) as database:
        yield database


@contextmanager
def _any_database(home: Path) -> Iterator[Database]:
    """The database, whatever its schema. SQLite would make one that is not there."""
    from gammabeta.store.engine import Database  # noqa: PLC0415

    if missing := _missing_file(home):
        raise WrongDatabase(
            f"The database must be there. Received: none, {missing} is no file. Run `gammabeta db upgrade` to make it, "
            "or set GAMMABETA_HOME or GAMMABETA_DATABASE_URL as the service has it."
        )
    with _refusals():
        database = Database(_address(home))
    try:
        yield database
    finally:
        database.dispose()


def _missing_file(home: Path) -> Path | None:
    """Where the file of a SQLite database would lie that nobody has made yet. None: it is there, or of no file."""
    from gammabeta.store.engine import file_of  # noqa: PLC0415

    with _refusals():
        path = file_of(_address(home))
    return None if path is None or path.is_file() else path


def _blobs(home: Path) -> Blobs:
    from gammabeta.store.blobs import open_blobs  # noqa: PLC0415
    from gammabeta.store.settings import StoreSettings  # noqa: PLC0415

    return open_blobs(StoreSettings(home=home))


def _schema(home: Path) -> dict[str, str | None]:
    """How the schema stands, for a program."""
    from gammabeta.store import migrations  # noqa: PLC0415

    if _missing_file(home):
        return {"standing": migrations.Standing.OLDER.value, "found": None, "needed": migrations.head()}
    with _any_database(home) as database:
        standing, current = migrations.standing(database), migrations.current(database)
    return {"standing": standing.value, "found": current, "needed": migrations.head()}


def _looked_at(found: Report, *, deep: bool) -> str:
    how = "there, every byte as it was stored" if deep else "there, with their sizes"
    return (
        f"Looked at: {found.jobs:,} jobs with their events, {found.versions:,} versions with their batch-norm states; "
        f"{found.blobs:,} blobs and {found.checkpoints:,} checkpoints that they name, whether they are {how}. "
        f"{'What does not hold:' if found.findings else 'All is as it must be.'}"
    )


def _migrate(home: Path) -> None:
    """Upgrade a SQLite database. Another one may serve more than this program, so its owner decides when."""
    with _refusals():
        address = _address(home)
    if address.startswith("sqlite"):
        _upgrade(home)
    else:
        _check(home)


def _upgrade(home: Path) -> None:
    from gammabeta.store import migrations  # noqa: PLC0415

    home = writable(home)
    with _refusals():
        migrations.upgrade(_address(home))


def _check(home: Path) -> str:
    """How the schema stands to the one of this version, where it may be used."""
    from gammabeta.store import migrations  # noqa: PLC0415

    with _any_database(home) as database:
        if complaint := migrations.complaint(database):
            raise WrongDatabase(complaint)
        if migrations.standing(database) is not migrations.Standing.NEWER:
            return f"The database has the newest schema, {migrations.head()}."
        return (
            f"The database has a newer schema, which serves this version too: {migrations.current(database)}; this "
            f"version's is {migrations.head()}. Install the newer version next."
        )


def _address(home: Path) -> str:
    """Of the database, with its password."""
    from gammabeta.store.settings import StoreSettings  # noqa: PLC0415

    return StoreSettings(home=home).resolved_database_url


@contextmanager
def _refusals() -> Iterator[None]:
    """What the store says of an address or a password that is none, of a disk that SQLite must not lie on, or of a way
    back that would lose something, as one line."""
    try:
        yield
    except (ValueError, RuntimeError) as exc:
        raise WrongDatabase(str(exc)) from exc


def _check_key(host: str, home: Path) -> None:
    """The service refuses an address that others reach without a key as well, but only in its log."""
    from gammabeta.store import keys  # noqa: PLC0415

    if _is(host, "is_loopback") or host == "localhost":
        return
    with _database(home) as database, database.read() as session:
        if keys.any_works(session):
            return
    raise InvalidRequest.of(
        "--host",
        "must be a loopback address, such as 127.0.0.1, as long as there is no API key that works. Run: "
        "gammabeta keys create --name admin --scope admin --scope read --scope train --scope predict",
        host,
    )


def reached_at(host: str) -> str:
    """How a program on this machine addresses what listens on `host`, in a URL."""
    if _is(host, "is_unspecified"):
        return "[::1]" if ":" in host else "127.0.0.1"
    return f"[{host.strip('[]')}]" if ":" in host else host


def _is(host: str, what: str) -> bool:
    try:
        return bool(getattr(ipaddress.ip_address(host.strip("[]")), what))
    except ValueError:
        return False


def writable(home: Path) -> Path:
    """The home, which is made where it does not exist."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=home):
            return home
    except OSError as exc:
        raise InvalidRequest.of(
            "the home",
            "must be a folder that can be written. Set --home or GAMMABETA_HOME.",
            f"{home}: {exc.strerror}",
        ) from exc


def free_port(host: str, port: int) -> int:
    """The port, or a free one for 0."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host.strip("[]"), port), family=family) as server:
            return int(server.getsockname()[1])
    except OSError as exc:
        raise InvalidRequest.of(
            "--host, --port",
            "must be an address that is free here. Stop what listens there, or write --port 0 for a free port.",
            f"{host}:{port}: {exc.strerror}",
        ) from exc
