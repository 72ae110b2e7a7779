"""Checkpoints: a folder from which a run goes on bit by bit as if nothing had happened. No pickle in it.

    weights.safetensors     everything but the batch-norm state; of batch norm what training alone needs
    state.safetensors       gamma, beta, moving mean and variance of each layer
    optimizer.safetensors   the optimizer's slots
    random.safetensors      the states of the random generators
    best.safetensors        the best weights and state so far, where the run may stop early
    training.json           its format, position, sums of the epoch under way, early stopping, and what made it

The order of the rows needs no place here: it is a pure function of (seed, epoch).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gammabeta import failpoints, tensorfiles
from gammabeta.errors import ArtifactCorrupt
from gammabeta.failpoints import Failpoint
from gammabeta.nets import state as states
from gammabeta.schemas.batchnorm import BatchNormState
from gammabeta.schemas.problems import dotted
from worker import device as devices
from worker import folders, messages, optimizers, results
from worker.failures import TrainingFailed
from worker.link import Link
from worker.messages import JobFile
from worker.run import Run, begin
from worker.stopping import Snapshot, Stopper
from worker.tally import Sums

FORMAT = 2
"""To be raised with each change of what a checkpoint holds or means. A run does not go on from another's."""

OPTIMIZER, RANDOM, BEST, TRAINING = "optimizer.safetensors", "random.safetensors", "best.safetensors", "training.json"


class Head(BaseModel):
    """What can be read of a checkpoint of any version."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: int = 1
    """The first did not say so."""


class StoppingState(BaseModel):
    """What early stopping remembers, but for the tensors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    best: float | None
    best_epoch: int
    waited: int
    layers: tuple[results.StateLayer, ...] | None


class TrainingState(BaseModel):
    """The part of a checkpoint that is no tensor."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    format: int
    step: int
    sums: Sums
    layers: tuple[results.StateLayer, ...]
    stopping: StoppingState
    newest: dict[str, float]
    threads: int
    torch: str
    cpu: str
    """Results are the same bit by bit on the same build of torch, the same instructions and the same threads."""


def write(run: Run, folder: Path) -> Path:
    """Write the run's checkpoint; the folder is complete, or not there.

    Raises:
        TrainingFailed: too many batches were skipped, and there is nothing to go on from.
    """
    run.tally.read(run.step)
    state = states.state_of(run.network)
    with folders.complete(folder) as filling:
        _save(states.weights_of(run.network), filling / results.WEIGHTS)
        _save(_state_tensors(state), filling / results.STATE)
        failpoints.reached(Failpoint.CHECKPOINT_PARTIAL)
        _save(optimizers.state_tensors(run.optimizer), filling / OPTIMIZER)
        _save(devices.random_state(run.device), filling / RANDOM)
        if run.stopper.snapshot is not None:
            _save(_snapshot_tensors(run.stopper.snapshot), filling / BEST)
        (filling / TRAINING).write_text(_training_state(run, state).model_dump_json())
        failpoints.reached(Failpoint.CHECKPOINT_UNRENAMED)
    return folder


class Keeper:
    """Writes a checkpoint now and then, and hands it to the supervisor."""

    def __init__(self, link: Link, run: Run) -> None:
        self._link, self._run = link, run
        self._seconds = run.job.checkpoint_seconds
        self._due, self._kept_step = perf_counter() + self._seconds, run.step

    def keep_if_due(self) -> float:
        """Write one if the last is long ago.

        Returns:
            When this wants to be called again, by `perf_counter`.
        """
        if perf_counter() >= self._due:
            path = self.keep()
            if path is not None:
                self._link.send(messages.Checkpoint(path=path, step=self._run.step))
            self._due = perf_counter() + self._seconds
        return self._due

    def keep(self) -> Path | None:
        """Write one now, or nothing where one of this step is there already."""
        step = self._run.step
        if step == self._kept_step:
            return None
        path = write(self._run, self._run.job.scratch / f"ckpt-{step}")
        self._kept_step = step
        failpoints.reached(Failpoint.CHECKPOINT_UNREPORTED)
        return path


def resume(folder: Path, job: JobFile, link: Link) -> Run:
    """The run as it was when the checkpoint was written; from its beginning, with a warning, where another version of
    this program wrote it.

    Raises:
        TrainingFailed: the checkpoint is not complete, or not of this job.
    """
    with _reading(folder / TRAINING) as path:
        text = path.read_bytes()
        found = Head.model_validate_json(text).format
        training = TrainingState.model_validate_json(text) if found == FORMAT else None
    if training is None:
        link.send(_of_another_version(folder, found))
        return begin(job)
    run = begin(job, threads=training.threads)
    with _reading(folder / results.STATE) as path:
        state = results.state_from(_arrays(tensorfiles.read(path, load_file)), training.layers)
    with _reading(folder / results.WEIGHTS) as path:
        states.load(run.network, tensorfiles.read(path, load_file), state)
    with _reading(folder / OPTIMIZER) as path:
        optimizers.load_state(run.optimizer, tensorfiles.read(path, load_file))
    with _reading(folder / BEST) as path:
        _load_stopper(path, training.stopping, run.stopper)
    run.tally.restore(training.sums)
    run.step, run.newest = training.step, dict(training.newest)
    with _reading(folder / RANDOM) as path:
        devices.set_random_state(tensorfiles.read(path, load_file), run.device)
    return run


def _of_another_version(folder: Path, found: int) -> messages.Warned:
    return messages.Warned(
        code="checkpoint_of_another_version",
        message=f"The checkpoint {folder.name} was written by another version of gammabeta (format {found}; this one "
        f"has {FORMAT}), and the run began again: the steps made before are made once more.",
    )


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """Whatever is wrong with the file is an error that names it, and the key if it is about one."""
    try:
        yield path
    except (OSError, ArtifactCorrupt, LookupError, ValueError) as exc:
        raise TrainingFailed(
            "checkpoint_unreadable",
            f"The checkpoint {path.parent.name} must be complete and unchanged. Received: {path.name}, {_said(exc)}.",
        ) from exc


def _said(error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return "which is not there"
        case ValidationError():
            first = error.errors(include_url=False, include_input=False)[0]
            return f"key {dotted(first['loc'])}: {first['msg']}" if first["loc"] else first["msg"]
        case KeyError():
            return f"which has no key {error}"
        case ArtifactCorrupt():
            return error.message.removesuffix(".")
    return str(error)


def _training_state(run: Run, state: BatchNormState) -> TrainingState:
    best = run.stopper.snapshot
    return TrainingState(
        format=FORMAT,
        step=run.step,
        sums=run.tally.sums,
        layers=results.state_layers(state),
        stopping=StoppingState(
            best=run.stopper.best,
            best_epoch=run.stopper.best_epoch,
            waited=run.stopper.waited,
            layers=None if best is None else results.state_layers(best.state),
        ),
        newest=run.newest,
        threads=run.threads,
        torch=torch.__version__,
        cpu=torch.backends.cpu.get_cpu_capability(),
    )


def _snapshot_tensors(best: Snapshot) -> dict[str, Tensor]:
    weights = {f"weights.{name}": each for name, each in best.weights.items()}
    return weights | {f"state.{name}": each for name, each in _state_tensors(best.state).items()}


def _load_stopper(path: Path, saved: StoppingState, stopper: Stopper) -> None:
    stopper.best, stopper.best_epoch, stopper.waited = saved.best, saved.best_epoch, saved.waited
    if saved.layers is None:
        return
    tensors = {name: each.clone() for name, each in tensorfiles.read(path, load_file).items()}
    weights = {name.removeprefix("weights."): each for name, each in tensors.items() if name.startswith("weights.")}
    state = {name.removeprefix("state."): each for name, each in tensors.items() if name.startswith("state.")}
    stopper.snapshot = Snapshot(weights, results.state_from(_arrays(state), saved.layers))


def _state_tensors(state: BatchNormState) -> dict[str, Tensor]:
    return {name: torch.tensor(array) for name, array in results.state_arrays(state).items()}


def _arrays(tensors: dict[str, Tensor]) -> dict[str, results.Array]:
    return {name: each.numpy() for name, each in tensors.items()}


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: each.detach().contiguous() for name, each in tensors.items()}, path)
