"""Bytes in a folder: weights and arrays by content hash, checkpoints by job and attempt, uploads until they are read.

    root/sha256/ab/<64 hex digits>                     never changes
    root/jobs/<job>/f<fence>/ckpt-<step>/<file>        a tree with a manifest; no two attempts share a path
    root/uploads/<data set>                            the raw file, while it is being received and read
    root/aside/<64 hex digits>/                        what no row names, for a day
    root/tmp/                                          what is not complete
    root/owner                                         whose all of it is

Nothing is visible under its name before all of it is on the disk: temporary file, fsync, rename, fsync of the folders.
`stored.py` says what of this holds for every store, `objects.py` has the one in a bucket.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from gammabeta.errors import ArtifactCorrupt, NotSupported
from gammabeta.files import Files, no_space
from gammabeta.store import stored
from gammabeta.store.caches import Cache
from gammabeta.store.settings import StoreSettings
from gammabeta.store.stored import ASIDE, MANIFEST, OWNER, Blobs, Kept, Tree, key_of

BUCKETS = ("s3", "gs", "az")
_FULL = "The disk of the blobs is full. Free some space, then send the request again."


class FolderBlobs(Blobs):
    """Blobs in a local folder, which gives paths to map."""

    def __init__(self, root: Path, *, files: Files | None = None) -> None:
        self.root = root.expanduser().absolute()
        self.location = str(self.root)
        self.files = files or Files()
        self._sound: set[str] = set()

    def put_file(self, path: Path) -> tuple[str, int]:
        with self._temporary() as folder:
            sha256, size = self.files.copy(path, folder / "file")
            # Renamed even where the blob exists: the same bytes, known to be sound, heal what may not be, and are new.
            self._publish(folder / "file", self._inside(key_of(sha256)))
        self._sound.add(sha256)
        return sha256, size

    def path(self, sha256: str) -> Path:
        path = self._inside(key_of(sha256))
        if not path.is_file() and not self.bring_back(sha256):
            raise ArtifactCorrupt(stored.missing(sha256))
        return path

    def verify(self, sha256: str, *, again: bool = False) -> Path:
        path = self.path(sha256)
        if again or sha256 not in self._sound:
            received = stored.digest(path)
            if received != sha256:
                self._sound.discard(sha256)
                raise ArtifactCorrupt(stored.altered(sha256, received))
            self._sound.add(sha256)
        return path

    def bytes_of(self, sha256: str) -> int:
        return self.path(sha256).stat().st_size

    def check_hash(self, sha256: str) -> None:
        self.verify(sha256, again=True)

    def put_tree(self, prefix: str, folder: Path) -> Tree:
        with self._temporary() as temporary:
            tree = temporary / "tree"
            self.files.make_folder(tree)
            copied = {path.name: self.files.copy(path, tree / path.name) for path in sorted(folder.iterdir())}
            data, sha256, total = stored.manifest(copied)
            self.files.write(tree / MANIFEST, data)
            self.files.sync_folder(tree)
            target = self._unused(prefix)
            self._publish(tree, target)
        return Tree(uri=target.relative_to(self.root).as_posix(), sha256=sha256, bytes=total)

    def tree(self, uri: str, sha256: str) -> Path:
        folder = self._inside(uri)
        if not stored.is_sound(folder, sha256):
            raise ArtifactCorrupt(stored.incomplete(uri, sha256))
        return folder

    def receiving_path(self, dataset_id: str) -> Path:
        return self.upload_path(dataset_id).with_suffix(".part")

    def stage_upload(self, received: Path) -> None:
        """It lies on the right disk already."""

    def keep_upload(self, received: Path, dataset_id: str) -> None:
        with no_space(_FULL):
            self._publish(received, self.upload_path(dataset_id))

    def discard_upload(self, received: Path) -> None:
        self.files.remove(received)

    def upload_path(self, dataset_id: str) -> Path:
        """The raw file of a data set. Its folder exists; the file may not."""
        path = self._inside(f"uploads/{dataset_id}")
        with no_space(_FULL):
            self.files.make_folders(path.parent)
        return path

    def upload_keys(self, dataset_id: str) -> list[str]:
        return [f"uploads/{dataset_id}"]

    def owned(self, owner: str) -> str:
        path = self._inside(OWNER)
        if not path.is_file():
            self.give(owner)
        return path.read_text()

    def give(self, owner: str) -> None:
        with self._temporary() as folder:
            self.files.write(folder / "file", owner.encode())
            self._publish(folder / "file", self._inside(OWNER))

    def names(self, prefix: str) -> list[str]:
        return sorted(path.name for path in self._inside(prefix).glob("*"))

    def listed(self, prefix: str) -> Iterator[Kept]:
        for folder, _, names in os.walk(self._inside(prefix)):
            for name in names:
                path = Path(folder, name)
                age = _age(path)
                if age is not None:
                    yield Kept(key=path.relative_to(self.root).as_posix(), age=age)

    def age(self, key: str) -> float | None:
        return _age(self._inside(key))

    def delete(self, key: str) -> None:
        self.files.remove(self._inside(key))

    def delete_prefix(self, prefix: str) -> None:
        self.files.remove_tree(self._inside(prefix))

    def drop_empty(self, prefix: str) -> None:
        with contextlib.suppress(OSError):
            self._inside(prefix).rmdir()

    def set_aside(self, sha256: str) -> None:
        path = self._inside(key_of(sha256))
        aside = self._inside(f"{ASIDE}/{sha256}/{secrets.token_hex(8)}")
        self.files.make_folders(aside.parent)
        with contextlib.suppress(FileNotFoundError):  # another sweep was faster
            os.utime(path)  # from now on, not from when it was stored, it is aside
            self._publish(path, aside)

    def bring_back(self, sha256: str) -> bool:
        path = self._inside(key_of(sha256))
        for aside in sorted(self._inside(f"{ASIDE}/{sha256}").glob("*")):
            if path.is_file():
                break
            with contextlib.suppress(FileNotFoundError):  # another reader was faster
                if stored.digest(aside) == sha256:
                    self._publish(aside, path)
        return path.is_file()

    def tidy(self, *, seconds: float) -> None:
        for name in self.names("tmp"):
            if (_age(self.root / "tmp" / name) or 0) > seconds:
                self.delete_prefix(f"tmp/{name}")

    def tidy_here(self, *, seconds: float) -> None:
        """All is in the folder, which the workers tidy."""

    def check(self) -> None:
        with self._temporary() as folder:
            self.files.write(folder / "file", b"gammabeta")

    def complaint(self) -> str | None:
        """A folder that cannot be written may be mended while the program runs."""
        return None

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


def open_blobs(settings: StoreSettings) -> Blobs:
    """The blobs at `GAMMABETA_BLOBS`: a folder, or a bucket whose credentials are read from the environment now.

    Raises:
        NotSupported: it is neither, the extra for buckets is not installed, or the environment lacks what it takes.
    """
    location = settings.resolved_blobs
    scheme, separator, _ = location.partition("://")
    if not separator or scheme == "file":
        return FolderBlobs(Path(location.removeprefix("file://")))
    if scheme not in BUCKETS:
        message = f"must be a folder, or begin with {', '.join(f'{each}://' for each in BUCKETS)}"
        raise NotSupported.of("GAMMABETA_BLOBS", f"{message}. Received: {location}", location)
    if find_spec("obstore") is None:
        message = "in a bucket needs the extra 'objects'. Run: pip install 'gammabeta[objects]', or set it to a folder"
        raise NotSupported.of("GAMMABETA_BLOBS", message, location)
    from gammabeta.store import objects  # noqa: PLC0415 - obstore is there for those alone who have a bucket

    return objects.open_objects(location, Cache(settings.home / "cache", limit_bytes=settings.cache_bytes))


def _age(path: Path) -> float | None:
    """For how many seconds nobody has written to it. None: it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return None
