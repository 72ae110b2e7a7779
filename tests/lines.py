"""A connection that is kept, with no more of HTTP than it needs, so that those who load a service leave it its core."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx


class Line:
    """One request after the other to an address. A connection that the service has closed is made anew."""

    def __init__(self, address: httpx.URL) -> None:
        self._address = address
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, content: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Status and body of the answer.

        Raises:
            OSError, asyncio.IncompleteReadError: the connection broke; the line can be used again.
        """
        if self._writer is None or self._reader.at_eof():
            self.close()
            self._reader, self._writer = await asyncio.open_connection(self._address.host, self._address.port)
        try:
            return await self._exchange(self._writer, path, content, headers)
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            raise

    async def _exchange(
        self, writer: asyncio.StreamWriter, path: str, content: bytes, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        said = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {path} HTTP/1.1\r\nHost: {self._address.host}\r\n{said}Content-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        length = next(line for line in lines if line.lower().startswith("content-length:"))
        return int(status.split()[1]), await self._reader.readexactly(int(length.partition(":")[2]))

    def close(self) -> None:
        """Let go of the connection."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
