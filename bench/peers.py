"""The services that `bench.serve` drives, each a child process on a port of its own, in an interpreter of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray

REFERENCE = Path(__file__).with_name("reference")
PATIENCE = 90.0
FEATURES = 784


@dataclass(frozen=True, kw_only=True)
class Body:
    """What is sent, again and again."""

    path: str
    content: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A service and how it is asked for the scores of rows."""

    name: str
    command: Callable[[int, Path], list[str]]
    """From a port and an empty folder."""
    json: Callable[[NDArray[np.float32]], Body]
    binary: Callable[[NDArray[np.float32]], Body] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    ready: Body | None = None
    """What it answers once it is up; without it: one row as JSON."""


def rows(n: int) -> NDArray[np.float32]:
    """[n, 784], as pixels / 255 are written: four digits."""
    return np.random.default_rng(0).random((n, FEATURES)).round(4).astype(np.float32)


def spelled(x: NDArray[np.float32]) -> list[list[float]]:
    """As JSON has them."""
    return [[round(float(value), 4) for value in row] for row in x]


def instances(path: str) -> Callable[[NDArray[np.float32]], Body]:
    return lambda x: Body(path=path, content=json.dumps({"instances": spelled(x)}).encode())


def _raw(x: NDArray[np.float32]) -> Body:
    return Body(path="/binary", content=x.astype("<f4").tobytes(), headers={})


def v2_json(path: str) -> Callable[[NDArray[np.float32]], Body]:
    """The JSON of the Open Inference Protocol."""

    def body(x: NDArray[np.float32]) -> Body:
        tensor = {"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": spelled(x)}
        return Body(path=path, content=json.dumps({"inputs": [tensor]}).encode())

    return body


def v2_binary(path: str) -> Callable[[NDArray[np.float32]], Body]:
    """Its binary tensors, in and out."""

    def body(x: NDArray[np.float32]) -> Body:
        data = x.astype("<f4").tobytes()
        tensor = {
            "name": "x",
            "shape": list(x.shape),
            "datatype": "FP32",
            "parameters": {"binary_data_size": len(data)},
        }
        outputs = [{"name": "scores", "parameters": {"binary_data": True}}]
        head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
        return Body(path=path, content=head + data, headers=headers)

    return body


def _uvicorn(app: str) -> Callable[[int, Path], list[str]]:
    fixed = ["--app-dir", str(REFERENCE), "--no-access-log", "--log-level", "warning"]
    return lambda port, _: [sys.executable, "-P", "-m", "uvicorn", app, "--port", str(port), *fixed]


BARE = Peer(name="bare ASGI, orjson, numpy", command=_uvicorn("serve_bare:app"), json=instances("/json"), binary=_raw)
PLAIN = Peer(name="plain FastAPI, pydantic", command=_uvicorn("serve_fastapi:app"), json=instances("/json"))


def litserve(python: Path) -> Peer:
    """LitServe, in the interpreter that has it."""
    script = str(REFERENCE / "serve_litserve.py")
    return Peer(name="LitServe", command=lambda port, _: [str(python), script, str(port)], json=instances("/predict"))


def bentoml(python: Path) -> Peer:
    """BentoML."""
    command = [str(python), "-m", "bentoml", "serve", "serve_bentoml:Digits", "--working-dir", str(REFERENCE)]
    return Peer(
        name="BentoML",
        command=lambda port, _: [*command, "--host", "127.0.0.1", "--port", str(port)],
        json=instances("/predict"),
        environment={"BENTOML_DO_NOT_TRACK": "True"},
    )


def mlserver(python: Path) -> Peer:
    """MLServer, by its own protocol."""

    def command(port: int, folder: Path) -> list[str]:
        settings = {
            "host": "127.0.0.1",
            "http_port": port,
            "grpc_port": _free_port(),
            "metrics_port": _free_port(),
            "parallel_workers": 0,
            "debug": False,
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        model = {"name": "digits", "implementation": "serve_mlserver.Digits"}
        (folder / "model-settings.json").write_text(json.dumps(model))
        return [str(python), "-c", "from mlserver.cli import main; main()", "start", str(folder)]

    return Peer(
        name="MLServer",
        command=command,
        json=v2_json("/v2/models/digits/infer"),
        environment={"PYTHONPATH": str(REFERENCE)},
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@contextmanager
def started(peer: Peer, folder: Path) -> Iterator[str]:
    """Its address, once it answers a prediction.

    Raises:
        TimeoutError: it never does; the end of its log is named.
    """
    folder.mkdir()
    port = _free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GAMMABETA_")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            peer.command(port, folder),
            env=environment | {"OMP_NUM_THREADS": "1"} | peer.environment,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(peer, url, process, folder / "log")
        yield url
    finally:
        _end(process)


def _wait(peer: Peer, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    body, deadline = peer.ready or peer.json(rows(1)), time.monotonic() + PATIENCE
    answer = "nothing"
    while time.monotonic() < deadline and process.poll() is None:
        try:
            response = httpx.post(url + body.path, content=body.content, headers=body.headers, timeout=5)
            if response.status_code == 200:
                return
            answer = f"{response.status_code} {response.text[:300]}"
        except httpx.HTTPError as error:
            answer = repr(error)
        time.sleep(0.1)
    end = log.read_text(errors="replace")[-2_000:]
    raise TimeoutError(f"{peer.name} must answer a prediction. Received: {answer}. Its log ends so:\n{end}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it has started: they are a session of their own."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sent)
        except ProcessLookupError:
            break
        try:
            process.wait(10 if sent is signal.SIGTERM else None)
        except subprocess.TimeoutExpired:
            continue
