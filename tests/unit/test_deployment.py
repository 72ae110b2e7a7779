"""What docker/ says, held against the programs it is about. scripts/test-compose runs it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.limits import limit_of
from service.settings import ServiceSettings
from worker.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
NGINX = (DOCKER / "nginx.conf").read_text()
SETTINGS = {"service": ServiceSettings, "worker": WorkerSettings}
OURS = ("service", "worker", "nginx", "migrate", "first-key", "password")
UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def _services(name: str = "compose.yaml") -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = yaml.safe_load((DOCKER / name).read_text())["services"]
    return services


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))


@pytest.mark.parametrize("name", OURS)
def test_variables_are_settings_that_exist(name: str) -> None:
    known = {f"GAMMABETA_{each.upper()}" for each in SETTINGS.get(name, ServiceSettings).model_fields}
    given = {each for each in _services()[name].get("environment", {}) if each.startswith("GAMMABETA_")}
    assert given - known == set()


@pytest.mark.parametrize("name", [*OURS, "prometheus", "grafana"])
def test_containers_may_as_little_as_they_need(name: str) -> None:
    service = _services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_proxy_alone_can_be_reached_and_on_loopback_alone() -> None:
    published = {name: each["ports"] for name, each in _services().items() if "ports" in each}
    assert published["nginx"] == ["${PUBLISH:-127.0.0.1:8000}:8080"]
    assert all("127.0.0.1" in port for ports in published.values() for port in ports)
    assert "listen 8080 " in NGINX


def test_every_variable_of_the_file_is_on_the_page() -> None:
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", (DOCKER / "compose.yaml").read_text()))
    page = (ROOT / "docs" / "deploy.md").read_text()
    assert len(asked) > 5
    assert [each for each in asked if f"`{each}`" not in page] == []


@pytest.mark.parametrize("name", ["service", "worker"])
def test_there_may_be_any_number_of_replicas(name: str) -> None:
    assert {"container_name", "ports", "hostname"} & _services()[name].keys() == set()


def test_what_stops_has_the_time_that_it_takes() -> None:
    services = _services()
    assert _seconds(services["service"]["stop_grace_period"]) > ServiceSettings.model_fields["drain_seconds"].default
    assert _seconds(services["worker"]["stop_grace_period"]) > WorkerSettings().stop_seconds


def test_no_password_and_no_key_stands_in_a_file() -> None:
    for file in (*DOCKER.rglob("*"), ROOT / ".dockerignore"):
        if file.is_file():
            assert not re.search(r"PASSWORD\s*[:=]\s*[\"']?\w", file.read_text()), file
            assert not re.search(r"gb_[0-9A-Za-z]{8}_|://\w+:\w+@", file.read_text()), file


def test_the_gpu_is_reserved_for_the_worker() -> None:
    (device,) = _services("compose.gpu.yaml")["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert _services("compose.gpu.yaml").keys() <= _services().keys()


@pytest.mark.parametrize("name", ["service", "worker"])
def test_images_run_their_program_as_nobody_in_particular(name: str) -> None:
    lines = (DOCKER / f"{name}.Dockerfile").read_text().replace("\\\n", "").splitlines()
    said = dict(line.split(maxsplit=1) for line in lines if line and line[0].isupper())  # the last of each
    assert said["USER"] == "10001:10001"
    assert json.loads(said["ENTRYPOINT"]) == ["python", "-P", "-m", name]
    assert said["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(said["HEALTHCHECK"].partition("CMD ")[2])[:2] == ["python", "-I"]
    assert said["COPY"] == "--from=build /venv /venv"
    copied = [line.split()[1:] for line in lines if line.startswith(("COPY", "ADD"))]
    assert copied == [["constraints.txt", "."], ["pyproject.toml", "."], [".", "."], ["--from=build", "/venv", "/venv"]]


def test_an_image_is_made_of_what_the_wheel_needs() -> None:
    lines = [each for each in (ROOT / ".dockerignore").read_text().splitlines() if each and not each.startswith("#")]
    let_in = {each.removeprefix("!") for each in lines if each.startswith("!")}
    assert lines[0] == "*"
    assert let_in == {"pyproject.toml", "constraints.txt", "README.md", "alembic", "gammabeta", "service", "worker"}


def _limits() -> dict[str, int]:
    """Bytes that nginx lets through, by location; what holds elsewhere under the empty name."""
    server = NGINX.partition("listen 8080")[2]
    found = {"": NGINX.partition("server {")[0]}
    found |= dict(re.findall(r"^        location (?:~ |= )?(\S+) \{(.*?)^        \}", server, re.MULTILINE | re.DOTALL))
    sizes = {name: re.search(r"client_max_body_size (\d+)([kmg]?);", block) for name, block in found.items()}
    return {name: int(size[1]) * UNITS[size[2]] for name, size in sizes.items() if size}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models/digits/predict"),
        ("POST", "/v1/models/digits/versions/3/predict"),
        ("POST", "/v2/models/digits/infer"),
        ("POST", "/v2/models/digits/versions/3/infer"),
        ("POST", "/v1/datasets"),
        ("POST", "/v1/jobs"),
        ("POST", "/v2/repository/models/digits/load"),
        ("GET", "/v1/jobs/job_1/events"),
    ],
)
def test_a_body_may_be_as_large_before_the_proxy_as_behind_it(method: str, path: str) -> None:
    limits = _limits()
    matching = [
        size for place, size in limits.items() if place and re.search(place if "*" in place else f"^{place}$", path)
    ]
    assert (matching or [limits[""]]) == [limit_of(method, path, ServiceSettings())[0]]


def test_times_of_the_proxy_fit_those_of_the_service() -> None:
    told = {name: _seconds(value) for name, value in re.findall(r"^\s*(\w+) (\d+s);", NGINX, re.MULTILINE)}
    settings = ServiceSettings()
    assert told["client_header_timeout"] == 10
    assert told["client_body_timeout"] == settings.body_seconds
    assert told["proxy_read_timeout"] > 2 * settings.stream_heartbeat_seconds
    assert told["proxy_read_timeout"] > settings.max_queued_ms / 1_000
    assert told["worker_shutdown_timeout"] > settings.drain_seconds


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_nginx_takes_its_configuration() -> None:
    tried = subprocess.run(["nginx", "-t", "-c", DOCKER / "nginx.conf"], capture_output=True, text=True, check=False)
    assert tried.returncode == 0, tried.stderr
