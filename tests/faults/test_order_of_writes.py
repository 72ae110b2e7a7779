"""The order in which a worker, looked at by the kernel's own means, has a checkpoint on the disk: bytes, names, row."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.rig import Place
from tests.integration.workshop import Worker, until

pytestmark = pytest.mark.alone

CALLS = "openat,write,pwrite64,fsync,fdatasync,rename"


@dataclass(frozen=True)
class Call:
    """A system call that has returned."""

    name: str
    said: str

    def of(self, path: Path) -> bool:
        """Whether it was about this open file or folder."""
        return f"<{path}>" in self.said


@contextmanager
def traced(worker: Worker, log: Path) -> Iterator[None]:
    """Write down what the threads of the supervisor ask of the kernel."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    command = [strace, "-f", "-y", "-s", "5000", "-e", f"trace={CALLS}", "-o", str(log), "-p", str(worker.pid)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = process.stderr.readline()
        if "attached" not in said:
            pytest.skip(f"strace must not look at another process here: {said}")
        yield
    finally:
        process.terminate()
        process.communicate()


def calls(log: Path) -> list[Call]:
    """In the order in which they returned."""
    found, begun = [], dict[str, str]()
    for line in log.read_text(errors="replace").splitlines():
        thread, _, said = line.partition(" ")
        said = said.strip()
        if said.endswith("<unfinished ...>"):
            begun[thread] = said
        elif match := re.match(r"<\.\.\. (\w+) resumed>", said):
            found.append(Call(match[1], begun.pop(thread, "")))
        elif match := re.match(r"(\w+)\(", said):
            found.append(Call(match[1], said))
    return found


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_checkpoint_is_written_synced_named_and_synced_again_before_its_row(place: Place, tmp_path: Path) -> None:
    with place.workshop() as shop:
        worker = shop.start()
        dataset_id = shop.ready_dataset()
        shop.ended(shop.train(dataset_id, epochs=1))
        with traced(worker, tmp_path / "calls"):
            job_id = shop.endless(dataset_id)
            uri = shop.checkpoints(job_id)[-1].uri
        shop.cancel(job_id)
        shop.ended(job_id)
        made, root = calls(tmp_path / "calls"), shop.blobs.root
        until(lambda: not list((root / "jobs").glob("*")), "the checkpoints of the job to go")

    def first(name: str, *, text: str = "", path: Path | None = None, after: int = -1) -> int:
        for at, call in enumerate(made):
            if at > after and call.name in name.split("|") and text in call.said and (not path or call.of(path)):
                return at
        raise AssertionError(f"no {name} of {text}{path or ''} after call {after}")

    named = first("rename", text=f'"{root / uri}"')
    tree = Path(re.findall(r'"([^"]+)"', made[named].said)[0])
    written = {Path(each) for call in made if call.name == "write" for each in re.findall(r"<([^>]+)>", call.said)}
    files = [path for path in written if path.parent == tree]
    assert {"manifest.json", "weights.safetensors", "training.json"} <= {path.name for path in files}
    folder_synced = first("fsync", path=tree)
    for path in files:
        last_write = max(at for at, call in enumerate(made) if call.name == "write" and call.of(path))
        assert last_write < first("fsync", path=path) < folder_synced < named
    row_written = first("pwrite64", text=uri)
    assert "gammabeta.db-wal" in made[row_written].said
    for folder in ((root / uri).parent, *(root / uri).parent.parents):
        assert named < first("fsync", path=folder, after=named) < row_written
        if folder == root:
            break
    assert first("fdatasync|fsync", path=shop.home / "gammabeta.db-wal", after=row_written)
