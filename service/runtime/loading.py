"""Versions in memory: which version a request means, and the network of it.

    (name, version?, alias?) ──resolved, until the revision moves──► (name, number) ──LRU by bytes──► LoadedVersion

A network is built from its spec, its weights come from a blob whose sha256 is checked, and its batch-norm state comes
from the rows and from nowhere else; the digest recomputed from the finished module must be that of the rows.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import TypeAlias

import anyio.to_thread
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gammabeta import logs
from gammabeta.errors import ArtifactCorrupt, NotReady
from gammabeta.nets import state
from gammabeta.nets.build import Network, build_network
from gammabeta.schemas.models import Served, Version
from gammabeta.schemas.resolution import Task, plan_stored
from gammabeta.store import models
from gammabeta.store.blobs import FolderBlobs
from gammabeta.store.engine import Database
from gammabeta.store.tables import DEFAULT_PROJECT

Asked: TypeAlias = tuple[str, str | None, str | None]
"""Model, version and alias, as a request has them."""
Key: TypeAlias = tuple[str, str]
"""Model and version."""

log = logs.get(__name__)


@dataclass(kw_only=True)
class LoadedVersion:
    """A version whose network is in memory, in eval mode."""

    version: Version
    network: Network
    task: Task
    bytes: int
    predictions: int = 0
    """Rows that were answered."""

    def served(self) -> Served:
        """What this process really holds: the digest is computed from the module now."""
        return Served(
            model=self.version.model,
            version=self.version.version,
            engine="torch",
            max_difference=0.0,
            training=any(module.training for module in self.network.modules()),
            digest=state.state_of(self.network).digest,
            stored_digest=self.version.batchnorm_digest,
            predictions=self.predictions,
        )


def load(database: Database, blobs: FolderBlobs, key: Key) -> LoadedVersion:
    """Build the network of a version and verify every part of it.

    Raises:
        ArtifactCorrupt: the weights or the state are not what was published.
    """
    name, number = key
    with database.read() as session:
        row = models.get_version(session, DEFAULT_PROJECT, name, version=number)
        version = models.version_schema(row)
        stored = models.batchnorm_state(session, row)
    weights = read_weights(blobs, version.weights_sha256)
    plan, task = plan_stored(version.network, input_shape=version.preprocessing.input_shape, classes=version.classes)
    network = build_network(plan, version.preprocessing, task=task)
    state.load(network, weights, stored)
    network.eval()
    if state.state_of(network).digest != version.batchnorm_digest:
        raise ArtifactCorrupt(f"The batch-norm state of version {number} of '{name}' does not match its digest.")
    size = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    return LoadedVersion(version=version, network=network, task=task, bytes=size)


def read_weights(blobs: FolderBlobs, sha256: str) -> dict[str, Tensor]:
    """The tensors of a weights blob, once its checksum was found right."""
    path = blobs.verify(sha256, again=True)
    try:
        return load_file(path)
    except SafetensorError as exc:
        raise ArtifactCorrupt(f"The weights {sha256} are no safetensors file. {exc}") from exc


class Models:
    """The versions that this process serves. All methods but `forget` run on the event loop."""

    def __init__(self, database: Database, blobs: FolderBlobs, *, limit_bytes: int) -> None:
        self._database, self._blobs, self._limit = database, blobs, limit_bytes
        self._resolved: dict[Asked, str] = {}
        self._loaded: OrderedDict[Key, LoadedVersion] = OrderedDict()
        self._loading: defaultdict[Key, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._threads = anyio.CapacityLimiter(16)

    async def get(self, name: str, version: str | None = None, alias: str | None = None) -> LoadedVersion:
        """The version that is meant, loaded."""
        key = (name, await self._number((name, version, alias)))
        while (loaded := self._loaded.get(key)) is None:
            async with self._loading[key]:
                if key not in self._loaded:
                    await self._load(key)
        self._loaded.move_to_end(key)
        return loaded

    def forget(self) -> None:
        """Resolve anew from here on. Safe to call from any thread: what is being resolved meanwhile, perhaps from
        before the change, is written into the old table."""
        self._resolved = {}

    async def watch(self, *, every: float) -> None:
        """Forget whenever the database has moved: a version was published or an alias set, by any process."""
        seen: int | None = None
        while True:
            try:
                revision = await anyio.to_thread.run_sync(self._revision, limiter=self._threads)
            except NotReady as error:
                log.warning("revision not read, serving what was resolved before", error=error.message)
            else:
                if seen != revision:
                    self.forget()
                seen = revision
            await asyncio.sleep(every)

    async def _number(self, asked: Asked) -> str:
        resolved = self._resolved
        number = resolved.get(asked)
        if number is None:
            number = await anyio.to_thread.run_sync(self._resolve, asked, limiter=self._threads)
            resolved[asked] = number
        return number

    async def _load(self, key: Key) -> None:
        try:
            loaded = await anyio.to_thread.run_sync(load, self._database, self._blobs, key, limiter=self._threads)
        finally:
            self._loading.pop(key, None)
        self._make_room(loaded.bytes)
        self._loaded[key] = loaded
        log.info("version loaded", model=key[0], version=key[1], bytes=loaded.bytes)

    def _make_room(self, wanted: int) -> None:
        """What a prediction in progress still holds lives on until that has ended."""
        held = sum(each.bytes for each in self._loaded.values())
        while self._loaded and held + wanted > self._limit:
            held -= self._loaded.popitem(last=False)[1].bytes

    def _resolve(self, asked: Asked) -> str:
        name, version, alias = asked
        with self._database.read() as session:
            return models.version_schema(
                models.get_version(session, DEFAULT_PROJECT, name, version=version, alias=alias)
            ).version

    def _revision(self) -> int:
        with self._database.read() as session:
            return models.revision(session, DEFAULT_PROJECT)
