"""Our batch norm beside the layers of Keras 3 and of Keras 2 (tf_keras), number by number.

    scripts/bench oracles [--environment ~/.cache/gammabeta/oracles] [--only renorm]

The references run in an environment of their own, which is made where it is missing (2 GB, some minutes) or lacks the
versions below. Every row of the table is a check: the outputs, gradients, penalties and weights of some training steps
and a prediction after them (`bench/oracle_cases.py`). A check for a *wrong* alternative holds when that is told apart.
Ends with 1 if any check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from pydantic import TypeAdapter

from bench.oracle_cases import CASES, Array, Arrays, Case, Wrong, drawn
from gammabeta.nets.batchnorm import BatchNorm
from gammabeta.nets.build import build_network
from gammabeta.nets.penalties import penalty_of
from gammabeta.nets.projections import projections_of
from gammabeta.schemas.networks import LayersNetwork
from gammabeta.schemas.plans import plan_network
from gammabeta.schemas.preprocessing import FittedArray
from gammabeta.schemas.training import Optimizer
from worker.optimizers import optimizer_for

REFERENCE = Path(__file__).with_name("reference") / "keras_layers.py"
PINNED = {"keras": "3.15.1", "tensorflow-cpu": "2.21.0", "tf_keras": "2.21.0"}
TITLES = {"keras1": "Keras 2, v1 layer", "keras2": "Keras 2", "keras3": "Keras 3"}
RELATIVE, ABSOLUTE = 2e-5, 3e-6
ALONE = {
    "KERAS_BACKEND": "tensorflow",
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
}
"""One thread, no GPU, no chatter."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A row of the table."""

    case: str
    reference: str
    difference: float
    held: bool
    verdict: str


def main() -> None:
    """Run the cases on both sides and print the table."""
    options = _options()
    torch.set_num_threads(1)
    cases = [case for case in CASES if options.only in case.name]
    if not cases:
        sys.exit(f"--only must be in the name of a case. Received: {options.only}")
    python = environment(options.environment)
    answers = ask(python, cases)
    versions = {"torch": torch.__version__} | installed(python)
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    print("\n| case | reference | largest difference | verdict |\n| --- | --- | --- | --- |")
    checks = [check for index, case in enumerate(cases) for check in checked(case, answers[index])]
    for check in checks:
        print(f"| {check.case} | {TITLES[check.reference]} | {check.difference:.1e} | {check.verdict} |")
    failures = sum(not check.held for check in checks)
    print(f"\n{len(checks)} checks, {failures} failures")
    sys.exit(failures > 0)


def environment(folder: Path) -> Path:
    """The interpreter of the environment in `folder`, which has the pinned versions from here on."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"Making {folder} …", file=sys.stderr)
        _run(sys.executable, "-m", "venv", folder)
    if any(installed(python).get(name) != version for name, version in PINNED.items()):
        print(f"Installing {', '.join(PINNED)} into {folder} (some minutes) …", file=sys.stderr)
        wanted = [f"{name}=={version}" for name, version in PINNED.items()]
        _run(python, "-m", "pip", "install", "--quiet", *wanted[:-1])
        _run(python, "-m", "pip", "install", "--quiet", "--no-deps", wanted[-1])  # it asks for the tensorflow with CUDA
    return python


def installed(python: Path) -> dict[str, str]:
    """The versions of the references, as far as they are there."""
    script = (
        "import importlib.metadata as metadata, json, sys\n"
        "there = {each.name.lower().replace('-', '_'): each.version for each in metadata.distributions()}\n"
        "print(json.dumps({name: there.get(name.replace('-', '_')) for name in sys.argv[1:]}))"
    )
    found: dict[str, str | None] = json.loads(_run(python, "-c", script, *PINNED))
    return {name: version for name, version in found.items() if version is not None}


def ask(python: Path, cases: list[Case]) -> list[dict[str, Arrays]]:
    """For each case what each of its references answers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cases.json").write_text(json.dumps([asdict(case) for case in cases], default=list))
        given = {f"{index}/{key}": value for index, case in enumerate(cases) for key, value in drawn(case).items()}
        np.savez(folder / "given.npz", **given)  # type: ignore[arg-type]
        _run(python, REFERENCE, folder)
        with np.load(folder / "answers.npz", allow_pickle=False) as answers:
            found: list[dict[str, Arrays]] = [{} for _ in cases]
            for key in answers.files:
                index, reference, quantity = key.split("/", 2)
                found[int(index)].setdefault(reference, {})[quantity] = answers[key]
    return found


def checked(case: Case, answers: dict[str, Arrays]) -> Iterator[Check]:
    """One check for each reference, and one for the wrong alternative."""
    ours = answered(case)
    for reference, theirs in answers.items():
        yield _compared(case, reference, ours, theirs)
        if case.wrong is not None:
            yield _told_apart(case, case.wrong, reference, theirs)


def answered(case: Case, *, contiguous: bool = False) -> Arrays:
    """What our layer says, by the names that the references use."""
    given, order = drawn(case), np.arange(case.batch)
    if contiguous:
        order = order.reshape(-1, case.arguments["virtual_batch_size"]).T.reshape(-1)
    back = np.argsort(order)
    ours = Ours(case, given)
    found: Arrays = {}
    for step in range(case.steps):
        of_step = ours.train(given[f"x{step}"][order], given[f"dy{step}"][order])
        found |= {f"{key}{step}": value[back] if key in ("y", "dx") else value for key, value in of_step.items()}
    return found | ours.weights() | {"prediction": ours.predict(given["shown"])}


class Ours:
    """A network of the one layer, which starts where the references start."""

    def __init__(self, case: Case, given: Arrays) -> None:
        layers = [{"type": "batch_norm", **case.arguments}, {"type": "flatten"}]
        plan = plan_network(LayersNetwork.model_validate({"layers": layers}), input_shape=case.shape, outputs=None)
        self.network = build_network(plan, FittedArray(shape=case.shape), task="number")
        self.layer = cast(BatchNorm, self.network.layers[0])
        for key, value in self._tensors().items():
            if key in given:
                value.data.copy_(torch.from_numpy(given[key]))
        self.penalty, self.projections = penalty_of(self.network), projections_of(self.network)
        self.optimizer: torch.optim.Optimizer | None = None
        if case.optimizer is not None and case.arguments.get("trainable", True):
            self.optimizer = optimizer_for(TypeAdapter(Optimizer).validate_python(case.optimizer), self.network)

    def train(self, given_x: Array, given_dy: Array) -> Arrays:
        """One step down `sum(y dy)` and the penalties."""
        x, dy = torch.from_numpy(given_x).requires_grad_(), torch.from_numpy(given_dy)
        self.network.train()
        self.network.zero_grad()
        y = self.network.logits(x).reshape(x.shape)
        penalty = torch.zeros(()) if self.penalty is None else self.penalty()
        ((y * dy).sum() + penalty).backward()  # type: ignore[no-untyped-call]
        found = {"y": y, "dx": x.grad, "penalty": penalty}
        found |= {f"d{key}": each.grad for key, each in self.layer.named_parameters()}
        arrays = {key: value.detach().numpy().copy() for key, value in found.items() if value is not None}
        if self.optimizer is not None:
            self.optimizer.step()
            for projection in self.projections:
                projection.apply()
        return arrays

    def predict(self, given_x: Array) -> Array:
        """After this the layer is in prediction mode."""
        x = torch.from_numpy(given_x)
        with torch.inference_mode():
            y: Array = self.network.eval().logits(x).reshape(x.shape).numpy()
        return y

    def weights(self) -> Arrays:
        """Parameters and statistics."""
        return {key: value.detach().numpy().copy() for key, value in self._tensors().items()}

    def _tensors(self) -> dict[str, torch.Tensor]:
        statistics = {key: getattr(self.layer, key) for key in ("moving_mean", "moving_variance")}
        return dict(self.layer.named_parameters()) | statistics | self.layer.training_buffers()


def _compared(case: Case, reference: str, ours: Arrays, theirs: Arrays) -> Check:
    if ours.keys() != theirs.keys():
        raise SystemExit(f"{case.name}: {sorted(ours.keys() ^ theirs.keys())} are on one side only")
    differ = {key for key in ours if not _agree(ours[key], theirs[key])}
    verdict = "the same"
    if case.differs:
        verdict = f"the same but for {', '.join(sorted(case.differs))}, on purpose: {case.because}"
    if failed := differ ^ case.differs:
        verdict = f"FAILED: {', '.join(sorted(failed))}"
    largest = max(_difference(ours[key], theirs[key]) for key in ours.keys() - case.differs)
    return Check(case=case.name, reference=reference, difference=largest, held=not failed, verdict=verdict)


def _told_apart(case: Case, wrong: Wrong, reference: str, theirs: Arrays) -> Check:
    other = replace(case, arguments={**case.arguments, **wrong.arguments})
    key = wrong.of
    ours = answered(other, contiguous=wrong.contiguous)[key]
    difference = _difference(ours, theirs[key])
    held = np.isfinite(difference) and not _agree(ours, theirs[key])
    return Check(
        case=f"{case.name}: {wrong.name} is wrong",
        reference=reference,
        difference=difference,
        held=bool(held),
        verdict=f"{key} differs, as it must" if held else f"FAILED: {key}",
    )


def _agree(ours: Array, theirs: Array) -> bool:
    return ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=RELATIVE, atol=ABSOLUTE)


def _difference(ours: Array, theirs: Array) -> float:
    return float(np.max(np.abs(ours - theirs))) if ours.shape == theirs.shape else float("inf")


def _run(*command: str | Path) -> str:
    """What a command prints; its complaint ends this one."""
    done = subprocess.run(
        [str(each) for each in command], capture_output=True, text=True, check=False, env=os.environ | ALONE
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path.home() / ".cache" / "gammabeta" / "oracles"
    parser.add_argument("--environment", type=Path, default=cache, help=f"where the references are ({cache})")
    parser.add_argument("--only", default="", metavar="WORD", help="only the cases with this word in their name")
    return parser.parse_args()


if __name__ == "__main__":
    main()
