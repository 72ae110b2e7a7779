"""Files that come in as raw bodies: written, counted and hashed as they arrive, in constant memory.

request.stream() ──1 MiB at a time, by a thread──► a file ──fsync──► kept by the caller, or removed here
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from starlette.requests import Request

from gammabeta import failpoints
from gammabeta.errors import InvalidRequest
from gammabeta.failpoints import Failpoint
from gammabeta.files import no_space
from gammabeta.store.usage import Room
from service.dependencies import Context
from service.headers import header

MEDIA_TYPES = (
    "application/octet-stream",
    "text/csv",
    "application/csv",
    "application/x-npz",
    "application/zip",
    "application/x-zip-compressed",
)
BLOCK = 1024 * 1024
FULL = "The upload could not be stored: the disk is full. Free some space, then send it again."


@dataclass(frozen=True, kw_only=True)
class Received:
    """A file that has arrived whole."""

    path: Path
    bytes: int
    sha256: str


@asynccontextmanager
async def received(request: Request, context: Context, path: Path, room: Room | None = None) -> AsyncIterator[Received]:
    """Write the body to `path`. At the end of the block, or at an error, a file that is still there is removed. `room`:
    for how many bytes there is any.

    Raises:
        InvalidRequest: the body is empty.
        TooLarge: while reading, by the byte counter.
        ClientDisconnect: the client went away.
        ProjectFull: before reading, by Content-Length, or while reading.
        NoSpace: the disk is full.
    """
    if room is not None:
        room.check(int(header(request.scope, b"content-length") or 0))
    files = context.blobs.files
    try:
        with no_space(FULL):
            file = await context.in_thread(files.create, path)
            try:
                size, digest = await _copy(request, context, file, room)
                await context.in_thread(files.sync, file)
            finally:
                await context.in_thread(file.close)
        if size == 0:
            raise InvalidRequest.of(
                "body", "must be the file. It was empty: send it with curl -T FILE, for instance", ""
            )
        yield Received(path=path, bytes=size, sha256=digest)
    finally:
        files.remove(path)


async def _copy(request: Request, context: Context, file: BinaryIO, room: Room | None) -> tuple[int, str]:
    hashed, size, block = hashlib.sha256(), 0, bytearray()

    def flush() -> None:
        hashed.update(block)
        context.blobs.files.append(file, block)
        block.clear()

    async for chunk in request.stream():
        size += len(chunk)
        if room is not None:
            room.check(size)
        context.traffic.uploaded += len(chunk)
        block += chunk
        if len(block) >= BLOCK:
            await context.in_thread(flush)
            failpoints.reached(Failpoint.UPLOAD_PARTIAL)
    await context.in_thread(flush)
    return size, hashed.hexdigest()
