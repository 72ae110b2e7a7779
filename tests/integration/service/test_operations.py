from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

import gammabeta
from service.__main__ import main
from service.keyring import Keyring
from service.readiness import Readiness
from tests.buckets import S3, silent
from tests.integration.service.conftest import Service, eventually

ROOT = Path(__file__).parents[3]


def test_the_process_lives_and_is_ready(service: Service) -> None:
    assert service.http.get("/healthz").json() == {"status": "ok"}
    assert service.http.get("/readyz").json() == {"status": "ok"}


def test_a_database_without_its_schema_is_not_ready(start: Callable[..., Any], tmp_path: Path) -> None:
    with start(home=tmp_path) as bare:
        answer = bare.http.get("/readyz")
    assert answer.status_code == 503
    assert "gammabeta db upgrade" in answer.json()["detail"]
    assert int(answer.headers["Retry-After"]) >= 1


def test_a_blob_folder_that_cannot_be_written_is_not_ready(
    start: Callable[..., Any], migrated: Path, tmp_path: Path
) -> None:
    shutil.copy(migrated, tmp_path / "gammabeta.db")
    (tmp_path / "blobs").write_text("a file where the folder should be")
    with start(home=tmp_path) as blocked:
        answer = blocked.http.get("/readyz")
    assert answer.status_code == 503
    assert "blob folder" in answer.json()["detail"]


def test_a_database_that_does_not_answer_is_named_beside_blobs_that_cannot_be_written(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "blobs").write_text("a file where the folder should be")
    with start(home=tmp_path, database_url="postgresql://nobody@127.0.0.1:1/none") as away:
        answer = away.http.get("/readyz")
        assert away.http.get("/healthz").status_code == 200
    assert answer.status_code == 503
    assert "The database does not answer" in answer.json()["detail"]
    assert "blob folder" in answer.json()["detail"]


def test_keys_that_were_not_read_yet_are_not_ready(start: Callable[..., Any]) -> None:
    with start() as early:
        api = early.server.app.api
        whole = api.state.context
        keyring = Keyring(whole.database, open_without=True)
        api.state.context = replace(whole, readiness=Readiness(whole.database, whole.blobs, keyring))
        answer = early.http.get("/readyz")
        api.state.context = whole
        assert early.http.get("/readyz").status_code == 200
    assert (answer.status_code, "keys could not be read yet" in answer.json()["detail"]) == (503, True)


@pytest.mark.alone
def test_a_bucket_that_is_silent_keeps_no_route_from_answering(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent() as endpoint:
        for name, value in S3(endpoint).environment.items():
            monkeypatch.setenv(name, value)
        with start(blobs="s3://weights/x") as cut_off, ThreadPoolExecutor(45) as probes:
            asked = [probes.submit(cut_off.http.get, "/readyz") for _ in range(45)]
            begun = time.monotonic()
            assert cut_off.http.get("/v1/jobs").status_code == 200
            assert time.monotonic() - begun < 2
            assert {each.result().status_code for each in asked} == {503}
            assert time.monotonic() - begun < 6


def test_what_a_killed_service_had_begun_to_receive_goes_from_its_machine(
    start: Callable[..., Any], migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(migrated, tmp_path / "gammabeta.db")
    left = tmp_path / "cache" / "tmp" / "ds_1.part"
    left.parent.mkdir(parents=True)
    left.touch()
    os.utime(left, (0, 0))
    with silent() as endpoint:
        for name, value in S3(endpoint).environment.items():
            monkeypatch.setenv(name, value)
        with start(home=tmp_path, blobs="s3://weights/x"):
            eventually(lambda: not left.exists())


def test_the_version_is_that_of_the_package(service: Service) -> None:
    assert service.http.get("/v1/version").json()["version"] == gammabeta.__version__


@pytest.mark.parametrize("path", ["/", "/ui"])
def test_the_root_leads_to_the_page(service: Service, path: str) -> None:
    answer = service.http.get(path)
    assert (answer.status_code, answer.headers["location"]) == (307, "/ui/")


def test_the_page_comes_from_the_service_alone(service: Service) -> None:
    for path in ("/ui/", "/ui/app.js", "/ui/style.css", "/ui/icon.svg"):
        answer = service.http.get(path)
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "//" not in answer.text.replace("http://www.w3.org/2000/svg", "").replace("// ", "")


def test_the_page_never_writes_markup(service: Service) -> None:
    script = service.http.get("/ui/app.js").text
    assert not [
        word for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(") if word in script
    ]


def test_the_documentation_works_without_the_network(service: Service) -> None:
    page = service.http.get("/docs").text
    assert "/v1/openapi.json" in page
    assert "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        assert service.http.get(f"/static-offline-docs/{asset}").status_code == 200


def test_presets_come_with_their_schema(service: Service) -> None:
    presets = {each["name"]: each for each in service.http.get("/v1/networks/presets").json()["data"]}
    assert {"mlp", "cnn"} <= presets.keys()
    assert "hidden" in presets["mlp"]["schema"]["properties"]


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "/v1/nothing", "/v1/jobs/", "/v3/health/live", "/v1/keys/", "/metrics/x", "/static"]
)
def test_what_is_not_there_is_a_problem(service: Service, path: str) -> None:
    answer = service.http.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_method_that_is_not_possible_names_those_that_are(service: Service) -> None:
    answer = service.http.request("PATCH", "/v1/version")
    assert (answer.status_code, answer.json()["code"], answer.headers["allow"]) == (405, "method_not_allowed", "GET")
    assert "GET" in answer.json()["detail"]


def test_cve_2025_62593_host_and_origin(service: Service) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
        assert service.http.request(method, "/v1/jobs", headers={"Host": "evil.example"}).status_code == 400
        assert service.http.request(method, "/v1/jobs", headers={"Origin": "http://evil.example"}).status_code == 403
    assert "access-control-allow-origin" not in service.http.get("/v1/jobs").headers


def test_a_bug_answers_as_a_problem(start: Callable[..., Any]) -> None:
    with start() as broken:
        broken.server.app.api.state.context = None
        answer = broken.http.get("/v1/jobs")
        broken.server.app.api.state.context = _Stoppable()
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")


class _Stoppable:
    def __init__(self) -> None:
        self.tailer = self

    def stop(self) -> None: ...


def test_importing_the_service_loads_no_parser_of_data_sets() -> None:
    code = "import sys, service.__main__; print([m for m in ('polars', 'pandas', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"GAMMABETA_HOST": "10.0.0.1"}, "gammabeta db upgrade"),
        ({"GAMMABETA_PORT": "many"}, "port"),
        ({"GAMMABETA_DATABASE_URL": "mysql://x"}, "GAMMABETA_DATABASE_URL"),
        ({"GAMMABETA_BLOBS": "ftp://host/prefix"}, "GAMMABETA_BLOBS"),
        ({}, "gammabeta db upgrade"),
    ],
)
def test_settings_that_must_not_serve_are_refused(
    environment: dict[str, str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["service"])
    for key, value in ({"GAMMABETA_HOME": str(tmp_path)} | environment).items():
        monkeypatch.setenv(key, value)
    assert main() == 78
    assert words in capsys.readouterr().err


def test_the_program_refuses_the_whole_network_by_its_exit_status(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin", "PYTHONPATH": str(ROOT), "GAMMABETA_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "service"],
        env=environment | {"GAMMABETA_HOST": "10.0.0.1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78
    assert "Traceback" not in done.stderr


def test_the_description_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["service", "openapi"])
    monkeypatch.setenv("GAMMABETA_HOME", str(tmp_path / "nowhere"))
    assert main() == 0
    assert json.loads(capsys.readouterr().out)["info"]["title"] == "gammabeta"
    assert not (tmp_path / "nowhere").exists()


def test_every_answer_names_its_request(service: Service) -> None:
    for method, path, headers in (
        ("GET", "/healthz", {}),
        ("GET", "/nowhere", {}),
        ("POST", "/v1/models/none/predict", {}),
        ("GET", "/ui/", {}),
        ("GET", "/v1/jobs", {"Host": "evil.example"}),
    ):
        own = service.http.request(method, path, headers=headers | {"X-Request-Id": "mine-1"})
        assert own.headers.get_list("x-request-id") == ["mine-1"]
        made = [service.http.request(method, path, headers=headers).headers["x-request-id"] for _ in range(2)]
        assert len({"mine-1", *made}) == 3


def test_a_bug_is_answered_and_logged_under_the_same_id(start: Callable[..., Any]) -> None:
    with start() as broken, capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        broken.server.app.api.state.context = None
        answer = broken.http.get("/v1/jobs", headers={"X-Request-Id": "mine-2"})
        broken.server.app.api.state.context = _Stoppable()
    assert answer.headers["x-request-id"] == "mine-2"
    assert [each["request_id"] for each in lines if each["event"] == "unexpected error"] == ["mine-2"]
