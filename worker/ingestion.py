"""The child that reads an uploaded file: a hostile file meets this process, its limits, and nothing else.

upload ──► tables (csv) | arrays (npz) | imagefiles (image_zip) ──► <split>-x.npy, <split>-y.npy, manifest.json ──► Done
                      └── DatasetInvalid ──► Refused(code, what must hold, what was received, what to do)
"""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection

from polars.exceptions import PanicException

from gammabeta import logs
from gammabeta.errors import DatasetInvalid
from gammabeta.files import FULL
from gammabeta.schemas.datasets import DatasetFormat, DatasetManifest
from worker import arrays, imagefiles, parentage, tables
from worker.messages import MANIFEST, Done, Failed, IngestFile, IngestLimits, Refused, decode_order, encode

READERS: dict[DatasetFormat, Callable[[IngestFile], DatasetManifest]] = {
    "csv": tables.read,
    "npz": arrays.read,
    "image_zip": imagefiles.read,
}

log = logs.get(__name__)


def main(connection: Connection) -> None:
    """Read one `IngestFile`, answer once."""
    parentage.lead_own_session()
    parentage.die_with_parent()
    logs.set_up()
    order = decode_order(connection.recv_bytes())
    if not isinstance(order, IngestFile):
        raise TypeError(f"the first message must be an IngestFile. Received: {order.type}.")
    limit(order.limits, mapped_bytes=order.upload.stat().st_size)
    connection.send_bytes(encode(answer(order)))


def limit(limits: IngestLimits, *, mapped_bytes: int) -> None:
    """From here on the kernel ends what goes beyond. polars maps the file, at times twice, which takes addresses and
    no memory."""
    addresses = limits.memory_bytes + 3 * mapped_bytes
    resource.setrlimit(resource.RLIMIT_AS, (addresses, addresses))
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds + 5))


def answer(order: IngestFile) -> Done | Refused | Failed:
    """Read the file; nothing is raised."""
    try:
        ingest(order)
    except DatasetInvalid as refused:
        return Refused(code=refused.reason, message=refused.message)
    except MemoryError:
        return Refused(code="too_large", message=_out_of_memory(order.limits))
    except OSError as error:
        if error.errno == errno.ENOMEM:
            return Refused(code="too_large", message=_out_of_memory(order.limits))
        log.exception("file not read", job=order.job_id)
        return Failed(
            code="no_space" if error.errno in FULL else "io_error",
            message=str(error),
            retryable=True,
        )
    except (Exception, PanicException) as error:  # a panic of polars is no Exception
        log.exception("file not read", job=order.job_id)
        return Failed(code="ingestion_error", message=f"{type(error).__name__}: {error}"[:1_000])
    return Done(path=order.scratch)


def _out_of_memory(limits: IngestLimits) -> str:
    return (
        f"Reading the file must take at most {limits.memory_bytes:,} bytes of memory, and took more. Upload fewer rows "
        "or columns, or raise GAMMABETA_INGEST_MEMORY_BYTES."
    )


def ingest(order: IngestFile) -> DatasetManifest:
    """Read the upload into arrays and a manifest in `order.scratch`.

    Raises:
        DatasetInvalid: the file breaks a rule.
    """
    if order.upload.stat().st_size == 0:
        raise DatasetInvalid("empty_file", "The file must have rows. Received: 0 bytes. Upload it again.")
    manifest = READERS[order.options.format](order)
    (order.scratch / MANIFEST).write_bytes(manifest.model_dump_json().encode())
    return manifest
