"""Predictions: a body read, its rows computed in eval mode, the answer written.

body ──read──► x ──batching──► scores ──write──► bytes          (each where it holds nobody up)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch
from starlette.types import Receive

from service.runtime import answers, instances
from service.runtime.answers import Answered
from service.runtime.batching import Batcher, Limits, Rows, Scores
from service.runtime.listening import while_heard
from service.runtime.loading import LoadedVersion
from service.runtime.media import Reader, Writer
from service.runtime.pacing import Pace

T = TypeVar("T")


class Predictor:
    """The threads on which networks are computed, and large bodies are parsed."""

    def __init__(self, *, workers: int, threads: int, limits: Limits | None = None) -> None:
        torch.set_num_threads(threads)
        # OpenMP keeps the number for each thread, so each thread of the pools sets its own too.
        pool = partial(ThreadPoolExecutor, workers, initializer=torch.set_num_threads, initargs=(threads,))
        # Apart, so that a thread that is free for a batch is free.
        self._computing, self._parsing = pool(thread_name_prefix="predict"), pool(thread_name_prefix="parse")
        self._batcher = Batcher(self._computing, workers=workers, limits=limits or Limits())
        self._pace = Pace()

    async def predict(
        self,
        loaded: LoadedVersion,
        body: bytes,
        *,
        read: Reader = instances.read,
        write: Writer = answers.as_json,
        receive: Receive | None = None,
    ) -> Answered:
        """The answer to a request body.

        Args:
            receive: of the request, its body received: when the client goes, no more is done for it.

        Raises:
            MalformedRequest, InvalidRequest, UnsupportedMediaType, TooLarge: the body does not fit the model.
            Overloaded: too many rows wait for this version already.
            ClientDisconnect: nobody hears the answer.
        """
        version, statistics = loaded.version, loaded.statistics
        with statistics.request():
            self.check_room(loaded)
            start = time.perf_counter_ns()
            x = await self.beside(partial(read, body, version.preprocessing), size=len(body), pace=loaded.paces[read])
            statistics.compute_input.add(time.perf_counter_ns() - start)
            scores = await self.scores(loaded, x, receive=receive)
            start = time.perf_counter_ns()
            answered = await self.beside(partial(write, version, scores), size=scores.nbytes, pace=loaded.paces[write])
            statistics.compute_output.add(time.perf_counter_ns() - start)
        return answered

    def check_room(self, loaded: LoadedVersion) -> None:
        """Before the body of a request is parsed: refusing must cost next to nothing.

        Raises:
            Overloaded: too many rows wait for this version already.
        """
        self._batcher.check_room(loaded.line)

    async def beside(self, work: Callable[[], T], *, size: int, pace: Pace | None = None) -> T:
        """Run work on `size` bytes, such as parsing them, where it holds up nobody else: in a thread if it is expected
        to take long, at the pace of such work before."""
        pace = pace or self._pace
        if pace.is_short(size):
            return pace.kept(work, size)
        return await asyncio.get_running_loop().run_in_executor(self._parsing, pace.kept, work, size)

    async def scores(self, loaded: LoadedVersion, x: Rows, *, receive: Receive | None = None) -> Scores:
        """x: rows as `instances.read` gives them -> [B, classes] scores, or [B] values.

        Raises:
            InvalidRequest: an instance gives something that is not finite.
            Overloaded: too many rows wait for this version already.
            ClientDisconnect: `receive`, if it is given, says that nobody hears the answer.
        """
        straight = self._batcher.straight(loaded.line, x)
        if straight is not None:
            return straight
        waiting = self._batcher.scores(loaded.line, x)
        return await (waiting if receive is None else while_heard(waiting, receive))

    def close(self) -> None:
        """End the threads, once what they compute is done."""
        self._computing.shutdown()
        self._parsing.shutdown()
