"""Versions in memory: which version a request means, and the network of it, prepared for predictions.

    Asked(project, model, version?, alias?) ──resolved, until the revision moves──► Key ──LRU by bytes──► LoadedVersion

A network is built from its spec, its weights come from a blob whose sha256 is checked, and its batch-norm state comes
from the rows and from nowhere else; the digest recomputed from the finished module must be that of the rows. Weights
that several versions have are in memory once.

When the revision moves, what was resolved before serves on until the versions that are meant now are in memory too, but
not for so long that anything older than `STALE_SECONDS` is served.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple
from weakref import WeakValueDictionary

import anyio.to_thread
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from gammabeta import logs, tensorfiles
from gammabeta.errors import ArtifactCorrupt, GammabetaError, NotFound, NotReady, TooLargeToServe
from gammabeta.nets import state
from gammabeta.nets.build import Network, build_network
from gammabeta.schemas.batchnorm import BatchNormState
from gammabeta.schemas.models import FoldedLayer, Served, UnfoldedLayer, UnusedEngine, Version
from gammabeta.schemas.preprocessing import FittedPreprocessing, FittedTable
from gammabeta.schemas.resolution import Task, plan_stored
from gammabeta.store import models
from gammabeta.store.engine import Database
from gammabeta.store.stored import Blobs
from service.runtime.computing import Computing
from service.runtime.costs import Cost, Rows
from service.runtime.counting import Statistics
from service.runtime.engines import Choice, Prepared, prepare
from service.runtime.lines import Line
from service.runtime.pacing import Pace

STALE_SECONDS = 2.0
"""No replica is behind for longer."""
MARGIN_SECONDS = 0.2
"""Of that, for an event loop that is busy just then."""
BYTES_OF_PARAMETER = 4

log = logs.get(__name__)


class Key(NamedTuple):
    """Which version it is."""

    project: str
    model: str
    version: str


class Asked(NamedTuple):
    """What a request has of it."""

    project: str
    model: str
    version: str | None
    alias: str | None

    def key(self, number: str) -> Key:
        """That of the version with this number."""
        return Key(self.project, self.model, number)


@dataclass(eq=False, kw_only=True)
class Weights:
    """Kernels and biases that are in memory once, for as long as any version has them."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Empty until the first version was loaded."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while they are read, so that two versions do not read them at once."""

    @property
    def bytes(self) -> int:
        return sum(each.nbytes for each in self.tensors.values() if isinstance(each, torch.nn.Parameter))


@dataclass(eq=False, kw_only=True)
class LoadedVersion:
    """A version whose network is in memory, in eval mode, with the engine that computes it."""

    project_id: str
    version: Version
    network: Network
    task: Task
    weights: Weights
    computing: Computing
    own_bytes: int
    """What it holds besides weights that other versions may share."""
    line: Line
    statistics: Statistics
    paces: defaultdict[object, Pace] = field(default_factory=lambda: defaultdict(Pace))
    """Of what reads its bodies and what writes its answers."""
    measuring: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by who asks what is served: each computes the probe."""

    @property
    def prepared(self) -> Prepared:
        """What serves now."""
        return self.computing.prepared

    @property
    def bytes(self) -> int:
        """What it would hold if it were alone."""
        return self.own_bytes + self.weights.bytes

    @property
    def predictions(self) -> int:
        """Rows that were answered."""
        return self.statistics.rows

    def served(self) -> Served:
        """What this process really holds: digest and difference are computed now, from the modules in memory."""
        measured = self.computing.measured_now()
        prepared = self.prepared
        return Served(
            model=self.version.model,
            version=self.version.version,
            engine=prepared.engine.name,
            max_difference=measured.max_difference,
            tolerance=measured.tolerance,
            probe_rows=prepared.probe_rows,
            mismatch=measured.mismatch,
            folded=tuple(FoldedLayer(layer=each.layer, into=each.into) for each in prepared.foldings if each.into),
            not_folded=tuple(
                UnfoldedLayer(layer=each.layer, reason=each.reason or "") for each in prepared.foldings if not each.into
            ),
            not_serving=tuple(UnusedEngine(engine=each.engine, reason=each.reason) for each in prepared.refusals),
            training=prepared.engine.training or any(module.training for module in self.network.modules()),
            digest=state.state_of(self.network).digest,
            stored_digest=self.version.batchnorm_digest,
            predictions=self.predictions,
        )


@dataclass(frozen=True, kw_only=True)
class Preparing:
    """How versions are prepared."""

    choice: Choice = "auto"
    folded: bool = True
    threads: int = 1


@dataclass(frozen=True)
class Stored:
    """A version as the database has it."""

    project_id: str
    version: Version
    state: BatchNormState

    @property
    def bytes(self) -> int:
        """The least that it takes in memory, if it shares nothing."""
        return BYTES_OF_PARAMETER * self.version.parameters


class Loader:
    """Builds versions and verifies every part of them. For any number of threads."""

    def __init__(self, database: Database, blobs: Blobs, *, limit_bytes: int, preparing: Preparing) -> None:
        self._database, self._blobs = database, blobs
        self._limit, self._preparing = limit_bytes, preparing
        self._weights: WeakValueDictionary[str, Weights] = WeakValueDictionary()
        self._lock = threading.Lock()

    def read(self, key: Key) -> Stored:
        """All of a version but its weights.

        Raises:
            ArtifactCorrupt: the state is not complete.
            TooLargeToServe: it needs more memory than all versions together may have.
        """
        with self._database.read() as session:
            row = models.get_version(session, *key)
            found = Stored(key.project, models.version_schema(row), models.batchnorm_state(session, row))
        self._check_size(found.version, found.bytes)
        return found

    def load(self, found: Stored) -> LoadedVersion:
        """The version, in eval mode, with an engine that agrees with it.

        Raises:
            ArtifactCorrupt: the weights or the state are not what was published.
            TooLargeToServe: it needs more memory than all versions together may have.
        """
        # OpenMP keeps the number for each thread, and what is measured here is to hold for those that predict.
        torch.set_num_threads(self._preparing.threads)
        version, stored = found.version, found.state
        plan, task = plan_stored(
            version.network, input_shape=version.preprocessing.input_shape, classes=version.classes
        )
        network = build_network(plan, version.preprocessing, task=task)
        weights = self._fill(network, version.weights_sha256, stored)
        network.eval()
        if state.state_of(network).digest != version.batchnorm_digest:
            raise ArtifactCorrupt(
                f"The batch-norm state of version {version.version} of '{version.model}' does not match its digest."
            )
        loaded = self._prepared(found, network, task, weights)
        self._check_size(version, loaded.bytes)
        return loaded

    def resolve(self, asked: Iterable[Asked]) -> dict[Asked, str]:
        """The numbers of the versions that are meant, of those that there are."""
        found: dict[Asked, str] = {}
        with self._database.read() as session:
            for each in asked:
                try:
                    row = models.get_version(session, *each)
                except NotFound:
                    continue
                found[each] = str(row.number)
        return found

    def number(self, asked: Asked) -> str:
        """The number of the version that is meant.

        Raises:
            ModelNotFound, VersionNotFound.
        """
        with self._database.read() as session:
            return str(models.get_version(session, *asked).number)

    def gone(self, keys: Iterable[Key]) -> frozenset[Key]:
        """Those of the versions that were deleted."""
        wanted = frozenset(keys)
        with self._database.read() as session:
            return wanted - {Key(*each) for each in models.existing(session, wanted)}

    def revision(self) -> int:
        """Moves whenever what a name means may have changed."""
        with self._database.read() as session:
            return models.revision(session)

    def _check_size(self, version: Version, size: int) -> None:
        if size > self._limit:
            raise TooLargeToServe(
                f"Version {version.version} of '{version.model}' must fit into the {self._limit:,} bytes that all "
                f"loaded versions together may have. It needs {size:,}. Raise GAMMABETA_PREDICT_MEMORY_BYTES."
            )

    def _fill(self, network: Network, sha256: str, stored: BatchNormState) -> Weights:
        with self._lock:
            weights = self._weights.setdefault(sha256, Weights())
        with weights.lock:
            if weights.tensors:
                state.load(network, weights.tensors, stored, shared=True)
            else:
                state.load(network, read_weights(self._blobs, sha256), stored)
                weights.tensors = state.live_weights(network)
        return weights

    def _prepared(self, found: Stored, network: Network, task: Task, weights: Weights) -> LoadedVersion:
        chosen, version = self._preparing, found.version
        prepared = prepare(
            network, version.preprocessing, choice=chosen.choice, folded=chosen.folded, threads=chosen.threads
        )
        computing, statistics = Computing(prepared, task, model=version.model, version=version.version), Statistics()
        size = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
        return LoadedVersion(
            project_id=found.project_id,
            version=version,
            network=network,
            task=task,
            weights=weights,
            computing=computing,
            own_bytes=size - weights.bytes + prepared.engine.bytes,
            line=Line(computing, Cost.measured(computing, partial(_blank, version.preprocessing)), statistics),
            statistics=statistics,
        )


def _blank(preprocessing: FittedPreprocessing, rows: int) -> Rows:
    """Rows to measure the time with, which does not depend on what stands in them."""
    if isinstance(preprocessing, FittedTable):
        return np.zeros((rows, len(preprocessing.columns)))
    return np.zeros((rows, *preprocessing.shape), dtype=np.float32)


def read_weights(blobs: Blobs, sha256: str) -> dict[str, Tensor]:
    """The tensors of a weights blob, once its checksum was found right.

    Raises:
        ArtifactCorrupt
    """
    return tensorfiles.read(blobs.verify(sha256, again=True), load_file)


@dataclass(frozen=True, kw_only=True)
class Move:
    """What names mean now, while the versions that they mean are being loaded."""

    replaces: dict[Asked, str]
    by: dict[Asked, str]
    gone: frozenset[Key]
    """Versions that were deleted. They serve until what replaces them is loaded."""
    until: float
    """On the clock of time.monotonic."""


class Models:
    """The versions that this process serves. All methods but `forget` run on the event loop."""

    def __init__(
        self, database: Database, blobs: Blobs, *, limit_bytes: int, preparing: Preparing | None = None
    ) -> None:
        self._limit = limit_bytes
        self._loader = Loader(database, blobs, limit_bytes=limit_bytes, preparing=preparing or Preparing())
        self._resolved: dict[Asked, str] = {}
        self._move: Move | None = None
        self._moves = 0
        self._loaded: OrderedDict[Key, LoadedVersion] = OrderedDict()
        self._loading: dict[Key, asyncio.Task[LoadedVersion]] = {}
        self._reserved: dict[Key, int] = {}
        """Bytes of what is being loaded."""
        self._space = asyncio.Condition()
        """Told when less is reserved."""
        # Apart from each other: who asks what a name means does not wait for those who load.
        self._resolvers, self._loaders = anyio.CapacityLimiter(16), anyio.CapacityLimiter(4)

    async def get(self, project: str, name: str, version: str | None = None, alias: str | None = None) -> LoadedVersion:
        """The version that is meant, loaded.

        Raises:
            ModelNotFound, VersionNotFound.
            ArtifactCorrupt, TooLargeToServe: it cannot be served.
        """
        asked = Asked(project, name, version, alias)
        key = asked.key(await self._number(asked))
        loaded = self._loaded.get(key)
        if loaded is None:
            # Who asked may go away; those who wait with him, and the next, want it all the same.
            return await asyncio.shield(self._load(key))
        self._loaded.move_to_end(key)
        return loaded

    @property
    def held(self) -> tuple[LoadedVersion, ...]:
        """All that is in memory, the longest unused first."""
        return tuple(self._loaded.values())

    def held_of(self, project: str) -> tuple[LoadedVersion, ...]:
        """Of these, those of a project."""
        return tuple(each for each in self._loaded.values() if each.project_id == project)

    @property
    def bytes(self) -> int:
        """What that takes, weights that several versions have counted once."""
        return _bytes_together(self._loaded.values())

    @property
    def loading(self) -> frozenset[Key]:
        """What is about to be."""
        return frozenset(self._loading)

    def drop(self, project: str, name: str, version: str | None = None) -> None:
        """Take a version, or all of a model, out of memory. The next request loads it again."""
        self._drop(key for key in [*self._loaded] if key[:2] == (project, name) and version in (None, key.version))

    def _drop(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._loaded.pop(key, None)

    def forget(self) -> None:
        """Resolve anew from here on. Safe to call from any thread: what is being resolved meanwhile, perhaps from
        before the change, is written into the old table."""
        self._resolved = {}

    async def watch(self, *, every: float) -> None:
        """Resolve anew whenever the database has moved: a version was published or an alias set, by any process."""
        seen: int | None = None
        before = time.monotonic()
        while True:
            looked = time.monotonic()
            try:
                revision = await anyio.to_thread.run_sync(self._loader.revision, limiter=self._resolvers)
                if seen != revision:
                    await self._begin_move(until=before + STALE_SECONDS - MARGIN_SECONDS)
            except NotReady as error:
                log.warning("revision not read, serving what was resolved before", error=error.message)
            else:
                seen = revision
            self._end_move()
            # What moves next moved after this look began.
            before = looked
            await asyncio.sleep(every)

    async def _begin_move(self, *, until: float) -> None:
        """Load what names mean now, while what they meant serves on. Where they move again meanwhile, no more time is
        given for that. Names of versions that are not in memory are resolved when they are next asked for."""
        self._moves += 1
        before = self._resolved
        asked = [each for each, number in before.items() if each.version is None and each.key(number) in self._loaded]
        for each in before.keys() - asked:
            del before[each]
        now = await anyio.to_thread.run_sync(self._loader.resolve, asked, limiter=self._resolvers)
        gone = await anyio.to_thread.run_sync(self._loader.gone, [*self._loaded], limiter=self._resolvers)
        for each, number in now.items():
            key = each.key(number)
            if number != before.get(each) and key not in self._loaded:
                self._load(key)
        until = self._move.until if self._move else until
        move = self._move = Move(replaces=before, by=now, gone=gone, until=until)
        asyncio.get_running_loop().call_later(max(0.0, move.until - time.monotonic()), self._end_move, move)

    def _end_move(self, late: Move | None = None) -> None:
        """Let names mean what they mean now, once that is loaded, or if it is the move that is late."""
        move = self._move
        if move is None:
            return
        pending = any(asked.key(number) in self._loading for asked, number in move.by.items())
        if not pending or move is late:
            if self._resolved is move.replaces:
                self._resolved = move.by
            self._move = None
            self._drop(move.gone)

    async def _number(self, asked: Asked) -> str:
        resolved = self._resolved
        number = resolved.get(asked)
        if number is None:
            number = await anyio.to_thread.run_sync(self._loader.number, asked, limiter=self._resolvers)
            resolved[asked] = number
        return number

    def _load(self, key: Key) -> asyncio.Task[LoadedVersion]:
        """One task for all that want the version."""
        loading = self._loading.get(key)
        if loading is None:
            loading = self._loading[key] = asyncio.create_task(self._load_now(key))
            loading.add_done_callback(partial(self._was_loaded, key))
        return loading

    async def _load_now(self, key: Key) -> LoadedVersion:
        moves = self._moves
        found = await anyio.to_thread.run_sync(self._loader.read, key, limiter=self._loaders)
        async with self._reserving(key, found):
            loaded = await anyio.to_thread.run_sync(self._loader.load, found, limiter=self._loaders)
        self._make_room(loaded)
        self._loaded[key] = loaded
        log.info(
            "version loaded",
            **key._asdict(),
            bytes=loaded.own_bytes,
            engine=loaded.prepared.engine.name,
            row_us=round(1e6 * loaded.line.cost.of(1)),
        )
        if self._moves != moves:  # it may have been deleted since, when it was not here to be dropped
            self._drop(await anyio.to_thread.run_sync(self._loader.gone, [key], limiter=self._loaders))
        return loaded

    def _was_loaded(self, key: Key, loading: asyncio.Task[LoadedVersion]) -> None:
        del self._loading[key]
        if loading.cancelled():
            return
        error = loading.exception()
        if isinstance(error, GammabetaError):
            log.warning("version not loaded", **key._asdict(), error=error.message)
        elif error is not None:
            # Nobody may be waiting for it who would say so.
            log.error("version not loaded", **key._asdict(), exc_info=error)

    @asynccontextmanager
    async def _reserving(self, key: Key, found: Stored) -> AsyncIterator[None]:
        """Room for a version before it is loaded: what was used longest ago goes first, and what is being loaded is
        waited for."""
        shared = any(each.version.weights_sha256 == found.version.weights_sha256 for each in self._loaded.values())
        size = 0 if shared else found.bytes
        async with self._space:
            await self._space.wait_for(lambda: sum(self._reserved.values()) + size <= self._limit)
            self._reserved[key] = size
        try:
            self._make_room()
            yield
        finally:
            async with self._space:
                del self._reserved[key]
                self._space.notify_all()

    def _make_room(self, *new: LoadedVersion) -> None:
        """What a prediction in progress still holds lives on until that has ended."""
        reserved = sum(self._reserved.values())
        while self._loaded and _bytes_together((*self._loaded.values(), *new)) + reserved > self._limit:
            key, _ = self._loaded.popitem(last=False)
            self._hurry(key)

    def _hurry(self, evicted: Key) -> None:
        """Names that move away from a version that made room mean what they mean now at once: loaded again, it would
        take the room of what replaces it."""
        move = self._move
        for asked, number in move.by.items() if move else ():
            if move and asked.key(move.replaces.get(asked, "")) == evicted:
                move.replaces[asked] = number


def _bytes_together(versions: Iterable[LoadedVersion]) -> int:
    """Weights that several have count once."""
    versions = tuple(versions)
    weights = {id(each.weights): each.weights.bytes for each in versions}
    return sum(each.own_bytes for each in versions) + sum(weights.values())
