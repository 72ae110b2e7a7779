"""Row 5: path traversal. Clients never name a path; whatever they write where an id or a name belongs is none."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import re
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from gammabeta.store.blobs import FolderBlobs
from tests.integration.service.test_keys import GUARDED
from tests.pictures import encoded, noise
from tests.threats.conftest import Stocked
from tests.threats.test_every_route import BODIES
from tests.unit.ingestion.conftest import LIMITS
from worker.ingestion import answer
from worker.messages import IngestFile, IngestOptions, Refused

CANARY = "canary-of-the-threats"
UP = "../../../../../.."
PAYLOADS: list[str] = [
    *(f"{dots}{slash}{target}" for dots, slash in (("..", "/"), (".%2e", "%2f"), ("%2e%2e", "%2f")) for target in (
        "canary", "blobs/sha256", "gammabeta.db", "..%2fcanary", "etc/passwd"
    )),
    *(f"%252e%252e%252f{target}" for target in ("canary", "gammabeta.db", "%252e%252e%252fcanary")),
    *(f"..%5c{target}" for target in ("canary", "gammabeta.db", "..%5ccanary")),
    *(f"..%255c{target}" for target in ("canary", "gammabeta.db")),
    f"{UP}/etc/passwd", f"{UP}/etc/passwd%00", f"{UP}/etc/passwd%00.csv", f"{UP.replace('/', '%2f')}%2fetc%2fpasswd",
    "/etc/passwd", "%2fetc%2fpasswd", "%252fetc%252fpasswd", "//etc/passwd", "%2f%2fetc%2fpasswd",
    "file:///etc/passwd", "file:%2f%2f%2fetc%2fpasswd", "file:%2f%2flocalhost%2fetc%2fpasswd",
    "%5c%5cserver%5cshare", "%2f%2fserver%2fshare", "C:%5cwindows%5cwin.ini", "C:%2fwindows%2fwin.ini",
    ".", "..", "%2e", "%2e%2e", "%252e%252e", "...", "....//", "..%2f", "..;%2f", "..%00%2f", "%00", "canary%00",
    "%c0%ae%c0%ae%c0%af", "%uff0e%uff0e%u2215", "%e3%80%82%e3%80%82%2f", "%ef%bc%8e%ef%bc%8e%ef%bc%8f",
    "#%2f..%2fcanary", "%23%2f..%2f..%2fcanary", "a%23%2f..%2fcanary", "%3f%2f..%2fcanary",
    "~root", "%7eroot%2f.ssh", "$HOME", "%24%7bHOME%7d",
]  # fmt: skip
SLOTS = [
    (method, path, operation["operationId"], name)
    for method, path, operation in GUARDED
    for name in re.findall(r"\{(\w+)\}", path)
]
QUERIES = [
    ("POST", "/v1/datasets?format=csv&target=y&name={}"),
    ("POST", "/v1/datasets?format=csv&split=test&of={}"),
    ("GET", "/v1/jobs?model={}"),
    ("POST", "/v1/models/income/predict?version={}"),
    ("POST", "/v1/models/income/predict?alias={}"),
]


class Wire(http.client.HTTPConnection):
    """Sends paths as they are."""

    def _validate_path(self, url: str) -> None:
        """All of them."""


@pytest.fixture(scope="module")
def canary(stocked: Stocked) -> Path:
    """Beside the blobs and the database, where one `..` leads."""
    path = stocked.service.settings.home / "canary"
    path.write_text(CANARY)
    return path


@pytest.fixture(scope="module")
def wire(stocked: Stocked) -> Iterator[Wire]:
    connection = Wire("127.0.0.1", stocked.service.http.base_url.port or 0, timeout=20)
    yield connection
    connection.close()


def _asked(wire: Wire, stocked: Stocked, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    wire.request(method, path, body=body or None, headers={"Authorization": f"Bearer {stocked.own}"})
    with wire.getresponse() as answer:
        return answer.status, answer.read()


def _files(home: Path) -> dict[str, str]:
    """All that is stored, but for the database, whose pages move when the use of a key is noted."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in home.rglob("*")
        if path.is_file() and "gammabeta.db" not in path.name
    }


def test_there_are_60_payloads() -> None:
    assert len(set(PAYLOADS)) == len(PAYLOADS) >= 60
    assert len(SLOTS) > 40


@pytest.mark.parametrize(
    ("method", "path", "name", "slot"), SLOTS, ids=[f"{method} {path} {slot}" for method, path, _, slot in SLOTS]
)
def test_mlflow_traversal_family(
    stocked: Stocked, wire: Wire, canary: Path, method: str, path: str, name: str, slot: str
) -> None:
    before = _files(stocked.service.settings.home)
    body = json.dumps(BODIES[name]).encode() if name in BODIES else b""
    for payload in PAYLOADS:
        address = stocked.addressed(path.replace(f"{{{slot}}}", "\0")).replace("\0", payload)
        status, said = _asked(wire, stocked, method, address, body)
        # 400: under /v2 what is 422 elsewhere. 405: what is before `#` and `?` may be the path of another route.
        assert status in (400, 404, 405, 422), f"{address}: {status} {said[:200]!r}"
        assert CANARY.encode() not in said
        assert b"root:x:" not in said
    assert _files(stocked.service.settings.home) == before


@pytest.mark.parametrize(("method", "path"), QUERIES)
def test_mlflow_traversal_family_in_queries(stocked: Stocked, wire: Wire, canary: Path, method: str, path: str) -> None:
    before = _files(stocked.service.settings.home)
    body = json.dumps(BODIES["predict"]).encode() if "predict" in path else b"a,y\n1,2\n" if method == "POST" else b""
    for payload in PAYLOADS:
        status, said = _asked(wire, stocked, method, path.format(quote(payload, safe="%/")), body)
        assert status in (404, 422), f"{payload}: {status} {said[:200]!r}"
        assert CANARY.encode() not in said
    assert _files(stocked.service.settings.home) == before


@pytest.mark.parametrize("payload", ["../canary", "/etc/passwd", "..\\canary", "a/../../canary", "canary\0"])
@pytest.mark.parametrize("field", ["dataset", "model"])
def test_mlflow_traversal_family_in_bodies(stocked: Stocked, canary: Path, field: str, payload: str) -> None:
    body = {"dataset": "people", "model": "m", "network": {"preset": "mlp"}, "training": {"batch_size": 4}}
    answered = stocked.ask("POST", "/v1/jobs", json=body | {field: payload})
    assert answered.status_code in (404, 422)
    assert CANARY not in answered.text


@pytest.mark.parametrize("key", ["../canary", "sha256/../../canary", "/etc/passwd", "uploads/../../canary", "..", ""])
def test_the_store_itself_stays_in_its_folder(tmp_path: Path, key: str) -> None:
    """Were a name to reach it, which none does."""
    (tmp_path / "canary").write_text(CANARY)
    blobs = FolderBlobs(tmp_path / "blobs")
    with pytest.raises(ValueError, match="inside the folder of blobs"):
        blobs.delete(key)
    assert (tmp_path / "canary").read_text() == CANARY


def _link(name: str, target: str) -> tuple[zipfile.ZipInfo, bytes]:
    """A member that is a symbolic link."""
    member = zipfile.ZipInfo(name)
    member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return member, target.encode()


@pytest.mark.parametrize(
    "hostile",
    [
        [("../../canary", b"written")],
        [("/tmp/canary-of-the-threats", b"written")],
        [("cat/../../../canary", b"written")],
        [("..\\..\\canary", b"written")],
        [_link("cat/3.png", "../../canary")],
        [_link("dog", "/etc"), ("dog/passwd", b"written")],
    ],
    ids=["up", "absolute", "up from a folder", "backslashes", "a link", "through a link"],
)
@pytest.mark.parametrize("format", ["image_zip", "npz"])
def test_an_archive_writes_and_reads_nothing_outside_its_place(tmp_path: Path, format: Any, hostile: Any) -> None:
    canary, place = tmp_path / "canary", tmp_path / "place"
    canary.write_text(CANARY)
    (place / "scratch").mkdir(parents=True)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for each in ("cat/1.png", "dog/2.png"):
            archive.writestr(each, encoded(noise(0, 4, 5)))
        for name, data in hostile:
            archive.writestr(name, data)
    upload = place / "upload"
    upload.write_bytes(buffer.getvalue())
    order = IngestFile(
        job_id="job_1",
        fence=1,
        upload=upload,
        options=IngestOptions(format=format),
        scratch=place / "scratch",
        limits=LIMITS,
    )
    assert isinstance(answer(order), Refused)
    assert canary.read_text() == CANARY
    assert {each.name for each in tmp_path.iterdir()} == {"canary", "place"}
    assert not Path("/tmp/canary-of-the-threats").exists()
