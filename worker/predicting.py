"""A data set answered by a version, a block of rows at a time, so that memory does not grow with the rows.

mapped rows ──► Reader: the model's columns and codes ──► network, eval mode ──► scores ──► Sheet ──► file
                                                                  └──► logits and targets ──► metrics
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from gammabeta import tensorfiles
from gammabeta.errors import ArtifactCorrupt
from gammabeta.nets import metrics, state
from gammabeta.nets.build import Network, build_network
from gammabeta.nets.losses import scores_of
from gammabeta.schemas import readings
from gammabeta.schemas.datasets import DatasetManifest
from gammabeta.schemas.preprocessing import FittedPreprocessing, FittedTable, NumericColumn
from gammabeta.schemas.resolution import Task, plan_stored
from gammabeta.schemas.training import LossName
from worker import data, evaluation, results
from worker import device as devices
from worker.answer_files import Frame, Sheet, written
from worker.failures import PredictionFailed
from worker.link import Link
from worker.messages import Answered, PredictFile, Progress, Started

PROGRESS_SECONDS = 0.25
LOSSES: dict[Task, LossName] = {
    "classes": "sparse_categorical_crossentropy",
    "binary": "binary_crossentropy",
    "number": "mean_squared_error",
}
"""What answers are measured by, where nobody knows what the version was trained by."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The version, in eval mode on its device."""

    known: results.Result
    network: Network
    task: Task
    device: torch.device
    batch: int
    """How many rows go through it at once."""


@torch.inference_mode()
def predict(order: PredictFile, link: Link) -> Answered:
    """Answer every row of the split.

    Raises:
        ArtifactCorrupt: the version is not what was published.
        PredictionFailed: a row has no finite answer.
    """
    loaded = load(order)
    _check_digest(loaded.network, order)
    rows, truth = data.open_rows(order, order.request.split), Truth.of(order, loaded)
    link.send(Started(device=order.device, steps=rows.n))
    frames = _frames(order, loaded, rows, truth, Ticker(link, rows.n))
    path = written(frames, order.scratch / order.request.file, order.request.format)
    _check_digest(loaded.network, order)
    measured = None if truth is None else evaluation.in_full(truth.evaluation, rows.n)
    return Answered(path=path, rows=rows.n, metrics=measured)


def load(order: PredictFile) -> Loaded:
    """The network, from its description, its weights, and its batch-norm state."""
    known, stored = results.read(order.version)
    plan, task = plan_stored(known.network, input_shape=known.preprocessing.input_shape, classes=known.classes)
    batch = evaluation.rows_per_batch(plan)
    device = devices.settle(order.device, threads=devices.threads_for(plan, batch, order.threads), seed=0)
    network = build_network(plan, known.preprocessing, task=task)
    state.load(network, tensorfiles.read(order.weights, load_file), stored)
    return Loaded(known=known, network=network.eval().to(device), task=task, device=device, batch=batch)


def _frames(
    order: PredictFile, loaded: Loaded, rows: data.Rows, truth: Truth | None, ticker: Ticker
) -> Iterator[Frame]:
    """The answers, as they become worth a frame."""
    preprocessing = loaded.known.preprocessing
    read = Reader(preprocessing, order.manifest, loaded.device)
    sheet = Sheet(loaded.known.classes, order.manifest.target)
    for start in range(0, rows.n, loaded.batch):
        end = min(start + loaded.batch, rows.n)
        raw, y = rows.take(np.arange(start, end), loaded.device)
        x = read(raw)
        logits = loaded.network(x)
        scores = scores_of(loaded.task, logits)
        _check_finite(scores, x, start, preprocessing)
        if truth is not None:
            truth.evaluation.update(logits, truth.codes(y))
        yield from sheet.add(scores.cpu().numpy(), y.cpu().numpy())
        ticker.tell(end)
    yield from sheet.rest()


class Reader:
    """Rows of a data set as the model's preprocessing reads them."""

    def __init__(self, preprocessing: FittedPreprocessing, manifest: DatasetManifest, device: torch.device) -> None:
        reading, self._places = readings.reading(preprocessing, manifest), None
        if reading.places is not None:
            self._places = torch.tensor(reading.places, dtype=torch.int64, device=device)
        self._tables = [(at, _table(codes, device)) for at, codes in reading.codes]

    def __call__(self, raw: Tensor) -> Tensor:
        """raw: [B, *row_shape] -> [B, *shape]; of a table [B, the model's columns] float64."""
        if self._places is None:
            return raw
        x = raw.double().index_select(1, self._places)
        for at, table in self._tables:
            codes = x[:, at]
            missing = codes.isnan()
            x[:, at] = torch.where(missing, codes, table[torch.where(missing, readings.UNKNOWN, codes).long()])
        return x


def _table(codes: readings.Codes, device: torch.device) -> Tensor:
    """By the data set's code; the place of -1 is the last."""
    return torch.tensor([*codes, readings.UNKNOWN], dtype=torch.float64, device=device)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The targets of the rows, to measure the answers by."""

    evaluation: metrics.Evaluation
    _codes: Tensor | None

    @classmethod
    def of(cls, order: PredictFile, loaded: Loaded) -> Truth | None:
        """None: the model does not know these targets."""
        classes, task = loaded.known.classes, loaded.task
        codes = readings.target_codes(classes, order.manifest.target)
        if codes is None:
            return None
        measured = metrics.evaluation(task, loss=order.loss or LOSSES[task], labels=classes or ())
        table = torch.tensor(codes, dtype=torch.int64, device=loaded.device) if codes else None
        return cls(evaluation=measured, _codes=table)

    def codes(self, y: Tensor) -> Tensor:
        """The model's codes of the classes; numbers as they are."""
        return y if self._codes is None else self._codes[y]


class Ticker:
    """Tells how far it is, a few times a second."""

    def __init__(self, link: Link, rows: int) -> None:
        self._link, self._rows = link, rows
        self._began = perf_counter()
        self._due = 0.0

    def tell(self, done: int) -> None:
        """So many rows are answered."""
        now = perf_counter()
        if now < self._due and done < self._rows:
            return
        self._due = now + PROGRESS_SECONDS
        speed = done / max(now - self._began, 1e-9)
        self._link.send(
            Progress(
                step=done,
                steps=self._rows,
                fraction=done / self._rows,
                eta_seconds=(self._rows - done) / speed,
                samples_per_second=speed,
            )
        )


def _check_digest(network: Network, order: PredictFile) -> None:
    """Before a row is answered, and after the last: nothing trains here, and nothing moves the statistics."""
    found = state.state_of(network).digest
    if found != order.digest or any(module.training for module in network.modules()):
        raise ArtifactCorrupt(
            f"A prediction must use, and leave, the batch-norm state {order.digest} in eval mode. Received: {found}."
        )


def _check_finite(scores: Tensor, x: Tensor, start: int, preprocessing: FittedPreprocessing) -> None:
    if bool(torch.isfinite(scores).all()):
        return
    bad = ~torch.isfinite(scores).reshape(len(scores), -1).all(dim=1)
    place = int(bad.nonzero()[0])
    message = f"Each row must have finite scores. Received: NaN or infinity for row {start + place:,} of the split."
    raise PredictionFailed("non_finite_score", message + _why(x[place], preprocessing))


def _why(row: Tensor, preprocessing: FittedPreprocessing) -> str:
    if isinstance(preprocessing, FittedTable):
        for value, column in zip(row.tolist(), preprocessing.columns, strict=True):
            if isinstance(column, NumericColumn) and column.fill is None and np.isnan(value):
                return f" Its column '{column.name}' is missing, and the model was trained to refuse missing values."
    return " Look for very large values in it."
