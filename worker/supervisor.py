"""The worker: slots that run jobs, and a main loop that says that it lives and reaps what others have lost.

    main thread ── forkserver · beat · reap · drain
        ├── slot train-0 … ── attempt ── child
        ├── slot light     ── attempt ── child
        ├── lease of each attempt
        └── sweeper ── what nobody needs any more

No torch here: heartbeats do not wait for a GIL or a GPU, and nothing that a training does can end this process.
"""

from __future__ import annotations

import fcntl
import os
import random
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from gammabeta import exposition, failpoints, logs
from gammabeta.errors import NoSpace, NotReady
from gammabeta.failpoints import Failpoint
from gammabeta.schemas.jobs import Lane
from gammabeta.store import hints, jobs, migrations, workers
from gammabeta.store.engine import Database, Session
from gammabeta.store.stored import Blobs
from gammabeta.store.tables import now_ms
from worker.attempts import Surroundings
from worker.children import Children
from worker.inputs import Inputs
from worker.lease import boot_seconds
from worker.metrics import Metrics
from worker.settings import WorkerSettings
from worker.slots import Slot, devices
from worker.sweeping import Sweeper

log = logs.get(__name__)


class Supervisor:
    """One worker program. `run` in the main thread; `drain` from anywhere."""

    def __init__(self, settings: WorkerSettings, children: Children, blobs: Blobs) -> None:
        self.settings = settings
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.draining = threading.Event()
        self._db = Database(settings.resolved_database_url)
        self._blobs = blobs
        self._children = children
        self._reaper = Reaper(self._db, settings)
        self._sweeper = Sweeper(self._db, blobs, worker_id=self.id, draining=self.draining, keep=settings.retention)
        self._metrics = Metrics()
        self._complaint: str | None = None

    def drain(self) -> None:
        """Take no more jobs, have the running ones stop at a checkpoint, release them, and end."""
        self.draining.set()

    def run(self) -> None:
        """Work until told to drain.

        Raises:
            NotReady: the database does not serve this version, or no more.
            CannotListen: metrics cannot be told where the settings say.
        """
        settings, told = self.settings, self._metrics.registry
        with exposition.listening(lambda: told, host=settings.metrics_host, port=settings.metrics_port):
            self._work()
        if self._complaint is not None:
            raise NotReady(self._complaint)

    def _work(self) -> None:
        self._wait_for_database()
        with own_scratch(self.settings.home / "scratch", self.id) as scratch:
            names = devices(self.settings)
            self._metrics.watch_gpus(names)
            if "cpu" in names:
                self._children.warm()
            slots = self._slots(names, scratch)
            for slot in slots:
                self._metrics.slots.labels(slot.lane.value).inc()
                slot.start()
            log.info("worker ready", worker=self.id, devices=names)
            try:
                with self._hints(slots):
                    self._loop(names, slots)
            finally:
                self.drain()
                log.info("worker draining", worker=self.id)
                failpoints.reached(Failpoint.DRAIN_BEGUN)
                for slot in slots:
                    slot.wake()
                for slot in slots:
                    slot.join()
                if self._sweeper.is_alive():
                    self._sweeper.stop()
                failpoints.reached(Failpoint.DRAINED)
                self._attempted("worker not signed off", self._forget)
        log.info("worker ended", worker=self.id)
        self._db.dispose()

    def _wait_for_database(self) -> None:
        while not self.draining.is_set():
            try:
                complaint = migrations.complaint(self._db)
            except NotReady as error:
                log.warning("waiting for the database", why=str(error))
                self.draining.wait(1)
                continue
            if complaint:
                raise NotReady(complaint)
            return

    def _slots(self, names: list[str], scratch: Path) -> list[Slot]:
        around = Surroundings(
            settings=self.settings,
            db=self._db,
            blobs=self._blobs,
            inputs=Inputs(self._blobs),
            children=self._children,
            scratch=scratch,
            draining=self.draining,
            metrics=self._metrics,
        )
        trains = [
            Slot(f"train-{rank}", lane=Lane.TRAIN, device=device, worker_id=self.id, around=around)
            for rank, device in enumerate(names)
        ]
        return [*trains, Slot("light", lane=Lane.LIGHT, device="cpu", worker_id=self.id, around=around)]

    @contextmanager
    def _hints(self, slots: list[Slot]) -> Iterator[None]:
        """Slots are woken when there is a job for them, where the database can say so."""
        if self._db.dialect != "postgresql":
            yield
            return

        def wake(lane: Lane) -> None:
            for slot in slots:
                if slot.lane is lane:
                    slot.wake()

        listener = hints.Listener(self._db, wake)
        listener.start()
        try:
            yield
        finally:
            listener.stop()

    def _loop(self, names: list[str], slots: list[Slot]) -> None:
        reap_at = beat_at = time.monotonic()
        while not self.draining.is_set():
            now = time.monotonic()
            if now >= beat_at:
                self._attempted("schema not looked at", self._check_schema)
                if self.draining.is_set():  # neither a beat nor a reap goes into a schema that may mean other things
                    return
                self._attempted("no sign of life given", partial(self._beat, names, slots))
                if self._sweeper.ident is None:  # after the first beat, from which it knows who lives longest
                    self._sweeper.start()
                beat_at = now + self.settings.heartbeat_seconds
            if now >= reap_at:
                self._attempted("not reaped", self._reap)
                reap_at = now + self.settings.reap_seconds * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load
            self.draining.wait(max(0.0, min(reap_at, beat_at) - time.monotonic()))

    def _attempted(self, otherwise: str, chore: Callable[[], None]) -> None:
        """Do what is done again before long; where it fails, the log says `otherwise`."""
        try:
            chore()
        except (NotReady, NoSpace) as error:
            self._reaper.blind()
            log.warning(otherwise, why=str(error))
        except Exception:
            log.exception(otherwise)

    def _check_schema(self) -> None:
        """Drain where the database was upgraded meanwhile and does not serve this version any more."""
        self._complaint = migrations.complaint(self._db)
        if self._complaint is not None:
            log.error("the database must not be used", why=self._complaint)
            self.drain()

    def _beat(self, names: list[str], slots: list[Slot]) -> None:
        running = {slot.name: slot.job for slot in slots}
        with self._db.write() as session:
            if not workers.beat(session, self.id, slots=running):
                host, pid = socket.gethostname(), os.getpid()
                workers.register(session, self.id, hostname=host, pid=pid, devices=names, slots=running)

    def _reap(self) -> None:
        reaped = self._reaper.reap()
        self._metrics.reaped.inc(len(reaped))
        self._sweeper.clean(reaped)

    def _forget(self) -> None:
        with self._db.write() as session:
            workers.forget(session, self.id)


class Reaper:
    """Ends attempts whose lease has expired, of any worker. After a time without the database, or one that this
    process slept through, or when the database's clock was put forward, it waits for one lease: to the holders it came
    as suddenly, and they come first. So it does when it begins, since it does not know what was before. `clock`: in
    seconds, goes on while the machine sleeps."""

    def __init__(self, db: Database, settings: WorkerSettings, *, clock: Callable[[], float] = boot_seconds) -> None:
        self._db, self._settings, self._clock = db, settings, clock
        self._blind = True
        self._seen = clock()
        self._ahead: float | None = None
        self._not_before = 0.0

    def reap(self) -> list[str]:
        """The jobs that were reaped.

        Raises:
            NotReady, NoSpace: the database is away.
        """
        self._blind |= self._slept()
        try:
            with self._db.write() as session:
                workers.forget_silent(session, silent_ms=10 * self._settings.lease_ms)
                if self._clock_was_put_forward(session) or self._blind:
                    self._blind = False
                    self._not_before = self._clock() + self._settings.lease_seconds
                if self._clock() < self._not_before:
                    return []
                reaped = jobs.reap(session, backoff_ms=self._settings.retry_ms)
                if reaped:
                    failpoints.reached(Failpoint.REAP_BEFORE_COMMIT)
        except (NotReady, NoSpace):
            self._blind = True
            raise
        if reaped:
            failpoints.reached(Failpoint.REAP_AFTER_COMMIT)
        for job_id, state in reaped:
            log.warning("lease expired", job=job_id, state=state)
        return [job_id for job_id, _ in reaped]

    def blind(self) -> None:
        """Somebody else of this program found that the database is away, or that nothing can be written. A full disk
        does not show in a reaping that finds nothing to reap."""
        self._blind = True

    def _slept(self) -> bool:
        """Whether it was away for so long since it last looked that leases of this machine may have run out."""
        before, self._seen = self._seen, self._clock()
        return self._seen - before > max(self._settings.lease_seconds / 2, 2 * self._settings.reap_seconds)

    def _clock_was_put_forward(self, session: Session) -> bool:
        """Whether more time has passed on the database's clock since it last looked than on this machine's."""
        before, self._ahead = self._ahead, (session.scalar(now_ms()) or 0) / 1_000 - self._clock()
        return before is not None and self._ahead - before > self._settings.lease_seconds / 2


@contextmanager
def own_scratch(parent: Path, name: str) -> Iterator[Path]:
    """A folder of this worker's own; those of workers that have ended without removing theirs are removed. A lock on
    the folder tells them apart, since it ends with its process however that ends."""
    parent.mkdir(parents=True, exist_ok=True)
    own = parent / name
    with ExitStack() as held:
        with _locked(parent, wait=True):
            for left in parent.iterdir():
                _remove_unlocked(left)
            own.mkdir()
            held.enter_context(_locked(own))
        yield own
        shutil.rmtree(own, ignore_errors=True)


def _remove_unlocked(folder: Path) -> None:
    with suppress(FileNotFoundError), _locked(folder) as ours:  # its worker has removed it meanwhile
        if ours:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """Whether the lock could be had, which it is for as long as the block lasts."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        ours = True
    except BlockingIOError:
        ours = False
    try:
        yield ours
    finally:
        os.close(descriptor)
