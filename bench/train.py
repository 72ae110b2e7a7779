"""Training throughput: a job of the worker beside a hand-written PyTorch loop, on the same machine, turn by turn.

    python -m bench.train                       needs mnist.npz in $GAMMABETA_TEST_DATA, or --data FILE

Dense(64) + batch norm + ReLU + softmax on MNIST, batches of 32, adam. The hand-written loop has all rows as float32
tensors in memory, one thread, torch's own BatchNorm1d and fused adam, and does nothing but train: no metrics, no
progress, no way to stop. The worker's runs in a trainer process, as every job does. Each figure is rows a second of the
last epoch of a run; the ratio compares two runs that followed each other.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import multiprocessing
import os
import statistics
import tempfile
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gammabeta.schemas.datasets import ArrayFile, Category, DatasetManifest, Feature, SplitFiles, Target
from gammabeta.schemas.jobs import TrainRequest
from gammabeta.schemas.resolution import resolve
from worker import messages, trainer

BATCH = 32


def main() -> None:
    """Measure and print."""
    options = _options()
    with np.load(options.data, allow_pickle=False) as arrays:
        x, y = arrays["x_train"], arrays["y_train"].astype(np.int64)
    torch.set_num_threads(1)
    floats = torch.from_numpy(x).float().div_(255).flatten(1), torch.from_numpy(y)
    ratios, worker = [], []
    with tempfile.TemporaryDirectory() as folder:
        manifest = _manifest(Path(folder), x, y)
        for turn in range(options.n):
            ours, theirs = (
                _worker_rate(Path(folder), turn, manifest, options.epochs),
                _loop_rate(*floats, options.epochs),
            )
            worker.append(ours)
            ratios.append(ours / theirs)
            print(f"{turn + 1}: worker {ours:,.0f} rows/s, loop {theirs:,.0f} rows/s, ratio {ratios[-1]:.3f}")
    low, high = min(ratios), max(ratios)
    print(f"worker / loop: median {statistics.median(ratios):.3f}, from {low:.3f} to {high:.3f}, n={options.n}")
    if find_spec("keras"):
        rate = _keras_rate(*(each.numpy() for each in floats))
        print(f"worker / Keras' fit: {statistics.median(worker) / rate:.2f} ({rate:,.0f} rows/s)")
    else:
        print("worker / Keras' fit: not run: Keras is not installed")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("GAMMABETA_TEST_DATA", ".")) / "mnist.npz")
    parser.add_argument("--n", type=int, default=5, help="how many pairs of runs")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of a run")
    return parser.parse_args()


def _loop_rate(x: Tensor, y: Tensor, epochs: int) -> float:
    """Rows a second of the last epoch of the loop that one would write by hand."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(784, 64), nn.BatchNorm1d(64, eps=1e-3, momentum=0.01), nn.ReLU(), nn.Linear(64, 10)
    )
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


def _keras_rate(x: NDArray[np.float32], y: NDArray[np.int64]) -> float:
    """Rows a second of the second epoch of Keras' fit, on the backend that it is set to."""
    keras = importlib.import_module("keras")  # a large thing that is measured where someone has it, and needed nowhere
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((784,)),
            layers.Dense(64),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    network.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    network.fit(x, y, batch_size=BATCH, epochs=1, verbose=0)
    began = perf_counter()
    network.fit(x, y, batch_size=BATCH, epochs=1, verbose=0)
    return len(x) / (perf_counter() - began)


def _worker_rate(folder: Path, turn: int, manifest: DatasetManifest, epochs: int) -> float:
    """Rows a second of the last epoch of a job, as the trainer reports it."""
    rates: dict[int, float] = {}
    ours, child = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=trainer.main, args=(child,))
    process.start()
    child.close()
    ours.send_bytes(messages.encode(_job(folder, turn, manifest, epochs)))
    while True:
        report = messages.decode_report(ours.recv_bytes())
        if isinstance(report, messages.MetricsRow):
            rates[report.step] = report.values["samples_per_second"] or 0.0
        if isinstance(report, messages.Failed | messages.Done):
            break
    process.join()
    if isinstance(report, messages.Failed):
        raise SystemExit(report.message)
    last = [rate for step, rate in rates.items() if step > max(rates) * (epochs - 1) / epochs]
    return len(last) / sum(1 / rate for rate in last)


def _job(folder: Path, turn: int, manifest: DatasetManifest, epochs: int) -> messages.JobFile:
    request = TrainRequest.model_validate(
        {
            "dataset": "mnist",
            "model": "mnist",
            "network": {
                "layers": [
                    {"type": "flatten"},
                    {"type": "dense", "units": 64},
                    {"type": "batch_norm"},
                    {"type": "activation", "function": "relu"},
                    {"type": "dense", "units": "classes"},
                    {"type": "activation", "function": "softmax"},
                ]
            },
            "training": {"epochs": epochs, "batch_size": BATCH},
        }
    )
    scratch = folder / f"scratch-{turn}"
    scratch.mkdir()
    files = manifest.splits["train"]
    return messages.JobFile(
        job_id=f"job_{turn}",
        fence=1,
        request=resolve(request, dataset_id="mnist", manifest=manifest).request,
        manifest=manifest,
        arrays={each.sha256: folder / f"{each.sha256}.npy" for each in (files.x, files.y)},
        scratch=scratch,
    )


def _manifest(folder: Path, x: NDArray[Any], y: NDArray[np.int64]) -> DatasetManifest:
    classes = tuple(Category(label=str(code), count=int(count)) for code, count in enumerate(np.bincount(y)))
    return DatasetManifest(
        kind="image",
        features=(Feature(name="x", kind="image", shape=x.shape[1:]),),
        target=Target(name="y", kind="class", classes=classes),
        splits={"train": SplitFiles(n=len(x), x=_stored(folder, x), y=_stored(folder, y))},
    )


def _stored(folder: Path, array: NDArray[Any]) -> ArrayFile:
    digest = hashlib.sha256(array.tobytes()).hexdigest()
    path = folder / f"{digest}.npy"
    np.save(path, array)
    return ArrayFile(sha256=digest, bytes=path.stat().st_size, dtype=str(array.dtype), shape=array.shape)


if __name__ == "__main__":
    main()
