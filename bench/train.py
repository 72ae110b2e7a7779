"""Training throughput: a job of the service beside a hand-written PyTorch loop and Keras' `fit`, turn by turn.

    scripts/bench train [--n 5] [--epochs 3] [--keras .venv-keras/bin/python]     needs mnist.npz in GAMMABETA_TEST_DATA

Dense(64) + batch norm + ReLU + softmax on MNIST, batches of 32, adam. The hand-written loop has all rows as float32
tensors in memory, one thread, torch's own BatchNorm1d and fused adam, and does nothing but train: no metrics, no
progress, no way to stop. The job goes over HTTP to a running `gammabeta up`, as every job does. Each figure is rows a
second of the last epoch of a run; a ratio compares runs that followed each other. Keras runs in an interpreter of its
own: `python3 -m venv .venv-keras && .venv-keras/bin/pip install tensorflow-cpu`.

Beside that: the time from POST to the first training step, with a worker that has run a job before.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.acceptance.stack import Stack, running

BATCH = 32
NETWORK: dict[str, Any] = {
    "layers": [
        {"type": "flatten"},
        {"type": "dense", "units": 64},
        {"type": "batch_norm"},
        {"type": "activation", "function": "relu"},
        {"type": "dense", "units": "classes"},
        {"type": "activation", "function": "softmax"},
    ]
}
KERAS_FIT = Path(__file__).with_name("reference") / "keras_fit.py"


def main() -> None:
    """Measure and print."""
    options = _options()
    torch.set_num_threads(1)
    with np.load(options.data, allow_pickle=False) as arrays:
        x, y = torch.from_numpy(arrays["x_train"]), torch.from_numpy(arrays["y_train"].astype(np.int64))
    floats = x.float().div_(255).flatten(1)
    against_loop, against_keras, waits = [], [], []
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "home") as stack:
        stack.upload(options.data.read_bytes(), name="mnist", format="npz")
        job_rate(stack, 1)  # the worker is warm from here on
        for turn in range(1, options.n + 1):
            ours, wait = job_rate(stack, options.epochs)
            loop = loop_rate(floats, y, options.epochs)
            line = f"{turn}: job {ours:,.0f} rows/s, loop {loop:,.0f}, ratio {ours / loop:.3f}; first step {wait:.2f} s"
            against_loop.append(ours / loop)
            waits.append(wait)
            if options.keras:
                keras = keras_rate(options.keras, options.data, options.epochs)
                against_keras.append(ours / keras)
                line += f"; Keras {keras:,.0f}, ratio {ours / keras:.2f}"
            print(line, flush=True)
    report("job / loop", against_loop, "target >= 0.9")
    report("job / Keras' fit", against_keras, "target >= 2.5")
    report("POST to first step, seconds", waits, "target <= 1")


def report(what: str, values: list[float], target: str) -> None:
    if values:
        print(
            f"{what}: median {median(values):.3f}, {min(values):.3f} to {max(values):.3f}, n={len(values)} ({target})"
        )
    else:
        print(f"{what}: not run")


def job_rate(stack: Stack, epochs: int) -> tuple[float, float]:
    """Rows a second of the job's last epoch; seconds from POST to the first step."""
    training = {"epochs": epochs, "batch_size": BATCH, "validation_fraction": 0}
    began = datetime.now().astimezone()
    job = stack.submit(dataset="mnist", model="mnist", network=NETWORK, training=training)
    done = stack.finished(job)
    if done["status"] != "succeeded":
        raise SystemExit(f"the job must succeed. Received: {done}")
    query = {"names": "samples_per_second", "max_points": 500}
    (series,) = stack.http.get(f"/v1/jobs/{job}/metrics", params=query).json()["series"]
    last = [rate for rate, epoch in zip(series["value"], series["epoch"], strict=True) if rate and epoch == epochs]
    events = stack.http.get(f"/v1/jobs/{job}/events", params={"limit": 100}).json()["data"]
    started = next(datetime.fromisoformat(each["created_at"]) for each in events if each["type"] == "started")
    return len(last) / sum(1 / rate for rate in last), (started - began).total_seconds()


def loop_rate(x: Tensor, y: Tensor, epochs: int) -> float:
    """Rows a second of the last epoch of the loop that one would write by hand."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(64, eps=1e-3, momentum=0.01)
    network = nn.Sequential(nn.Linear(784, 64), norm, nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    seconds = 0.0
    for _ in range(epochs):
        began = perf_counter()
        order = torch.randperm(len(x))
        for start in range(0, len(x), BATCH):
            rows = order[start : start + BATCH]
            loss = nn.functional.cross_entropy(network(x[rows]), y[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
        seconds = perf_counter() - began
    return len(x) / seconds


def keras_rate(python: Path, data: Path, epochs: int) -> float:
    """Rows a second of the last epoch of Keras' fit, in the interpreter that has Keras."""
    command = [str(python), str(KERAS_FIT), str(data), str(BATCH), str(epochs)]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return float(done.stdout.split()[-1])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("GAMMABETA_TEST_DATA", ".")) / "mnist.npz")
    parser.add_argument("--n", type=int, default=5, help="how many turns")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of a run; the last one counts")
    parser.add_argument("--keras", type=Path, help="an interpreter that has Keras")
    return parser.parse_args()


if __name__ == "__main__":
    main()
