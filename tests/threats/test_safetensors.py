"""Row 4: malformed model files. Whoever reads safetensors is given the tensors, or `ArtifactCorrupt`, and lives."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from gammabeta import tensorfiles
from gammabeta.errors import ArtifactCorrupt
from tests.test_architecture import MODULES, ROOT

GOOD = {"dense.kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "step": np.array(7), "empty": np.zeros((0, 2))}
MIB = 1 << 20

FUZZ = """
import os, random, struct
from pathlib import Path
import numpy as np
from safetensors.numpy import load_file, save
from gammabeta import tensorfiles
from gammabeta.errors import ArtifactCorrupt

random.seed(20260101)
memory = os.memfd_create("weights")
path = Path(f"/proc/self/fd/{memory}")
good = save({f"layer_{n}.kernel": np.ones((3, 5), np.float32) for n in range(20)} | {"step": np.array(7)})
header = struct.unpack("<Q", good[:8])[0]
numbers = [0, 1, 7, 2**20, 2**31, 2**32 - 1, 2**53, 2**63, 2**64 - 1]

def mutated():
    data = bytearray(good)
    for _ in range(random.choice((1, 1, 2, 8))):
        where = random.randrange(8 + header) if random.random() < 0.8 else random.randrange(len(data))
        match random.randrange(6):
            case 0: data[where % len(data)] = random.randrange(256)
            case 1: del data[where:]
            case 2: data[:8] = struct.pack("<Q", random.choice(numbers))
            case 3: data += bytes(random.randrange(1, 100))
            case 4: data[where:where + 1] = str(random.choice(numbers)).encode()
            case 5: data[where:where] = data[8 : 8 + random.randrange(200)]
        if not data:
            break
    return bytes(data)

def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024

def tried(data):
    os.ftruncate(memory, 0)
    os.pwrite(memory, data, 0)
    try:
        tensorfiles.read(path, load_file)
    except ArtifactCorrupt:
        return False
    return True

assert tried(good)
before = peak()
taken = sum(tried(mutated()) for _ in range(5_000))
print(taken, peak() - before)
"""


def test_5_000_mutated_files_are_refused_or_read_and_take_no_memory() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", FUZZ], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    taken, growth = map(int, done.stdout.split())
    assert taken < 1_500  # those whose values were changed, and not their place
    assert growth <= 64 * MIB


def file(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(begin: Any, end: Any, *, shape: Any = (1,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


MANY = {f"t{number}": tensor(0, 0, shape=[0]) for number in range(tensorfiles.MAX_TENSORS + 1)}
UNSOUND: dict[str, bytes] = {
    "nothing": b"",
    "a header of 100 MB": (100 * MIB).to_bytes(8, "little") + b"{}",
    "a header over the cap, and there": file(b"{}" + b" " * MIB),
    "a header longer than the file": (500).to_bytes(8, "little") + b"{}",
    "a header of 2**64": b"\xff" * 8,
    "no object": file([]),
    "no tensors but numbers": file({"a": 1}),
    "half a header": file(b'{"a":'),
    "deep": file(b'{"a":' + b"[" * 100_000),
    "more tensors than any network has": file(MANY),
    "overlapping": file({"a": tensor(0, 4), "b": tensor(0, 4)}, bytes(4)),
    "overlapping by half": file({"a": tensor(0, 4), "b": tensor(2, 6)}, bytes(6)),
    "a hole": file({"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12)),
    "beyond the end": file({"a": tensor(0, 4)}, bytes(3)),
    "backwards": file({"a": tensor(4, 0)}, bytes(4)),
    "negative": file({"a": tensor(-4, 0)}, bytes(4)),
    "a pickle behind it": file({"a": tensor(0, 4)}, bytes(4) + b"\x80\x04."),
    "a zip behind it": file({"a": tensor(0, 4)}, bytes(4) + b"PK\3\4"),
    "another shape than bytes": file({"a": tensor(0, 4, shape=[2])}, bytes(4)),
    "a shape beyond 64 bits": file({"a": tensor(0, 0, shape=[2**63, 2, 0])}),
    "a shape of many": file({"a": tensor(0, 4, shape=[1] * 10_000)}, bytes(4)),
    "a shape of truths": file({"a": tensor(0, 4, shape=[True])}, bytes(4)),
    "a shape of text": file({"a": tensor(0, 4, shape="1")}, bytes(4)),
    "a dtype of objects": file({"a": tensor(0, 8, dtype="O")}, bytes(8)),
    "no dtype": file({"a": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "no offsets": file({"a": {"shape": [1], "dtype": "F32"}}, bytes(4)),
    "three offsets": file({"a": {"shape": [1], "dtype": "F32", "data_offsets": [0, 4, 8]}}, bytes(4)),
}


@pytest.mark.parametrize("what", UNSOUND)
def test_an_unsound_file_is_refused_before_the_library_has_it(tmp_path: Path, what: str) -> None:
    path = tmp_path / "weights"
    path.write_bytes(UNSOUND[what])

    def never(path: Path) -> dict[str, Any]:
        raise AssertionError("the library was given it")

    with pytest.raises(ArtifactCorrupt, match="weights is no whole safetensors file"):
        tensorfiles.read(path, never)


def test_a_sound_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(save(GOOD, {"digest": "sha256:0"}))
    found = tensorfiles.read(path, load_file)
    assert found.keys() == GOOD.keys()
    assert all(np.array_equal(found[name], array) for name, array in GOOD.items())


def test_the_largest_network_fits_into_the_caps() -> None:
    """1,000 layers of batch norm with renorm, the longest names, and shapes of many digits, as a checkpoint's
    `best.safetensors` holds them."""
    name = "n" * 60
    weights = [f"weights.{name}{number:04}.{slot}" for number in range(1_000) for slot in ("renorm_mean",) * 3]
    state = [f"state.{number:03}.moving_variance" for number in range(1_000) for _ in range(4)]
    shown = json.dumps(tensor(10**12, 10**12 + 4, shape=[10**6]), separators=(",", ":"))
    assert sum(len(each) + len(shown) + 4 for each in weights + state) < tensorfiles.MAX_HEADER_BYTES
    assert len(weights + state) < tensorfiles.MAX_TENSORS


@pytest.mark.parametrize("module", MODULES)
def test_the_library_is_given_no_file_by_anybody_else(module: str) -> None:
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("load_file", "safe_open", "safetensors.safe_open"), module
