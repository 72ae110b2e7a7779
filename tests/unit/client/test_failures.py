from __future__ import annotations

import httpx
import pytest

from gammabeta import Client, errors
from gammabeta.client import failures
from tests.unit.client.fake_service import FakeService, problem

ON_THE_WIRE = [cls for cls in errors.classes() if cls is not errors.GammabetaError]


def answered(response: httpx.Response) -> errors.GammabetaError:
    response.request = httpx.Request("GET", "http://service/v1/jobs")
    return failures.of(response)


@pytest.mark.parametrize("cls", ON_THE_WIRE, ids=lambda cls: cls.code)
def test_every_code_of_the_error_tree_comes_back_as_its_class(cls: type[errors.GammabetaError]) -> None:
    error = answered(problem(409, cls.code, "because"))
    assert type(error) is cls
    assert error.message == "because"


def test_no_two_classes_share_a_code() -> None:
    codes = [cls.code for cls in errors.classes()]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (400, errors.MalformedRequest),
        (401, errors.Unauthorized),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (408, errors.TooSlow),
        (409, errors.Conflict),
        (413, errors.TooLarge),
        (415, errors.UnsupportedMediaType),
        (422, errors.InvalidRequest),
        (429, errors.NotReady),
        (500, errors.ServiceFault),
        (503, errors.NotReady),
        (507, errors.NoSpace),
        (418, errors.GammabetaError),
    ],
)
def test_a_code_that_a_newer_service_invented_falls_back_to_its_status(
    status: int, cls: type[errors.GammabetaError]
) -> None:
    assert type(answered(problem(status, "brand_new", "because"))) is cls


def test_wrong_fields_are_kept_and_read_as_one_line_each() -> None:
    error = answered(
        problem(
            422,
            "invalid_request",
            "2 fields are wrong",
            {"field": "network.layers[0].units", "message": "must be greater than 0", "received": 0, "code": "invalid"},
            {"field": "model", "message": "is required", "received": None, "code": "invalid"},
            {"field": "network.batch_norm", "message": "must be a word.", "received": None, "code": "invalid"},
            {"field": "network.layers", "message": "must be a word", "received": {"a": ["b"]}, "code": "invalid"},
        )
    )
    assert isinstance(error, errors.InvalidRequest)
    assert [each.field for each in error.errors] == [
        "network.layers[0].units",
        "model",
        "network.batch_norm",
        "network.layers",
    ]
    assert str(error).split("\n") == [
        "network.layers[0].units: must be greater than 0. Received: 0.",
        "model: is required",
        "network.batch_norm: must be a word. Received: null.",
        'network.layers: must be a word. Received: {"a": ["b"]}.',
    ]


def test_retry_after_is_carried_and_bounded() -> None:
    asked = answered(problem(503, "not_ready", "starting", headers={"Retry-After": "7"}))
    endless = answered(problem(503, "not_ready", "starting", headers={"Retry-After": "86400"}))
    assert isinstance(asked, errors.NotReady)
    assert isinstance(endless, errors.NotReady)
    assert (asked.retry_after, endless.retry_after) == (7.0, failures.MAX_WAIT)


@pytest.mark.parametrize("header", ["soon", "nan", "-1", ""])
def test_a_retry_after_that_is_no_number_of_seconds_does_no_harm(header: str) -> None:
    error = answered(problem(503, "not_ready", "starting", headers={"Retry-After": header}))
    assert isinstance(error, errors.NotReady)
    assert 0 <= error.retry_after <= failures.MAX_WAIT


def test_an_answer_of_another_program_names_address_and_status() -> None:
    error = answered(httpx.Response(404, text="<html>nginx</html>"))
    assert "http://service/v1/jobs" in str(error)
    assert "HTTP 404" in str(error)


def test_a_silent_address_gives_the_remedy(service: FakeService) -> None:
    service.on("GET", "/v1/jobs/job_1", httpx.ConnectError("[Errno 111] Connection refused"))
    with pytest.raises(errors.ServiceUnreachable, match=r"Connection refused.*gammabeta up.*GAMMABETA_URL"):
        service.client().jobs.get("job_1")


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://host:port"])
def test_an_address_that_cannot_be_one_is_refused_at_once(url: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="url"):
        Client(url)
