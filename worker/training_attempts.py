"""An attempt at a train job: a trainer with a job file, its checkpoints kept, its network published."""

from __future__ import annotations

from gammabeta import failpoints, logs
from gammabeta.errors import NoSpace, NotReady
from gammabeta.failpoints import Failpoint
from gammabeta.schemas.jobs import ResolvedTrainRequest
from gammabeta.store import publishing
from gammabeta.store.engine import Session
from gammabeta.store.jobs import Claim
from worker import keeping, messages
from worker.attempts import Attempt, Publish, Stop, Surroundings
from worker.children import Child
from worker.inputs import manifest_of
from worker.publishing import publication

log = logs.get(__name__)


class TrainingAttempt(Attempt):
    """Trains on `device`."""

    def __init__(self, claim: Claim, around: Surroundings, *, device: str) -> None:
        super().__init__(claim, around)
        self._device = device
        self._has_begun = False

    def start(self) -> Child:
        return self.around.children.trainer(self._device)

    def order(self) -> messages.JobFile:
        with self.around.db.read() as session:
            manifest = manifest_of(session, self.claim)
        return messages.JobFile(
            job_id=self.claim.job_id,
            fence=self.claim.fence,
            request=ResolvedTrainRequest.model_validate(self.claim.request),
            manifest=manifest,
            arrays=self.around.inputs.arrays(manifest),
            scratch=self.scratch,
            resume=keeping.newest_sound(self.around.db, self.blobs, self.claim.job_id),
            device=self._device,
            threads=self.settings.threads,
            checkpoint_seconds=self.settings.checkpoint_seconds,
        )

    def ask(self, child: Child, why: messages.StopReason) -> float:
        if not self._has_begun:  # it loads what it needs, has nothing to keep, and would listen only after that
            return super().ask(child, why)
        child.send(messages.Stop(why=why))
        return self.settings.cancel_grace_seconds

    def hear(self, report: messages.Report) -> None:
        match report:
            case messages.Started():
                self._started(report)
            case messages.MetricsRow():
                self.outbox.metrics(report)
            case messages.Event():
                self.outbox.event(report.name, report.data)
            case messages.Checkpoint():
                self._keep(report)
            case _:
                super().hear(report)

    def _started(self, report: messages.Started) -> None:
        self._has_begun = True
        self.step = report.resumed_at or 0
        if report.resumed_at is not None:
            self.outbox.event("resumed", {"step": report.resumed_at})
        self.outbox.event("started", {"device": report.device, "steps": report.steps, "pid": self.child_pid})
        self.flush()
        failpoints.reached(Failpoint.STARTED_WRITTEN)

    def _keep(self, report: messages.Checkpoint) -> None:
        failpoints.reached(Failpoint.CHECKPOINT_HEARD)
        size = sum(each.stat().st_size for each in report.path.rglob("*") if each.is_file())
        try:
            with self.around.metrics.checkpoints.time():
                write = keeping.store(
                    self.blobs, self.claim, report.path, step=report.step, lease_ms=self.settings.lease_ms
                )
        except (NoSpace, NotReady) as error:  # the training goes on, with the checkpoint before this one
            self.outbox.warning(error.code, error.message)
            return
        self.around.metrics.checkpoint_bytes.inc(size)
        failpoints.reached(Failpoint.CHECKPOINT_STORED)
        self.outbox.add(write)
        self.flush()
        failpoints.reached(Failpoint.CHECKPOINT_ROW_COMMITTED)
        try:
            keeping.prune(self.around.db, self.blobs, self.claim)
        except (NotReady, NoSpace) as error:
            log.warning("older checkpoints kept", job=self.claim.job_id, why=str(error))

    def conclude(self, last: messages.Report) -> Publish | Stop:
        match last:
            case messages.Failed():
                return self.failed(last)
            case messages.Stopped(checkpoint=None):
                return self.stopped()
            case messages.Stopped(checkpoint=folder) if folder is not None:
                self._keep(messages.Checkpoint(path=folder, step=last.step))
                return self.stopped()
            case messages.Done():
                return self._publish(last)
        raise ValueError(f"a trainer must end with done, stopped or failed. Received: {last.type}.")

    def _publish(self, done: messages.Done) -> Publish | Stop:
        failpoints.reached(Failpoint.RESULT_HEARD)
        made = publication(done.path, self.claim, self.blobs)
        failpoints.reached(Failpoint.WEIGHTS_STORED)
        job_id, fence = self.claim.job_id, self.claim.fence

        def write(session: Session) -> bool:
            published = publishing.publish_version(session, job_id=job_id, fence=fence, publication=made) is not None
            failpoints.reached(Failpoint.PUBLISH_BEFORE_COMMIT)
            return published

        return write
