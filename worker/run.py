"""A training under way: what it works on, and everything in it that changes, which is what a checkpoint holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor, nn

from gammabeta.nets.batchnorm import BatchNorm
from gammabeta.nets.build import Network, build_network
from gammabeta.nets.penalties import penalty_of
from gammabeta.nets.preprocessing import fit
from gammabeta.schemas.batching import Batching, batching_of
from gammabeta.schemas.datasets import Split
from gammabeta.schemas.plans import NetworkPlan
from gammabeta.schemas.preprocessing import FittedPreprocessing
from gammabeta.schemas.resolution import Task, plan_of, steps_of
from gammabeta.schemas.training import LossName, TrainingSpec
from worker import data, schedules
from worker import device as devices
from worker.messages import JobFile
from worker.optimizers import optimizer_for
from worker.stopping import Stopper
from worker.tally import Tally

PREPARED_NUMBERS = 1 << 18
"""How many numbers of the rows to come are made ready at once: 1 MiB of them, which stays in a core's cache."""


@dataclass(kw_only=True)
class Run:
    """Above `step` all is fixed by the job; from there on it changes."""

    job: JobFile
    spec: TrainingSpec
    plan: NetworkPlan
    task: Task
    device: torch.device
    threads: int
    splits: dict[Split, data.Rows]
    trained: data.Indices
    held_out: data.Indices
    preprocessing: FittedPreprocessing
    loss: LossName
    batching: Batching
    steps: int
    """Of the whole run, early stopping not counted."""
    steps_per_epoch: int
    network: Network
    penalty: Callable[[], Tensor] | None
    """What the regularizers add to the loss."""
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer

    step: int = 0
    """Batches gone through: updates made, and those skipped."""
    tally: Tally
    stopper: Stopper
    grad_norm: Tensor | None = None
    """Of the last gradient, before it was clipped."""
    newest: dict[str, float] = field(default_factory=dict)
    """The newest value of each metric."""

    @property
    def rows(self) -> data.Rows:
        """Of the split that is trained on."""
        return self.splits["train"]

    @property
    def norms(self) -> list[BatchNorm]:
        """The batch norms that are trained."""
        return [each for each in self.network.layers if isinstance(each, BatchNorm) and each.spec.trainable]

    @property
    def samples(self) -> int:
        """Rows of the batches gone through."""
        epochs, done = divmod(self.step, self.steps_per_epoch)
        n = len(self.trained)
        return epochs * (n - self.batching.left_out(n)) + done * self.batching.size

    @property
    def epochs(self) -> int:
        return -(-self.steps // self.steps_per_epoch)

    @property
    def epoch(self) -> int:
        """The epoch of the last step, from 1; before the first step 1."""
        return max(1, -(-self.step // self.steps_per_epoch))

    @property
    def epoch_is_done(self) -> bool:
        """All its steps were made, and it was not closed yet."""
        return self.tally.sums.batches > 0 and (self.step % self.steps_per_epoch == 0 or self.step == self.steps)

    @property
    def over(self) -> bool:
        return self.step == self.steps or self.stopper.over

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What is left of this epoch, and of the run: x as the layers read it, and y."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        ordered = data.order(self.trained, seed=self.spec.seed, epoch=epoch)
        count = max(1, PREPARED_NUMBERS // (self.batching.size * math.prod(self.plan.input_shape)))
        # Where a batch lies in memory decides how its sums are rounded. So those that are prepared together are the
        # same in a run that goes on from a checkpoint, which passes over the first of them.
        passed = done % count
        cut = data.together(data.batches(ordered, self.batching, start=done - passed), count)
        ready = (each for several in cut for each in self.rows.prepared(several, self.network.preprocess, self.device))
        return islice(ready, passed, passed + self.steps - self.step)

    def learning_rate_after(self, step: int) -> float:
        """Of the update that follows `step` others."""
        return schedules.learning_rate(
            self.spec.schedule, self.spec.optimizer.learning_rate, step, self.steps, self.steps_per_epoch
        )


def begin(job: JobFile, *, threads: int | None = None) -> Run:
    """The run of a job before its first step, on its device. `threads` is for a run that goes on with those it had."""
    spec = job.request.training
    plan, task = plan_of(job.request, job.manifest)
    threads = threads or devices.threads_for(plan, spec.batch_size, job.threads)
    device = devices.settle(job.device, threads=threads, seed=spec.seed)
    # Those that are read last, too: by then the cache may have removed files whose paths were handed out hours ago.
    splits = {split: data.open_rows(job, split) for split in job.manifest.splits}
    rows = splits["train"]
    trained, held_out = data.hold_out(rows.n, spec.validation_fraction, spec.seed)
    fitted = fit(job.request.preprocessing, job.manifest, rows.x, trained)
    network = build_network(plan, fitted, task=task, seed=spec.seed).to(device)
    batching = batching_of(spec, plan)
    steps, steps_per_epoch = steps_of(spec, plan, job.manifest), batching.steps(len(trained))
    return Run(
        job=job,
        spec=spec,
        plan=plan,
        task=task,
        device=device,
        threads=threads,
        splits=splits,
        trained=trained,
        held_out=held_out,
        preprocessing=fitted,
        loss=_settled(spec),
        batching=batching,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        network=network,
        penalty=penalty_of(network),
        parameters=[each for each in network.parameters() if each.requires_grad],
        optimizer=optimizer_for(spec.optimizer, network),
        tally=Tally(task, steps_per_epoch=steps_per_epoch, steps=steps),
        stopper=Stopper(spec.early_stopping),
    )


def _settled(spec: TrainingSpec) -> LossName:
    if spec.loss == "auto":
        raise ValueError("the loss of a job must be settled before it is queued. Received: auto")
    return spec.loss
