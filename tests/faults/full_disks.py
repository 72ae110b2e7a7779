"""T16. A disk is full: that of the blobs while checkpoints, versions, arrays and uploads are stored, that of scratch,
that of SQLite. Who needs room waits for it or says `no_space`, what was stored stays, and all goes on with room again.

    blobs/   scratch/   db/      file systems of a few MiB each, filled to the last block and emptied again

Needs the right to mount them (root). Without it the uploads alone are tried, with files that say that there is no room.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import BinaryIO

import httpx
import numpy as np

from gammabeta.files import Files
from gammabeta.schemas.jobs import JobState
from gammabeta.store.blobs import FolderBlobs
from gammabeta.store.tables import JobRow, new_id
from service.app import create_app
from service.settings import ServiceSettings
from tests.faults.figures import Row
from tests.faults.rig import Place, Scenario
from tests.faults.trials import Trials, fingerprint, not_as, not_succeeded
from tests.integration.workshop import Worker, Workshop, until, workshop
from tests.trainings import NETWORK
from tests.trainings import blobs as classes
from tests.unit.ingestion.conftest import npz
from worker import keeping

STEPS = 1_000
DISKS = {"blobs": 24, "scratch": 8, "db": 16}
"""MiB of each."""
STORED = 2
"""MiB that a round stores for good, at most: an uploaded data set, versions."""
LEASE_SECONDS = 2.0


@dataclass
class SmallDisk:
    """A file system that is soon full."""

    folder: Path

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self, *, but: int = 0) -> None:
        """To the last block, `but` so many bytes."""
        with self._ballast.open("ab", buffering=0) as file:
            for block in (1 << 16, 1 << 12):
                with suppress(OSError):
                    while True:
                        file.write(bytes(block))
            file.truncate(max(0, file.tell() - but))
        assert but or shutil.disk_usage(self.folder).free == 0

    def empty(self) -> None:
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[SmallDisk]:
    """Raises `CalledProcessError` where it must not be mounted."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@dataclass
class Full(Trials):
    """The trials of a place with small disks."""

    shop: Workshop = field(kw_only=True)
    worker: Worker = field(kw_only=True)
    disks: dict[str, SmallDisk] = field(kw_only=True)
    random: Random = field(kw_only=True)
    dataset: str = ""
    undisturbed: tuple[str, str] = ("", "")
    refusals: int = 0

    def prepare(self) -> None:
        self.dataset = self.shop.ready_dataset()
        self.undisturbed = fingerprint(self.shop, self.shop.ended(self._train()))

    def _train(self) -> str:
        return self.shop.train(self.dataset, epochs=STEPS, max_steps=STEPS)

    @contextmanager
    def filled(self, name: str, **options: int) -> Iterator[SmallDisk]:
        disk = self.disks[name]
        disk.fill(**options)
        try:
            yield disk
        finally:
            disk.empty()

    # ── the worker ──

    def checkpoint_and_publish(self) -> None:
        """A training comes by both while there is no room for either."""
        with self.trial("blobs full at a checkpoint and at the end") as broken:
            job_id = self._train()
            self.shop.checkpoints(job_id)
            with self.filled("blobs") as disk:
                self._said(job_id, "code", disk)
                stored = self.shop.checkpoints(job_id)
                if keeping.newest_sound(self.shop.db, self.shop.blobs, job_id) is None:
                    broken.append(f"none of {len(stored)} checkpoints is whole on the full disk")
                self._said(job_id, "reason", disk)
            broken.extend(self._ended_alike(job_id))
            if not [data for name, data in self.shop.events(job_id) if name == "resumed"]:
                broken.append(f"{job_id} began anew, though a checkpoint was stored")

    def no_room_comes(self) -> None:
        """It fails after three attempts, and whoever retries it has it as if nothing had been."""
        with self.trial("blobs full for good") as broken:
            job_id = self._train()
            with self.filled("blobs") as disk:
                self._once(lambda: JobState(self.shop.job(job_id).state).terminal, f"the end of {job_id}", disk)
                job = self.shop.job(job_id)
                broken.extend(not_as(job, state=JobState.FAILED, reason="no_space", failures=3, losses=0))
            if not broken:
                self.shop.retry(job_id)
                broken.extend(self._ended_alike(job_id))

    def scratch(self) -> None:
        """The trainer finds no room for a checkpoint."""
        with self.trial("scratch full") as broken:
            job_id = self._train()
            self.shop.checkpoints(job_id)
            with self.filled("scratch") as disk:
                self._said(job_id, "reason", disk)
            broken.extend(self._ended_alike(job_id))

    def arrays(self) -> None:
        """A file that was uploaded finds no room for its arrays."""
        with self.trial("blobs full while an upload is read") as broken:
            self._quiet()
            wake = self.shop.freeze(self.worker)
            _, job_id = self.shop.upload(small_npz(self.random), format="npz")
            with self.filled("blobs") as disk:
                wake()
                self._said(job_id, "reason", disk)
            broken.extend(not_succeeded(self.shop.ended(job_id)))

    def _said(self, job_id: str, key: str, disk: SmallDisk) -> None:
        """Once a warning has the code `no_space`, or the end of an attempt that reason."""

        def look() -> bool:
            return any(data.get(key) == "no_space" for _, data in self.shop.events(job_id))

        self._once(look, f"no_space as {key} of an event of {job_id}", disk)

    def _once(self, look: Callable[[], bool], what: str, disk: SmallDisk) -> None:
        """Something is so. What is removed meanwhile makes no room."""

        def full() -> bool:
            disk.fill()
            return look()

        until(full, what)

    def _ended_alike(self, job_id: str) -> list[str]:
        """What is wrong with a job that had room again."""
        job = self.shop.ended(job_id)
        found = not_succeeded(job)
        if not found and fingerprint(self.shop, job) != self.undisturbed:
            found.append(f"{job_id} must end in the same bytes as one that always had room")
        return found

    def _quiet(self) -> None:
        """Once nothing is left of the jobs before, which would make room when it goes."""
        left = [self.shop.blobs.root / name for name in ("jobs", "uploads")]
        until(lambda: not any(any(folder.glob("*")) for folder in left), "the files of ended jobs to go")

    # ── the service ──

    def upload(self) -> None:
        """There is no room at all, or some and then no more."""
        with self.trial("blobs full at an upload") as broken:
            self._quiet()
            broken.extend(self._serving(self._upload))

    async def _upload(self, http: httpx.AsyncClient) -> list[str]:
        body = large_npz(self.random)
        with self.filled("blobs", but=self.random.choice((0, 300_000))):
            broken = self._no_space(await upload(http, body))
            broken += self._left()
        answer = await upload(http, body)
        if answer.status_code != 202:
            return [*broken, f"with room again, an upload must be taken. Received: {answer.status_code} {answer.text}"]
        dataset = answer.json()["id"]
        job = next(each for each in self._jobs() if each.dataset_id == dataset)
        return broken + not_succeeded(self.shop.ended(job.id))

    def _no_space(self, answer: httpx.Response) -> list[str]:
        self.refusals += 1
        if (answer.status_code, answer.json()["code"]) == (507, "no_space"):
            return []
        return [f"must be refused with 507 no_space. Received: {answer.status_code} {answer.text}"]

    def _left(self) -> list[str]:
        left = [each.name for each in (self.shop.blobs.root / "uploads").iterdir()]
        return [f"nothing must be left of a refused upload. Received: {', '.join(left)}"] if left else []

    def _jobs(self) -> list[JobRow]:
        with self.shop.db.read() as session:
            return list(session.query(JobRow))

    # ── SQLite ──

    def database(self) -> None:
        """A training goes on while nothing can be written; requests are refused, and what was accepted is there."""
        with self.trial("the disk of SQLite full") as broken:
            job_id = self._train()
            self.shop.checkpoints(job_id)
            broken.extend(self._serving(self._refused_by_database))
            broken.extend(self._ended_alike(job_id))
            broken.extend(not_as(self.shop.job(job_id), fence=1, losses=0))

    async def _refused_by_database(self, http: httpx.AsyncClient) -> list[str]:
        broken: list[str] = []
        accepted: list[str] = []
        self._shorten_log()
        with self.filled("db"):
            for _ in range(30):
                answer = await self._submit(http)
                if answer.status_code == 202:
                    accepted.append(answer.json()["id"])
                elif answer.status_code in (503, 507):
                    self.refusals += 1
                else:
                    broken.append(f"must be 202, 503 or 507. Received: {answer.status_code} {answer.text}")
            reads = [await http.get(path) for path in ("/v1/jobs", "/v1/workers", "/healthz")]
            broken += [f"{each.url.path} answered {each.status_code}" for each in reads if each.status_code != 200]
            if len(accepted) == 30:
                broken.append("the disk was not full: every job was accepted")
            await asyncio.sleep(self.random.uniform(0, 1.5 * LEASE_SECONDS))
        answer = await self._submit(http)
        if answer.status_code != 202:
            broken.append(f"with room again, a job must be accepted. Received: {answer.status_code} {answer.text}")
        known = {each.id for each in self._jobs()}
        broken += [f"{each} was accepted, and is lost" for each in accepted if each not in known]
        for each in accepted:
            (await http.post(f"/v1/jobs/{each}/cancel")).raise_for_status()
        return broken

    async def _submit(self, http: httpx.AsyncClient) -> httpx.Response:
        body = {"kind": "train", "dataset": self.dataset, "model": "small", "network": NETWORK}
        return await http.post("/v1/jobs", json={**body, "training": {"batch_size": 10, "epochs": 1, "max_steps": 1}})

    def _shorten_log(self) -> None:
        """Its room would be used again."""
        with closing(sqlite3.connect(self.disks["db"].folder / "gammabeta.db", timeout=10)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _serving(self, use: Callable[[httpx.AsyncClient], Awaitable[list[str]]]) -> list[str]:
        """Use a service of this process."""
        return asyncio.run(serving(self.shop, use))


async def serving(
    shop: Workshop, use: Callable[[httpx.AsyncClient], Awaitable[list[str]]], *, files: Files | None = None
) -> list[str]:
    app = create_app(ServiceSettings(home=shop.home, database_url=shop.db.url))
    async with app.api.router.lifespan_context(app.api):
        if files is not None:
            app.api.state.context = replace(app.api.state.context, blobs=FolderBlobs(shop.blobs.root, files=files))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as http:
            return await use(http)


async def upload(http: httpx.AsyncClient, body: bytes) -> httpx.Response:
    return await http.post("/v1/datasets", params={"format": "npz", "name": new_id("big")}, content=body)


def small_npz(random: Random) -> bytes:
    """With arrays that are not stored yet."""
    x, y = classes(rows=60, seed=random.randrange(1 << 30))
    return npz(x=x, y=y)


def large_npz(random: Random) -> bytes:
    """More than a mebibyte: it is written in several blocks."""
    draws = np.random.default_rng(random.randrange(1 << 30))
    return npz(x=draws.normal(size=(20_000, 20)).astype(np.float32), y=draws.integers(0, 3, 20_000))


class NoRoom(Files):
    """Stands in for a disk that must not be mounted."""

    def append(self, file: BinaryIO, data: bytes | bytearray) -> None:
        del file, data
        raise OSError(errno.ENOSPC, "No space left on device")


def run(place: Place, n: int, random: Random) -> Row:
    with ExitStack() as mounted:
        names = ["blobs", "scratch", *(["db"] if place.kind == "sqlite" else [])]
        try:
            sizes = DISKS | {"blobs": DISKS["blobs"] + n * STORED}
            disks = {name: mounted.enter_context(small_disk(place.folder / name, sizes[name])) for name in names}
        except (subprocess.CalledProcessError, FileNotFoundError):
            return _run_without(place, n, random)
        url = place.url
        if place.kind == "sqlite":
            shutil.move(place.folder / "gammabeta.db", disks["db"].folder)
            url = f"sqlite:///{disks['db'].folder / 'gammabeta.db'}"
        with workshop(place.folder, url) as shop:
            worker = shop.start(RETRY_SECONDS="0.5", CHECKPOINT_SECONDS="0.1", LEASE_SECONDS=f"{LEASE_SECONDS:g}")
            full = Full(shop=shop, worker=worker, disks=disks, random=random)
            full.prepare()
            for round in range(n):
                _round(full, database=place.kind == "sqlite", for_good=round % 5 == 4)
            os.kill(worker.pid, signal.SIGTERM)  # the auditor reads rows and files, which it would go on to remove
            also = [] if worker.process.wait(60) == 0 else [f"the worker ended with {worker.process.returncode}"]
            return full.row(shop, unit="full disks", figures={"requests refused": str(full.refusals)}, also=also)


def _round(full: Full, *, database: bool, for_good: bool) -> None:
    full.checkpoint_and_publish()
    full.scratch()
    full.arrays()
    full.upload()
    if for_good:
        full.no_room_comes()
    if database:
        full.database()


def _run_without(place: Place, n: int, random: Random) -> Row:
    trials, figures = Trials(), {"only uploads": "no right to mount a small disk"}
    with place.workshop() as shop:
        for _ in range(n):
            with trials.trial("no room for an upload") as broken:

                async def refused(http: httpx.AsyncClient) -> list[str]:
                    answer = await upload(http, large_npz(random))
                    return [] if answer.status_code == 507 else [f"answered {answer.status_code} {answer.text}"]

                broken.extend(asyncio.run(serving(shop, refused, files=NoRoom())))
        return trials.row(shop, unit="full disks", figures=figures, complete=False)


SCENARIO = Scenario(
    id="T16",
    fault="disk full: of the blobs at a checkpoint, at the end of a training, at an upload and while it is read; "
    "of scratch; of SQLite",
    promise="the job is queued again, or fails with `no_space` after three attempts; the checkpoint before stays; "
    "the service answers 507 or 503, never 500; all goes on in the same bytes when there is room",
    run=run,
    quick_kinds=("sqlite",),
    quick=1,
    full=15,
)
