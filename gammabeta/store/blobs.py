"""Bytes: weights and arrays by content hash, checkpoints by job and attempt, uploads until they are read.

    root/sha256/ab/<64 hex digits>                     never changes
    root/jobs/<job>/f<fence>/ckpt-<step>/<file>        a tree with a manifest; no two attempts share a path
    root/uploads/<data set>                            the raw file, while it is being received and read
    root/tmp/                                          what is not complete

Nothing is visible under its name before all of it is on the disk: temporary file, fsync, rename, fsync of the folder.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from gammabeta.errors import ArtifactCorrupt, NoSpace, NotSupported

CHUNK = 1 << 20
MANIFEST = "manifest.json"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A stored folder. `sha256` is that of its manifest, which has the hashes of its files."""

    uri: str
    sha256: str
    bytes: int


class FolderBlobs:
    """Blobs in a local folder, which gives paths to map. Safe to use from many threads and programs."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self._sound: set[str] = set()

    def put_file(self, path: Path) -> tuple[str, int]:
        """Store a copy of the file: `(sha256, bytes)`. The same content is stored once.

        Raises:
            NoSpace.
        """
        with self._temporary() as folder:
            sha256, size = _copy(path, folder / "file")
            target = self._inside(_key(sha256))
            # Renamed even where the blob exists: the same bytes, known to be sound, heal what may not be.
            _publish(folder / "file", target)
        self._sound.add(sha256)
        return sha256, size

    def path(self, sha256: str) -> Path:
        """The file, to read or map; it is not read here.

        Raises:
            ArtifactCorrupt: it is missing.
        """
        path = self._inside(_key(sha256))
        if not path.is_file():
            raise ArtifactCorrupt(f"The blob {sha256} must be stored and is missing. Restore it from a backup.")
        return path

    def verify(self, sha256: str, *, again: bool = False) -> Path:
        """The file, once its bytes are known to have this hash; `again`: also where this object has checked before.

        Raises:
            ArtifactCorrupt: it is missing, or has another hash.
        """
        path = self.path(sha256)
        if again or sha256 not in self._sound:
            received = _digest(path)
            if received != sha256:
                self._sound.discard(sha256)
                raise ArtifactCorrupt(
                    f"The blob {sha256} must have this hash. Its file has {received}, so it is not used. "
                    "Restore it from a backup."
                )
            self._sound.add(sha256)
        return path

    def put_tree(self, prefix: str, folder: Path) -> Tree:
        """Store a copy of the files of a folder under `prefix`, for instance `jobs/job_01/f000001/ckpt-100`. What an
        earlier call left there is replaced.

        Raises:
            NoSpace.
        """
        target = self._inside(prefix)
        with self._temporary() as temporary:
            tree = temporary / "tree"
            tree.mkdir()
            files = {path.name: _copy(path, tree / path.name) for path in sorted(folder.iterdir())}
            listed = {name: {"sha256": sha256, "bytes": size} for name, (sha256, size) in files.items()}
            manifest = orjson.dumps(listed, option=orjson.OPT_SORT_KEYS)
            _write(tree / MANIFEST, manifest)
            _sync(tree)
            if target.exists():
                target.rename(temporary / "old")
            _publish(tree, target)
        total = len(manifest) + sum(size for _, size in files.values())
        return Tree(uri=prefix, sha256=hashlib.sha256(manifest).hexdigest(), bytes=total)

    def tree(self, uri: str, sha256: str) -> Path:
        """The stored folder, every file of it checked.

        Raises:
            ArtifactCorrupt: something is missing or has another hash.
        """
        folder = self._inside(uri)
        try:
            manifest = (folder / MANIFEST).read_bytes()
            sound = hashlib.sha256(manifest).hexdigest() == sha256 and all(
                _digest(folder / name) == file["sha256"] for name, file in orjson.loads(manifest).items()
            )
        except FileNotFoundError:
            sound = False
        if not sound:
            raise ArtifactCorrupt(f"What is stored as {uri} is incomplete or does not match its checksum {sha256}.")
        return folder

    def upload_path(self, dataset_id: str) -> Path:
        """Where the raw file of a data set is received. Its folder exists; the file may not."""
        path = self._inside(f"uploads/{dataset_id}")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def keep_upload(self, received: Path, dataset_id: str) -> None:
        """Give a received file its place, for good: the name is on the disk before this returns."""
        _publish(received, self.upload_path(dataset_id))

    def delete(self, key: str) -> None:
        """Remove a file, for instance `uploads/ds_01`. Nothing happens where there is none."""
        self._inside(key).unlink(missing_ok=True)

    def delete_prefix(self, prefix: str) -> None:
        """Remove a folder, for instance `jobs/job_01`. Nothing happens where there is none."""
        shutil.rmtree(self._inside(prefix), ignore_errors=True)

    def check(self) -> None:
        """Whether blobs can be stored now.

        Raises:
            NoSpace.
            OSError: the folder cannot be written.
        """
        with self._temporary() as folder:
            _write(folder / "file", b"gammabeta")

    def _inside(self, key: str) -> Path:
        path = Path(os.path.normpath(self.root / key))
        if self.root not in path.parents:
            raise ValueError(f"A key must name something inside the folder of blobs. Received: {key!r}.")
        return path

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        """A folder on the file system of the blobs, gone at the end."""
        parent = self.root / "tmp"
        with _translated():
            parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=parent) as folder:
                yield Path(folder)


def open_blobs(location: str) -> FolderBlobs:
    """The blobs at `GAMMABETA_BLOBS`.

    Raises:
        NotSupported: it is not a folder.
    """
    if "://" in location and not location.startswith("file://"):
        message = "must be a folder; object stores are not supported yet. Set it to a path such as /var/lib/gammabeta"
        raise NotSupported.of("GAMMABETA_BLOBS", message, location)
    return FolderBlobs(Path(location.removeprefix("file://")))


def _key(sha256: str) -> str:
    return f"sha256/{sha256[:2]}/{sha256}"


def _copy(source: Path, target: Path) -> tuple[str, int]:
    """Hash what is written, not what may be read later."""
    hashed, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(CHUNK):
            hashed.update(chunk)
            size += writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return hashed.hexdigest(), size


def _write(target: Path, data: bytes) -> None:
    with target.open("xb") as writer:
        writer.write(data)
        writer.flush()
        os.fsync(writer.fileno())


def _digest(path: Path) -> str:
    with path.open("rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()


def _publish(source: Path, target: Path) -> None:
    """Give what is complete its name, and have the name on the disk, with those of new folders above it."""
    new = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
    for folder in {target.parent, *(each.parent for each in new)}:
        _sync(folder)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno not in _FULL:
            raise
        raise NoSpace("The disk of the blobs is full. Free some space, then send the request again.") from exc
