"""The training itself, run in this process on small data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gammabeta.nets import state as states
from gammabeta.nets.build import build_network
from gammabeta.schemas.preprocessing import PreprocessingSpec
from gammabeta.schemas.resolution import plan_of
from tests import trainings
from tests.trainings import RecordingLink, again, job_of
from worker import checkpoints, data, messages, results
from worker import run as runs
from worker.trainer import run_job


def run(job: messages.JobFile, link: RecordingLink | None = None) -> RecordingLink:
    link = link or RecordingLink()
    run_job(job, link)
    return link


def done(job: messages.JobFile) -> tuple[results.Result, Path]:
    link = run(job)
    assert not link.of(messages.Failed)
    (report,) = link.of(messages.Done)
    return results.read(report.path)[0], report.path


def epochs(link: RecordingLink) -> list[tuple[int, dict[str, float | None]]]:
    """The rows at the ends of epochs, but for the speed."""
    rows = [row for row in link.of(messages.MetricsRow) if "val_loss" in row.values]
    return [(row.step, {k: v for k, v in row.values.items() if k != "samples_per_second"}) for row in rows]


def content(folder: Path) -> dict[str, Any]:
    """Weights and state as bytes, and what is said of them."""
    found: dict[str, Any] = {name: (folder / name).read_bytes() for name in (results.WEIGHTS, results.STATE)}
    return found | {"result": json.loads((folder / results.RESULT).read_text())}


def images() -> dict[str, Any]:
    draws = np.random.default_rng(0)
    y = draws.integers(0, 2, 41)
    x = (draws.integers(0, 128, (41, 6, 6)) + y[:, None, None] * 100).astype(np.uint8)
    return {"train": (x, y)}


def with_huge_rows(count: int) -> dict[str, Any]:
    """`blobs` whose last rows are as large as float32 gets; the data that predictions are measured on has none."""
    x, y = trainings.blobs()
    huge = np.full((count, 5), 3e38, np.float32)
    return {
        "train": (np.concatenate((x, huge)), np.concatenate((y, y[:count]))),
        "test": trainings.blobs(rows=40, seed=1),
    }


OUTPUT: dict[str, Any] = {"type": "dense", "units": "classes"}
NORM_FIRST: dict[str, Any] = {"layers": [{"type": "batch_norm", "momentum": 0.5}, OUTPUT]}

RUNS: dict[str, dict[str, Any]] = {
    "adam, cosine after a warm-up, clipped": {
        "training": {"schedule": {"name": "cosine", "warmup_steps": 5}, "clip_norm": 0.5, "seed": 7}
    },
    "adamw, max_steps within an epoch": {"training": {"optimizer": {"name": "adamw"}, "max_steps": 14}},
    "rmsprop with momentum, steps": {
        "training": {
            "optimizer": {"name": "rmsprop", "momentum": 0.9},
            "schedule": {"name": "step", "every_epochs": 1, "factor": 0.5},
        }
    },
    "sgd with momentum, stopping early": {
        "training": {
            "optimizer": {"name": "sgd", "momentum": 0.9, "learning_rate": 0.5},
            "early_stopping": {"patience": 2},
            "epochs": 20,
        }
    },
    "plain sgd, no validation": {"training": {"optimizer": {"name": "sgd"}, "validation_fraction": 0, "epochs": 2}},
    "bfloat16": {"training": {"precision": "bfloat16", "epochs": 2}},
    "convolutions": {"splits": images(), "network": trainings.CONVOLUTIONS, "training": {"epochs": 4}},
    "renorm, adjustment, constraints, regularizers": {"network": trainings.EVERYTHING},
    "the same, stopping early": {
        "network": trainings.EVERYTHING,
        "training": {
            "optimizer": {"name": "sgd", "momentum": 0.9, "learning_rate": 0.5},
            "early_stopping": {"patience": 1},
            "epochs": 20,
        },
    },
    "ghost batches": {"network": trainings.GHOSTS, "training": {"validation_fraction": 0.05}},
    "ghost batches, last batch kept": {"network": trainings.GHOSTS, "training": {"last_batch": "keep", "seed": 2}},
    "last batch kept": {"training": {"last_batch": "keep"}},
    "last batch dropped": {"training": {"last_batch": "drop"}},
    "single values in each epoch": {"training": {"last_batch": "keep", "batch_size": 23, "epochs": 5}},
    "a batch skipped in each epoch": {"splits": with_huge_rows(1), "preprocessing": {"numeric": "none"}},
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS.keys())
def test_resumed_run_ends_with_the_same_bytes_as_an_undisturbed_one(tmp_path: Path, options: dict[str, Any]) -> None:
    job = job_of(tmp_path / "job", **options)
    _, undisturbed = done(job)
    kept = run(again(job, tmp_path / "kept", checkpoint_seconds=0.0))
    checkpoints = kept.of(messages.Checkpoint)
    expected = content(undisturbed)
    assert content(kept.of(messages.Done)[0].path) == expected
    chosen = {0, 5, len(checkpoints) // 2, len(checkpoints) - 2, len(checkpoints) - 1} & set(range(len(checkpoints)))
    for at in chosen:
        torch.rand(at)  # the generators are elsewhere when another process takes over
        _, resumed = done(again(job, tmp_path / f"resumed-{at}", resume=checkpoints[at].path))
        assert content(resumed) == expected, f"from step {checkpoints[at].step}"


def test_two_runs_of_one_job_are_the_same_and_another_seed_is_not(tmp_path: Path) -> None:
    first, second = job_of(tmp_path / "a"), job_of(tmp_path / "b")
    other = job_of(tmp_path / "c", training={"seed": 1})
    assert content(done(first)[1]) == content(done(second)[1])
    assert content(done(other)[1])[results.WEIGHTS] != content(done(again(first, tmp_path / "d"))[1])[results.WEIGHTS]


def test_max_steps_ends_exactly_there(tmp_path: Path) -> None:
    link = run(job_of(tmp_path, training={"max_steps": 14}))
    assert link.of(messages.Progress)[-1].step == 14
    result, state = results.read(link.of(messages.Done)[0].path)
    assert [layer.updates for layer in result.state_layers] == [14]
    assert [layer.updates for layer in state.layers] == [14]


def test_evaluation_is_not_counted_as_an_update(tmp_path: Path) -> None:
    result, _ = done(job_of(tmp_path, training={"epochs": 2}))
    steps = 2 * (93 // 10)
    assert [layer.updates for layer in result.state_layers] == [steps]


def test_metrics_are_those_of_the_stored_weights_and_state(tmp_path: Path) -> None:
    job = job_of(tmp_path, training={"epochs": 8})
    _, folder = done(job)
    result, state = results.read(folder)
    plan, task = plan_of(job.request, job.manifest)
    network = build_network(plan, result.preprocessing, task=task, seed=123)
    states.load(network, load_file(folder / results.WEIGHTS), state)
    network.eval()
    rows = data.open_rows(job, "test")
    with torch.no_grad():
        right = int((network.scores(torch.tensor(rows.x)).argmax(dim=1).numpy() == rows.y).sum())
    assert result.metrics["test"]["correct"] == right
    assert result.metrics["test"]["n"] == rows.n
    assert result.metrics["test"]["accuracy"] == right / rows.n
    assert result.metrics["train"]["n"] + result.metrics["validation"]["n"] == 103


def test_network_learns(tmp_path: Path) -> None:
    result, _ = done(job_of(tmp_path, training={"epochs": 30, "optimizer": {"name": "adam", "learning_rate": 0.01}}))
    assert result.metrics["test"]["accuracy"] > 0.95


def test_numbers_are_learned_too(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    x = draws.normal(size=(400, 3)).astype(np.float32)
    y = (x @ np.array([1.0, -2.0, 0.5]) + 3).astype(np.float32)
    job = job_of(
        tmp_path,
        splits={"train": (x, y)},
        network={"preset": "mlp", "hidden": [16]},
        training={"epochs": 30, "optimizer": {"name": "adam", "learning_rate": 0.02}},
    )
    result, _ = done(job)
    assert result.classes is None
    assert result.metrics["validation"]["r2"] > 0.9


def test_early_stopping_publishes_the_best_epoch(tmp_path: Path) -> None:
    training = {"optimizer": {"name": "sgd", "learning_rate": 0.5}, "early_stopping": {"patience": 2}, "epochs": 50}
    link = run(job_of(tmp_path, training=training))
    (event,) = link.of(messages.Event)
    losses = [row.values["val_loss"] for row in link.of(messages.MetricsRow) if "val_loss" in row.values]
    assert event.name == "stopped_early"
    assert event.data["epoch"] == len(losses) == event.data["best_epoch"] + 2 < 50
    result, _ = results.read(link.of(messages.Done)[0].path)
    assert result.metrics["validation"]["loss"] == min(each for each in losses if each is not None)
    assert result.state_layers[0].updates == event.data["best_epoch"] * 9


def test_preprocessing_is_fitted_on_the_rows_trained_on(tmp_path: Path) -> None:
    job = job_of(tmp_path, training={"validation_fraction": 0.5, "seed": 4})
    result, _ = done(job)
    trained, _ = data.hold_out(103, 0.5, seed=4)
    x = data.open_rows(job, "train").x[trained]
    assert result.preprocessing.kind == "array"
    np.testing.assert_allclose(result.preprocessing.offset, x.mean(axis=0, dtype=np.float64), rtol=1e-6)


def test_non_finite_loss_fails_the_job_and_names_the_step(tmp_path: Path) -> None:
    training = {"optimizer": {"name": "sgd", "learning_rate": 1000.0}, "loss": "mean_squared_error"}
    x, _ = trainings.blobs()
    y = (x[:, 0] * 1e15).astype(np.float32)
    network = {"layers": [{"type": "dense", "units": 1}]}
    job = job_of(tmp_path, splits={"train": (x, y)}, network=network, training=training, checkpoint_seconds=0.0)
    link = run(job)
    (failed,) = link.of(messages.Failed)
    assert failed.code == "non_finite_loss"
    assert "at step" in failed.message
    assert "learning_rate" in failed.message
    assert not failed.retryable
    assert not link.of(messages.Done)


def test_batch_with_huge_values_is_skipped_and_told_of(tmp_path: Path) -> None:
    training = {"epochs": 8, "validation_fraction": 0, "optimizer": {"name": "adam", "learning_rate": 0.01}}
    preprocessing = {"numeric": "none"}
    job = job_of(tmp_path, splits=with_huge_rows(1), training=training, preprocessing=preprocessing)
    link = run(job)
    assert not link.of(messages.Failed)
    (event,) = link.of(messages.Event)
    assert (event.name, event.data["loss"], event.data["layers"]) == ("batch_skipped", "nan", ["batch_norm"])
    assert 1 <= event.data["step"] <= 10
    (warning,) = [each for each in link.of(messages.Warned) if each.code == "batches_skipped"]
    assert warning.message.startswith("8 of 80 batches were skipped")
    rows = [row for row in link.of(messages.MetricsRow) if row.step % 10 == 0]
    assert [row.values["skipped_batches"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert all(row.values["loss"] is not None for row in rows)
    result, state = results.read(link.of(messages.Done)[0].path)
    assert [(layer.updates, layer.skipped) for layer in state.layers] == [(72, 8)]
    assert state.problem() is None
    assert result.metrics["test"]["accuracy"] > 0.9
    assert warning.code in {each.code for each in result.warnings}


def large_variance(**training: Any) -> dict[str, Any]:
    """Batch norm comes first, and one row has a variance that float32 cannot hold: its batch has a finite loss."""
    return {
        "splits": with_huge_rows(1),
        "network": NORM_FIRST,
        "preprocessing": {"numeric": "none"},
        "training": {"validation_fraction": 0} | training,
    }


def test_statistics_that_are_not_finite_are_told_of_where_the_loss_is(tmp_path: Path) -> None:
    link = run(job_of(tmp_path, **large_variance()))
    (event,) = link.of(messages.Event)
    assert (event.name, event.data["layers"]) == ("batch_skipped", ["batch_norm"])
    assert 1 <= event.data["step"] <= 10
    assert "loss" not in event.data
    rows = [row.values for row in link.of(messages.MetricsRow) if row.step % 10 == 0]
    assert [row["skipped_batches"] for row in rows] == [1, 2, 3]
    assert all(row["loss"] is not None for row in rows)
    (warning,) = link.of(messages.Warned)
    assert warning.message.startswith("3 of 30 batches were skipped, by the training or by a batch norm")
    _, state = results.read(link.of(messages.Done)[0].path)
    assert (state.layers[0].updates, state.layers[0].skipped) == (27, 3)
    assert state.problem() is None


def test_skipped_batches_are_told_of_once_through_pauses(tmp_path: Path) -> None:
    def stop(link: RecordingLink, report: messages.Report) -> None:
        if isinstance(report, messages.MetricsRow) and report.epoch == 2:
            link.stop = "pause"

    job = job_of(tmp_path / "job", **large_variance())
    first = run(job, RecordingLink(stop))
    assert [each.name for each in first.of(messages.Event)] == ["batch_skipped"]
    resumed = run(again(job, tmp_path / "resumed", resume=first.of(messages.Stopped)[0].checkpoint))
    assert not resumed.of(messages.Event)
    assert resumed.of(messages.MetricsRow)[-1].values["skipped_batches"] == 3
    assert resumed.of(messages.Warned)[0].message.startswith("3 of 30 batches")


def one_spoilt_batch(tmp_path: Path, *, loss_is_finite: bool) -> tuple[messages.JobFile, int]:
    """A job of one epoch with one bad batch, and the step of that."""
    network = {"network": NORM_FIRST} if loss_is_finite else {}
    job = job_of(tmp_path / "job", **large_variance(epochs=1) | {"network": None} | network, checkpoint_seconds=0.0)
    (bad,) = [step for step, (x, _) in enumerate(runs.begin(job).batches(), start=1) if x.max() > 1e38]
    return job, bad


@pytest.mark.parametrize("loss_is_finite", [True, False])
def test_bad_batch_is_told_of_once_wherever_the_run_is_drained(tmp_path: Path, loss_is_finite: bool) -> None:
    job, bad = one_spoilt_batch(tmp_path, loss_is_finite=loss_is_finite)
    assert 2 < bad < 9, "so that there are steps before it and after it"
    for at in range(1, 10):

        def stop(link: RecordingLink, report: messages.Report, at: int = at) -> None:
            if isinstance(report, messages.Checkpoint) and report.step == at:
                link.stop = "drain"

        first = run(again(job, tmp_path / f"drained-{at}"), RecordingLink(stop))
        (stopped,) = first.of(messages.Stopped)
        second = run(again(job, tmp_path / f"resumed-{at}", resume=stopped.checkpoint))
        (event,) = first.of(messages.Event) + second.of(messages.Event)
        assert event.name == "batch_skipped"
        assert event.data["layers"] == ["batch_norm"]
        if loss_is_finite:
            assert event.data["step"] >= bad
        else:
            assert (event.data["step"], event.data["loss"]) == (bad, "nan"), "also of one that was counted before"
        assert second.of(messages.MetricsRow)[-1].values["skipped_batches"] == 1


@pytest.mark.parametrize("loss_is_finite", [True, False])
def test_bad_batch_is_told_of_whatever_checkpoint_a_lost_run_goes_on_from(tmp_path: Path, loss_is_finite: bool) -> None:
    job, bad = one_spoilt_batch(tmp_path, loss_is_finite=loss_is_finite)
    lost = run(again(job, tmp_path / "lost"))
    for index, report in enumerate(lost.reports):
        if isinstance(report, messages.Checkpoint):
            known = [each for each in lost.reports[:index] if isinstance(each, messages.Event)]
            resumed = run(again(job, tmp_path / f"resumed-{report.step}", resume=report.path))
            assert len(known + resumed.of(messages.Event)) == 1, f"from step {report.step}, the bad one is {bad}"


def test_skipped_batches_after_the_best_epoch_are_counted_too(tmp_path: Path) -> None:
    training = {
        "early_stopping": {"patience": 2, "metric": "val_loss"},
        "validation_fraction": 0.1,
        "optimizer": {"name": "sgd", "learning_rate": 0.5},
        "epochs": 50,
    }
    link = run(job_of(tmp_path, **large_variance(**training)))
    (warning,) = [each for each in link.of(messages.Warned) if each.code == "batches_skipped"]
    counted = link.of(messages.MetricsRow)[-1].values["skipped_batches"]
    _, state = results.read(link.of(messages.Done)[0].path)
    assert counted == state.layers[0].skipped + 2
    assert warning.message.startswith(f"{counted:.0f} of ")


def test_statistics_that_no_batch_has_moved_fail_the_job(tmp_path: Path) -> None:
    job = job_of(tmp_path, **large_variance(batch_size=104, epochs=30))
    link = run(job)
    (failed,) = link.of(messages.Failed)
    assert failed.code == "bad_statistics"
    assert "no batch with a finite mean and variance in 'batch_norm', 30 without" in failed.message
    assert '"numeric": "standard"' in failed.message
    assert not failed.retryable
    assert not link.of(messages.Done)
    mended = job.request.model_copy(update={"preprocessing": PreprocessingSpec(numeric="standard")})
    assert done(again(job, tmp_path / "mended", request=mended))[0].state_layers[0].updates == 30


def test_frozen_statistics_may_stay_where_they_began(tmp_path: Path) -> None:
    layers = [NORM_FIRST["layers"][0] | {"trainable": False}, OUTPUT]
    result, _ = done(job_of(tmp_path, network={"layers": layers}))
    assert (result.state_layers[0].updates, result.warnings) == (0, ())


ONE_VALUE: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "batches of one row": ({"batch_size": 1, "epochs": 1}, {}, "93 of 93", "Write a batch_size of 16"),
    "ghosts of one row": ({}, {"virtual_batch_size": 1}, "27 of 27", "Write a virtual_batch_size of 16"),
    "every other batch": (
        {"batch_size": 102, "validation_fraction": 0, "last_batch": "keep", "epochs": 40},
        {},
        "40 of 80",
        'Write "last_batch": "merge"',
    ),
}


@pytest.mark.parametrize(("training", "arguments", "counts", "remedy"), ONE_VALUE.values(), ids=ONE_VALUE.keys())
def test_variances_that_one_value_taught_nothing_are_warned_of(
    tmp_path: Path, training: dict[str, Any], arguments: dict[str, Any], counts: str, remedy: str
) -> None:
    norm = {"type": "batch_norm", "momentum": 0.95}
    layers = [{"type": "dense", "units": 4}, norm | arguments, norm | arguments | {"name": "other"}, OUTPUT]
    link = run(job_of(tmp_path, network={"layers": layers}, training=training))
    (warning,) = link.of(messages.Warned)
    assert warning.code == "one_value_per_channel"
    assert f"'batch_norm', 'other' had one value per channel in {counts} batches" in warning.message
    assert remedy in warning.message
    result, state = results.read(link.of(messages.Done)[0].path)
    layer = state.layers[0]
    assert [each.code for each in result.warnings] == [warning.code]
    assert f"{layer.single} of {layer.single + layer.updates}" == counts
    assert (f"{layer.initial_weight:.0%} of it is still the initial value" in warning.message) == (
        layer.initial_weight > 0.05
    )
    assert layer.moving_mean.any()
    assert (layer.updates == 0) == (layer.moving_variance == 1).all()


@pytest.mark.parametrize(
    ("size", "momentum", "codes"),
    [
        (6, 0.9, []),  # one of 18
        (6, 0.99, ["moving_statistics_cold"]),
        (17, 0.5, ["one_value_per_channel"]),  # one of 7
        (17, 0.99, ["one_value_per_channel", "moving_statistics_cold"]),  # merged, it would be cold all the same
    ],
)
def test_a_last_batch_of_one_row_is_warned_of_where_there_are_few_others(
    tmp_path: Path, size: int, momentum: float, codes: list[str]
) -> None:
    training = {"batch_size": size, "validation_fraction": 0, "last_batch": "keep"}
    network = {"layers": [NORM_FIRST["layers"][0] | {"momentum": momentum}, OUTPUT]}
    link = run(job_of(tmp_path, network=network, training=training))
    _, state = results.read(link.of(messages.Done)[0].path)
    assert (state.layers[0].updates, state.layers[0].single) == (3 * (103 // size), 3)
    warnings = link.of(messages.Warned)
    assert [each.code for each in warnings] == codes
    assert all("initial value;" not in each.message for each in warnings)


def test_a_run_needs_no_file_of_its_data_set_by_name_once_it_has_begun(tmp_path: Path) -> None:
    """The cache of a bucket removes what was handed out long ago, and the test split is read last of all."""
    job = job_of(tmp_path)

    def evict(link: RecordingLink, report: messages.Report) -> None:
        del link
        if isinstance(report, messages.Started):
            for path in job.arrays.values():
                path.unlink()

    (report,) = run(job, RecordingLink(evict)).of(messages.Done)
    assert results.read(report.path)[0].metrics["test"]["n"] == 40


def test_run_where_every_batch_is_skipped_fails(tmp_path: Path) -> None:
    job = job_of(tmp_path, splits=with_huge_rows(100), preprocessing={"numeric": "none"}, training={"epochs": 50})
    (failed,) = run(job).of(messages.Failed)
    assert failed.code == "non_finite_loss"


def test_run_where_every_batch_is_skipped_fails_also_within_its_first_epoch(tmp_path: Path) -> None:
    huge = (np.full((400, 5), 3e38, np.float32), np.arange(400) % 3)
    training = {"max_steps": 15, "validation_fraction": 0}
    job = job_of(tmp_path, splits={"train": huge}, preprocessing={"numeric": "none"}, training=training)
    assert runs.begin(job).steps_per_epoch == 40
    link = run(job)
    (failed,) = link.of(messages.Failed)
    assert failed.code == "non_finite_loss"
    assert "at step 15, and no better at the 14 steps before it" in failed.message
    assert not link.of(messages.Done)


@pytest.mark.parametrize("steps", [1, 5])
def test_weights_that_are_not_finite_at_the_end_fail_the_job(tmp_path: Path, steps: int) -> None:
    # The logits are 0 and the first loss is 1, its gradient beyond float32; the steps after it are too few to give up.
    network = {"layers": [{"type": "dense", "units": 1, "kernel_initializer": "zeros", "use_bias": False}]}
    training = {"max_steps": steps, "validation_fraction": 0, "loss": "mean_squared_error"}
    x, y = np.full((103, 5), 3e38, np.float32), np.ones(103, np.float32)
    options: dict[str, Any] = {"splits": {"train": (x, y)}, "network": network, "preprocessing": {"numeric": "none"}}
    job = job_of(tmp_path, **options, training=training)
    link = run(job)
    (failed,) = link.of(messages.Failed)
    assert failed.code == "non_finite_loss"
    assert "NaN or infinity in dense.kernel" in failed.message
    assert "learning_rate" in failed.message
    assert not link.of(messages.Done)


@pytest.mark.parametrize(("last", "steps", "rows"), [("merge", 10, 103), ("keep", 11, 103), ("drop", 10, 100)])
def test_last_batch_decides_steps_and_rows(tmp_path: Path, last: str, steps: int, rows: int) -> None:
    job = job_of(tmp_path, training={"last_batch": last, "validation_fraction": 0, "epochs": 3})
    begun = runs.begin(job)
    assert (begun.steps, begun.steps_per_epoch, begun.samples) == (3 * steps, steps, 0)
    for _ in range(3):
        begun.tally.clear()
        for x, y in begun.batches():
            before = begun.samples
            begun.step += 1
            assert begun.samples - before == len(x) == len(y)
    assert begun.samples == 3 * rows
    assert run(job).of(messages.Progress)[-1].step == 3 * steps


def test_penalty_is_trained_with_and_told_apart_from_the_loss(tmp_path: Path) -> None:
    def network(**regularizer: Any) -> dict[str, Any]:
        return {"layers": [{"type": "batch_norm"}, {"type": "dense", "units": "classes", **regularizer}]}

    strong = {"class_name": "L2", "config": {"l2": 10.0}}
    training = {"epochs": 8, "optimizer": {"name": "sgd", "learning_rate": 0.01}}
    plain = job_of(tmp_path / "plain", network=network(), training=training)
    job = job_of(tmp_path / "job", network=network(kernel_regularizer=strong), training=training)
    link = run(job)
    (end,) = [row for row in link.of(messages.MetricsRow) if row.step == 72]
    weights = load_file(link.of(messages.Done)[0].path / results.WEIGHTS)
    assert end.values["penalty"] == pytest.approx(10 * weights["dense.kernel"].square().sum().item(), rel=1e-5)
    assert weights["dense.kernel"].norm() < 0.1 * load_file(done(plain)[1] / results.WEIGHTS)["dense.kernel"].norm()
    first = next(row for row in link.of(messages.MetricsRow) if row.step == 9)
    assert first.values["penalty"] is not None
    assert first.values["loss"] is not None
    assert first.values["loss"] < 3  # the data's alone; the penalty begins with some tens


def constant(value: float) -> dict[str, Any]:
    return {"class_name": "constant", "config": {"value": value}}


BOUNDED: dict[str, Any] = {
    "layers": [
        {
            "type": "dense",
            "units": 8,
            "kernel_initializer": constant(3),
            "kernel_constraint": "max_norm",
            "bias_initializer": constant(-1),
            "bias_constraint": "non_neg",
        },
        {
            "type": "batch_norm",
            "gamma_initializer": constant(-1),
            "gamma_constraint": "non_neg",
            "beta_initializer": constant(3),
            "beta_constraint": {"class_name": "min_max_norm", "config": {"min_value": 0.1, "max_value": 0.5}},
        },
        OUTPUT,
    ]
}
"""All begin far outside their bounds, where a run without projections would leave them."""


def test_constraints_hold_after_each_step(tmp_path: Path) -> None:
    training = {"epochs": 2, "optimizer": {"name": "sgd", "learning_rate": 1.0}}
    job = job_of(tmp_path, network=BOUNDED, training=training, checkpoint_seconds=0.0)
    kept = run(job).of(messages.Checkpoint)
    assert len(kept) > 10
    for checkpoint in kept:
        weights, state = (load_file(checkpoint.path / name) for name in (results.WEIGHTS, results.STATE))
        assert weights["dense.kernel"].norm(dim=1).max() <= 2.0001
        assert weights["dense.bias"].min() >= 0
        assert state["0.gamma"].min() >= 0
        assert 0.0999 <= state["0.beta"].norm() <= 0.5001


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_parameters_and_statistics_are_float32_in_either_precision(tmp_path: Path, precision: str) -> None:
    run_of = run(job_of(tmp_path, network=trainings.EVERYTHING, training={"precision": precision}))
    folder = run_of.of(messages.Done)[0].path
    tensors = load_file(folder / results.WEIGHTS) | load_file(folder / results.STATE)
    assert {"batch_norm.renorm_mean", "batch_norm.renorm_stddev", "batch_norm.moving_stddev"} <= tensors.keys()
    assert {each.dtype for each in tensors.values()} == {torch.float32}


def test_cold_moving_statistics_are_warned_of(tmp_path: Path) -> None:
    network = {"layers": [{"type": "batch_norm", "momentum": 0.99}, {"type": "dense", "units": "classes"}]}
    link = run(job_of(tmp_path, network=network, training={"max_steps": 20}))
    (warning,) = link.of(messages.Warned)
    assert warning.code == "moving_statistics_cold"
    assert "82% of the moving statistics of 'batch_norm'" in warning.message
    assert "at most 0.861" in warning.message
    assert results.read(link.of(messages.Done)[0].path)[0].warnings[0].message == warning.message


def test_momentum_of_1_is_not_told_to_train_longer(tmp_path: Path) -> None:
    network = {"layers": [NORM_FIRST["layers"][0] | {"momentum": 1}, OUTPUT]}
    (warning,) = run(job_of(tmp_path, network=network)).of(messages.Warned)
    assert warning.code == "moving_statistics_cold"
    assert warning.message.endswith("Write a momentum below 1, such as 0.99.")


@pytest.mark.parametrize("why", ["pause", "drain"])
def test_stopped_run_leaves_a_checkpoint_from_which_it_goes_on(tmp_path: Path, why: messages.StopReason) -> None:
    job = job_of(tmp_path / "job")
    undisturbed = run(job)

    def stop(link: RecordingLink, report: messages.Report) -> None:
        if isinstance(report, messages.MetricsRow) and report.epoch == 2:
            link.stop = why

    link = run(again(job, tmp_path / "stopped"), RecordingLink(stop))
    (stopped,) = link.of(messages.Stopped)
    assert (stopped.why, stopped.step) == (why, 19)  # one step into epoch 3
    assert stopped.checkpoint is not None
    resumed = run(again(job, tmp_path / "resumed", resume=stopped.checkpoint))
    assert content(resumed.of(messages.Done)[0].path) == content(undisturbed.of(messages.Done)[0].path)
    assert epochs(resumed) == epochs(undisturbed)[2:]


def test_run_that_is_stopped_while_it_validates_goes_on_with_the_validation(tmp_path: Path) -> None:
    job = job_of(tmp_path / "job", training={"early_stopping": {"patience": 1}})
    undisturbed = run(job)

    class StoppedAtTheEpochsEnd(RecordingLink):
        checks = 0

        def check(self) -> None:
            self.checks += 1
            if self.checks == 2:  # the first is after the first step, the second in the validation of epoch 1
                self.stop = "drain"
            super().check()

    link = StoppedAtTheEpochsEnd()
    run(again(job, tmp_path / "stopped"), link)
    (stopped,) = link.of(messages.Stopped)
    assert stopped.step == 9
    resumed = run(again(job, tmp_path / "resumed", resume=stopped.checkpoint))
    assert content(resumed.of(messages.Done)[0].path) == content(undisturbed.of(messages.Done)[0].path)
    assert epochs(resumed) == epochs(undisturbed)


def test_cancelled_run_leaves_nothing(tmp_path: Path) -> None:
    def cancel(link: RecordingLink, report: messages.Report) -> None:
        if isinstance(report, messages.Progress):
            link.stop = "cancel"

    job = job_of(tmp_path)
    link = run(job, RecordingLink(cancel))
    (stopped,) = link.of(messages.Stopped)
    assert (stopped.why, stopped.checkpoint) == ("cancel", None)
    assert not list(job.scratch.iterdir())


def rewritten(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """A JSON object in a file, changed."""
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def without(path: Path, key: str) -> None:
    tensors = load_file(path)
    del tensors[key]
    save_file(tensors, path)


DAMAGES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "weights cut off": ("weights.safetensors", cut, "is no whole safetensors file"),
    "weights gone": ("weights.safetensors", Path.unlink, "which is not there"),
    "a weight gone": ("weights.safetensors", lambda path: without(path, "dense.kernel"), "dense.kernel"),
    "statistics gone": ("state.safetensors", lambda path: without(path, "0.moving_mean"), "moving_mean"),
    "optimizer cut off": ("optimizer.safetensors", cut, "is no whole safetensors file"),
    "best gone": ("best.safetensors", Path.unlink, "which is not there"),
    "random state gone": ("random.safetensors", lambda path: without(path, "cpu"), "which has no key 'cpu'"),
    "position gone": ("training.json", Path.unlink, "which is not there"),
    "position cut off": ("training.json", cut, "Invalid JSON"),
    "step gone": ("training.json", lambda path: rewritten(path, lambda held: held.pop("step")), "key step: Field"),
    "a sum that is none": (
        "training.json",
        lambda path: rewritten(path, lambda held: held["sums"].update(rows="many")),
        "key sums.rows: Input should be a valid integer",
    ),
    "no number of a format": (
        "training.json",
        lambda path: rewritten(path, lambda held: held.update(format="new")),
        "key format: Input should be a valid integer",
    ),
}


@pytest.mark.parametrize(("name", "damage", "said"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_checkpoint_is_refused_in_a_line_that_names_the_file(
    tmp_path: Path, name: str, damage: Callable[[Path], Any], said: str
) -> None:
    job = job_of(tmp_path / "job", training={"early_stopping": {}, "epochs": 2}, checkpoint_seconds=0.0)
    checkpoint = run(job).of(messages.Checkpoint)[11].path
    damage(checkpoint / name)
    (failed,) = run(again(job, tmp_path / "resumed", resume=checkpoint)).of(messages.Failed)
    assert failed.code == "checkpoint_unreadable"
    assert failed.message.startswith(
        f"The checkpoint {checkpoint.name} must be complete and unchanged. Received: {name}, "
    )
    assert said in failed.message
    assert len(failed.message) < 300
    assert "\n" not in failed.message
    assert "pydantic" not in failed.message


def of_the_first_format(held: dict[str, Any]) -> None:
    """training.json as it was before it said its format."""
    sums = held.pop("sums")
    held |= {"rows": sums["rows"], "loss_sum": sums["loss"], "score_sum": sums["score"]}
    del held["format"]
    for layer in held["layers"]:
        del layer["skipped"], layer["single"]


@pytest.mark.parametrize(
    ("change", "found"),
    [(of_the_first_format, 1), (lambda held: held.update(format=3, more={"of": "it"}), 3)],
    ids=["older", "newer"],
)
def test_run_begins_again_where_another_version_wrote_the_checkpoint(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], found: int
) -> None:
    job = job_of(tmp_path / "job", checkpoint_seconds=0.0)
    undisturbed = run(job)
    checkpoint = undisturbed.of(messages.Checkpoint)[12]
    rewritten(checkpoint.path / checkpoints.TRAINING, change)
    link = run(again(job, tmp_path / "resumed", resume=checkpoint.path))
    warning, *others = link.of(messages.Warned)
    assert others == undisturbed.of(messages.Warned)
    assert warning.code == "checkpoint_of_another_version"
    assert warning.message == (
        f"The checkpoint ckpt-{checkpoint.step} was written by another version of gammabeta (format {found}; this one "
        "has 2), and the run began again: the steps made before are made once more."
    )
    assert [each.resumed_at for each in link.of(messages.Started)] == [0]
    assert epochs(link) == epochs(undisturbed)
    assert content(link.of(messages.Done)[0].path) == content(undisturbed.of(messages.Done)[0].path)


def test_checkpoint_holds_no_pickle(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint_seconds=0.0, training={"early_stopping": {}})
    names = {path.name for path in run(job).of(messages.Checkpoint)[-1].path.iterdir()}
    assert names == {
        "weights.safetensors",
        "state.safetensors",
        "optimizer.safetensors",
        "random.safetensors",
        "best.safetensors",
        "training.json",
    }


def test_metrics_come_by_epoch_with_all_their_names(tmp_path: Path) -> None:
    link = run(job_of(tmp_path, training={"clip_norm": 1.0}))
    rows = [row for row in link.of(messages.MetricsRow) if "val_loss" in row.values]
    assert [(row.step, row.epoch) for row in rows] == [(9, 1), (18, 2), (27, 3)]
    assert rows[0].values.keys() == {
        "loss", "accuracy", "learning_rate", "grad_norm", "samples_per_second", "val_loss", "val_accuracy",
    }  # fmt: skip
    last = link.of(messages.Progress)[-1]
    assert (last.step, last.steps, last.epoch, last.epochs, last.fraction) == (27, 27, 3, 3, 1.0)
