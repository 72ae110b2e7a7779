"""Everything that gammabeta raises on purpose.

    GammabetaError
    ├── MalformedRequest          400  the bytes are not what the route reads
    ├── Unauthorized              401  no key, or none that is good
    ├── Forbidden                 403  the key lacks a scope
    ├── NotFound                  404
    │   ├── DatasetNotFound
    │   ├── JobNotFound
    │   ├── KeyNotFound
    │   ├── ModelNotFound
    │   └── VersionNotFound
    ├── NotAcceptable             406
    ├── TooSlow                   408
    ├── Conflict                  409
    │   ├── WrongState                 the job or dataset is in a state that forbids this
    │   ├── IdempotencyConflict        the key was used with another body
    │   └── NameTaken
    ├── TooLarge                  413
    ├── UnsupportedMediaType      415
    ├── InvalidRequest            422  fields are wrong; `errors` names them
    │   └── NotSupported               known, and not built
    ├── DatasetInvalid                 the file was read and refused; `code` says why
    ├── NotReady                  503  try again after `retry_after` seconds
    │   ├── ArtifactCorrupt            stored bytes do not match their checksum
    │   ├── TooLargeToServe            the version needs more memory than the service may use for all
    │   ├── Overloaded            429  as many rows wait to be predicted as may
    │   ├── QueueFull             429  as many jobs are queued as may be
    │   ├── QuotaExceeded         429  as many of this key are
    │   └── TooOften              429  this key submits faster than it may
    ├── NoSpace                   507
    │   └── ProjectFull                the project has as many bytes as it may
    ├── JobFailed                      a job that was waited for did not succeed
    ├── ServiceUnreachable             no service answered at the address
    └── ServiceFault              500  the service failed; a bug

The docstring of a class is its default message. `code` is stable: it stands in the answer of the service, and the
client turns it back into the class.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class FieldError:
    """One wrong field: where it is, what must hold and what to do, and what was received."""

    field: str
    message: str
    received: Any = None
    code: str = "invalid"


class GammabetaError(Exception):
    """Something went wrong in gammabeta."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str | None = None) -> None:
        self.message = message or (self.__doc__ or "").strip().split("\n\n")[0]
        super().__init__(self.message)


class MalformedRequest(GammabetaError):
    """The request could not be read. Send a JSON object with Content-Type application/json."""

    code = "malformed_request"


class Unauthorized(GammabetaError):
    """The service needs an API key. Send `Authorization: Bearer KEY`; the client takes it from GAMMABETA_API_KEY."""

    code = "unauthorized"


class Forbidden(GammabetaError):
    """The key has no scope that allows this. Use another one, or make one with `gammabeta keys create --scope …`."""

    code = "forbidden"


class NotFound(GammabetaError):
    """There is nothing at this address. Look at GET /docs for what there is."""

    code = "not_found"


class DatasetNotFound(NotFound):
    """There is no such dataset. GET /v1/datasets lists those that exist."""

    code = "dataset_not_found"


class JobNotFound(NotFound):
    """There is no such job. GET /v1/jobs lists those that exist."""

    code = "job_not_found"


class KeyNotFound(NotFound):
    """There is no such key. GET /v1/keys lists those that exist."""

    code = "key_not_found"


class ModelNotFound(NotFound):
    """There is no such model. GET /v1/models lists those that exist."""

    code = "model_not_found"


class VersionNotFound(NotFound):
    """The model has no such version or alias. GET /v1/models/{name} lists them."""

    code = "version_not_found"


class NotAcceptable(GammabetaError):
    """The answer is not to be had in a media type that Accept welcomes. Leave Accept out for JSON."""

    code = "not_acceptable"


class TooSlow(GammabetaError):
    """The body did not arrive in time. Send it again, faster, or raise GAMMABETA_BODY_SECONDS."""

    code = "too_slow"


class Conflict(GammabetaError):
    """The request does not fit the present state."""

    code = "conflict"


class WrongState(Conflict):
    """The state forbids this."""

    code = "wrong_state"


class IdempotencyConflict(Conflict):
    """This Idempotency-Key was used with another request. Send the same body again, or choose a new key."""

    code = "idempotency_conflict"


class NameTaken(Conflict):
    """The name is taken. Choose another one, or delete what has it."""

    code = "name_taken"


class TooLarge(GammabetaError):
    """The body is larger than the service takes."""

    code = "too_large"


class UnsupportedMediaType(GammabetaError):
    """The Content-Type is not one that this route reads."""

    code = "unsupported_media_type"


class InvalidRequest(GammabetaError):
    """The request has fields that are wrong. `errors` names each of them."""

    code = "invalid_request"

    def __init__(self, message: str | None = None, *, errors: tuple[FieldError, ...] = ()) -> None:
        self.errors = errors
        super().__init__(message or "; ".join(f"{e.field}: {e.message}" for e in errors) or None)

    @classmethod
    def of(cls, field: str, message: str, received: Any = None) -> InvalidRequest:
        """The error for a single field."""
        code = "not_supported" if issubclass(cls, NotSupported) else "invalid"
        return cls(errors=(FieldError(field=field, message=message, received=received, code=code),))


class NotSupported(InvalidRequest):
    """The request asks for something that this version of gammabeta does not do."""

    code = "not_supported"


class DatasetInvalid(GammabetaError):
    """The file is not a data set that can be trained on.

    `code` says which rule it broke, for instance `ragged_rows` or `one_class_only`.
    """

    code = "dataset_invalid"

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class NotReady(GammabetaError):
    """The service is not ready. Try again in a moment."""

    code = "not_ready"
    retry_after: float = 1.0


class ArtifactCorrupt(NotReady):
    """Stored bytes do not match their checksum, so they are not used. Restore them from a backup."""

    code = "artifact_corrupt"


class TooLargeToServe(NotReady):
    """The version needs more memory than this service may use. Raise GAMMABETA_PREDICT_MEMORY_BYTES."""

    code = "too_large_to_serve"
    retry_after = 30.0


class Overloaded(NotReady):
    """As many rows wait to be predicted as may. Send the request again after Retry-After seconds."""

    code = "overloaded"


class QueueFull(NotReady):
    """As many jobs are queued as may be. Try again when some of them run."""

    code = "queue_full"
    retry_after = 5.0


class QuotaExceeded(NotReady):
    """As many jobs of this key are queued as may be. Try again when some of them run, or cancel one."""

    code = "quota_exceeded"
    retry_after = 5.0


class TooOften(NotReady):
    """This key submits too often. Send the request again after Retry-After seconds."""

    code = "too_often"


class NoSpace(GammabetaError):
    """There is no space left where gammabeta stores its data. Free some, then send the request again."""

    code = "no_space"


class ProjectFull(NoSpace):
    """The project has as many bytes stored as it may. Delete what is not needed; GET /v1/usage says what there is."""

    code = "project_full"


class JobFailed(GammabetaError):
    """The job did not succeed. `GET /v1/jobs/{id}` has its error."""

    code = "job_failed"

    def __init__(self, message: str | None = None, *, job_id: str = "", status: str = "", reason: str = "") -> None:
        self.job_id, self.status, self.reason = job_id, status, reason
        super().__init__(message)


class ServiceUnreachable(GammabetaError):
    """No gammabeta service answered. Start one with `gammabeta up`, or set its address with --url or GAMMABETA_URL."""

    code = "service_unreachable"


class ServiceFault(GammabetaError):
    """The service failed to answer. This is a bug: its log has the traceback."""

    code = "internal_error"


def classes() -> Iterator[type[GammabetaError]]:
    """Every class of the tree, the root first."""
    pending: list[type[GammabetaError]] = [GammabetaError]
    while pending:
        cls = pending.pop(0)
        yield cls
        pending.extend(cls.__subclasses__())
