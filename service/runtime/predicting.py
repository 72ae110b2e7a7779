"""Predictions: eval mode, inference mode, on a few threads of their own.

body ──instances.read──► x ──network.scores──► scores ──answer──► JSON bytes        (in threads of the pool)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
import orjson
import torch
from numpy.typing import NDArray

from gammabeta.errors import InvalidRequest
from service.runtime import instances
from service.runtime.instances import Floats
from service.runtime.loading import LoadedVersion

T = TypeVar("T")

ROWS_AT_ONCE = 512
"""So that a large body of small images does not make gigabytes of activations."""


class Predictor:
    """The threads on which torch runs."""

    def __init__(self, *, workers: int, threads: int) -> None:
        torch.set_num_threads(threads)
        # OpenMP keeps the number for each thread, so each thread of the pool sets its own too.
        self._pool = ThreadPoolExecutor(
            workers, thread_name_prefix="predict", initializer=torch.set_num_threads, initargs=(threads,)
        )

    async def predict(self, loaded: LoadedVersion, body: bytes) -> bytes:
        """The answer to a request body, as JSON.

        Raises:
            MalformedRequest, InvalidRequest: the body does not fit the model.
        """
        x = await self.beside(partial(instances.read, body, loaded.version.preprocessing), size=len(body))
        scores = await self.scores(loaded, x)
        return await self.beside(partial(answer, loaded, scores), size=scores.nbytes)

    async def beside(self, work: Callable[[], T], *, size: int) -> T:
        """Run work on `size` bytes, such as parsing them, where it holds up nobody else."""
        del size
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def scores(self, loaded: LoadedVersion, x: Floats) -> NDArray[np.float32]:
        """x: rows as `instances.read` gives them -> [B, classes] scores, or [B] values.

        Raises:
            InvalidRequest: an instance gives something that is not finite.
        """
        scores = await asyncio.get_running_loop().run_in_executor(self._pool, scores_of, loaded, x)
        loaded.predictions += len(x)
        return scores

    def close(self) -> None:
        self._pool.shutdown()


def answer(loaded: LoadedVersion, scores: NDArray[np.float32]) -> bytes:
    """The answer as JSON."""
    version = loaded.version
    answered = {
        "model": version.model,
        "version": version.version,
        "classes": version.classes,
        "predictions": _predictions(scores, version.classes),
        "batchnorm": {"mode": "eval", "digest": version.batchnorm_digest},
    }
    return orjson.dumps(answered, option=orjson.OPT_SERIALIZE_NUMPY)


def scores_of(loaded: LoadedVersion, x: Floats) -> NDArray[np.float32]:
    """`[B, classes]`, or `[B]` values.

    Raises:
        InvalidRequest: an instance gives something that is not finite.
    """
    with torch.inference_mode():
        parts = [loaded.network.scores(rows) for rows in torch.split(torch.from_numpy(x), ROWS_AT_ONCE)]
    scores: NDArray[np.float32] = torch.cat(parts).numpy()
    finite = np.isfinite(scores.reshape(len(scores), -1)).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        message = (
            "must be within what the model can compute; its answer is not finite. Send values near those trained on."
        )
        raise InvalidRequest.of(f"instances[{row}]", message, "values whose answer is not finite")
    return scores


def _predictions(scores: NDArray[np.float32], classes: tuple[str, ...] | None) -> list[dict[str, Any]]:
    if classes is None:
        return [{"value": value} for value in scores]
    best = scores.argmax(axis=1).tolist()
    return [
        {"label": classes[code], "scores": row} for code, row in zip(best, np.ascontiguousarray(scores), strict=True)
    ]
