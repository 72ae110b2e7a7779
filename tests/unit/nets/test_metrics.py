"""Metrics against scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from gammabeta.nets.losses import loss_for, scores_of
from gammabeta.nets.metrics import Evaluation, auc, evaluation

LABELS = ("a", "b", "c", "never")


def fed(measured: Evaluation, logits: torch.Tensor, y: torch.Tensor, batch: int = 17) -> Evaluation:
    for start in range(0, len(y), batch):
        measured.update(logits[start : start + batch], y[start : start + batch])
    return measured


def draw(n: int, width: int) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(n))


def test_classes_agree_with_sklearn() -> None:
    logits, y = draw(200, 4) - torch.tensor([0, 0, 0, 100.0]), torch.arange(200) % 3
    measured = fed(evaluation("classes", loss="sparse_categorical_crossentropy", labels=LABELS), logits, y)
    result, given = measured.result(), logits.argmax(dim=1)
    assert result["loss"] == pytest.approx(loss_for("sparse_categorical_crossentropy")(logits, y).item(), rel=1e-6)
    assert result["accuracy"] == sk.accuracy_score(y, given)
    assert result["macro_f1"] == pytest.approx(sk.f1_score(y, given, average="macro"))
    table = sk.precision_recall_fscore_support(y, given, labels=[0, 1, 2, 3], zero_division=0)
    for label, precision, recall, f1, support in zip(LABELS, *table, strict=True):
        assert result["per_class"][label] == pytest.approx(
            {"precision": precision, "recall": recall, "f1": f1, "support": support}
        )
    assert "auc" not in result
    assert measured.brief() == {"loss": result["loss"], "accuracy": result["accuracy"]}


@pytest.mark.parametrize("task", ["classes", "binary"])
def test_two_classes_agree_with_sklearn_ties_included(task: Any) -> None:
    logits = (draw(300, 2 if task == "classes" else 1) * 2).round()
    y = (torch.rand(300, generator=torch.Generator().manual_seed(0)) < 0.3).long()
    loss: Any = "sparse_categorical_crossentropy" if task == "classes" else "binary_crossentropy"
    result = fed(evaluation(task, loss=loss, labels=("no", "yes")), logits, y).result()
    scores = scores_of(task, logits.double())
    assert result["auc"] == pytest.approx(sk.roc_auc_score(y, scores[:, 1].round(decimals=6)))
    assert result["accuracy"] == sk.accuracy_score(y, scores.argmax(dim=1))
    assert result["loss"] == pytest.approx(sk.log_loss(y, scores.numpy()), rel=1e-5)


def test_auc_does_not_saturate_with_certain_answers() -> None:
    assert auc(np.array([50.0, 60.0, 70.0, 80.0]), np.array([0, 0, 1, 1])) == 1.0
    assert auc(np.array([1.0, 1.0]), np.array([0, 1])) == 0.5


def test_auc_of_one_class_is_none() -> None:
    y = torch.zeros(5, dtype=torch.int64)
    measured = evaluation("classes", loss="sparse_categorical_crossentropy", labels=("no", "yes"))
    assert fed(measured, draw(5, 2), y).result()["auc"] is None


def test_numbers_agree_with_sklearn() -> None:
    logits = draw(100, 1)
    y = logits.squeeze(1) * 0.7 + draw(100, 2)[:, 0] * 0.2 + 1000
    result = fed(evaluation("number", loss="huber"), logits + 1000, y).result()
    given = (logits + 1000).squeeze(1).double()
    assert result["mae"] == pytest.approx(sk.mean_absolute_error(y.double(), given))
    assert result["rmse"] == pytest.approx(sk.root_mean_squared_error(y.double(), given))
    assert result["r2"] == pytest.approx(sk.r2_score(y.double(), given))
    assert result["loss"] == pytest.approx(loss_for("huber")(logits + 1000, y).item(), rel=1e-6)


def test_r2_of_equal_numbers_is_none() -> None:
    assert fed(evaluation("number", loss="mean_squared_error"), draw(5, 1), torch.ones(5)).result()["r2"] is None


@pytest.mark.parametrize(("task", "loss"), [("classes", "sparse_categorical_crossentropy"), ("number", "huber")])
def test_evaluation_without_rows_says_so(task: Any, loss: Any) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        evaluation(task, loss=loss, labels=("no", "yes")).result()


def test_evaluation_keeps_no_graph() -> None:
    logits = draw(5, 2).requires_grad_()
    measured = evaluation("classes", loss="sparse_categorical_crossentropy", labels=("no", "yes"))
    assert fed(measured, logits, torch.arange(5) % 2).brief()["loss"] > 0
