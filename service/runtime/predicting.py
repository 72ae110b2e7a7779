"""Predictions: a body read, its rows computed in eval mode, the answer written.

body ──read──► x ──batching──► scores ──write──► bytes          (each where it holds nobody up)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch
from starlette.types import Receive

from gammabeta.schemas.models import Served
from service.runtime import answers, instances, media
from service.runtime.answers import Answered
from service.runtime.batching import Batcher, Limits
from service.runtime.costs import Rows, Scores
from service.runtime.listening import while_heard
from service.runtime.loading import LoadedVersion
from service.runtime.media import Reader, Writer
from service.runtime.pacing import Pace, Workbench

T = TypeVar("T")


class Predictor:
    """The threads on which networks are computed, large bodies are parsed, and large answers written."""

    def __init__(self, *, workers: int, threads: int, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        torch.set_num_threads(threads)
        # Apart from each other, so that a thread that is free for a batch is free, and no answer stands behind bodies
        # that wait. OpenMP keeps the number for each thread, so each thread of the pools sets its own too.
        self._pools = [
            ThreadPoolExecutor(workers, name, initializer=torch.set_num_threads, initargs=(threads,))
            for name in ("predict", "read", "write")
        ]
        self._computing, reading, writing = self._pools
        bench = partial(Workbench, threads=workers, seconds=limits.queued_seconds, size=limits.queued_bytes)
        self._batcher = Batcher(self._computing, workers=workers, limits=limits)
        self._reading, self._writing = bench(reading, doing="read"), bench(writing, doing="written")

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
            Overloaded: too much waits already.
            ClientDisconnect: nobody hears the answer.
        """
        version, statistics = loaded.version, loaded.statistics
        with statistics.request():
            self.check_room(loaded)
            start = time.perf_counter_ns()
            x = await self.beside(
                partial(read, body, version.preprocessing),
                size=media.extent(read, body, version.preprocessing),
                held=len(body),
                pace=loaded.paces[read],
                receive=receive,
            )
            statistics.compute_input.add(time.perf_counter_ns() - start)
            scores = await self.scores(loaded, x, receive=receive)
            start = time.perf_counter_ns()
            answered = await self.written(
                partial(write, version, scores), size=scores.nbytes, pace=loaded.paces[write], receive=receive
            )
            statistics.compute_output.add(time.perf_counter_ns() - start)
        return answered

    def check_room(self, loaded: LoadedVersion) -> None:
        """Before the body of a request is parsed: refusing must cost next to nothing.

        Raises:
            Overloaded: too many rows wait for this version already, or too many answers to be written.
        """
        self._batcher.check_room(loaded.line)
        self._writing.check_room()

    async def beside(
        self, work: Callable[[], T], *, size: int, pace: Pace, held: int | None = None, receive: Receive | None = None
    ) -> T:
        """Run work on the body of a request, such as parsing it, where it holds up nobody else: in a thread if it is
        expected to take long, at the pace of such work before.

        Args:
            size: bytes that the work is on, as the pace counts them.
            held: bytes of the body, if they are others than those.
            receive: of the request: when the client goes while the work waits, it is not done.

        Raises:
            Overloaded: too much waits already.
            ClientDisconnect: nobody hears the answer.
        """
        if pace.is_short(size):
            return pace.kept(work, size)
        held = size if held is None else held
        self._reading.check_room(held)
        return await _heard(partial(self._read, work, size, pace, held), receive)

    async def _read(self, work: Callable[[], T], size: int, pace: Pace, held: int) -> T:
        # Again: others that had room in the same turn of the event loop stand before this one now.
        self._reading.check_room(held)
        return await self._reading.do(work, size, pace, held=held)

    async def written(self, work: Callable[[], T], *, size: int, pace: Pace, receive: Receive | None = None) -> T:
        """The same for an answer, which is never refused: it has been computed.

        Raises:
            ClientDisconnect: nobody hears it.
        """
        if pace.is_short(size):
            return pace.kept(work, size)
        return await _heard(partial(self._writing.do, work, size, pace, held=size), receive)

    async def scores(self, loaded: LoadedVersion, x: Rows, *, receive: Receive | None = None) -> Scores:
        """x: rows as `instances.read` gives them -> [B, classes] scores, or [B] values.

        Raises:
            InvalidRequest: an instance gives something that is not finite.
            Overloaded: too much waits already.
            ClientDisconnect: `receive`, if it is given, says that nobody hears the answer.
        """
        straight = self._batcher.straight(loaded.line, x)
        if straight is not None:
            return straight
        return await _heard(partial(self._batcher.scores, loaded.line, x), receive)

    async def measured(self, loaded: LoadedVersion) -> Served:
        """What the version serves with, as found now: on a thread that computes predictions, with as many threads of
        its own as they have, and one at a time for each version, however many ask."""
        async with loaded.measuring:
            return await asyncio.get_running_loop().run_in_executor(self._computing, loaded.served)

    def close(self) -> None:
        """End the threads, once what they do is done."""
        for pool in self._pools:
            pool.shutdown()


async def _heard(work: Callable[[], Coroutine[Any, Any, T]], receive: Receive | None) -> T:
    return await (work() if receive is None else while_heard(work, receive))
