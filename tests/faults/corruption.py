"""T6: bytes that changed on the disk. A checkpoint is passed over for the one before it, and the job ends in the same
bytes; a version is not served, and never answers wrongly.

    a trial in three: bit flipped, file cut, file removed      in a checkpoint  ──► the one before is found
                                                               in the weights   ──► 503 artifact_corrupt
    some of them: a paused job goes on from what is left       ──► succeeded, bit-equal
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx
import orjson

from gammabeta.schemas.jobs import JobState
from gammabeta.store.blobs import FolderBlobs
from gammabeta.store.tables import CheckpointRow, VersionRow
from service.app import create_app
from service.settings import ServiceSettings
from tests.faults.figures import Row
from tests.faults.rig import Place, Scenario
from tests.faults.trials import Trials, fingerprint, not_succeeded, version_of
from tests.integration.workshop import Workshop
from tests.trainings import blobs as classes
from worker import keeping

STEPS = 3_000
"""Enough for a pause to come before the end."""
WHOLE_JOBS = 25
"""One trial of so many lets a job go on."""


def flip(path: Path, random: Random) -> str:
    data = bytearray(path.read_bytes())
    bit = random.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    return f"bit {bit} of {path.name} flipped"


def cut(path: Path, random: Random) -> str:
    size = random.randrange(path.stat().st_size)
    os.truncate(path, size)
    return f"{path.name} cut to {size} bytes"


def remove(path: Path, random: Random) -> str:
    del random
    path.unlink()
    return f"{path.name} removed"


DAMAGES: tuple[Callable[[Path, Random], str], ...] = (flip, cut, remove)


@contextmanager
def damaged(path: Path, trial: int, random: Random) -> Iterator[str]:
    """What was done to the file, which is as it was afterwards: restored from a backup."""
    whole = path.read_bytes()
    done = DAMAGES[trial % 3](path, random)
    assert not path.exists() or path.read_bytes() != whole
    yield done
    path.write_bytes(whole)


@dataclass
class Damages(Trials):
    """The trials of a place."""

    shop: Workshop = field(kw_only=True)
    random: Random = field(kw_only=True)
    counts: Counter[str] = field(default_factory=Counter)

    # ── checkpoints ──

    def checkpoint(self, newest: CheckpointRow, before: CheckpointRow) -> None:
        """A fresh look at the stored checkpoints, one file of the newest damaged."""
        blobs = FolderBlobs(self.shop.blobs.root)
        path = self.random.choice(sorted((blobs.root / newest.uri).iterdir()))
        with self.trial("checkpoint") as broken, damaged(path, self.n, self.random) as done:
            self.counts["in a checkpoint, the one before it taken"] += 1
            if keeping.newest_sound(self.shop.db, blobs, newest.job_id) != blobs.root / before.uri:
                broken.append(f"{done}: the checkpoint before it was not taken")

    def job(self, dataset_id: str, undisturbed: tuple[str, str], *, all_of_them: bool) -> None:
        """A job that is paused, and goes on from what is left: from the checkpoint before, or from its beginning."""
        with self.trial("job") as broken:
            self.counts["in a checkpoint, the job ended in the same bytes"] += 1
            job_id = self.paused(dataset_id)
            newest, *older = self.shop.checkpoints(job_id, at_least=2)
            done = ", ".join(self._spoil(each) for each in ([newest, *older] if all_of_them else [newest]))
            self.shop.resume(job_id)
            row = self.shop.ended(job_id)
            broken.extend(not_succeeded(row))
            if not broken and fingerprint(self.shop, row) != undisturbed:
                broken.append(f"{done}: the job did not end in the same bytes")
            steps = [data["step"] for name, data in self.shop.events(job_id) if name == "resumed"]
            expected = [] if all_of_them else [older[0].step]
            if steps != expected:
                broken.append(f"{done}: the job went on from the steps {steps}, and {expected} was whole")

    def _spoil(self, row: CheckpointRow) -> str:
        files = sorted((self.shop.blobs.root / row.uri).iterdir())
        return DAMAGES[self.n % 3](self.random.choice(files), self.random)

    def paused(self, dataset_id: str) -> str:
        """A job with two checkpoints."""
        job_id = self.shop.train(dataset_id, epochs=STEPS, max_steps=STEPS)
        self.shop.checkpoints(job_id, at_least=2)
        self.shop.pause(job_id)
        self.shop.in_state(job_id, JobState.PAUSED)
        return job_id

    # ── weights ──

    async def all_weights(self, version: VersionRow, n: int) -> None:
        instances = classes(rows=3)[0].tolist()
        async with Fresh(self.shop) as http:
            right = (await _predict(http, instances)).content
        for _ in range(n):
            with self.trial("weights") as broken:
                self.counts["in the weights, 503"] += 1
                broken.extend(await self._weights(version, instances, right))

    async def _weights(self, version: VersionRow, instances: list[list[float]], right: bytes) -> list[str]:
        """A service that has the version in memory goes on with it; one that has not says that it does not answer."""
        broken, path = [], self.shop.blobs.path(version.weights_sha256)
        async with Fresh(self.shop) as warm, Fresh(self.shop) as cold:
            assert (await _predict(warm, instances)).content == right
            with damaged(path, self.n, self.random) as done:
                answers = [await _predict(cold, instances), await cold.get(_file(version))]
                said = [(each.status_code, each.headers.get("Retry-After")) for each in answers]
                refused = all(each.status_code == 503 and each.json()["code"] == "artifact_corrupt" for each in answers)
                if not refused or not all(after for _, after in said):
                    broken.append(f"{done}: answered {said}")
                if (await _predict(warm, instances)).content != right:
                    broken.append(f"{done}: a service that had the version in memory answered something else")
            if (await _predict(cold, instances)).content != right:
                broken.append(f"{done}, then restored: the answer is another one")
        return broken


class Fresh:
    """A service that has just been started, in this process."""

    def __init__(self, shop: Workshop) -> None:
        app = create_app(ServiceSettings(home=shop.home, database_url=shop.db.url))
        self._life = app.api.router.lifespan_context(app.api)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60)

    async def __aenter__(self) -> httpx.AsyncClient:
        await self._life.__aenter__()
        return self._http

    async def __aexit__(self, *error: object) -> None:
        await self._http.aclose()
        await self._life.__aexit__(None, None, None)


async def _predict(http: httpx.AsyncClient, instances: list[list[float]]) -> httpx.Response:
    return await http.post("/v1/models/toy/predict", content=orjson.dumps({"instances": instances}))


def _file(version: VersionRow) -> str:
    return f"/v1/models/toy/versions/{version.number}/files/weights.safetensors"


def run(place: Place, n: int, random: Random) -> Row:
    with place.workshop() as shop:
        worker = shop.start()
        damages, dataset_id = Damages(shop=shop, random=random), shop.ready_dataset()
        undisturbed = shop.ended(shop.train(dataset_id, epochs=STEPS, max_steps=STEPS))
        for trial in range(max(2, n // WHOLE_JOBS)):
            damages.job(dataset_id, fingerprint(shop, undisturbed), all_of_them=bool(trial % 2))
        newest, before = shop.checkpoints(damages.paused(dataset_id), at_least=2)
        for _ in range(n // 2):
            damages.checkpoint(newest, before)
        asyncio.run(damages.all_weights(version_of(shop, undisturbed), n - n // 2))
        also = [] if worker.process.poll() is None else ["the worker ended"]
        figures = {what: str(count) for what, count in damages.counts.items()}
        return damages.row(shop, unit="damages", figures=figures, also=also)


SCENARIO = Scenario(
    id="T6",
    fault="a random bit flipped, a file cut or removed, in a checkpoint or in a version's weights",
    promise="detected each time; the checkpoint before is taken and the job ends in the same bytes; "
    "`predict` answers 503 `artifact_corrupt` and never wrongly",
    run=run,
    quick_kinds=("sqlite",),
    quick=12,
    full=500,
)
