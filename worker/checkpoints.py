"""Checkpoints: a folder from which a run goes on bit by bit as if nothing had happened. No pickle in it.

    weights.safetensors     everything but the batch-norm state; of batch norm what training alone needs
    state.safetensors       gamma, beta, moving mean and variance of each layer
    optimizer.safetensors   the optimizer's slots
    random.safetensors      the states of the random generators
    best.safetensors        the best weights and state so far, where the run may stop early
    training.json           position, sums of the epoch under way, early stopping, and what made it

The order of the rows needs no place here: it is a pure function of (seed, epoch).
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gammabeta.errors import ArtifactCorrupt
from gammabeta.nets import state as states
from gammabeta.schemas.batchnorm import BatchNormState
from worker import device as devices
from worker import folders, messages, optimizers, results
from worker.failures import TrainingFailed
from worker.link import Link
from worker.messages import JobFile
from worker.run import Run, begin
from worker.stopping import Snapshot, Stopper
from worker.tally import Sums

TRAINING = "training.json"


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
    """Write the run's checkpoint; the folder is complete and synced, or not there.

    Raises:
        TrainingFailed: too many batches were skipped, and there is nothing to go on from.
    """
    run.tally.read(run.step)
    state = states.state_of(run.network)
    with folders.complete(folder) as filling:
        _save(states.weights_of(run.network), filling / results.WEIGHTS)
        _save(_state_tensors(state), filling / results.STATE)
        _save(optimizers.state_tensors(run.optimizer), filling / "optimizer.safetensors")
        _save(devices.random_state(run.device), filling / "random.safetensors")
        if run.stopper.snapshot is not None:
            _save(_snapshot_tensors(run.stopper.snapshot), filling / "best.safetensors")
        (filling / TRAINING).write_text(_training_state(run, state).model_dump_json())
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
        return path


def resume(folder: Path, job: JobFile) -> Run:
    """The run as it was when the checkpoint was written.

    Raises:
        TrainingFailed: the checkpoint is not complete, or not of this job.
    """
    training = _read(folder)
    run = begin(job, threads=training.threads)
    try:
        state = results.state_from(_arrays(load_file(folder / results.STATE)), training.layers)
        states.load(run.network, load_file(folder / results.WEIGHTS), state)
        optimizers.load_state(run.optimizer, load_file(folder / "optimizer.safetensors"))
        _load_stopper(folder, training.stopping, run.stopper)
        random = load_file(folder / "random.safetensors")
    except (OSError, SafetensorError, ArtifactCorrupt, LookupError, ValueError) as exc:
        raise _unreadable(folder, exc) from exc
    run.tally.restore(training.sums)
    run.step, run.newest = training.step, dict(training.newest)
    devices.set_random_state(random, run.device)
    return run


def _read(folder: Path) -> TrainingState:
    try:
        return TrainingState.model_validate_json((folder / TRAINING).read_bytes())
    except (OSError, ValueError) as exc:
        raise _unreadable(folder, exc) from exc


def _unreadable(folder: Path, cause: Exception) -> TrainingFailed:
    return TrainingFailed(
        "checkpoint_unreadable", f"The checkpoint {folder.name} must be complete and unchanged. Received: {cause}"
    )


def _training_state(run: Run, state: BatchNormState) -> TrainingState:
    best = run.stopper.snapshot
    return TrainingState(
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


def _load_stopper(folder: Path, saved: StoppingState, stopper: Stopper) -> None:
    stopper.best, stopper.best_epoch, stopper.waited = saved.best, saved.best_epoch, saved.waited
    if saved.layers is None:
        return
    tensors = {name: each.clone() for name, each in load_file(folder / "best.safetensors").items()}
    weights = {name.removeprefix("weights."): each for name, each in tensors.items() if name.startswith("weights.")}
    state = {name.removeprefix("state."): each for name, each in tensors.items() if name.startswith("state.")}
    stopper.snapshot = Snapshot(weights, results.state_from(_arrays(state), saved.layers))


def _state_tensors(state: BatchNormState) -> dict[str, Tensor]:
    return {name: torch.tensor(array) for name, array in results.state_arrays(state).items()}


def _arrays(tensors: dict[str, Tensor]) -> dict[str, results.Array]:
    return {name: each.numpy() for name, each in tensors.items()}


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: each.detach().contiguous() for name, each in tensors.items()}, path)
