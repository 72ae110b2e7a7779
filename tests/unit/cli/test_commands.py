from __future__ import annotations

import io
import json
import sys
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

import gammabeta
from gammabeta.cli.main import exit_code
from gammabeta.schemas.batchnorm import BatchNormState
from tests.unit.cli.conftest import Run
from tests.unit.client.fake_service import (
    DIGEST,
    TIME,
    FakeService,
    batchnorm_answer,
    dataset,
    job,
    layer_state,
    ok,
    page,
    prediction,
    problem,
)

JOB = {"dataset": "digits", "model": "digits", "network": {"preset": "mlp", "hidden": [64]}}
VERSION = {
    "version": "2",
    "job": "job_1",
    "dataset": "ds_1",
    "created_at": TIME,
    "metrics": {"test": {"loss": 0.1, "accuracy": 0.9725, "per_class": {}}},
    "weights_sha256": "ab",
    "batchnorm_digest": DIGEST,
}
SCORES = {split: {"loss": 0.1, "accuracy": accuracy} for split, accuracy in (("train", 0.99), ("test", 0.9725))}
COLUMNS = [
    {"kind": "numeric", "name": "age", "fill": 1.0},
    {"kind": "categorical", "name": "job", "categories": ["a"]},
]
MODEL = {"name": "digits", "versions": [VERSION], "aliases": {"production": "2"}, "created_at": TIME}


def version(**other: Any) -> dict[str, Any]:
    """A version whose rows have the columns `age` and `job`."""
    return {
        **VERSION,
        "model": "census",
        "network": {"layers": [{"type": "dense", "units": 2}]},
        "preprocessing": {"kind": "table", "columns": COLUMNS},
        "classes": ["0", "1"],
        "parameters": 1,
        **other,
    }


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (gammabeta.JobFailed(), 1),
        (gammabeta.JobNotFound(), 1),
        (gammabeta.WrongState(), 1),
        (gammabeta.ServiceFault(), 1),
        (gammabeta.InvalidRequest(), 2),
        (gammabeta.NotSupported(), 2),
        (gammabeta.MalformedRequest(), 2),
        (gammabeta.ServiceUnreachable(), 3),
        (gammabeta.NotReady(), 3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes_tell_failed_from_wrong_from_unreachable(error: gammabeta.GammabetaError, code: int) -> None:
    assert exit_code(error) == code


def test_without_a_service_there_is_one_readable_line_and_no_traceback(run: Run) -> None:
    ran = run("jobs", "list", "--url", "http://127.0.0.1:1")
    assert ran.code == 3
    assert ran.out == ""
    assert ran.err.count("\n") == 1
    assert "gammabeta up" in ran.err


def test_a_wrong_option_is_a_usage_error(run: Run) -> None:
    assert run("jobs", "list", "--no-such-option").code == 2


def test_help_names_every_command(run: Run) -> None:
    ran = run("--help")
    words = "up demo datasets train jobs models predict predict-dataset batchnorm db version".split()
    assert [word for word in words if f" {word} " not in ran.out] == []


def test_version_says_both(run: Run, service: FakeService) -> None:
    service.on("GET", "/readyz", ok({}))
    service.on("GET", "/v1/version", ok({"version": "0.1.0"}))
    assert run("version").out.splitlines()[0] == f"client   {gammabeta.__version__}"


@pytest.mark.parametrize("command", [["jobs"], ["jobs", "list"], ["jobs", "--limit", "3"]], ids=" ".join)
def test_jobs_are_listed(run: Run, service: FakeService, command: list[str]) -> None:
    service.on("GET", "/v1/jobs", page(job("running", progress={"fraction": 0.425})))
    ran = run(*command)
    assert ran.code == 0
    assert all(word in ran.out for word in ("job_1", "train", "digits", "running", "42%"))


def test_an_empty_list_says_so(run: Run, service: FakeService) -> None:
    service.on("GET", "/v1/jobs", page())
    assert "No jobs yet" in run("jobs").out


@pytest.mark.parametrize(
    ("command", "path", "entry"),
    [
        ("jobs", "/v1/jobs", job()),
        ("datasets", "/v1/datasets", dataset()),
        ("models", "/v1/models", {**MODEL, "id": ""}),
    ],
)
def test_lists_are_json_for_programs(
    run: Run, service: FakeService, command: str, path: str, entry: dict[str, Any]
) -> None:
    service.on("GET", path, page(entry))
    listed = run(command, "list", "--json")
    assert len(json.loads(listed.out)) == 1
    assert run(command, "--json") == listed


@pytest.mark.parametrize(
    ("verb", "after", "words"),
    [
        ("cancel", "cancelling", "job_1 is cancelling."),
        ("pause", "running", "gammabeta jobs resume job_1"),
        ("resume", "retrying", "job_1 is retrying."),
        ("retry", "retrying", "job_1 is retrying."),
    ],
)
def test_what_is_asked_of_a_job_says_how_it_is(
    run: Run, service: FakeService, verb: str, after: str, words: str
) -> None:
    service.on("POST", f"/v1/jobs/job_1/{verb}", ok(job(after), 202))
    ran = run("jobs", verb, "job_1")
    assert (ran.code, ran.out) == (0, "")
    assert words in ran.err


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume", "retry"])
def test_what_the_state_forbids_is_one_line_and_exit_code_one(run: Run, service: FakeService, verb: str) -> None:
    service.on("POST", f"/v1/jobs/job_1/{verb}", problem(409, "wrong_state", "This one is succeeded."))
    ran = run("jobs", verb, "job_1")
    assert (ran.code, ran.out, ran.err) == (1, "", "This one is succeeded.\n")


WORKER = {
    "id": "box-1-abc",
    "hostname": "box",
    "pid": 1,
    "slots": [{"name": "train-0", "device": "cuda:0", "job": "job_1"}, {"name": "light", "device": "cpu"}],
    "started_at": TIME,
    "last_heartbeat": TIME,
    "silent": False,
}


def asked(service: FakeService, method: str) -> list[str]:
    return [request.url.path for request in service.requests if request.method == method]


def test_a_version_and_a_job_are_deleted_at_once(run: Run, service: FakeService) -> None:
    service.on("DELETE", "/v1/models/digits/versions/2", httpx.Response(204))
    service.on("DELETE", "/v1/jobs/job_1", httpx.Response(204))
    assert run("models", "delete", "digits", "2").err == "Deleted version 2 of digits.\n"
    assert run("jobs", "delete", "job_1").err == "Deleted job_1.\n"
    assert asked(service, "DELETE") == ["/v1/models/digits/versions/2", "/v1/jobs/job_1"]


@pytest.mark.parametrize(("said", "code", "deleted"), [("y\n", 0, True), ("n\n", 1, False), ("", 1, False)])
def test_a_whole_model_is_deleted_by_who_says_yes(
    run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch, said: str, code: int, deleted: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(said))
    service.on("GET", "/v1/models/digits", ok(MODEL))
    service.on("DELETE", "/v1/models/digits", httpx.Response(204))
    ran = run("models", "delete", "digits")
    assert (ran.code, ran.out.strip()) == (code, "")
    assert "all its versions (1)?" in ran.err
    assert bool(asked(service, "DELETE")) == deleted == ("Deleted digits." in ran.err)


def test_a_whole_model_is_deleted_unasked_with_yes(run: Run, service: FakeService) -> None:
    service.on("DELETE", "/v1/models/digits", httpx.Response(204))
    assert run("models", "delete", "digits", "--yes").err == "Deleted digits.\n"
    assert [request.method for request in service.requests] == ["DELETE"]


def test_what_is_needed_is_not_deleted_and_the_message_says_by_whom(run: Run, service: FakeService) -> None:
    service.on("DELETE", "/v1/models/digits/versions/2", problem(409, "wrong_state", "It has the alias production."))
    ran = run("models", "delete", "digits", "2")
    assert (ran.code, "alias production" in ran.err) == (1, True)


@pytest.mark.parametrize("limit", [None, 2_000_000])
def test_usage_is_shown_in_bytes(run: Run, service: FakeService, limit: int | None) -> None:
    used = {"datasets": 1_048_576, "models": 20_480, "jobs": 0, "total": 1_069_056}
    service.on("GET", "/v1/usage", ok({"bytes": used, "limit": limit}))
    rows = [line.split() for line in run("usage").out.splitlines()]
    assert ["data", "sets", "1,048,576"] in rows
    assert ["together", "1,069,056"] in rows
    assert (["limit", "2,000,000"] in rows) == (limit is not None)
    assert json.loads(run("usage", "--json").out) == {"bytes": used, "limit": limit}


def test_a_job_whose_version_was_deleted_says_which(run: Run, service: FakeService) -> None:
    service.on("GET", "/v1/jobs/job_1", ok(job("succeeded", model="digits", result={"deleted_version": "2"})))
    assert "version 2, which it made" in run("jobs", "show", "job_1").out


def test_workers_are_listed_with_what_they_run(run: Run, service: FakeService) -> None:
    service.on("GET", "/v1/workers", page(WORKER, {**WORKER, "id": "box-2-def", "silent": True}))
    lines = run("workers").out.splitlines()
    assert [line.split() for line in lines if "train-0" in line] == [["train-0", "cuda:0", "job_1"]] * 2
    assert [line for line in lines if "last heard of 2026-01-02 03:04:05 UTC" in line and "silent" in line] == [
        lines[lines.index("box-2-def") + 1]
    ]
    assert json.loads(run("workers", "--json").out)[0]["slots"][0]["job"] == "job_1"


def test_without_a_worker_it_is_said_that_jobs_wait(run: Run, service: FakeService) -> None:
    service.on("GET", "/v1/workers", page())
    assert "jobs wait" in run("workers").out


def test_an_option_of_the_list_is_never_lost_before_another_command(run: Run) -> None:
    assert run("jobs", "--json", "show", "job_1").code == 2


def test_show_says_why_a_job_failed(run: Run, service: FakeService) -> None:
    service.on("GET", "/v1/jobs/job_1", ok(job("failed", error={"code": "diverged", "message": "loss is NaN"})))
    ran = run("jobs", "show", "job_1")
    assert (ran.code, "diverged: loss is NaN" in ran.out) == (0, True)


@pytest.mark.parametrize("command", ["show", "wait"])
def test_a_job_that_stopped_early_says_which_epoch_was_published(run: Run, service: FakeService, command: str) -> None:
    told = [
        {"type": "stopped_early", "data": {"epoch": 7, "best_epoch": 2, "best": 0.9}},
        {"type": "succeeded", "data": {}},
    ]
    known = {"job": "job_1", "attempt": 1, "created_at": TIME}
    stream = "".join(f"data: {json.dumps({'id': index, **known, **each})}\n\n" for index, each in enumerate(told, 1))
    request = {"training": {"early_stopping": {"patience": 5}}}
    service.on("GET", "/v1/jobs/job_1", ok(job("succeeded", version="1", request=request)))
    service.on("GET", "/v1/jobs/job_1/events", httpx.Response(200, text=stream))
    service.on("GET", "/v1/models/digits/versions/1", ok(version(metrics=SCORES)))
    ran = run("jobs", command, "job_1")
    assert "stopped early after epoch 7; the weights of epoch 2 were published" in ran.out
    assert "0.9725" in ran.out


def test_a_job_is_read_from_yaml_and_followed_to_its_end(run: Run, service: FakeService, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("dataset: digits\nmodel: digits\nnetwork: {preset: mlp, hidden: [64]}\n")
    service.on("POST", "/v1/jobs", ok(job("queued"), 202))
    service.on("GET", "/v1/jobs/job_1", ok(job("running")), ok(job("succeeded", version="1")))
    service.on("GET", "/v1/models/digits/versions/1", ok(version(metrics=SCORES)))
    ran = run("train", str(tmp_path / "job.yaml"), "--follow")
    assert ran.code == 0
    assert ["test", "0.9725", "0.1000"] in [line.split() for line in ran.out.splitlines()]
    assert "digits version 1 is published by job_1" in ran.out
    assert orjson.loads(service.requests[0].content) == JOB


def test_numbers_of_json_are_numbers_in_yaml(run: Run, service: FakeService, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("rates: [1e-3, -2E+4, 1.5e-3, 7]\nnames: [e-3, '1e-3', 1e]\n")
    service.on("POST", "/v1/jobs", ok(job("queued"), 202))
    run("train", str(tmp_path / "job.yaml"))
    sent = orjson.loads(service.requests[0].content)
    assert sent == {"rates": [0.001, -20_000, 0.0015, 7], "names": ["e-3", "1e-3", "1e"]}


def test_a_failed_job_is_exit_code_one(run: Run, service: FakeService, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(json.dumps(JOB))
    service.on("POST", "/v1/jobs", ok(job("queued"), 202))
    service.on("GET", "/v1/jobs/job_1", ok(job("failed", error={"code": "diverged", "message": "loss is NaN"})))
    ran = run("train", str(tmp_path / "job.json"), "-f")
    assert (ran.code, "diverged: loss is NaN" in ran.err) == (1, True)


def test_without_follow_the_next_command_is_told(run: Run, service: FakeService, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(json.dumps(JOB))
    service.on("POST", "/v1/jobs", ok(job("queued"), 202))
    assert "gammabeta jobs wait job_1" in run("train", str(tmp_path / "job.json")).out


def test_a_dry_run_shows_layers_and_remarks(run: Run, service: FakeService, tmp_path: Path) -> None:
    resolved = {**JOB, "network": {"layers": [{"type": "dense", "units": 2}]}, "preprocessing": {}, "training": {}}
    row = {"name": "dense", "type": "dense", "inputs": ["input"], "output_shape": [64], "parameters": 50_240}
    remark = {"field": "training", "severity": "warning", "code": "cold", "message": "will not have warmed up"}
    answer = {
        "request": {**resolved, "resources": {}, "priority": 0, "metadata": {}},
        "layers": [row],
        "parameters": 50_240,
        "memory_bytes": 2**21,
        "steps": 1_500,
        "messages": [remark],
    }
    (tmp_path / "job.json").write_text(json.dumps(JOB))
    service.on("POST", "/v1/jobs", ok(answer))
    ran = run("train", str(tmp_path / "job.json"), "--dry-run")
    assert all(
        part in ran.out for part in ("50,240", "1,500 steps", "2.0 MiB", "warning: will not have warmed up [cold]")
    )


def test_a_warning_of_a_job_has_its_code(run: Run, service: FakeService) -> None:
    warning = {"code": "batches_skipped", "message": "2 batches were not finite."}
    service.on("GET", "/v1/jobs/job_1", ok(job("succeeded", warnings=[warning])))
    assert "2 batches were not finite. [batches_skipped]" in run("jobs", "show", "job_1").out


def test_a_dry_run_says_once_what_layers_alike_will_do(run: Run, service: FakeService, tmp_path: Path) -> None:
    clipping = {"rmax": [[0, 1], [5_000, 3]], "rmin": None, "dmax": 0.5}
    said = {
        "axis": [1, 3],
        "momentum": 0.9,
        "torch_momentum": 0.1,
        "fused_effective": False,
        "variance_estimator": "renorm",
        "values_per_channel": 1_024,
        "arguments": {"momentum": 0.9, "renorm": True, "renorm_clipping": clipping},
    }
    plain = {**said, "axis": 3, "variance_estimator": "biased", "values_per_channel": 1, "arguments": {}}
    frozen = {**plain, "arguments": {"trainable": False, "scale": False}}
    row = {"type": "batch_norm", "inputs": ["input"], "output_shape": [4, 4, 3], "parameters": 24}
    layers = [{**row, "name": f"norm_{index}", "details": said} for index in range(5)]
    answer = {
        "request": {
            **JOB,
            "network": {"layers": [{"type": "dense", "units": 2}]},
            "preprocessing": {},
            "training": {},
            "resources": {},
            "priority": 0,
            "metadata": {},
        },
        "layers": [*layers, {**row, "name": "last", "details": plain}, {**row, "name": "still", "details": frozen}],
        "parameters": 120,
        "memory_bytes": 2**21,
        "steps": 1,
        "messages": [],
    }
    (tmp_path / "job.json").write_text(json.dumps(JOB))
    service.on("POST", "/v1/jobs", ok(answer))
    text = " ".join(run("train", str(tmp_path / "job.json"), "--dry-run").out.split())
    assert (
        "norm_0, norm_1, norm_2 and 2 more: axes 1 and 3, momentum 0.9 (torch: 0.1), moving variance: renorm, "
        "1,024 values per channel; renorm true, renorm_clipping (rmax [[0, 1], [5000, 3]], dmax 0.5)" in text
    )
    assert "last: axis 3, momentum 0.9 (torch: 0.1), moving variance: biased, 1 value per channel still:" in text
    assert "still: axis 3, frozen: normalizes with the moving statistics, and changes nothing; scale false" in text
    assert "changes nothing; scale false 120 parameters, 1 step, about 2.0 MiB" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [", "must be YAML or JSON"), ("- 1", "must hold an object"), (None, "can be read")],
    ids=["broken", "list", "missing"],
)
def test_a_file_that_is_no_job_is_refused_before_anything_is_sent(
    run: Run, service: FakeService, tmp_path: Path, text: str | None, said: str
) -> None:
    if text is not None:
        (tmp_path / "job.yaml").write_text(text)
    ran = run("train", str(tmp_path / "job.yaml"))
    assert (ran.code, said in ran.err, service.requests) == (2, True, [])


def test_wrong_fields_are_a_line_each(run: Run, service: FakeService, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text("{}")
    errors = [{"field": name, "message": "is required", "received": None} for name in ("dataset", "model")]
    service.on("POST", "/v1/jobs", problem(422, "invalid_request", "2 fields are wrong", *errors))
    ran = run("train", str(tmp_path / "job.json"))
    assert (ran.code, ran.err.splitlines()) == (2, ["dataset: is required", "model: is required"])


def test_upload_shows_what_was_read(run: Run, service: FakeService, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n1,x\n")
    feature = {"name": "[age]", "kind": "numeric", "missing": 3, "min": 1, "max": 9.5, "mean": 4, "std": 2}
    target = {"name": "b", "kind": "class", "classes": [{"label": "x", "count": 1}, {"label": "y", "count": 1}]}
    service.on("POST", "/v1/datasets", ok(dataset("validating"), 202))
    service.on("GET", "/v1/datasets/ds_1", ok(dataset("ready", features=[feature], target=target)))
    ran = run("datasets", "upload", str(tmp_path / "rows.csv"), "--target", "b", "--ignore", "c", "--ignore", "d")
    assert all(part in ran.out for part in ("[age]", "b (2 classes)", "8 train", "9.5"))
    assert service.requests[0].url.params["ignore"] == "c,d"


@pytest.mark.parametrize(("name", "instead"), [("rows.npz", "named x and y"), ("rows.zip", "names of their folders")])
def test_an_option_of_csv_is_refused_for_other_files(
    run: Run, service: FakeService, tmp_path: Path, name: str, instead: str
) -> None:
    (tmp_path / name).write_bytes(b"PK")
    ran = run("datasets", "upload", str(tmp_path / name), "--target", "y")
    assert (ran.code, service.requests) == (2, [])
    assert all(words in " ".join(ran.err.split()) for words in ("target: is for csv files", instead))


@pytest.mark.parametrize(("labels", "values"), [("abc", "3 categories: a, b, c"), ("abcd", "4 categories: a, b, c, …")])
def test_an_ellipsis_stands_for_categories_that_are_left_out(
    run: Run, service: FakeService, labels: str, values: str
) -> None:
    categories = [{"label": label, "count": 1} for label in labels]
    feature = {"name": "job", "kind": "categorical", "categories": categories}
    service.on("GET", "/v1/datasets/ds_1", ok(dataset(features=[feature])))
    lines = run("datasets", "show", "ds_1").out.splitlines()
    assert lines[-1].endswith(f"0  {values}")
    assert ["created", "2026-01-02", "03:04:05", "UTC"] in map(str.split, lines)


@pytest.mark.parametrize("words", [["2"], ["--version", "2"]], ids=" ".join)
def test_one_version_is_shown_with_the_scores_of_every_split(run: Run, service: FakeService, words: list[str]) -> None:
    service.on("GET", "/v1/models/census/versions/2", ok(version(metrics=SCORES)))
    rows = [line.split() for line in run("models", "show", "census", *words).out.splitlines()]
    assert ["train", "0.9900", "0.1000"] in rows
    assert ["test", "0.9725", "0.1000"] in rows


def test_a_version_is_named_once(run: Run) -> None:
    assert run("models", "show", "census", "2", "--version", "3").code == 2


def test_models_show_scores_and_aliases(run: Run, service: FakeService) -> None:
    service.on("GET", "/v1/models/digits", ok(MODEL))
    ran = run("models", "show", "digits")
    assert all(part in ran.out for part in ("accuracy 0.9725", "production → 2", "a" * 12))


def test_an_alias_is_moved(run: Run, service: FakeService) -> None:
    answer = {"model": "digits", "alias": "production", "version": "2"}
    service.on("PUT", "/v1/models/digits/aliases/production", ok(answer))
    assert "production of digits is version 2" in run("models", "alias", "digits", "production", "2").err


def shown(run: Run, service: FakeService, channels: int, *options: str, **arguments: Any) -> str:
    changed = {
        key: arguments.pop(key) for key in ("axis", "updates", "skipped", "single", "momentum") if key in arguments
    }
    state = BatchNormState((replace(layer_state(channels), **changed),))
    service.on("GET", "/v1/models/digits/versions/2/batchnorm", ok(batchnorm_answer(state, **arguments)))
    ran = run("batchnorm", "show", "digits", "--version", "2", *options)
    assert ran.code == 0
    assert max(map(len, ran.out.splitlines())) <= 80 or "--json" in options
    return ran.out


def test_few_channels_are_shown_one_by_one(run: Run, service: FakeService) -> None:
    text = shown(run, service, 3)
    assert [line.split()[0] for line in text.splitlines() if line.split()[:1] and line.split()[0].isdigit()] == [
        "0",
        "1",
        "2",
    ]
    assert "moving" in text
    assert "epsilon 0.001" in text


def test_many_channels_are_shown_by_quantiles(run: Run, service: FakeService) -> None:
    text = shown(run, service, 64)
    assert "median" in text
    assert "moving_variance" in text


def test_all_channels_are_shown_when_asked_for(run: Run, service: FakeService) -> None:
    text = shown(run, service, 64, "--all")
    numbers = [word for line in text.splitlines() for word in line.split() if word.isdigit()]
    assert {str(channel) for channel in range(64)} <= set(numbers)


def test_a_layer_that_is_cold_is_pointed_at(run: Run, service: FakeService) -> None:
    assert "37% of the moving statistics are still their initial value" in " ".join(shown(run, service, 3).split())


def test_a_layer_of_single_values_is_told_to_take_more_rows(run: Run, service: FakeService) -> None:
    text = " ".join(shown(run, service, 3, updates=0, single=40).split())
    assert "40 batches had one value per channel: the mean moved, the variance did not." in text
    assert "100% of the moving variance is still its initial value. Train with more rows in a batch." in text
    assert "Train longer" not in text


def test_a_momentum_of_1_is_not_told_to_train_longer(run: Run, service: FakeService) -> None:
    text = " ".join(shown(run, service, 3, momentum=1.0).split())
    assert "100% of the moving statistics are still their initial value. Write a momentum below 1" in text
    assert "Train" not in text


def test_one_of_a_thing_is_not_many(run: Run, service: FakeService) -> None:
    text = " ".join(shown(run, service, 1, updates=1, skipped=1, single=1).split())
    assert "1 channel on axis" in text
    assert "1 update moving" in text
    assert "1 batch was not finite" in text
    assert "1 batch had one value" in text


def test_arguments_that_are_not_at_their_defaults_are_shown(run: Run, service: FakeService) -> None:
    constraint = {"class_name": "max_norm", "config": {"axis": 0, "max_value": 2.0}}
    constant = {"class_name": "constant", "config": {"value": [0.5] * 64}}
    arguments = {"gamma_constraint": constraint, "gamma_initializer": constant, "scale": True, "trainable": False}
    text = " ".join(shown(run, service, 64, axis=(1, 2), skipped=2, **arguments).split())
    assert "64 channels on axes 1 and 2" in text
    assert "100 updates moving variance: biased; gamma_initializer constant(" in text
    assert "gamma_constraint max_norm(axis 0, max_value 2)" in text
    assert "gamma_initializer constant(value [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, … 64 in all])" in text
    assert "trainable false" in text
    assert "2 batches were not finite, and moved nothing" in text
    assert not any(f" {key} " in text for key in ("scale", "center", "fused", "renorm"))
    assert "initial value" not in text, "a frozen layer keeps them on purpose"


def test_batch_norm_is_json_for_programs(run: Run, service: FakeService) -> None:
    state = json.loads(shown(run, service, 3, "--json", axis=(1, 2), virtual_batch_size=8))
    assert state["layers"][0]["axis"] == [1, 2]
    assert state["layers"][0]["arguments"]["virtual_batch_size"] == 8
    assert len(state["layers"][0]["moving_variance"]) == 3
    assert state["layers"][0]["beta"] is None


def test_predict_reads_rows_from_a_file(run: Run, service: FakeService, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("[[1, 2], [3, 4]]")
    service.on("POST", "/v1/models/digits/predict", prediction(["1", "0"]))
    ran = run("predict", "digits", "--input", str(tmp_path / "rows.json"), "--alias", "best")
    assert "digits version 3" in ran.out
    assert orjson.loads(service.requests[0].content) == {"instances": [[1, 2], [3, 4]]}


def test_predict_reads_standard_input_and_writes_json(
    run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b'{"instances": [[1]]}'))
    monkeypatch.setattr(sys, "stdin", stdin)
    service.on("POST", "/v1/models/digits/predict", prediction(["1"]))
    answer = json.loads(run("predict", "digits", "-i", "-", "--json").out)
    assert answer["labels"] == ["1"]
    assert answer["scores"] == [[0.0, 1.0]]
    assert "values" not in answer


def test_predict_reads_a_csv_file_by_the_columns_of_the_model(run: Run, service: FakeService, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("age,job,income\n39, a,x\n,7,y\nold,,z\n")
    service.on("GET", "/v1/models/census/versions/2", ok(version()))
    service.on("POST", "/v1/models/census/predict", prediction(["1", "0", "0"]))
    ran = run("predict", "census", "-i", str(tmp_path / "rows.csv"), "--version", "2")
    assert orjson.loads(service.requests[-1].content)["instances"] == [
        {"age": 39.0, "job": " a"},
        {"age": None, "job": "7"},
        {"age": "old", "job": None},
    ]
    assert "income" in ran.err


@pytest.mark.parametrize(
    ("name", "text"),
    [("rows.csv", "job\na\n"), ("rows.json", '[{"job": "a"}, {"job": null}]')],
    ids=["csv", "records"],
)
def test_columns_that_no_row_has_are_named(
    run: Run, service: FakeService, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    service.on("GET", "/v1/models/census", ok({**MODEL, "name": "census", "aliases": {"best": "2"}}))
    service.on("GET", "/v1/models/census/versions/2", ok(version()))
    service.on("POST", "/v1/models/census/predict", prediction(["1"]))
    ran = run("predict", "census", "-i", str(tmp_path / name), "--alias", "best")
    assert ran.code == 0
    assert ran.err == "Columns that no row has, which count as missing values: age.\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("age;job\n39;a\n", "must have columns of the model in its first line: age, job. Received: age;job."),
        ("age,job\n39,a\n40\n", "Look at line 3"),
        ("age,job\n39,a,b\n", "Look at line 2"),
    ],
    ids=["another separator", "a cell too few", "a cell too many"],
)
def test_csv_file_that_does_not_fit_is_refused_before_it_is_sent(
    run: Run, service: FakeService, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "rows.csv").write_text(text)
    service.on("GET", "/v1/models/census/versions/2", ok(version()))
    ran = run("predict", "census", "-i", str(tmp_path / "rows.csv"), "--version", "2")
    assert ran.code != 0
    assert words in ran.err
    assert [each.method for each in service.requests] == ["GET"]


@pytest.mark.parametrize("name", ["x", "x_test"])
def test_predict_reads_the_rows_of_an_npz_file(run: Run, service: FakeService, tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "rows.npz", **{name: np.array([[1.0, 2.5]])}, y_test=np.array([1]))
    service.on("POST", "/v1/models/digits/predict", prediction(["1"]))
    assert run("predict", "digits", "-i", str(tmp_path / "rows.npz")).code == 0
    assert orjson.loads(service.requests[0].content) == {"instances": [[1.0, 2.5]]}


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\0", b"\xff\xd8\xff\xe0"], ids=["png", "jpeg"])
def test_predict_sends_an_image_file_as_a_row(run: Run, service: FakeService, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "scan").write_bytes(data)
    service.on("POST", "/v1/models/digits/predict", prediction(["1"]))
    assert run("predict", "digits", "-i", str(tmp_path / "scan")).code == 0
    assert orjson.loads(service.requests[0].content) == {"instances": [{"b64": b64encode(data).decode()}]}


@pytest.mark.parametrize("arrays", [{"y": [1]}, {"x": [{"a": 1}]}], ids=["no rows", "pickled"])
def test_an_npz_file_without_readable_rows_is_refused(run: Run, tmp_path: Path, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / "rows.npz", **arrays)
    ran = run("predict", "digits", "-i", str(tmp_path / "rows.npz"))
    assert (ran.code, "npz file must" in ran.err or "must be an npz file" in ran.err) == (2, True)


@pytest.mark.parametrize("text", ["{", '"rows"', "3", "{}"])
def test_input_that_is_no_list_of_rows_is_refused(run: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    ran = run("predict", "digits", "-i", str(tmp_path / "rows.json"))
    assert (ran.code, "--input must" in ran.err) == (2, True)


def test_what_the_service_says_is_never_read_as_markup(run: Run, service: FakeService) -> None:
    service.on("GET", "/v1/jobs/job_1", problem(404, "job_not_found", "no job [red]job_1[/red] [/] here"))
    assert run("jobs", "show", "job_1").err.splitlines()[0] == "no job [red]job_1[/red] [/] here"


def test_what_is_not_found_names_the_command_that_lists_what_is_there(run: Run, service: FakeService) -> None:
    service.on("GET", "/v1/models/digit", problem(404, "model_not_found", "GET /v1/models lists those that exist."))
    assert run("models", "show", "digit").err.splitlines()[-1] == "On the command line: gammabeta models"


def test_metrics_are_summed_up(run: Run, service: FakeService) -> None:
    series = {"name": "loss", "step": [1, 2, 3], "epoch": [1, 1, 1], "value": [0.5, None, 0.25]}
    service.on("GET", "/v1/jobs/job_1", ok(job()))
    service.on("GET", "/v1/jobs/job_1/metrics", ok({"job": "job_1", "series": [series]}))
    last = run("jobs", "metrics", "job_1", "--names", "loss").out.splitlines()[-1].split()
    assert last == ["loss", "3", "0.5", "0.25", "0.25", "0.5"]
