"""An attempt at an ingest job: a child reads the upload, its arrays become blobs, the data set becomes ready."""

from __future__ import annotations

import signal
from pathlib import Path

from gammabeta.schemas.datasets import DatasetManifest
from gammabeta.store import datasets, publishing
from gammabeta.store.engine import Session
from gammabeta.store.jobs import Outcome
from worker import messages
from worker.attempts import Attempt, Publish, Stop
from worker.children import Child, Death
from worker.publishing import ingested


class IngestionAttempt(Attempt):
    """Reads one file."""

    def start(self) -> Child:
        return self.around.children.ingestion()

    def order(self) -> messages.IngestFile:
        return messages.IngestFile(
            job_id=self.claim.job_id,
            fence=self.claim.fence,
            upload=self._upload(),
            options=messages.IngestOptions.model_validate(self.claim.request),
            existing=self._existing(),
            scratch=self.scratch,
            limits=messages.IngestLimits(
                memory_bytes=self.settings.ingest_memory_bytes,
                cpu_seconds=self.settings.ingest_cpu_seconds,
                rows=self.settings.ingest_rows,
                decoded_bytes=self.settings.ingest_decoded_bytes,
            ),
        )

    @property
    def _dataset_id(self) -> str:
        return self.claim.dataset_id or ""

    def _upload(self) -> Path:
        return self.blobs.upload_path(self._dataset_id)

    def _existing(self) -> DatasetManifest | None:
        if self.claim.request.get("split") is None:
            return None
        with self.around.db.read() as session:
            return datasets.manifest(datasets.get(session, self.claim.project_id, self._dataset_id))

    def died(self, death: Death) -> Stop:
        if self.asked is None and -death.exit_code in (signal.SIGXCPU, signal.SIGABRT):
            message = (
                f"Reading the file must take at most {self.settings.ingest_cpu_seconds:,} s of processor time and "
                f"{self.settings.ingest_memory_bytes:,} bytes of memory. It took more: {death}. Upload fewer rows or "
                "columns, or raise GAMMABETA_INGEST_CPU_SECONDS or GAMMABETA_INGEST_MEMORY_BYTES."
            )
            return Stop(outcome=Outcome.FAILURE, reason="too_large", message=message)
        return super().died(death)

    def conclude(self, last: messages.Report) -> Publish | Stop:
        match last:
            case messages.Refused():
                return Stop(outcome=Outcome.FAILURE, reason=last.code, message=last.message)
            case messages.Failed():
                return self.failed(last)
            case messages.Done():
                return self._publish(last)
        raise ValueError(f"an ingestion must end with done, refused or failed. Received: {last.type}.")

    def _publish(self, done: messages.Done) -> Publish:
        manifest = ingested(done.path, self.blobs, self._existing())
        job_id, fence, dataset_id = self.claim.job_id, self.claim.fence, self._dataset_id

        def write(session: Session) -> bool:
            return publishing.publish_dataset(
                session, job_id=job_id, fence=fence, dataset_id=dataset_id, manifest=manifest
            )

        return write
