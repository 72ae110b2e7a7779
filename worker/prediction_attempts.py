"""An attempt at a predict job: a child answers the rows of a data set, its file becomes a blob, the job names it.

It keeps nothing on its way. One that was stopped or lost begins anew, and comes to the same answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gammabeta import failpoints
from gammabeta.failpoints import Failpoint
from gammabeta.schemas.batchnorm import BatchNormState
from gammabeta.schemas.jobs import ResolvedPredictRequest
from gammabeta.schemas.models import Version
from gammabeta.schemas.training import LossName
from gammabeta.store import models, publishing
from gammabeta.store.engine import Session
from gammabeta.store.jobs import Claim
from gammabeta.store.tables import JobRow
from worker import messages, results
from worker.attempts import Attempt, Publish, Stop, Surroundings
from worker.children import Child
from worker.inputs import manifest_of


class PredictionAttempt(Attempt):
    """Predicts on `device`."""

    def __init__(self, claim: Claim, around: Surroundings, *, device: str) -> None:
        super().__init__(claim, around)
        self._device = device
        self._digest = ""

    def start(self) -> Child:
        return self.around.children.predictor(self._device)

    def order(self) -> messages.PredictFile:
        with self.around.db.read() as session:
            request = self._request
            manifest = manifest_of(session, self.claim)
            row = models.get_version(session, self.claim.project_id, request.model, request.version)
            version, state = models.version_schema(row), models.batchnorm_state(session, row)
            loss = _loss(session, version)
        self._digest = version.batchnorm_digest
        return messages.PredictFile(
            job_id=self.claim.job_id,
            fence=self.claim.fence,
            request=request,
            version=self._described(version, state),
            weights=self.around.inputs.file(version.weights_sha256),
            digest=self._digest,
            loss=loss,
            manifest=manifest,
            arrays=self.around.inputs.arrays(manifest),
            scratch=self.scratch,
            device=self._device,
            threads=self.settings.threads,
        )

    @property
    def _request(self) -> ResolvedPredictRequest:
        return ResolvedPredictRequest.model_validate(self.claim.request)

    def _described(self, version: Version, state: BatchNormState) -> Path:
        """The child has no database: what it needs of the version lies in a folder."""
        folder = self.scratch / "version"
        folder.mkdir(exist_ok=True)
        result = results.Result(
            network=version.network,
            preprocessing=version.preprocessing,
            classes=version.classes,
            metrics=version.metrics,
            parameters=version.parameters,
            state_layers=results.state_layers(state),
        )
        results.describe(folder, state=state, result=result)
        return folder

    def hear(self, report: messages.Report) -> None:
        super().hear(report)
        if isinstance(report, messages.Started):
            data = {"device": report.device, "rows": report.steps, "pid": self.child_pid}
            self.outbox.event("started", data)
            self.flush()
            failpoints.reached(Failpoint.STARTED_WRITTEN)

    def conclude(self, last: messages.Report) -> Publish | Stop:
        match last:
            case messages.Failed():
                return self.failed(last)
            case messages.Answered():
                return self._publish(last)
        raise ValueError(f"a prediction must end with answered or failed. Received: {last.type}.")

    def _publish(self, answered: messages.Answered) -> Publish:
        failpoints.reached(Failpoint.RESULT_HEARD)
        sha256, size = self.blobs.put_file(answered.path)
        result = self._result(answered, sha256, size)
        job_id, fence = self.claim.job_id, self.claim.fence

        def write(session: Session) -> bool:
            published = publishing.publish_file(session, job_id=job_id, fence=fence, result=result)
            failpoints.reached(Failpoint.PUBLISH_BEFORE_COMMIT)
            return published

        return write

    def _result(self, answered: messages.Answered, sha256: str, size: int) -> dict[str, Any]:
        request = self._request
        return {
            "file": f"/v1/jobs/{self.claim.job_id}/files/{request.file}",
            "format": request.format,
            "rows": answered.rows,
            "bytes": size,
            "sha256": sha256,
            "model": request.model,
            "version": request.version,
            "batchnorm_digest": self._digest,
            "dataset": request.dataset,
            "split": request.split,
            "metrics": None if answered.metrics is None else publishing.single_numbers(answered.metrics),
        }


def _loss(session: Session, version: Version) -> LossName | None:
    """What the version was trained by, so that its loss here compares with those of its training."""
    job = session.get(JobRow, version.job)
    loss: LossName | None = job.request.get("training", {}).get("loss") if job else None
    return loss
