from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gammabeta.cli import admin, show
from gammabeta.cli.settings import beside_worker, environment, from_environment
from gammabeta.errors import InvalidRequest
from tests.unit.cli.conftest import Run
from worker.settings import WorkerSettings


@pytest.mark.parametrize("command", [["up", "--port", "0"], ["db", "upgrade"]], ids=" ".join)
def test_a_home_that_cannot_be_written_is_one_readable_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GAMMABETA_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setenv("GAMMABETA_HOST", "127.0.0.1")
    ran = run(*command)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert all(part in ran.err for part in ("must be a folder that can be written", "file/home", "GAMMABETA_HOME"))


@pytest.mark.parametrize(
    "command", [["up", "--port", "0"], ["db", "upgrade"], ["db", "check"], ["db", "downgrade", "0001"]], ids=" ".join
)
def test_a_database_that_is_none_is_one_readable_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: list[str]
) -> None:
    monkeypatch.setenv("GAMMABETA_HOME", str(tmp_path))
    monkeypatch.setenv("GAMMABETA_DATABASE_URL", "mysql://user@host/name")
    ran = run(*command)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "GAMMABETA_DATABASE_URL" in ran.err


def test_a_wrong_setting_is_named_by_its_variable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAMMABETA_PORT", "abc")
    ran = run("up")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert ran.err.startswith("GAMMABETA_PORT: must be")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])  # noqa: S104 (must be refused)
def test_an_address_that_others_reach_is_refused_without_a_key_before_anything_is_started(
    run: Run, tmp_path: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "free_port", _as_asked)  # not all of them are addresses of this machine
    home = tmp_path / "home"
    ran = run("up", "--host", host, "--port", "0", "--home", str(home))
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "--host: must be a loopback address" in ran.err
    assert "gammabeta keys create" in ran.err
    monkeypatch.setenv("GAMMABETA_HOME", str(home))
    assert run("keys", "create", "--name", "all", "--scope", "read").code == 0
    admin._check_key(host, home)


def _as_asked(_: str, port: int) -> int:
    return port


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "localhost"),
        ("0.0.0.0", "127.0.0.1"),  # noqa: S104 (is not listened on)
        ("::", "[::1]"),
        ("::1", "[::1]"),
        ("[::1]", "[::1]"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_the_address_that_is_told_can_be_reached(host: str, reached: str) -> None:
    assert admin.reached_at(host) == reached


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
@pytest.mark.parametrize("host", ["::1", "[::1]", "::", "127.0.0.1", "localhost"])
def test_a_free_port_is_found_on_addresses_of_both_families_and_a_taken_one_refused(host: str) -> None:
    port = admin.free_port(host, 0)
    assert port > 0
    with (
        socket.create_server((host.strip("[]"), port), family=socket.AF_INET6 if ":" in host else socket.AF_INET),
        pytest.raises(InvalidRequest, match="must be an address that is free here"),
    ):
        admin.free_port(host, port)


@pytest.mark.parametrize(("port", "told"), [(8000, False), (8123, True)])
def test_another_address_than_the_clients_is_told_to_other_terminals(
    capsys: pytest.CaptureFixture[str], port: int, told: bool
) -> None:
    show.out(show.addresses(f"http://127.0.0.1:{port}", Path("home"), "1.0"))
    lines = capsys.readouterr().out.splitlines()
    assert (f"export GAMMABETA_URL=http://127.0.0.1:{port}" in lines) is told


def test_the_programs_of_up_have_more_time_to_end_than_a_worker_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_environment().grace_seconds > WorkerSettings().stop_seconds
    monkeypatch.setenv("GAMMABETA_CANCEL_GRACE_SECONDS", "100")
    monkeypatch.setenv("GAMMABETA_LEAVE_SECONDS", "200")
    assert from_environment().grace_seconds > WorkerSettings().stop_seconds == 300


def test_of_the_programs_of_up_the_worker_has_the_port_of_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAMMABETA_METRICS_PORT", "9100")
    variables = environment(port=1)
    assert (variables["GAMMABETA_METRICS_PORT"], variables["GAMMABETA_PORT"]) == ("9100", "1")
    assert beside_worker(variables).items() == variables.items() - {("GAMMABETA_METRICS_PORT", "9100")}
