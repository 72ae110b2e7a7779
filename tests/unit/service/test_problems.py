from __future__ import annotations

import pytest
from starlette.responses import Response

from gammabeta import errors
from gammabeta.errors import FieldError
from gammabeta.schemas.problems import Problem
from service import problems


def test_every_error_has_a_status() -> None:
    of_gammabeta = {cls for cls in errors.classes() if cls.__module__ == errors.__name__}
    assert set(problems.STATUS) == of_gammabeta


@pytest.mark.parametrize("cls", [cls for cls in problems.STATUS if cls is not errors.DatasetInvalid])
def test_a_problem_carries_the_code_of_its_class(cls: type[errors.GammabetaError]) -> None:
    problem = _read(problems.of(cls("what must hold")))
    assert (problem.code, problem.detail, problem.status) == (cls.code, "what must hold", problems.STATUS[cls])


def test_a_refused_file_carries_the_rule_it_broke() -> None:
    assert _read(problems.of(errors.DatasetInvalid("ragged_rows", "line 3"))).code == "ragged_rows"


def test_wrong_fields_are_named() -> None:
    error = errors.InvalidRequest(errors=(FieldError(field="training.epochs", message="must be > 0", received=-1),))
    (field,) = _read(problems.of(error)).errors
    assert (field.field, field.message, field.received) == ("training.epochs", "must be > 0", -1)


def test_what_may_be_tried_again_says_when() -> None:
    assert problems.of(errors.NotReady()).headers["retry-after"] == "1"
    assert "retry-after" not in problems.of(errors.WrongState()).headers


def _read(response: Response) -> Problem:
    assert response.media_type == "application/problem+json"
    return Problem.model_validate_json(bytes(response.body))
