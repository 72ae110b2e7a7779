"""Answers of a prediction. Requests are read by `service/runtime`, straight into arrays, not by pydantic."""

from __future__ import annotations

from typing import Literal

from gammabeta.schemas.base import Answer


class ClassPrediction(Answer):
    """The label with the highest score, and every score in the order of `classes`."""

    label: str
    scores: list[float]


class NumberPrediction(Answer):
    """A predicted number."""

    value: float


class PredictedBy(Answer):
    """The statistics that were used."""

    mode: Literal["eval"] = "eval"
    digest: str


class Predictions(Answer):
    """One prediction for each instance, in their order."""

    model: str
    version: str
    classes: tuple[str, ...] | None
    predictions: list[ClassPrediction] | list[NumberPrediction]
    batchnorm: PredictedBy
