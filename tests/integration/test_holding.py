"""What the supervisor does while the database is away, slow to answer, or says that the fence is lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from gammabeta.errors import NoSpace, NotReady
from gammabeta.schemas.jobs import Lane
from gammabeta.store import checkpoints, events, jobs, listing
from gammabeta.store.blobs import FolderBlobs
from gammabeta.store.engine import Database
from gammabeta.store.jobs import Claim, Outcome
from gammabeta.store.stored import Tree
from gammabeta.store.tables import DEFAULT_PROJECT
from tests.integration.databases import Clock
from tests.integration.samples import TTL, attempt, claim, claimed, dataset, submit
from tests.integration.workshop import damage, until
from worker import keeping
from worker.deadlines import EXCEEDED, Deadline
from worker.lease import Lease
from worker.messages import MetricsRow
from worker.metrics import Metrics
from worker.outbox import Outbox
from worker.settings import WorkerSettings
from worker.supervisor import Reaper


class Away:
    """A database that can be cut off."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.cut = False
        self.refused = 0
        self.meanwhile: Callable[[], object] = lambda: None
        """Happens before each commit."""

    @contextmanager
    def write(self) -> Iterator[Session]:
        if self.cut:
            self.refused += 1
            raise NotReady
        with self._db.write() as session:
            yield session
            self.meanwhile()


def settings(**changes: float) -> WorkerSettings:
    fields: dict[str, float] = {"heartbeat_seconds": 0.02, "lease_seconds": 0.2, "report_seconds": 0.01}
    return WorkerSettings.model_validate(fields | changes)


@pytest.fixture
def away(db: Database) -> Away:
    return Away(db)


def lease_of(away: Away, held: Claim, lost: threading.Event, **changes: float) -> Lease:
    return Lease(away, held, settings(**changes), on_lost=lost.set, metrics=Metrics())  # type: ignore[arg-type]


def test_a_lease_is_renewed_with_progress_and_learns_of_a_cancel(db: Database, away: Away, clock: Clock) -> None:
    held, lost = claimed(db), threading.Event()
    with lease_of(away, held, lost) as lease:
        clock.advance(TTL - 1)
        lease.report({"step": 7})
        until(lambda: _row(db, held).progress == {"step": 7}, "the progress")
        clock.advance(150)
        until(lambda: (_row(db, held).lease_until_ms or 0) > clock.ms, "a renewal")
        with db.write() as session:
            jobs.request_cancel(session, DEFAULT_PROJECT, held.job_id)
        until(lambda: lease.flags.cancel_requested, "the cancel flag")
    assert not lost.is_set()


def test_progress_that_could_not_be_written_is_written_later(db: Database, away: Away) -> None:
    held = claimed(db)
    lease = lease_of(away, held, threading.Event())
    away.cut = True
    lease.report({"step": 7})
    lease.renew()
    away.cut = False
    lease.renew()
    assert _row(db, held).progress == {"step": 7}
    with db.write() as session:
        jobs.heartbeat(session, **attempt(held), ttl_ms=TTL, progress={"step": 8})
    lease.renew()
    assert _row(db, held).progress == {"step": 8}, "what was written is not written again"


def test_progress_that_is_told_while_another_is_written_is_written_next(db: Database, away: Away) -> None:
    held = claimed(db)
    lease = lease_of(away, held, threading.Event())
    lease.report({"step": 7})
    away.meanwhile = partial(lease.report, {"step": 8})
    lease.renew()
    assert _row(db, held).progress == {"step": 7}
    away.meanwhile = lambda: None
    lease.renew()
    assert _row(db, held).progress == {"step": 8}


def test_progress_is_written_before_the_next_heartbeat_unless_the_database_is_away(db: Database, away: Away) -> None:
    held = claimed(db)
    with lease_of(away, held, threading.Event(), heartbeat_seconds=1_000, lease_seconds=3_000) as lease:
        lease.report({"step": 7})
        until(lambda: _row(db, held).progress == {"step": 7}, "the progress")
        away.cut = True
        lease.report({"step": 8})
        until(lambda: away.refused, "a try")
        assert not lease.lost.wait(0.2), "twenty times as long as it looks for news"
        assert away.refused == 1


def test_a_lost_fence_is_noticed_at_the_next_heartbeat(db: Database, away: Away, clock: Clock) -> None:
    held, lost = claimed(db), threading.Event()
    clock.advance(TTL + 1)
    with db.write() as session:
        jobs.reap(session, backoff_ms=0)
    assert claim(db, worker="w2") is not None
    with lease_of(away, held, lost):
        assert lost.wait(5)


def test_a_loss_that_several_threads_find_at_the_same_time_is_counted_once(db: Database, away: Away) -> None:
    class Counter:
        count = 0

        def inc(self) -> None:
            self.count += 1
            if self.count == 1:
                second = threading.Thread(target=lease.lose)
                second.start()
                second.join()

    metrics, found = Metrics(), Counter()
    metrics.leases_lost = found  # type: ignore[assignment]
    lease = Lease(away, claimed(db), settings(), on_lost=lambda: None, metrics=metrics)  # type: ignore[arg-type]
    lease.lose()
    lease.lose()
    assert found.count == 1


def test_a_heartbeat_that_crosses_the_end_of_its_attempt_has_lost_nothing(db: Database, away: Away) -> None:
    held, lost = claimed(db), threading.Event()
    lease = lease_of(away, held, lost)
    with lease.last_word(), db.write() as session:
        jobs.stop(session, job_id=held.job_id, fence=held.fence, outcome=Outcome.DRAIN)
    lease.renew()
    assert not lost.is_set()


def test_an_end_that_was_not_written_ends_no_lease(db: Database, away: Away, clock: Clock) -> None:
    held, lost = claimed(db), threading.Event()
    lease = lease_of(away, held, lost)
    with pytest.raises(NotReady), lease.last_word():
        raise NotReady
    clock.advance(TTL + 1)
    with db.write() as session:
        jobs.reap(session, backoff_ms=0)
    lease.renew()
    assert lost.is_set()


def test_a_lease_outlives_an_outage_and_is_given_up_after_the_longest_one(db: Database, away: Away) -> None:
    held, lost = claimed(db), threading.Event()
    with lease_of(away, held, lost, max_blind_seconds=0.5):
        away.cut = True
        assert not lost.wait(0.2)
        away.cut = False
        assert not lost.wait(0.4)
        away.cut = True
        assert lost.wait(5)


def test_a_lease_is_given_up_though_the_database_neither_answers_nor_refuses(db: Database) -> None:
    held, lost, answers = claimed(db), threading.Event(), threading.Event()

    class Hanging:
        @contextmanager
        def write(self) -> Iterator[Session]:
            answers.wait(30)
            raise NotReady
            yield

    blind = settings(max_blind_seconds=0.1)
    with Lease(Hanging(), held, blind, on_lost=lost.set, metrics=Metrics()):  # type: ignore[arg-type]
        found = lost.wait(5)
        answers.set()
    assert found


def test_reports_wait_in_order_while_the_database_is_away(db: Database, away: Away) -> None:
    held = claimed(db)
    outbox = Outbox(held)
    away.cut = True
    outbox.metrics(MetricsRow(step=1, epoch=1, values={"loss": 2.0}))
    outbox.event("first", {})
    assert outbox.flush(away)  # type: ignore[arg-type]
    outbox.metrics(MetricsRow(step=2, epoch=1, values={"loss": 1.0}))
    outbox.event("second", {})
    away.cut = False
    assert outbox.flush(away)  # type: ignore[arg-type]
    assert outbox.flush(away)  # type: ignore[arg-type]
    with db.read() as session:
        assert [row.type for row in events.events_of(session, held.job_id)][-2:] == ["first", "second"]
        assert events.metrics_of(session, held.job_id).series[0].value == [2.0, 1.0]


def test_what_was_committed_without_an_answer_and_is_written_again_doubles_no_series(db: Database) -> None:
    class Mute:
        @contextmanager
        def write(self) -> Iterator[Session]:
            with db.write() as session:
                yield session
            raise NotReady

    held = claimed(db)
    outbox = Outbox(held)
    for step in (1, 2):
        outbox.metrics(MetricsRow(step=step, epoch=1, values={"loss": 1.0 / step}))
    outbox.warning("no_space", "none")
    assert outbox.flush(Mute())  # type: ignore[arg-type]
    outbox.metrics(MetricsRow(step=3, epoch=2, values={"loss": 0.25}))
    assert outbox.flush(db)
    with db.read() as session:
        (loss,) = events.metrics_of(session, held.job_id).series
    assert (loss.step, loss.epoch, loss.value) == ([1, 2, 3], [1, 1, 2], [1.0, 0.5, 0.25])
    assert len(_row(db, held).warnings) == 1


def test_reports_of_a_lost_attempt_are_not_written(db: Database, away: Away, clock: Clock) -> None:
    held = claimed(db)
    outbox = Outbox(held)
    clock.advance(TTL + 1)
    with db.write() as session:
        jobs.reap(session, backoff_ms=0)
    outbox.metrics(MetricsRow(step=1, epoch=1, values={"loss": 2.0}))
    assert not outbox.flush(away)  # type: ignore[arg-type]
    with db.read() as session:
        assert events.metrics_of(session, held.job_id).series == ()


class Time:
    """What passes for a reaper and, at the same pace, for the database."""

    def __init__(self, clock: Clock) -> None:
        self.seconds, self._clock = 100.0, clock

    def pass_by(self, seconds: float) -> None:
        self.seconds += seconds
        self._clock.advance(round(1_000 * seconds))


@pytest.fixture
def passing(clock: Clock) -> Time:
    return Time(clock)


def new_reaper(away: Away, passing: Time, *, reap_seconds: float = 5) -> Reaper:
    """With leases of 30 s, as `TTL` says."""
    told = settings(lease_seconds=30, reap_seconds=reap_seconds)
    return Reaper(away, told, clock=lambda: passing.seconds)  # type: ignore[arg-type]


def reaper_at_work(away: Away, passing: Time) -> Reaper:
    """One that has looked for a lease, and would reap at once."""
    reaper = new_reaper(away, passing)
    for _ in range(7):
        assert reaper.reap() == []
        passing.pass_by(5)
    return reaper


def reaped_after(reaper: Reaper, passing: Time) -> tuple[float, list[str]]:
    """For how many seconds it reaps nothing, and what then."""
    began = passing.seconds
    while not (found := reaper.reap()):
        passing.pass_by(5)
    return passing.seconds - began, found


def test_the_reaper_reaps_at_once_what_has_expired_before_its_eyes(db: Database, away: Away, passing: Time) -> None:
    reaper, held = reaper_at_work(away, passing), claimed(db)
    assert reaped_after(reaper, passing) == (35, [held.job_id])


def test_a_reaper_that_has_just_begun_waits_a_lease(db: Database, away: Away, passing: Time) -> None:
    held = claimed(db)
    passing.pass_by(3_600)
    assert reaped_after(new_reaper(away, passing), passing) == (30, [held.job_id])


def test_the_lease_that_a_reaper_waits_begins_when_the_database_answers(
    db: Database, away: Away, passing: Time
) -> None:
    held, reaper = claimed(db), new_reaper(away, passing)
    away.cut = True
    for _ in range(20):
        with pytest.raises(NotReady):
            reaper.reap()
        passing.pass_by(5)
    away.cut = False
    assert reaped_after(reaper, passing) == (30, [held.job_id])


def test_the_reaper_waits_a_lease_after_an_outage(db: Database, away: Away, passing: Time) -> None:
    reaper, held = reaper_at_work(away, passing), claimed(db)
    away.cut = True
    for _ in range(8):
        with pytest.raises(NotReady):
            reaper.reap()
        passing.pass_by(5)
    away.cut = False
    assert reaped_after(reaper, passing) == (30, [held.job_id])


def test_the_reaper_waits_a_lease_after_it_was_told_of_an_outage(db: Database, away: Away, passing: Time) -> None:
    reaper, held = reaper_at_work(away, passing), claimed(db)
    for _ in range(6):
        passing.pass_by(5)
        assert reaper.reap() == []
    reaper.blind()
    assert reaped_after(reaper, passing) == (30, [held.job_id])


def test_the_reaper_waits_a_lease_after_it_slept(db: Database, away: Away, passing: Time) -> None:
    reaper, held = reaper_at_work(away, passing), claimed(db)
    passing.pass_by(3_600)
    assert reaped_after(reaper, passing) == (30, [held.job_id])


def test_the_reaper_waits_a_lease_after_the_clock_of_the_database_was_put_forward(
    db: Database, away: Away, passing: Time, clock: Clock
) -> None:
    reaper, held = reaper_at_work(away, passing), claimed(db)
    assert reaper.reap() == []
    clock.advance(3_600_000)
    assert reaped_after(reaper, passing) == (30, [held.job_id])


def test_a_reaper_that_looks_seldom_reaps_all_the_same(db: Database, away: Away, passing: Time) -> None:
    reaper, held = new_reaper(away, passing, reap_seconds=600), claimed(db)
    assert reaper.reap() == []
    passing.pass_by(600 * 1.2)
    assert reaper.reap() == [held.job_id]


def test_the_newest_two_checkpoints_are_kept_and_a_damaged_one_is_passed_over(db: Database, tmp_path: Path) -> None:
    held, blobs = claimed(db), FolderBlobs(tmp_path / "blobs")
    for step in (10, 20, 30):
        folder = tmp_path / f"ckpt-{step}"
        folder.mkdir()
        (folder / "weights").write_bytes(b"%d" % step * 100)
        write = keeping.store(blobs, held, folder, step=step, lease_ms=TTL)
        assert not folder.exists()
        with db.write() as session:
            assert write(session)
        keeping.prune(db, blobs, held)
    with db.read() as session:
        assert [row.step for row in checkpoints.checkpoints_of(session, held.job_id)] == [30, 20]
    kept = sorted(path.name for path in (blobs.root / "jobs" / held.job_id / "f000001").iterdir())
    assert kept == ["ckpt-20", "ckpt-30"]
    newest = keeping.newest_sound(db, blobs, held.job_id)
    assert newest is not None
    assert newest.name == "ckpt-30"
    damage(newest / "weights")
    assert keeping.newest_sound(db, blobs, held.job_id) == newest.with_name("ckpt-20")
    damage(newest.with_name("ckpt-20") / "manifest.json")
    assert keeping.newest_sound(db, blobs, held.job_id) is None


def test_checkpoints_go_when_the_job_has_ended_and_not_before(db: Database, tmp_path: Path) -> None:
    held, blobs = claimed(db), FolderBlobs(tmp_path / "blobs")
    folder = tmp_path / "ckpt"
    folder.mkdir()
    (folder / "weights").write_bytes(b"1")
    with db.write() as session:
        assert keeping.store(blobs, held, folder, step=1, lease_ms=TTL)(session)
    keeping.sweep(db, blobs)
    assert keeping.newest_sound(db, blobs, held.job_id) is not None
    with db.write() as session:
        jobs.stop(session, **attempt(held), outcome=jobs.Outcome.DRAIN)
        jobs.request_cancel(session, DEFAULT_PROJECT, held.job_id)
    keeping.sweep(db, blobs)
    assert keeping.newest_sound(db, blobs, held.job_id) is None
    assert not (blobs.root / "jobs" / held.job_id).exists()


def test_checkpoints_of_a_job_past_its_deadline_stay_for_a_retry_and_not_for_ever(
    db: Database, clock: Clock, tmp_path: Path
) -> None:
    held, blobs = claimed(db), FolderBlobs(tmp_path / "blobs")
    folder = tmp_path / "ckpt"
    folder.mkdir()
    (folder / "weights").write_bytes(b"1")
    with db.write() as session:
        assert keeping.store(blobs, held, folder, step=1, lease_ms=TTL)(session)
        jobs.stop(session, **attempt(held), outcome=jobs.Outcome.FAILURE, reason=EXCEEDED)
    assert not keeping.drop_if_ended(db, blobs, held.job_id)
    clock.advance(keeping.RETRY_DAYS * 86_400_000 - 1)
    keeping.sweep(db, blobs)
    assert keeping.newest_sound(db, blobs, held.job_id) is not None
    clock.advance(1)
    keeping.sweep(db, blobs)
    assert keeping.newest_sound(db, blobs, held.job_id) is None
    assert not (blobs.root / "jobs" / held.job_id).exists()


def test_a_retried_job_that_ends_otherwise_leaves_no_checkpoint(db: Database, tmp_path: Path) -> None:
    held, blobs = claimed(db), FolderBlobs(tmp_path / "blobs")
    with db.write() as session:
        jobs.stop(session, **attempt(held), outcome=jobs.Outcome.FAILURE, reason=EXCEEDED)
        jobs.retry(session, DEFAULT_PROJECT, held.job_id)
    assert not keeping.drop_if_ended(db, blobs, held.job_id)
    with db.write() as session:
        jobs.request_cancel(session, DEFAULT_PROJECT, held.job_id)
    assert keeping.drop_if_ended(db, blobs, held.job_id)


def test_a_deadline_counts_the_time_that_the_machine_sleeps() -> None:
    passed, seconds = threading.Event(), [100.0]
    with Deadline(3_600, on_passed=passed.set, clock=lambda: seconds[0]) as deadline:
        assert not deadline.passed
        seconds[0] += 3_600
        assert passed.wait(5)
        assert deadline.passed


def test_a_deadline_that_was_kept_passes_no_more() -> None:
    passed, seconds = threading.Event(), [0.0]
    with Deadline(1, on_passed=passed.set, clock=lambda: seconds[0]):
        pass
    with Deadline(None, on_passed=passed.set, clock=lambda: seconds[0]) as never:
        seconds[0] += 1e9
    assert not passed.is_set()
    assert not never.passed


def test_what_a_retried_job_writes_outlives_the_cleaning_of_what_it_was_before(db: Database, tmp_path: Path) -> None:
    held, blobs = claimed(db), FolderBlobs(tmp_path / "blobs")
    places = [blobs.root / "jobs" / held.job_id / f"f{fence:06d}" / "ckpt-1" for fence in (1, 2)]
    for place in places:
        place.mkdir(parents=True)
    with db.write() as session:
        jobs.stop(session, **attempt(held), outcome=jobs.Outcome.FAILURE)
    assert keeping.drop_if_ended(db, blobs, held.job_id)
    assert [place.exists() for place in places] == [False, True]


def test_a_checkpoint_that_finds_no_space_does_not_stay_in_scratch(db: Database, tmp_path: Path) -> None:
    class Full(FolderBlobs):
        def put_tree(self, prefix: str, folder: Path) -> Tree:
            raise NoSpace(f"{folder} does not fit into {prefix}")

    folder = tmp_path / "ckpt-1"
    folder.mkdir()
    with pytest.raises(NoSpace):
        keeping.store(Full(tmp_path / "blobs"), claimed(db), folder, step=1, lease_ms=TTL)
    assert not folder.exists()


def test_sweeping_removes_uploads_that_nobody_will_read_and_what_was_never_completed(
    db: Database, tmp_path: Path
) -> None:
    blobs = FolderBlobs(tmp_path / "blobs")
    read, waiting = dataset(db, "read"), dataset(db, "waiting")
    for dataset_id in (read, waiting):
        submit(db, kind=jobs.INGEST, lane=Lane.LIGHT, devices=0, model=None, dataset_id=dataset_id)
    with db.write() as session:
        (newest, oldest) = listing.find(session, DEFAULT_PROJECT)
        assert oldest.dataset_id == read
        jobs.request_cancel(session, DEFAULT_PROJECT, oldest.id)
    uploads = {name: blobs.upload_path(name) for name in (read, waiting, "ds_gone", "ds_new", "old.part", "new.part")}
    for path in uploads.values():
        path.write_bytes(b"a,y")
    begun = [blobs.root / "tmp" / name for name in ("old", "new")]
    for path in begun:
        path.mkdir(parents=True)
    for path in (uploads["ds_gone"], uploads["old.part"], begun[0]):
        os.utime(path, (1, 1))
    keeping.sweep(db, blobs)
    assert {name for name, path in uploads.items() if path.exists()} == {waiting, "ds_new", "new.part"}
    assert [path.exists() for path in begun] == [False, True]
    assert newest.dataset_id == waiting


def _row(db: Database, held: Claim) -> jobs.JobRow:
    with db.read() as session:
        return jobs.get(session, DEFAULT_PROJECT, held.job_id)
