"""What computes the logits of a version, and the proof that it may.

    network ──fold──► Folded ──► onnxruntime ─┐
                             └─► torch ───────┤  compared on a probe with the network itself, in eval mode
            unfolded ──────────► torch ───────┘  the first that agrees serves

Agreeing means, row by row: max|difference| <= 1e-4 max(1, max|logit|), all of it finite, and the same label. Labels
between which the network itself hardly decides, its two logits no further apart than float32 rounds, count as the same.
What may not serve, or fails as it serves, leaves its place to the next, down to the network itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gammabeta.nets.build import Network
from gammabeta.nets.folding import Folded, Folding, fold
from gammabeta.nets.preprocessing import Preprocess
from gammabeta.schemas.preprocessing import FittedPreprocessing, FittedTable
from gammabeta.schemas.resolution import Task
from service.runtime import probing
from service.runtime.extras import has_onnx

Floats: TypeAlias = NDArray[Any]
Logits: TypeAlias = NDArray[np.float32]
Choice: TypeAlias = Literal["auto", "torch", "onnxruntime"]
Candidate: TypeAlias = "tuple[str, Callable[[], Engine]]"
"""What it is called where it is refused, and what makes it."""

TOLERANCE = 1e-4
"""Of the largest logit of a row, or of 1."""
TIE = 1e-6
"""How far apart two logits may be that are one, relative likewise: some eight roundings of float32."""


class Engine(Protocol):
    """Computes logits. Any number of threads may call it at once."""

    @property
    def name(self) -> str:
        """`torch` or `onnxruntime`."""

    @property
    def bytes(self) -> int:
        """What it holds in memory beyond the network that it was made from."""

    @property
    def training(self) -> bool:
        """Whether any part of it is in training mode."""

    def logits(self, raw: Floats) -> Logits:
        """raw: [B, *row_shape] as `instances.read` gives it, or uint8 pixels -> [B, outputs]."""


class EngineFailed(Exception):
    """An engine cannot compute this network. The message says why."""


@dataclass(frozen=True)
class Refusal:
    """An engine that does not serve, and why."""

    engine: str
    reason: str


@dataclass(frozen=True)
class Measured:
    """An engine compared with the network itself in eval mode: of all rows that which comes closest to what it may
    differ by, or exceeds it most."""

    max_difference: float
    largest_logit: float
    """Of the network itself."""
    mismatch: str | None
    """Why the engine may not serve; None where it may."""

    @property
    def tolerance(self) -> float:
        """The largest difference that is allowed."""
        return TOLERANCE * max(1.0, self.largest_logit)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The engine of a network, and what was found when it was chosen."""

    network: Network
    preprocessing: FittedPreprocessing
    engine: Engine
    max_difference: float
    largest_logit: float
    probe_rows: int
    foldings: tuple[Folding, ...]
    refusals: tuple[Refusal, ...]

    def measured_now(self) -> Measured:
        """The probe again, through the engine that serves and the network as it is in memory now.

        Raises:
            EngineFailed: the engine that serves cannot.
        """
        probe = probing.probe_of(self.preprocessing)
        return compared(self.network.task, _reference(self.network).logits(probe), self.engine.logits(probe))

    def by_the_network(self, why: EngineFailed) -> Prepared:
        """The same with the network itself in the place of its engine, which failed."""
        return replace(
            self,
            engine=_reference(self.network),
            max_difference=0.0,
            foldings=_none_of(self.foldings),
            refusals=(*self.refusals, Refusal(self.engine.name, str(why))),
        )


class TorchEngine:
    """torch itself. How many threads it takes is the calling thread's setting."""

    name = "torch"

    def __init__(self, module: Network | Folded, *, beyond: nn.Module) -> None:
        """`beyond`: the network that is in memory anyway."""
        self._module = module
        self.bytes = _bytes_beyond(module, beyond)

    @property
    def training(self) -> bool:
        """Whether any module of it is in training mode."""
        return any(module.training for module in self._module.modules())

    def logits(self, raw: Floats) -> Logits:
        """raw: [B, *row_shape] -> [B, outputs]."""
        with torch.inference_mode():
            logits: Logits = self._module(_tensor(raw)).float().numpy()
        return logits


class OnnxEngine:
    """ONNX Runtime on the CPU, in the calling thread and `threads` - 1 of its own.

    Tables go through the preprocessing of torch first, which counts in float64.

    Raises:
        EngineFailed: the network cannot be written as a graph, or the runtime does not take it.
    """

    name = "onnxruntime"
    training = False
    """A graph has no such mode."""

    def __init__(self, folded: Folded, preprocessing: FittedPreprocessing, *, threads: int) -> None:
        onnxruntime, onnx_graph = _imported()
        self._errors = _errors_of(onnxruntime)
        self._preprocess = folded.preprocess if isinstance(preprocessing, FittedTable) else None
        try:
            model = onnx_graph.onnx_model(folded, preprocessing)
            self._session = onnxruntime.InferenceSession(
                model, _session_options(onnxruntime, threads), providers=["CPUExecutionProvider"]
            )
        except onnx_graph.NoGraph as exc:
            raise EngineFailed(str(exc)) from exc
        except self._errors as exc:
            raise EngineFailed(f"it cannot take this network. {exc}") from exc
        # The session would keep the bytes that it was read from, to start anew on another device.
        self._session.disable_fallback()
        self._session._model_bytes = None
        self.bytes = len(model)

    def logits(self, raw: Floats) -> Logits:
        """raw: [B, *row_shape] -> [B, outputs]."""
        x = raw.astype(np.float32, copy=False) if self._preprocess is None else _preprocessed(self._preprocess, raw)
        try:
            logits: Logits = self._session.run(None, {"x": x})[0]
        except self._errors as exc:
            raise EngineFailed(f"it could not compute. {exc}") from exc
        return logits


def _tensor(raw: Floats) -> Tensor:
    """torch warns of arrays that nobody may write to, such as those over the bytes of a request."""
    return torch.from_numpy(raw if raw.flags.writeable else raw.copy())


def _preprocessed(preprocess: Preprocess, raw: Floats) -> Floats:
    with torch.inference_mode():
        x: Floats = preprocess(_tensor(raw)).numpy()
    return x


def _imported() -> tuple[Any, Any]:
    """ONNX Runtime and what writes its graphs. Both are optional, and half a second to load.

    Raises:
        EngineFailed: they cannot be imported, such as a library that is not for this machine.
    """
    try:
        import onnxruntime  # noqa: PLC0415

        from gammabeta.nets import onnx_graph  # noqa: PLC0415
    except (ImportError, OSError, RuntimeError, ValueError, AttributeError) as exc:
        raise EngineFailed(f"it cannot be imported. {exc}") from exc
    return onnxruntime, onnx_graph


def _session_options(onnxruntime: Any, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # A thread that spins for its next work takes a core from training and from the other predictions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # It would keep a plan for each size of a batch that it has seen.
    options.enable_mem_pattern = False
    # It would keep the memory of the largest batch that it has seen, which nobody counted.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    return options


def _errors_of(onnxruntime: Any) -> tuple[type[Exception], ...]:
    """All that it raises: its own have no root of their own, and not all are its own."""
    kinds = vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
    own = (each for each in kinds if isinstance(each, type) and issubclass(each, Exception))
    return (*own, RuntimeError, ValueError, TypeError, MemoryError)


def prepare(
    network: Network,
    preprocessing: FittedPreprocessing,
    *,
    choice: Choice = "auto",
    folded: bool = True,
    threads: int = 1,
) -> Prepared:
    """The first engine that agrees with the network, of onnxruntime, torch folded and torch as it is.

    Args:
        network: in eval mode, on the CPU.
        preprocessing: what the network's own was built from.
        choice: `torch` leaves onnxruntime out. `auto` and `onnxruntime` take it where it is installed.
        folded: whether batch norms are folded into the layers beside them.
        threads: of onnxruntime, inside one call.
    """
    if network.training:
        raise ValueError("The network must be in eval mode. Received: one in training mode. Call network.eval().")
    probe, work = probing.probe_of(preprocessing), fold(network, into_others=folded)
    candidates = _candidates(network, work, preprocessing, choice, threads)
    engine, found, refusals = _first_that_agrees(candidates, network, probe)
    return Prepared(
        network=network,
        preprocessing=preprocessing,
        engine=engine or _reference(network),
        max_difference=found.max_difference,
        largest_logit=found.largest_logit,
        probe_rows=len(probe),
        foldings=work.foldings if engine else _none_of(work.foldings),
        refusals=refusals,
    )


def compared(task: Task, expected: Logits, given: Logits) -> Measured:
    """Logits [B, outputs] of the network itself and of an engine."""
    finite = np.isfinite(expected) & np.isfinite(given)
    ours, theirs = (np.where(finite, each, 0.0).astype(np.float64) for each in (expected, given))
    apart, largest = np.abs(theirs - ours).max(axis=1), np.abs(ours).max(axis=1)
    worst = (apart / np.maximum(1.0, largest)).argmax()
    found = Measured(float(apart[worst]), float(largest[worst]), None)
    if not finite.all():
        return replace(found, mismatch="on the probe, not all logits are finite")
    return replace(found, mismatch=_mismatch(found, task, ours, theirs))


def _mismatch(found: Measured, task: Task, expected: Floats, given: Floats) -> str | None:
    if found.max_difference > found.tolerance:
        allowed = f"at most {found.tolerance:.2g} is allowed"
        return f"on the probe, its logits differ from the network's by {found.max_difference:.2g}; {allowed}"
    if task == "number":
        return None
    ours, theirs = _of_classes(task, expected), _of_classes(task, given)
    rows = np.arange(len(ours))
    behind = ours.max(axis=1) - ours[rows, theirs.argmax(axis=1)]
    others = int((behind > TIE * np.maximum(1.0, np.abs(expected).max(axis=1))).sum())
    return f"on the probe, {others} of {len(rows)} rows get another label" if others else None


def _of_classes(task: Task, logits: Floats) -> Floats:
    """One column for each class."""
    return np.concatenate((-logits, logits), axis=1) if task == "binary" else logits


def _reference(network: Network) -> TorchEngine:
    return TorchEngine(network, beyond=network)


def _candidates(
    network: Network, work: Folded, preprocessing: FittedPreprocessing, choice: Choice, threads: int
) -> Iterator[Candidate]:
    """All but the network itself, the fastest first."""
    yield "onnxruntime", partial(_onnx, work, preprocessing, choice, threads)
    if any(folding.into for folding in work.foldings):
        yield "torch, folded", partial(_torch_folded, work, preprocessing, network)


def _first_that_agrees(
    candidates: Iterable[Candidate], network: Network, probe: Floats
) -> tuple[Engine | None, Measured, tuple[Refusal, ...]]:
    """None where none does: then the network itself was compared with itself."""
    expected = _reference(network).logits(probe)
    refusals: list[Refusal] = []
    for label, build in candidates:
        try:
            engine = build()
            found = compared(network.task, expected, engine.logits(probe))
        except EngineFailed as exc:
            refusals.append(Refusal(label, str(exc)))
        else:
            if found.mismatch is None:
                return engine, found, tuple(refusals)
            refusals.append(Refusal(label, found.mismatch))
    return None, compared(network.task, expected, expected), tuple(refusals)


def _onnx(work: Folded, preprocessing: FittedPreprocessing, choice: Choice, threads: int) -> OnnxEngine:
    if choice == "torch":
        raise EngineFailed("GAMMABETA_PREDICT_ENGINE is torch")
    if not has_onnx():
        raise EngineFailed("it is not installed. Run: pip install 'gammabeta[onnx]'")
    _check_rows(preprocessing)
    return OnnxEngine(work, preprocessing, threads=threads)


def _torch_folded(work: Folded, preprocessing: FittedPreprocessing, network: Network) -> TorchEngine:
    _check_rows(preprocessing)
    return TorchEngine(work, beyond=network)


def _check_rows(preprocessing: FittedPreprocessing) -> None:
    if not probing.knows_rows(preprocessing):
        raise EngineFailed(
            "the version does not say what its rows were like, so that no probe proves anything. Train it again"
        )


def _none_of(foldings: tuple[Folding, ...]) -> tuple[Folding, ...]:
    """Of a network that serves as it is."""
    why = "the folded network does not serve"
    return tuple(replace(each, into=None, reason=why) if each.into else each for each in foldings)


def _bytes_beyond(module: nn.Module, network: nn.Module) -> int:
    """Of the tensors of a module that are not a network's."""
    shared = {tensor.data_ptr() for tensor in _tensors(network)}
    return sum(tensor.nbytes for tensor in _tensors(module) if tensor.data_ptr() not in shared)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
