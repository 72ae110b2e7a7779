"""The MNIST job on a GPU beside the same job on the CPU.

    scripts/bench gpu          needs GAMMABETA_TEST_DATA, the folder with mnist.npz

Prints samples per second of both, the largest difference of the stored batch-norm rows after 50 steps (target <= 1e-3),
and the GPU memory in use before and after (target: the same). Ends with 77 where there is no GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.acceptance.conftest import MNIST_JOB
from tests.acceptance.stack import Stack, running

NO_GPU = 77


def memory_in_use() -> int:
    """MiB on the first GPU, of all processes."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def train(stack: Stack, dataset: str, **training: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A finished job and the batch-norm rows of its version."""
    body = MNIST_JOB | {"training": MNIST_JOB["training"] | training}
    job = stack.finished(stack.submit(dataset=dataset, model="mnist", **body))
    if job["status"] != "succeeded":
        raise SystemExit(f"the job must succeed. Received: {job}")
    rows = stack.http.get(f"/v1/models/mnist/versions/{job['version']}/batchnorm").json()
    return job, rows["layers"][0]


def measure(folder: Path, mnist: Path, *, gpu: bool) -> tuple[dict[str, Any], float, str]:
    """Batch-norm rows after 50 steps, samples per second of ten epochs, and the device."""
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with running(folder) as stack:
        dataset = stack.upload(mnist.read_bytes(), name="mnist", format="npz")["id"]
        _, rows = train(stack, dataset, max_steps=50)
        job, _ = train(stack, dataset)
    return rows, job["progress"]["samples_per_second"], job["device"]


def main() -> int:
    if not torch.cuda.is_available():
        print("not run: no GPU")
        return NO_GPU
    mnist = Path(os.environ["GAMMABETA_TEST_DATA"]) / "mnist.npz"
    with tempfile.TemporaryDirectory() as folder:
        before = memory_in_use()
        on_gpu, fast, gpu = measure(Path(folder) / "gpu", mnist, gpu=True)
        after = memory_in_use()
        on_cpu, slow, cpu = measure(Path(folder) / "cpu", mnist, gpu=False)
    keys = ("gamma", "beta", "moving_mean", "moving_variance")
    difference = max(float(np.abs(np.array(on_gpu[key]) - np.array(on_cpu[key])).max()) for key in keys)
    print(f"{torch.cuda.get_device_name(0)}")
    print(f"samples/s   {gpu}: {fast:,.0f}   {cpu}: {slow:,.0f}   ratio {fast / slow:.2f}")
    print(f"rows after 50 steps differ by at most {difference:.2e} (target 1e-3)")
    print(f"GPU memory in use before {before} MiB, after {after} MiB")
    return 0 if difference <= 1e-3 and gpu.startswith("cuda") and after <= before else 1


if __name__ == "__main__":
    sys.exit(main())
