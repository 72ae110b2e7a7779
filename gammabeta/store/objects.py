"""Bytes in a bucket of S3, Google Cloud Storage or Azure, by obstore; those who read get files of a cache beside them.

    sha256/ab/<64 hex digits>                     never changes
    jobs/<job>/f<fence>/ckpt-<step>/<file>        whole once its manifest is there, which comes last
    incoming/<token>                              the bytes of an upload, before its transaction and until they are read
    uploads/<data set>                            which of those are the data set's: a few bytes, written within it
    aside/<64 hex digits>/<token>                 what no row names, for a day
    check                                         whether something can be written
    owner                                         whose all of it is

An object is there whole or not at all, so that a name is all it takes. Every byte that comes from the bucket is hashed
on its way into the cache, and refused where it is not what was stored. Errors that may pass are tried again by obstore
for some seconds, and are NotReady after that.
"""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import obstore
import orjson
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url

from gammabeta import logs
from gammabeta.errors import ArtifactCorrupt, NotReady, NotSupported
from gammabeta.files import CHUNK
from gammabeta.store import stored
from gammabeta.store.caches import Cache
from gammabeta.store.stored import ASIDE, MANIFEST, OWNER, Blobs, Kept, Tree, key_of

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

log = logs.get(__name__)

RETRY_SECONDS = 10.0
"""How long what takes its time is tried again: files, and copies of them."""
READ_SECONDS = 60
"""How long a bucket may be silent then. The parts below go up within it, four at a time, from half a megabyte a
second."""
SMALL_SECONDS = 4.0
"""The same of everything else, both: a few bytes, a page of a listing, a removal. The last try may begin at the end of
it, so that it is over after twice as long. One of them runs within a transaction, for whose end the writers of a SQLite
database wait ten seconds, and which PostgreSQL ends after 15 s of silence."""
PART_BYTES = 8 << 20
PARTS = 10_000
"""As many as S3 takes of one object."""
READS = 3
"""How often bytes that are not what was stored are fetched, in all: what is between may have cut them."""
RETRY_AFTER = 5.0
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")


class ObjectBlobs(Blobs):
    """Blobs in a bucket. `location` is its address, `cache` the files of it on this machine; `small` is the same bucket
    for what has to be done at once or not at all."""

    COPIED_BYTES = 5 << 30
    """The largest object that S3 copies by itself; a larger one goes through this machine."""

    def __init__(self, store: ObjectStore, location: str, cache: Cache, *, small: ObjectStore) -> None:
        self.location, self.files = location, cache.files
        self._store, self._small, self._cache = store, small, cache
        self._sound: set[str] = set()
        self._staged: dict[Path, bytes] = {}
        self._turns: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._lock = threading.Lock()

    # ── content ──

    def put_file(self, path: Path) -> tuple[str, int]:
        # What is hashed and stored is a copy that nobody else writes to; who stored it is often the next to read it.
        with self._cache.temporary() as folder:
            sha256, size = self.files.copy(path, folder / "file")
            self._put(key_of(sha256), folder / "file")
            self._cache.keep(folder / "file", f"files/{sha256}")
        self._sound.add(sha256)
        return sha256, size

    def path(self, sha256: str) -> Path:
        return self.verify(sha256)

    def verify(self, sha256: str, *, again: bool = False) -> Path:
        return self._file(key_of(sha256), sha256, again=again)

    def bytes_of(self, sha256: str) -> int:
        if not self.bring_back(sha256):
            raise ArtifactCorrupt(stored.missing(sha256))
        with self._answering("head"):
            return obstore.head(self._store, key_of(sha256))["size"]

    def check_hash(self, sha256: str) -> None:
        if not self.bring_back(sha256):
            raise ArtifactCorrupt(stored.missing(sha256))
        received = self._hash(key_of(sha256))
        if received != sha256:
            raise ArtifactCorrupt(stored.altered(sha256, received))

    def put_tree(self, prefix: str, folder: Path) -> Tree:
        uri = self._unused(_inside(prefix))
        with self._cache.temporary() as temporary:
            copied: dict[str, tuple[str, int]] = {}
            for path in sorted(folder.iterdir()):
                copied[path.name] = self.files.copy(path, temporary / "file")
                self._put(f"{uri}/{path.name}", temporary / "file")
                self.files.remove(temporary / "file")
        data, sha256, total = stored.manifest(copied)
        self._put(f"{uri}/{MANIFEST}", data)
        return Tree(uri=uri, sha256=sha256, bytes=total)

    def tree(self, uri: str, sha256: str) -> Path:
        key = f"trees/{sha256}"
        with self._turn(key):
            found = self._cache.find(key)
            if found is not None and stored.is_sound(found, sha256):
                return found
            for _ in range(READS):
                with self._cache.temporary() as temporary:
                    try:
                        self._fetch_tree(_inside(uri), temporary)
                    except FileNotFoundError as exc:
                        raise ArtifactCorrupt(stored.incomplete(uri, sha256)) from exc
                    if stored.is_sound(temporary, sha256):
                        return self._cache.keep(temporary, key)
            raise ArtifactCorrupt(stored.incomplete(uri, sha256))

    # ── uploads ──

    def receiving_path(self, dataset_id: str) -> Path:
        return self._cache.incoming() / f"{dataset_id}.part"

    def stage_upload(self, received: Path) -> None:
        key, sha256 = f"incoming/{secrets.token_hex(16)}", stored.digest(received)
        self._put(key, received)
        self._staged[received] = orjson.dumps({"key": key, "sha256": sha256})

    def keep_upload(self, received: Path, dataset_id: str) -> None:
        if received not in self._staged:
            self.stage_upload(received)
        # From here on somebody may know of it: it is left to the sweep if the transaction fails.
        self._put(_inside(f"uploads/{dataset_id}"), self._staged.pop(received))
        self.files.remove(received)

    def discard_upload(self, received: Path) -> None:
        pointer = self._staged.pop(received, None)
        self.files.remove(received)
        if pointer is None:
            return
        try:
            self.delete(orjson.loads(pointer)["key"])
        except NotReady as error:
            log.warning("left to the sweep", upload=received.name, why=error.message)

    def upload_path(self, dataset_id: str) -> Path:
        pointer = self._pointer(_inside(f"uploads/{dataset_id}"))
        if pointer is None:
            raise ArtifactCorrupt(f"The file of the data set {dataset_id} is missing. Upload it again.")
        key, sha256 = pointer
        return self._file(key, sha256)

    def upload_keys(self, dataset_id: str) -> list[str]:
        key = _inside(f"uploads/{dataset_id}")
        try:
            pointer = self._pointer(key)
        except ArtifactCorrupt:  # then it names nothing
            return [key]
        return [] if pointer is None else [key, pointer[0]]

    # ── sweeping ──

    def owned(self, owner: str) -> str:
        with self._answering("get"), contextlib.suppress(FileNotFoundError):
            return bytes(obstore.get(self._small, OWNER).bytes()).decode()
        self.give(owner)
        return owner

    def give(self, owner: str) -> None:
        self._put(OWNER, owner.encode())

    def names(self, prefix: str) -> list[str]:
        with self._answering("list"):
            found = obstore.list_with_delimiter(self._small, _inside(prefix))
        keys = [*found["common_prefixes"], *(each["path"] for each in found["objects"])]
        return sorted(posixpath.basename(key) for key in keys)

    def listed(self, prefix: str) -> Iterator[Kept]:
        now = datetime.now(UTC)
        with self._answering("list"):
            for chunk in obstore.list(self._small, _inside(prefix), chunk_size=1_000):
                for each in chunk:
                    yield Kept(key=each["path"], age=(now - each["last_modified"]).total_seconds())

    def age(self, key: str) -> float | None:
        with self._answering("head"), contextlib.suppress(FileNotFoundError):
            return (datetime.now(UTC) - obstore.head(self._small, key)["last_modified"]).total_seconds()
        return None

    def delete(self, key: str) -> None:
        with self._answering("delete"), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._small, _inside(key))

    def delete_prefix(self, prefix: str) -> None:
        keys = [kept.key for kept in self.listed(prefix)]
        if keys:
            with self._answering("delete"), contextlib.suppress(FileNotFoundError):
                obstore.delete(self._small, keys)

    def drop_empty(self, prefix: str) -> None:
        """A bucket has no folders."""

    def set_aside(self, sha256: str) -> None:
        key = key_of(sha256)
        with contextlib.suppress(FileNotFoundError):  # another sweep was faster
            self._copy(key, f"{ASIDE}/{sha256}/{secrets.token_hex(8)}")
            self.delete(key)

    def bring_back(self, sha256: str) -> bool:
        key = key_of(sha256)
        if self._exists(key):
            return True
        for aside in self.listed(f"{ASIDE}/{sha256}"):
            with contextlib.suppress(FileNotFoundError), self._cache.temporary() as folder:  # its day was over
                if self._fetch(aside.key, folder / "file") == sha256:
                    self._copy(aside.key, key)
                    return True
        return False

    def tidy(self, *, seconds: float) -> None:
        self.tidy_here(seconds=seconds)
        old = [kept.key for kept in self.listed("incoming") if kept.age > seconds]
        if old:
            # Asked after what is old was listed: a file is named within the request that brings it, or never.
            named = {key for kept in self.listed("uploads") for key in self.upload_keys(kept.name)}
            for key in old:
                if key not in named:
                    self.delete(key)

    def tidy_here(self, *, seconds: float) -> None:
        self._cache.tidy(seconds=seconds)

    # ── whether it works ──

    def check(self) -> None:
        with self._cache.temporary() as folder:
            self.files.write(folder / "file", b"gammabeta")
        self._put("check", b"gammabeta")

    def complaint(self) -> str | None:
        try:
            obstore.put(self._small, "check", b"gammabeta")
        except (PermissionDeniedError, UnauthenticatedError) as error:
            return self._refusal("put", error)
        except FileNotFoundError as error:
            return self._lost(error)
        except BaseError:
            return None
        return None

    # ── beneath ──

    def _file(self, key: str, sha256: str, *, again: bool = False) -> Path:
        cached = f"files/{sha256}"
        with self._turn(cached):
            found = self._cache.find(cached)
            if found is not None:
                if (sha256 in self._sound and not again) or stored.digest(found) == sha256:
                    self._sound.add(sha256)
                    return found
                self._sound.discard(sha256)
                self._cache.drop(cached)
            for _ in range(READS):
                with self._cache.temporary() as folder:
                    received = self._fetch_blob(key, sha256, folder / "file")
                    if received == sha256:
                        self._sound.add(sha256)
                        return self._cache.keep(folder / "file", cached)
            raise ArtifactCorrupt(stored.altered(sha256, received))

    def _fetch_blob(self, key: str, sha256: str, target: Path) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self._fetch(key, target)
        if key == key_of(sha256) and self.bring_back(sha256):
            with contextlib.suppress(FileNotFoundError):
                return self._fetch(key, target)
        raise ArtifactCorrupt(stored.missing(sha256))

    def _fetch_tree(self, uri: str, folder: Path) -> None:
        self._fetch(f"{uri}/{MANIFEST}", folder / MANIFEST)
        try:
            names = list(orjson.loads((folder / MANIFEST).read_bytes()))
        except ValueError:  # then it has another hash, too
            return
        for name in names:
            self._fetch(f"{uri}/{name}", folder / Path(name).name)

    def _fetch(self, key: str, target: Path) -> str:
        """The hash of what came.

        Raises:
            FileNotFoundError: there is no such object.
        """
        hashed = hashlib.sha256()
        with self._answering("get"):
            stream = obstore.get(self._store, key).stream(min_chunk_size=CHUNK)
            with self.files.create(target) as writer:
                for chunk in stream:
                    hashed.update(chunk)
                    self.files.append(writer, bytes(chunk))
        return hashed.hexdigest()

    def _hash(self, key: str) -> str:
        hashed = hashlib.sha256()
        with self._answering("get"):
            for chunk in obstore.get(self._store, key).stream(min_chunk_size=CHUNK):
                hashed.update(chunk)
        return hashed.hexdigest()

    def _put(self, key: str, what: Path | bytes) -> None:
        size = len(what) if isinstance(what, bytes) else what.stat().st_size
        with self._answering("put"):
            part = max(PART_BYTES, size // (PARTS - 1) + 1)
            store = self._small if isinstance(what, bytes) else self._store
            obstore.put(store, key, what, chunk_size=part, max_concurrency=4)

    def _copy(self, source: str, target: str) -> None:
        with self._answering("copy"):
            if obstore.head(self._small, source)["size"] <= self.COPIED_BYTES:
                obstore.copy(self._store, source, target)
                return
        with self._cache.temporary() as folder:
            self._fetch(source, folder / "file")
            self._put(target, folder / "file")

    def _exists(self, key: str) -> bool:
        with self._answering("head"), contextlib.suppress(FileNotFoundError):
            obstore.head(self._small, key)
            return True
        return False

    def _pointer(self, key: str) -> tuple[str, str] | None:
        """Where the bytes of an upload are, and their hash. None: there is no such upload.

        Raises:
            ArtifactCorrupt: it says no such thing.
        """
        for _ in range(READS):
            with self._answering("get"):
                try:
                    data = bytes(obstore.get(self._small, key).bytes())
                except FileNotFoundError:
                    return None
            with contextlib.suppress(ValueError, KeyError, TypeError):
                said = orjson.loads(data)
                return _inside(said["key"]), said["sha256"]
        raise ArtifactCorrupt(f"The object {key} must say where an upload lies. Upload the file again.")

    def _unused(self, prefix: str) -> str:
        uri, count = prefix, 1
        while self.names(uri):
            count += 1
            uri = f"{prefix}.{count}"
        return uri

    @contextmanager
    def _turn(self, key: str) -> Iterator[None]:
        """One thread fetches; those that want the same wait for it."""
        with self._lock:
            turn = self._turns.setdefault(key, threading.Lock())
        with turn:
            yield

    @contextmanager
    def _answering(self, operation: str) -> Iterator[None]:
        """Within it, what the bucket does not do is an error of gammabeta, but for what is not there.

        Raises:
            NotReady.
            FileNotFoundError.
        """
        try:
            yield
        except (PermissionDeniedError, UnauthenticatedError) as exc:
            raise _not_ready(self._refusal(operation, exc)) from exc
        except FileNotFoundError as exc:
            if _said(exc, *_NO_BUCKET):
                raise _not_ready(self._lost(exc)) from exc
            raise
        except BaseError as exc:
            if _said(exc, *_NO_BUCKET):
                raise _not_ready(self._lost(exc)) from exc
            message = f"The object store {self.location} must answer, and did not do: {operation}. {_words(exc)}"
            raise _not_ready(message) from exc

    def _refusal(self, operation: str, error: Exception) -> str:
        return (
            f"The object store {self.location} must allow to {operation}, and refuses it. Look at the credentials in "
            f"the environment and at what they may do. {_words(error)}"
        )

    def _lost(self, error: Exception) -> str:
        return (
            f"The bucket of {self.location} must exist. Make it, or look at GAMMABETA_BLOBS, region and endpoint. "
            f"{_words(error)}"
        )


def open_objects(
    location: str, cache: Cache, *, retry_seconds: float = RETRY_SECONDS, small_seconds: float = SMALL_SECONDS
) -> ObjectBlobs:
    """The blobs at `s3://bucket/prefix`, `gs://…` or `az://…`. Credentials, region and endpoint are those of the
    environment, under the names that the tools of those clouds have for them, and are read now.

    Raises:
        NotSupported: it is no such address, or the environment lacks what it takes.
    """
    try:
        store = _opened(location, retry_seconds=retry_seconds, silent_seconds=READ_SECONDS, whole_seconds=86_400)
        small = _opened(
            location,
            retry_seconds=min(retry_seconds, small_seconds),
            silent_seconds=small_seconds,
            whole_seconds=small_seconds,
        )
    except (BaseError, ValueError) as exc:
        raise NotSupported.of("GAMMABETA_BLOBS", f"must be one that can be opened. {_words(exc)}", location) from exc
    return ObjectBlobs(store, location, cache, small=small)


def _opened(location: str, *, retry_seconds: float, silent_seconds: float, whole_seconds: float) -> ObjectStore:
    """A client that waits so long for an answer to go on, and for all of it, and begins no other try after so long."""
    retry: RetryConfig = {
        "max_retries": 10,
        "retry_timeout": timedelta(seconds=retry_seconds),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=max(0.1, retry_seconds / 4)),
            "base": 2,
        },
    }
    # An endpoint that is named as http:// is meant so; those of the clouds are https:// by themselves.
    client: ClientConfig = {
        "allow_http": True,
        "connect_timeout": timedelta(seconds=min(5, silent_seconds)),
        "read_timeout": timedelta(seconds=silent_seconds),
        "timeout": timedelta(seconds=whole_seconds),
    }
    return from_url(location, retry_config=retry, client_options=client)


def _inside(key: str) -> str:
    normal = posixpath.normpath(key)
    if normal.startswith("/") or normal == "." or normal.split("/")[0] == "..":
        raise ValueError(f"A key must name something inside the folder of blobs. Received: {key!r}.")
    return normal


def _not_ready(message: str) -> NotReady:
    error = NotReady(message)
    error.retry_after = RETRY_AFTER
    return error


def _said(error: Exception, *words: str) -> bool:
    return any(word in str(error) for word in words)


def _words(error: Exception) -> str:
    """What it says, without the state of the client that obstore shows beneath it."""
    said = " ".join(str(error).partition("Debug source:")[0].split())
    return f"Received: {said[:500]}"
