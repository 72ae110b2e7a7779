"""What no honest client asks to be predicted, of one service in a process of its own: a clear 4xx in the form of the
protocol, while the service answers others, and no memory for what was refused."""

from __future__ import annotations

import base64
import gzip
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from gammabeta.cli.admin import free_port
from gammabeta.schemas.preprocessing import FittedArray, FittedImage
from gammabeta.store.blobs import FolderBlobs
from gammabeta.store.engine import Database
from tests.integration.service.conftest import eventually
from tests.integration.service.shelf import Shelf
from tests.pictures import black_square

ROOT = Path(__file__).parents[3]
MIB = 1 << 20
LENGTH = "Inference-Header-Content-Length"
X = np.arange(10, dtype=np.float32).reshape(2, 5)
RAW = X.tobytes()


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """A request, and what it may come to."""

    path: str
    body: Callable[[], bytes]
    headers: dict[str, str] = field(default_factory=dict)
    statuses: tuple[int, ...] = (400,)
    said: str = ""
    growth: int = 64 * MIB
    """The most that the process may have taken more than before, at its peak."""


class Program:
    """The service as a process, and what the kernel says of its memory."""

    def __init__(self, process: subprocess.Popen[bytes], http: httpx.Client) -> None:
        self.http, self._process = http, process

    def memory(self, what: str) -> int:
        """Bytes: `VmRSS` now, `VmHWM` at the peak."""
        assert self._process.poll() is None, "the service has died"
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition(f"{what}:")[2].split()[0]) * 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def is_live(self) -> bool:
        return bool(self.http.get("/v2/health/live").json() == {"live": True})

    @contextmanager
    def watched(self) -> Iterator[list[float]]:
        """Others ask whether it is live until the block ends: how long each of them waited, in seconds."""
        waited: list[float] = []
        over = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=self.http.base_url, timeout=60) as other:
                while not over.is_set():
                    start = time.perf_counter()
                    assert other.get("/v2/health/live").status_code == 200
                    waited.append(time.perf_counter() - start)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            eventually(lambda: waited)
            yield waited
        finally:
            over.set()
            thread.join(60)


@pytest.fixture(scope="module")
def program(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    home = tmp_path_factory.mktemp("hostile")
    shutil.copy(migrated, home / "gammabeta.db")
    _fill(home)
    port = free_port("127.0.0.1", 0)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GAMMABETA_HOME": str(home), "GAMMABETA_PORT": str(port)}
    log = home / "service.log"
    with log.open("xb") as file:
        process = subprocess.Popen([sys.executable, "-P", "-m", "service"], env=environment, stderr=file)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            eventually(lambda: process.poll() is not None or _answers(http), seconds=120)
            running = Program(process, http)
            for _ in range(3):  # what is loaded and made once, before memory is looked at
                _predict(running)
            yield running
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert "Traceback" not in log.read_text()


def _fill(home: Path) -> None:
    database, blobs, scratch = Database(f"sqlite:///{home}/gammabeta.db"), home / "blobs", home / "scratch"
    scratch.mkdir()
    shelf = Shelf(database=database, blobs=FolderBlobs(blobs), scratch=scratch)
    shelf.version("flat", FittedArray(shape=(5,)))
    shelf.version("digits", FittedImage(shape=(8, 8), scale=255.0))
    shelf.version("income")
    database.dispose()


def _answers(http: httpx.Client) -> bool:
    try:
        return http.get("/v2/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def _predict(program: Program) -> Any:
    """What the models say of what honest clients send."""
    body, headers = _tensors(RAW)
    asked = [
        program.http.post("/v2/models/flat/infer", content=body, headers=headers),
        program.http.post("/v1/models/flat/predict", json={"instances": X.tolist()}),
        program.http.post("/v1/models/digits/predict", json={"instances": [[0] * 64]}),
        program.http.post("/v1/models/income/predict", json={"instances": [{"age": 30, "work": "State", "hours": 40}]}),
    ]
    assert [each.status_code for each in asked] == [200] * 4
    return [each.json() for each in asked]


def _tensors(
    raw: bytes, *, size: Any = 40, shape: Any = (2, 5), length: Any = None, **more: Any
) -> tuple[bytes, dict[str, str]]:
    """An input in binary, after its JSON; `length` is what the header says of that."""
    tensor = {"name": "x", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": size}}
    header = json.dumps({"inputs": [tensor], **more}).encode()
    return header + raw, {LENGTH: str(len(header) if length is None else length)}


def _binary(raw: bytes, said: str = "", **how: Any) -> Hostile:
    body, headers = _tensors(raw, **how)
    return Hostile(path=INFER, body=lambda: body, headers=headers, statuses=(400, 413), said=said)


def _encoded(encoding: str, body: Callable[[], bytes], said: str, **expected: Any) -> Hostile:
    compress = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding]
    headers = {"Content-Encoding": encoding}
    return Hostile(
        path=INFER, body=lambda: compress(body(), 1), headers=headers, statuses=(413,), said=said, **expected
    )


def _lists(beginning: bytes) -> bytes:
    """Six million lists, which hardly pack: no bomb by its ratio."""
    digits = np.random.default_rng(0).integers(48, 58, 6 * MIB, dtype=np.uint8)
    lists = np.tile(np.frombuffer(b"[0],", np.uint8), (len(digits), 1))
    lists[:, 1] = digits
    return beginning + lists.tobytes()[:-1] + b"]}"


def _in_base64(data: bytes) -> bytes:
    return json.dumps({"instances": [{"b64": base64.b64encode(data).decode()}]}).encode()


PREDICT, INFER = "/v1/models/{}/predict", "/v2/models/flat/infer"
DIGITS, FLAT = PREDICT.format("digits"), PREDICT.format("flat")
AS_JSON, AS_PNG = {"Content-Type": "application/json"}, {"Content-Type": "image/png"}
OUTPUTS = [{"name": f"y{number}"} for number in range(10_000)]
NAN = np.full((2, 5), np.nan, np.float32).tobytes()

REQUESTS: dict[str, Hostile] = {
    "30,000 x 30,000 pixels": Hostile(
        path=DIGITS, body=lambda: black_square(30_000), headers=AS_PNG, statuses=(422,), said="30,000 x 30,000"
    ),
    "30,000 x 30,000 pixels in base64": Hostile(
        path=DIGITS,
        body=lambda: _in_base64(black_square(30_000)),
        headers=AS_JSON,
        statuses=(422,),
        said="30,000 x 30,000",
    ),
    "30,000 x 30,000 pixels, a few of them there": Hostile(
        path=DIGITS, body=lambda: black_square(30_000, rows=10), headers=AS_PNG, statuses=(422,), said="30,000 x 30,000"
    ),
    "4,000 x 4,000 pixels": Hostile(
        path=DIGITS, body=lambda: black_square(4_000), headers=AS_PNG, statuses=(422,), said="4000 x 4000"
    ),
    "an image for a table": Hostile(
        path=PREDICT.format("income"), body=lambda: black_square(8), headers=AS_PNG, statuses=(415,), said="no images"
    ),
    "a tensor that is cut": _binary(RAW[:-3], "bytes"),
    "a tensor that is not there": _binary(b"", "bytes"),
    "a tensor and more": _binary(RAW + b"more", "Received: 40"),
    "a size that is too small": _binary(RAW, size=39),
    "a size that is too large": _binary(RAW, size=2**62),
    "a size beyond 64 bits": _binary(RAW, size=10**30),
    "a negative size": _binary(RAW, "whole number of bytes", size=-40),
    "a size that is no number": _binary(RAW, "whole number of bytes", size="40"),
    "a product of 2**64": _binary(RAW, shape=[2**32, 2**32]),
    "a product of 2**64 rows and columns": _binary(RAW, shape=[2**62, 5]),
    "a product of 0 by overflow": _binary(RAW, shape=[2**63, 2]),
    "a product beyond 126 bits": _binary(RAW, shape=[2**63 - 1, 2**63 - 1]),
    "a product of many": _binary(RAW, shape=[2**31] * 1_000),
    "rows as memory would have them": _binary(RAW, shape=[10**9, 5]),
    "a negative shape": _binary(RAW, "whole numbers", shape=[-2, -5]),
    "NaN": _binary(NAN, "finite numbers only"),
    "JSON longer than the body": _binary(RAW, "at most", length=10**9),
    "JSON of a length beyond 64 bits": _binary(RAW, "at most", length=10**30),
    "JSON of a negative length": _binary(RAW, "at most", length=-1),
    "JSON that ends too early": _binary(RAW, length=20),
    "10,000 outputs": _binary(RAW, "10,000 of them", outputs=OUTPUTS),
    "10,000 outputs of one name": _binary(RAW, "10,000 of them", outputs=[{"name": "scores"}] * 10_000),
    "10,000 best classes": _binary(
        RAW, "Output 'label'", outputs=[{"name": "label", "parameters": {"classification": 10_000}}]
    ),
    "a bomb": _encoded("gzip", lambda: bytes(500 * MIB), "decompressed", growth=160 * MIB),
    "a bomb by deflate": _encoded("deflate", lambda: bytes(500 * MIB), "decompressed", growth=160 * MIB),
    "a bomb within the limit": _encoded("gzip", lambda: b'{"inputs":[' + b"[]," * 7 * MIB, "100 times"),
    "millions of lists, compressed": _encoded("gzip", lambda: _lists(b'{"inputs":['), "lists", growth=160 * MIB),
    "millions of lists": Hostile(
        path=FLAT,
        body=lambda: _lists(b'{"instances":[1,'),
        headers=AS_JSON,
        statuses=(413,),
        said="lists and objects",
        growth=160 * MIB,
    ),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_what_is_refused_takes_neither_memory_nor_the_time_of_others(program: Program, what: str) -> None:
    hostile = REQUESTS[what]
    body = hostile.body()
    program.forget_peak()
    before = program.memory("VmRSS")
    with program.watched() as waited:
        answer = program.http.post(hostile.path, content=body, headers=hostile.headers)
    assert answer.status_code in hostile.statuses, answer.text[:500]
    assert hostile.said in answer.text
    assert len(answer.content) < 3_000
    if hostile.path.startswith("/v2"):
        assert answer.headers["content-type"] == "application/json"
        assert list(answer.json()) == ["error"]
    else:
        assert answer.headers["content-type"] == "application/problem+json"
    assert program.memory("VmHWM") - before < hostile.growth
    assert max(waited) < 3
    assert program.is_live()


def test_all_of_it_leaves_no_memory_and_nothing_else_behind(program: Program) -> None:
    said = _predict(program)
    asked = [(each, each.body()) for each in REQUESTS.values() if each.growth <= 64 * MIB]

    def ask_all() -> int:
        for each, body in asked:
            refused = program.http.post(each.path, content=body, headers=each.headers)
            assert refused.status_code in each.statuses
        return program.memory("VmRSS")

    ask_all()
    before = ask_all()
    for _ in range(4):
        after = ask_all()
    assert after - before < 8 * MIB
    assert program.is_live()
    assert _predict(program) == said
