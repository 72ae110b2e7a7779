"""A network between programs and a PostgreSQL server that a test can spoil.

program ──TCP, 127.0.0.1──► Proxy ──socket of the cluster──► server
                              cut: every connection is reset
                              hole: what is sent goes nowhere, until the block ends and all of it arrives
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: close with RST."""


@dataclass(frozen=True)
class Proxy:
    """Used from any thread."""

    port: int
    _loop: asyncio.AbstractEventLoop
    _clear: asyncio.Event
    _writers: set[asyncio.StreamWriter]

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}?sslmode=disable"

    def cut(self) -> int:
        """Reset every connection: how many there were. New ones pass."""

        async def reset() -> int:
            for writer in self._writers:
                connection = writer.get_extra_info("socket")
                if connection.family == socket.AF_INET:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
            return len(self._writers) // 2

        return asyncio.run_coroutine_threadsafe(reset(), self._loop).result()

    @contextmanager
    def hole(self) -> Iterator[None]:
        """No byte passes for as long as the block lasts, and nobody is told."""
        self._loop.call_soon_threadsafe(self._clear.clear)
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._clear.set)


@contextmanager
def proxied(server: Path) -> Iterator[Proxy]:
    """A proxy before the server that listens on this socket."""
    started: Future[tuple[Proxy, asyncio.Event]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(_stand_between(server, started)), name="proxy")
    thread.start()
    proxy, ended = started.result()
    try:
        yield proxy
    finally:
        proxy._loop.call_soon_threadsafe(ended.set)
        thread.join()


async def _stand_between(server: Path, started: Future[tuple[Proxy, asyncio.Event]]) -> None:
    clear, ended, writers = asyncio.Event(), asyncio.Event(), set[asyncio.StreamWriter]()
    clear.set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):
            await clear.wait()
            theirs, ours = await asyncio.open_unix_connection(server)
            pair = {writer, ours}
            writers.update(pair)
            try:
                passing = [asyncio.ensure_future(_pass(*each, clear)) for each in ((reader, ours), (theirs, writer))]
                await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
                for each in passing:
                    each.cancel()
                await asyncio.gather(*passing, return_exceptions=True)
            finally:
                writers.difference_update(pair)
                ours.transport.abort()
        writer.transport.abort()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    started.set_result((Proxy(port, asyncio.get_running_loop(), clear, writers), ended))
    await ended.wait()
    listening.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, clear: asyncio.Event) -> None:
    while data := await reader.read(65_536):
        await clear.wait()
        writer.write(data)
        await writer.drain()
