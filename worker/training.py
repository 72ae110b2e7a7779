"""The training of a network, top to bottom."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

from torch.nn.utils import clip_grad_norm_

from gammabeta import failpoints
from gammabeta.failpoints import Failpoint
from gammabeta.nets.losses import loss_for
from worker import checkpoints, device, evaluation, handover, optimizers
from worker.link import Link, StopRequested
from worker.messages import JobFile, Started, Stopped
from worker.reporting import Reporter
from worker.run import begin


def train(job: JobFile, link: Link) -> Path | None:
    """Train as the job says.

    Returns:
        The folder of the result, or None where the supervisor wanted the training to stop, and was told that it has.

    Raises:
        TrainingFailed: the loss stays infinite or NaN, or the checkpoint cannot be read.
    """
    # Data, network, optimizer; and where an earlier attempt was.
    run = checkpoints.resume(job.resume, job, link) if job.resume else begin(job)
    spec, network, optimizer, penalty = run.spec, run.network, run.optimizer, run.penalty
    loss_of, precision = loss_for(run.loss), device.precision_of(spec, run.device)
    update = optimizers.Update(optimizer, network)
    reporter, keeper, due = Reporter(link, run), checkpoints.Keeper(link, run), 0.0
    link.send(Started(device=job.device, steps=run.steps, resumed_at=run.step if job.resume else None))
    try:
        while True:
            # The end of an epoch: validation, and a look whether this is the best so far.
            if run.epoch_is_done:
                metrics = reporter.means() | evaluation.validate(run, link.check)
                run.stopper.watch(run.epoch, metrics, network)
                reporter.close_epoch(metrics)
                run.tally.clear()
                failpoints.reached(Failpoint.EPOCH_CLOSED)
            if run.over:
                break

            # An epoch, or what is left of one.
            network.train()
            for x, y in run.batches():
                with precision:
                    logits = network.logits(x)
                loss = loss_of(logits, y)
                total = loss if penalty is None else loss + penalty()
                total.backward()  # type: ignore[no-untyped-call]
                if spec.clip_norm is not None:
                    run.grad_norm = clip_grad_norm_(run.parameters, spec.clip_norm)
                optimizers.set_learning_rate(optimizer, run.learning_rate_after(run.step))
                update(loss)  # unless the loss is not finite
                for parameter in run.parameters:
                    parameter.grad = None  # as optimizer.zero_grad does, for a fifth of its time
                run.tally.add(loss, logits, y)
                run.step += 1

                # Now and then: a stop, a word to the supervisor, a checkpoint.
                if link.stop or perf_counter() >= due:
                    failpoints.reached(Failpoint.LATER_STEP if due else Failpoint.FIRST_STEP)
                    link.check()
                    due = min(reporter.report_if_due(), keeper.keep_if_due())

        # The best weights and state, where the run watched for them; what they can do; the result.
        run.stopper.restore(network)
        return handover.write(run, evaluation.final(run, link.check), link)
    except StopRequested as stop:
        path = None if stop.why == "cancel" else keeper.keep()
        link.send(Stopped(why=stop.why, checkpoint=path, step=run.step))
        return None
