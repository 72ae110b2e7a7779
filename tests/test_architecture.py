"""The floors: an import may only go down, never sideways between rooms, never up, and never round in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("gammabeta", "service", "worker")

GROUND = {"gammabeta.confinement", "gammabeta.errors", "gammabeta.failpoints", "gammabeta.files", "gammabeta.logs"}
ALLOWED = {
    "gammabeta.confinement": set(),
    "gammabeta.errors": set(),
    "gammabeta.exposition": {"gammabeta.logs"},
    "gammabeta.failpoints": set(),
    "gammabeta.files": {"gammabeta.errors", "gammabeta.failpoints"},
    "gammabeta.logs": set(),
    "gammabeta.images": set(),
    "gammabeta.tensorfiles": {"gammabeta.errors"},
    "gammabeta.schemas": GROUND,
    "gammabeta.store": {"gammabeta.schemas", *GROUND},
    "gammabeta.nets": {"gammabeta.schemas", *GROUND},
    "gammabeta.client": {"gammabeta.schemas", *GROUND},
    "gammabeta": {"gammabeta.client", "gammabeta.schemas", *GROUND},
    "gammabeta.cli": {"gammabeta", "gammabeta.client", "gammabeta.schemas", *GROUND},
    "gammabeta.cli.admin": {"gammabeta.store"},
    "service": {
        "gammabeta",
        "gammabeta.store",
        "gammabeta.nets",
        "gammabeta.schemas",
        "gammabeta.images",
        "gammabeta.tensorfiles",
        "gammabeta.exposition",
        *GROUND,
    },
    "worker": {
        "gammabeta.store",
        "gammabeta.nets",
        "gammabeta.schemas",
        "gammabeta.images",
        "gammabeta.tensorfiles",
        "gammabeta.exposition",
        *GROUND,
    },
}
"""What each room may import besides itself."""

FOREIGN = {
    "torch": {"gammabeta.nets", "service", "worker"},
    "onnx": {"gammabeta.nets"},
    "onnxruntime": {"service"},
    "sqlalchemy": {"gammabeta.store"},
    "alembic": {"gammabeta.store"},
    "obstore": {"gammabeta.store"},
    "polars": {"worker"},
    "PIL": {"gammabeta.images"},
    "simdjson": {"service"},
    "httpx": {"gammabeta.client"},
    "fastapi": {"service"},
    "starlette": {"service"},
    "typer": {"gammabeta.cli"},
    "prometheus_client": {"gammabeta.exposition", "service", "worker"},
    "pynvml": {"worker"},
}
"""Which rooms may import a library."""

TORCHLESS = (
    "__main__ settings supervisor slots attempts training_attempts ingestion_attempts prediction_attempts lease "
    "children publishing keeping expiring sweeping metrics gpus outbox inputs messages results ingestion "
    "deadlines leaving"
).split()
"""The supervisor, the child that reads data sets, and what they say to each other."""
STORELESS = (
    "trainer training run data checkpoints device optimizers schedules evaluation handover link preload parentage "
    "reporting stopping tally ingestion predictor predicting answer_files orders"
).split()
"""The children: no database, no keys."""


def _modules() -> dict[str, Path]:
    found = {}
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _imports(module: str, *, type_checking: bool = True) -> set[str]:
    """Every module that `module` names in an import, those inside functions included."""
    tree = ast.parse(MODULES[module].read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import at line {node.lineno}"
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                found.add(deeper if deeper in MODULES else str(node.module))
    return found


def _room(module: str) -> str:
    parts = module.split(".")
    if parts[0] != "gammabeta":
        return parts[0]
    return "gammabeta" if len(parts) == 1 else ".".join(parts[:2])


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_from_floors_below(module: str) -> None:
    room = _room(module)
    allowed = ALLOWED[room] | ALLOWED.get(module, set()) | {room}
    for name in _imports(module):
        if name.split(".")[0] in OURS:
            assert _room(name) in allowed, f"{module} ({room}) must not import {name}"


@pytest.mark.parametrize("module", MODULES)
def test_library_is_imported_only_in_its_rooms(module: str) -> None:
    for name in _imports(module):
        rooms = FOREIGN.get(name.split(".")[0])
        assert rooms is None or _room(module) in rooms, f"{module} must not import {name}"


def test_no_import_goes_round_in_a_circle() -> None:
    graph = {module: {name for name in _imports(module) if name in MODULES and name != module} for module in MODULES}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as circle:
        pytest.fail(f"a circle of imports: {' -> '.join(circle.args[1])}")


def _reached(module: str) -> set[str]:
    """Modules of ours that loading `module` loads."""
    pending, seen = [module], set()
    while pending:
        name = pending.pop()
        if name in MODULES and name not in seen:
            seen.add(name)
            pending.extend(_imports(name))
    return seen


@pytest.mark.parametrize("name", TORCHLESS)
def test_supervisor_and_ingestion_never_import_torch(name: str) -> None:
    module = f"worker.{name}"
    assert module in MODULES, f"{module} is gone: adapt TORCHLESS"
    for reached in _reached(module):
        assert "torch" not in {each.split(".")[0] for each in _imports(reached)}, f"{module} reaches torch by {reached}"


@pytest.mark.parametrize("name", STORELESS)
def test_children_never_import_the_store(name: str) -> None:
    module = f"worker.{name}"
    assert module in MODULES, f"{module} is gone: adapt STORELESS"
    assert not [reached for reached in _reached(module) if reached.startswith("gammabeta.store")]


def test_environment_is_read_in_settings_files_only() -> None:
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            reads = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
            if reads and isinstance(node.value, ast.Name) and node.value.id == "os":
                assert path.name == "settings.py", f"{module} reads os.environ at line {node.lineno}"


def test_no_file_carries_a_name_of_the_standard_library() -> None:
    for module, path in MODULES.items():
        if path.name not in ("__init__.py", "__main__.py") and _room(module) in ("service", "worker"):
            assert path.stem not in sys.stdlib_module_names, f"{path} would shadow the standard library's {path.stem}"


def test_pickle_is_on_no_path() -> None:
    forbidden = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    for module in MODULES:
        assert not forbidden & {name.split(".")[0] for name in _imports(module)}, module
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                call = ast.unparse(node.func)
                assert call not in ("torch.load", "torch.save"), f"{path}:{node.lineno} {call}"
                if call in ("np.load", "numpy.load"):
                    flags = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    assert flags.get("allow_pickle") == "False", f"{path}:{node.lineno}: allow_pickle=False"


def test_importing_the_front_door_loads_neither_torch_nor_sql() -> None:
    code = (
        "import sys, gammabeta; print(sorted({'torch', 'sqlalchemy', 'polars', 'PIL', 'fastapi'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
