"""Jobs while they run: waiting, watching, pausing, cancelling.

Waiting polls, and lives through a service that restarts; events come over SSE and go on where a connection broke.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from gammabeta.client.connection import Connection, parse
from gammabeta.client.progress import display
from gammabeta.errors import JobFailed, NotReady, ServiceFault, ServiceUnreachable, WrongState
from gammabeta.schemas.jobs import TERMINAL, Event, Job, Metrics

SeenT = TypeVar("SeenT")

PATIENCE = 60.0
"""Seconds that a wait goes on while no service answers."""
MAX_PAUSE = 0.5
"""Seconds between two polls, at most."""


def ask(connection: Connection, path: str, verb: str) -> Job:
    """Have something done to the job at `path`, which does no harm twice: the job as it is then."""
    return parse(Job, connection.request("POST", f"{path}/{verb}", repeatable=True))


class JobHandle:
    """A submitted job. `job` is how it was when it was last looked at."""

    def __init__(self, connection: Connection, job: Job) -> None:
        self._connection = connection
        self.job = job

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r}, status={self.job.status!r})"

    @property
    def id(self) -> str:
        return self.job.id

    @property
    def path(self) -> str:
        return f"/v1/jobs/{self.id}"

    def refresh(self) -> Job:
        """Look at the job now."""
        self.job = self._connection.read(Job, self.path)
        return self.job

    def wait(self, *, progress: bool = False, timeout: float | None = None) -> Job:
        """Wait for the end of the job. One that is paused has none until somebody resumes or cancels it.

        Args:
            progress: show a live bar with loss, metrics, speed and time left on the terminal.
            timeout: in seconds. None: as long as it takes.

        Raises:
            JobFailed: it ended as failed or cancelled.
            TimeoutError: it did not end in time. It goes on.
        """
        with display() if progress else nullcontext(None) as show:
            for job in polled(self._connection, self.refresh, timeout):
                if show:
                    show(job)
                if job.status in TERMINAL:
                    break
        if self.job.status not in TERMINAL:
            raise TimeoutError(
                f"Job {self.id} must end within {timeout:g} seconds. Received: status {self.job.status}. "
                "It goes on: wait again, or cancel it."
            )
        return _succeeded(self.job)

    def cancel(self) -> Job:
        """Ask for the end of the job. A running job is `cancelling` until its worker has stopped it."""
        return self._ask("cancel")

    def pause(self) -> Job:
        """Ask a running job to stop at a checkpoint. It is `running` until its worker has stopped it, then `paused`."""
        return self._ask("pause")

    def resume(self) -> Job:
        """Queue a paused job again. It goes on from its checkpoint."""
        return self._ask("resume")

    def retry(self) -> Job:
        """Queue a failed or cancelled job again."""
        return self._ask("retry")

    def delete(self) -> None:
        """Remove the job, which has ended, with its events, series and files."""
        self._connection.request("DELETE", self.path)

    def _ask(self, verb: str) -> Job:
        self.job = ask(self._connection, self.path, verb)
        return self.job

    def download(self, path: str | Path | None = None) -> Path:
        """Save the file that the job has made, once it has succeeded.

        Args:
            path: a file, or a folder to put it in. None: its own name, here.

        Returns:
            Where it is. It is complete, and has the hash that the job's result says.

        Raises:
            WrongState: the job has no file, or not yet.
        """
        result = (self.job if self.job.status in TERMINAL else self.refresh()).result or {}
        if "file" not in result:
            raise WrongState(
                f"A job must have made a file. Received: a job of kind {self.job.kind} that is {self.job.status}. "
                "A job of kind predict makes one, and has it when it has succeeded."
            )
        file = str(result["file"])
        target = Path(path) if path is not None else Path()
        target = target / file.rpartition("/")[2] if target.is_dir() else target
        self._connection.download(file, target, sha256=str(result["sha256"]))
        return target

    def metrics(self, names: Sequence[str] = (), *, max_points: int | None = None) -> Metrics:
        """The series by step and epoch; without `names`, all of them."""
        params = {"names": ",".join(names) or None, "max_points": max_points}
        return self._connection.read(Metrics, f"{self.path}/metrics", params=params)

    def events(self, *, after: int = 0) -> Iterator[Event]:
        """What happens to the job, as it happens, until its end. `after` is the id of the last event already seen."""
        heard = time.monotonic()
        while True:
            try:
                ended = self.refresh().status in TERMINAL
                for event in self._streamed(after):
                    after, heard = event.id, time.monotonic()
                    yield event
                    # Not left to the end of the stream: a service may keep that of a finished job open.
                    if event.type in TERMINAL and self._ended_with(event):
                        return
                if ended:
                    return
            except (ServiceUnreachable, NotReady):
                if time.monotonic() - heard > PATIENCE:
                    raise
            self._connection.sleep(MAX_PAUSE)

    def _ended_with(self, event: Event) -> bool:
        """Whether nothing follows it. A job that was retried has ended before."""
        job = self.refresh()
        return job.status in TERMINAL and (job.finished_at is None or event.created_at >= job.finished_at)

    def _streamed(self, after: int) -> Iterator[Event]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        with self._connection.lines(f"{self.path}/events", headers=headers) as lines:
            for data in _messages(lines):
                yield _event(data)


def polled(connection: Connection, look: Callable[[], SeenT], timeout: float | None) -> Iterator[SeenT]:
    """Look again and again, less often as time goes by, until `timeout` has passed."""
    start = heard = time.monotonic()
    pause = 0.05
    while True:
        try:
            yield look()
            heard = time.monotonic()
        except (ServiceUnreachable, NotReady):
            if time.monotonic() - heard > PATIENCE:
                raise
        if timeout is not None and time.monotonic() - start >= timeout:
            return
        connection.sleep(pause)
        pause = min(pause * 1.5, MAX_PAUSE)


def _succeeded(job: Job) -> Job:
    if job.status == "succeeded":
        return job
    reason = job.error.code if job.error else job.status
    why = f"{reason}: {job.error.message}" if job.error else "somebody cancelled it"
    raise JobFailed(
        f"Job {job.id} must succeed. Received: {job.status}, {why}", job_id=job.id, status=job.status, reason=reason
    )


def _messages(lines: Iterator[str]) -> Iterator[str]:
    """The data of each message of an event stream. Comments keep the connection alive and say nothing."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []


def _event(data: str) -> Event:
    try:
        return Event.model_validate_json(data)
    except ValidationError as exc:
        raise ServiceFault(f"An event stream must carry events as JSON. Received: {data[:200]!r}.") from exc
