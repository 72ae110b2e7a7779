"""Early stopping."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gammabeta.nets import state as states
from gammabeta.schemas.training import EarlyStopping
from tests import trainings
from worker import run as runs
from worker.stopping import Stopper


@pytest.mark.parametrize(
    ("rule", "values", "stops_after", "best_epoch"),
    [
        (EarlyStopping(patience=2), [3.0, 2.0, 2.5, 2.1], 4, 2),
        (EarlyStopping(patience=1, min_delta=0.5), [3.0, 2.6], 2, 1),
        (EarlyStopping(metric="val_accuracy", patience=1), [0.5, 0.6, 0.6], 3, 2),
        (EarlyStopping(patience=1), [float("nan"), 1.0], 1, 0),
    ],
)
def test_stopper_waits_for_its_patience(
    tmp_path: Path, rule: EarlyStopping, values: list[float], stops_after: int, best_epoch: int
) -> None:
    network = runs.begin(trainings.job_of(tmp_path)).network
    stopper = Stopper(rule)
    for epoch, value in enumerate(values[:stops_after], start=1):
        assert not stopper.over
        stopper.watch(epoch, {rule.metric: value}, network)
    assert stopper.over
    assert stopper.best_epoch == best_epoch


def test_restore_brings_back_weights_and_state(tmp_path: Path) -> None:
    run = runs.begin(trainings.job_of(tmp_path))
    stopper = Stopper(EarlyStopping())
    stopper.watch(1, {"val_loss": 1.0}, run.network)
    digest, weights = states.state_of(run.network).digest, states.weights_of(run.network)
    run.network(run.rows.take(run.trained[:10], run.device)[0])
    with torch.no_grad():
        for parameter in run.parameters:
            parameter.add_(1.0)
    assert states.state_of(run.network).digest != digest
    stopper.restore(run.network)
    assert states.state_of(run.network).digest == digest
    assert all(torch.equal(each, weights[key]) for key, each in states.weights_of(run.network).items())
