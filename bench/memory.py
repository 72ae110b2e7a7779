"""How much memory a 2 GB upload costs the service, and training on it the trainer.

    scripts/bench memory [--gigabytes 2]

The service's peak (VmHWM) is compared with that of a process that did nothing but `import torch, fastapi`. The
trainer's anonymous memory (RssAnon: what it copied, not what it mapped) is compared with that of a trainer on a
thousandth of the data.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.acceptance.stack import Stack, running, until

MEGABYTE = 1_000_000


def status_of(pid: int, field: str) -> int:
    """A field of /proc/PID/status, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"/proc/{pid}/status has no {field}")


def bare_import() -> int:
    """Peak memory of `import torch, fastapi`."""
    code = "import torch, fastapi; print(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout.partition("VmHWM:")[2].split()[0]) * 1024


def write_npz(path: Path, size: int) -> int:
    """Random images of 28x28 bytes with labels, `size` bytes of them, never in memory at once; how many rows."""
    rows, rng = size // 784, np.random.default_rng(0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open("x.npy", "w", force_zip64=True) as member:
            header = {"descr": "|u1", "fortran_order": False, "shape": (rows, 28, 28)}
            np.lib.format.write_array_header_1_0(member, header)
            for start in range(0, rows, 65_536):
                member.write(rng.bytes(784 * min(65_536, rows - start)))
        with archive.open("y.npy", "w") as member:
            np.lib.format.write_array(member, rng.integers(0, 10, rows, dtype=np.uint8))
    return rows


def chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block


def pid_of(stack: Stack, word: str) -> int:
    return next(pid for pid, line in stack.processes().items() if word in line)


def copied_by_trainer(stack: Stack, dataset: str) -> int:
    """The most anonymous memory that a trainer on this data set was seen with."""
    training = {"epochs": 1, "max_steps": 3_000, "batch_size": 32, "validation_fraction": 0.01}
    job = stack.submit(dataset=dataset, model="memory", network={"preset": "mlp"}, training=training)

    def trainer() -> int | None:
        events = stack.http.get(f"/v1/jobs/{job}/events", params={"limit": 100}).json()["data"]
        return next((each["data"]["pid"] for each in events if each["type"] == "started"), None)

    pid, most = until(trainer, "the trainer"), 0

    def ended() -> bool:
        nonlocal most
        try:
            most = max(most, status_of(pid, "RssAnon"))
        except (OSError, LookupError):
            return True
        return False

    until(ended, "the trainer to end", patience=600)
    done = stack.finished(job)
    if done["status"] != "succeeded":
        raise SystemExit(f"the job must succeed. Received: {done}")
    return most


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    size = int(parser.parse_args(arguments).gigabytes * 1e9)
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "home") as stack:
        big, small = Path(folder) / "big.npz", Path(folder) / "small.npz"
        rows = write_npz(big, size - 2 * size // 784)
        write_npz(small, size // 1_000)
        service, bare = pid_of(stack, "-m service"), bare_import()
        before = status_of(service, "VmHWM")
        uploaded: dict[str, Any] = stack.upload(chunks(big), name="big", format="npz")
        if uploaded["state"] != "ready":
            raise SystemExit(f"the data set must become ready. Received: {uploaded}")
        peak = status_of(service, "VmHWM")
        stack.upload(chunks(small), name="small", format="npz")
        little, much = copied_by_trainer(stack, "small"), copied_by_trainer(stack, "big")
    over = (peak - bare) / MEGABYTE
    print(f"upload of {size / 1e9:.1f} GB ({rows:,} images)")
    print(f"  import torch, fastapi           {bare / MEGABYTE:8.0f} MB")
    print(f"  the service before              {before / MEGABYTE:8.0f} MB")
    print(
        f"  the service's peak              {peak / MEGABYTE:8.0f} MB   {over:+.0f} MB over the imports (target < 150)"
    )
    print("training on it")
    print(f"  trainer, a thousandth of it     {little / MEGABYTE:8.0f} MB anonymous")
    print(f"  trainer, all of it              {much / MEGABYTE:8.0f} MB anonymous, {(much - little) / 1e6:+.0f} MB")
    return 0 if over < 150 else 1


if __name__ == "__main__":
    sys.exit(main())
