"""A service that says what a test wrote down, at the client's own seam: its transport.

An answer stands in line; the last one stays. An exception in the line is raised, as a broken connection would be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeAlias

import httpx
import numpy as np

from gammabeta import Client
from gammabeta.schemas.batchnorm import BatchNormState, LayerState
from gammabeta.schemas.normalization import BatchNorm

Answer: TypeAlias = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]
TIME = "2026-01-02T03:04:05Z"
DIGEST = "sha256:" + "a" * 64


class FakeService:
    """Scripted answers by method and path; `requests` is what came, `pauses` what the client waited."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.pauses: list[float] = []
        self._lines: defaultdict[tuple[str, str], list[Answer]] = defaultdict(list)

    def on(self, method: str, path: str, *answers: Answer) -> None:
        self._lines[method, path].extend(answers)

    def client(self) -> Client:
        return Client("http://service", transport=httpx.MockTransport(self.answer), sleep=self.pauses.append)

    def answer(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        line = self._lines.get((request.method, request.url.path))
        if not line:
            return problem(404, "not_found", f"nothing at {request.method} {request.url.path}")
        answer = line.pop(0) if len(line) > 1 else line[0]
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer


def ok(value: Any, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=value)


def problem(
    status: int, code: str, detail: str, *errors: dict[str, Any], headers: dict[str, str] | None = None
) -> httpx.Response:
    body = {"type": "about:blank", "title": code, "status": status, "code": code, "detail": detail, "errors": errors}
    return httpx.Response(status, json=body, headers={"Content-Type": "application/problem+json", **(headers or {})})


def page(*entries: dict[str, Any], more: bool = False) -> httpx.Response:
    return ok({"data": entries, "first_id": None, "last_id": entries[-1]["id"] if entries else None, "has_more": more})


def job(status: str = "running", **other: Any) -> dict[str, Any]:
    return {
        "id": "job_1",
        "kind": "train",
        "status": status,
        "attempt": 1,
        "model": "digits",
        "created_at": TIME,
        "request": {},
        **other,
    }


def dataset(state: str = "ready", **other: Any) -> dict[str, Any]:
    return {
        "id": "ds_1",
        "name": "digits",
        "state": state,
        "format": "npz",
        "bytes": 3,
        "sha256": "ab",
        "splits": {"train": 8, "test": 2},
        "created_at": TIME,
        **other,
    }


def prediction(labels: list[str], *, version: str = "3", digest: str = DIGEST) -> httpx.Response:
    return ok(
        {
            "model": "digits",
            "version": version,
            "classes": ["0", "1"],
            "predictions": [{"label": label, "scores": [0.0, 1.0] if label == "1" else [1.0, 0.0]} for label in labels],
            "batchnorm": {"mode": "eval", "digest": digest},
        }
    )


def layer_state(channels: int = 2) -> LayerState:
    random = np.random.default_rng(0)
    return LayerState(
        name="batch_norm",
        axis=1,
        epsilon=0.001,
        momentum=0.99,
        gamma=random.normal(1, 0.1, channels).astype(np.float32),
        beta=None,
        moving_mean=random.normal(0, 1e-5, channels).astype(np.float32),
        moving_variance=random.exponential(1e4, channels).astype(np.float32),
        updates=100,
    )


def batchnorm_answer(state: BatchNormState, *, digest: str | None = None, **arguments: Any) -> dict[str, Any]:
    """`arguments`: those of every layer that are not at their defaults."""
    return {"digest": digest or state.digest, "layers": [_layer_answer(layer, arguments) for layer in state.layers]}


def _layer_answer(layer: LayerState, arguments: dict[str, Any]) -> dict[str, Any]:
    names = ("name", "axis", "epsilon", "momentum", "updates", "skipped", "single", "channels", "initial_weight")
    norm = BatchNorm(name=layer.name, axis=layer.axis, momentum=layer.momentum, fused=False)
    answer = {name: getattr(layer, name) for name in names} | {
        "torch_momentum": 0.01,
        "beta": None,
        "fused_effective": False,
        "variance_estimator": "biased",
        "arguments": norm.model_dump(mode="json", exclude={"type", "inputs"}) | arguments,
    }
    for name in ("gamma", "moving_mean", "moving_variance"):
        answer[name] = [float(value) for value in getattr(layer, name)]
    return answer
