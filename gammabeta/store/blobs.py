"""Bytes: weights and arrays by content hash, checkpoints by job and attempt, uploads until they are read.

    root/sha256/ab/<64 hex digits>                     never changes
    root/jobs/<job>/f<fence>/ckpt-<step>/<file>        a tree with a manifest; no two attempts share a path
    root/uploads/<data set>                            the raw file, while it is being received and read
    root/tmp/                                          what is not complete

Nothing is visible under its name before all of it is on the disk: temporary file, fsync, rename, fsync of the folders.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from gammabeta.errors import ArtifactCorrupt, NotSupported
from gammabeta.files import Files, no_space

MANIFEST = "manifest.json"
_FULL = "The disk of the blobs is full. Free some space, then send the request again."


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A stored folder. `sha256` is that of its manifest, which has the hashes of its files."""

    uri: str
    sha256: str
    bytes: int


class FolderBlobs:
    """Blobs in a local folder, which gives paths to map. Safe to use from many threads and programs."""

    def __init__(self, root: Path, *, files: Files | None = None) -> None:
        self.root = root.expanduser().absolute()
        self.files = files or Files()
        self._sound: set[str] = set()

    def put_file(self, path: Path) -> tuple[str, int]:
        """Store a copy of the file: `(sha256, bytes)`. The same content is stored once.

        Raises:
            NoSpace.
        """
        with self._temporary() as folder:
            sha256, size = self.files.copy(path, folder / "file")
            # Renamed even where the blob exists: the same bytes, known to be sound, heal what may not be.
            self._publish(folder / "file", self._inside(_key(sha256)))
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
        earlier call left there stays, since a row may name it: this copy then stands beside it.

        Raises:
            NoSpace.
        """
        with self._temporary() as temporary:
            tree = temporary / "tree"
            self.files.make_folder(tree)
            copied = {path.name: self.files.copy(path, tree / path.name) for path in sorted(folder.iterdir())}
            listed = {name: {"sha256": sha256, "bytes": size} for name, (sha256, size) in copied.items()}
            manifest = orjson.dumps(listed, option=orjson.OPT_SORT_KEYS)
            self.files.write(tree / MANIFEST, manifest)
            self.files.sync_folder(tree)
            target = self._unused(prefix)
            self._publish(tree, target)
        total = len(manifest) + sum(size for _, size in copied.values())
        uri = target.relative_to(self.root).as_posix()
        return Tree(uri=uri, sha256=hashlib.sha256(manifest).hexdigest(), bytes=total)

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
        """Where the raw file of a data set is received. Its folder exists; the file may not.

        Raises:
            NoSpace.
        """
        path = self._inside(f"uploads/{dataset_id}")
        with no_space(_FULL):
            self.files.make_folders(path.parent)
        return path

    def keep_upload(self, received: Path, dataset_id: str) -> None:
        """Give a received file its place, for good: the name is on the disk before this returns.

        Raises:
            NoSpace.
        """
        with no_space(_FULL):
            self._publish(received, self.upload_path(dataset_id))

    def delete(self, key: str) -> None:
        """Remove a file, for instance `uploads/ds_01`. Nothing happens where there is none."""
        self.files.remove(self._inside(key))

    def delete_prefix(self, prefix: str) -> None:
        """Remove a folder, for instance `jobs/job_01`. Nothing happens where there is none."""
        self.files.remove_tree(self._inside(prefix))

    def check(self) -> None:
        """Whether blobs can be stored now.

        Raises:
            NoSpace.
            OSError: the folder cannot be written.
        """
        with self._temporary() as folder:
            self.files.write(folder / "file", b"gammabeta")

    def _inside(self, key: str) -> Path:
        path = Path(os.path.normpath(self.root / key))
        if self.root not in path.parents:
            raise ValueError(f"A key must name something inside the folder of blobs. Received: {key!r}.")
        return path

    def _unused(self, prefix: str) -> Path:
        path, count = self._inside(prefix), 1
        while path.exists():
            count += 1
            path = self._inside(f"{prefix}.{count}")
        return path

    def _publish(self, source: Path, target: Path) -> None:
        self.files.publish(source, target, root=self.root)

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        """A folder on the file system of the blobs, gone at the end."""
        folder = self.root / "tmp" / secrets.token_hex(8)
        with no_space(_FULL):
            self.files.make_folders(folder.parent)
            self.files.make_folder(folder)
            try:
                yield folder
            finally:
                self.files.remove_tree(folder)


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


def _digest(path: Path) -> str:
    with path.open("rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()
