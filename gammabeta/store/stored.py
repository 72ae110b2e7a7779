"""What every store of bytes does, be it a folder of this machine or a bucket.

    put_file ──► sha256/ab/<64 hex digits> ◄── path, verify      never changes
    put_tree ──► jobs/<job>/f<fence>/ckpt-<step>/… ◄── tree      whole, or not there
    receiving_path ─ stage_upload ─ keep_upload ──► uploads/<data set> ◄── upload_path
    sweeping:  names, listed, set_aside, delete…, tidy

Whatever a reader is given is a file of this machine, so that it can be mapped, and its bytes are what they were.

How a blob that nobody needs goes, although somebody may store the same content at this moment:

    stored, then named by a row within a day ──► read
    older than a day, and then no row names it ──► aside/<sha256>/… ──a day──► gone
                                     a reader misses it ◄──┘

What is old is listed first, and rows are asked after that: whoever stored the content before the listing made it young,
whoever committed before the question has named it. How old it is is looked at once more just before it goes. Who does
all of it at that moment finds, at worst, his blob set aside after he stored it. It stays there for a day, a row names
it by then, and the first reader brings it back. No lock is needed, and nobody who publishes waits for a sweep.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from gammabeta.files import Files

MANIFEST = "manifest.json"
ASIDE = "aside"
OWNER = "owner"


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A stored folder. `sha256` is that of its manifest, which has the hashes of its files."""

    uri: str
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A stored file, by its key, and for how many seconds nobody has written to it."""

    key: str
    age: float

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The part before that."""
        return self.key.split("/")[-2]


class Blobs(ABC):
    """Stored bytes. Safe to use from many threads and programs. Whatever cannot be had because the store does not
    answer is NotReady."""

    location: str
    """Where it is, as a message says it."""
    files: Files
    """By which what comes in is written on this machine."""

    # ── content ──

    @abstractmethod
    def put_file(self, path: Path) -> tuple[str, int]:
        """Store a copy of the file: `(sha256, bytes)`. The same content is stored once, and is young again.

        Raises:
            NoSpace.
        """

    @abstractmethod
    def path(self, sha256: str) -> Path:
        """The file, to read or map.

        Raises:
            ArtifactCorrupt: it is missing.
        """

    @abstractmethod
    def verify(self, sha256: str, *, again: bool = False) -> Path:
        """The file, once its bytes are known to have this hash; `again`: also where this object has checked before.

        Raises:
            ArtifactCorrupt: it is missing, or has another hash.
        """

    @abstractmethod
    def bytes_of(self, sha256: str) -> int:
        """How many bytes are stored, by a look that reads none of them.

        Raises:
            ArtifactCorrupt: it is missing.
        """

    @abstractmethod
    def check_hash(self, sha256: str) -> None:
        """Read all that is stored, whatever is known of it or lies in a cache.

        Raises:
            ArtifactCorrupt: it is missing, or has another hash.
        """

    @abstractmethod
    def put_tree(self, prefix: str, folder: Path) -> Tree:
        """Store a copy of the files of a folder under `prefix`, for instance `jobs/job_01/f000001/ckpt-100`. What an
        earlier call left there stays, since a row may name it: this copy then stands beside it.

        Raises:
            NoSpace.
        """

    @abstractmethod
    def tree(self, uri: str, sha256: str) -> Path:
        """The stored folder, every file of it checked.

        Raises:
            ArtifactCorrupt: something is missing or has another hash.
        """

    # ── uploads ──

    @abstractmethod
    def receiving_path(self, dataset_id: str) -> Path:
        """Where the raw file of a data set is received. Its folder exists.

        Raises:
            NoSpace.
        """

    @abstractmethod
    def stage_upload(self, received: Path) -> None:
        """Do what takes long of keeping a received file, before the transaction in which it is kept.

        Raises:
            NoSpace.
        """

    @abstractmethod
    def keep_upload(self, received: Path, dataset_id: str) -> None:
        """Give a received file its place, for good, in the place of an earlier one. It is not where it was any more.

        Raises:
            NoSpace.
        """

    @abstractmethod
    def discard_upload(self, received: Path) -> None:
        """Remove a received file, and what was staged of it. Nothing happens to one that was kept."""

    @abstractmethod
    def upload_path(self, dataset_id: str) -> Path:
        """The raw file of a data set, as it was kept.

        Raises:
            ArtifactCorrupt: a store that has to fetch it finds none, or other bytes.
            NoSpace.
        """

    @abstractmethod
    def upload_keys(self, dataset_id: str) -> list[str]:
        """What is stored of the raw file of a data set. Without the first of them there is no such file. Empty where
        there is none already."""

    def delete_upload(self, dataset_id: str) -> None:
        """Remove the raw file of a data set. Nothing happens where there is none."""
        for key in self.upload_keys(dataset_id):
            self.delete(key)

    # ── sweeping ──

    @abstractmethod
    def owned(self, owner: str) -> str:
        """Whose the store is. One that is nobody's, as those of earlier versions are, is this owner's from now on."""

    @abstractmethod
    def give(self, owner: str) -> None:
        """Make the store this owner's, whoever had it before.

        Raises:
            NoSpace.
        """

    @abstractmethod
    def names(self, prefix: str) -> list[str]:
        """What lies directly under a prefix, for instance `jobs`, in order."""

    @abstractmethod
    def listed(self, prefix: str) -> Iterator[Kept]:
        """Every file under a prefix, at any depth."""

    @abstractmethod
    def age(self, key: str) -> float | None:
        """For how many seconds nobody has written to a file. None: there is none."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a file. Nothing happens where there is none."""

    @abstractmethod
    def delete_prefix(self, prefix: str) -> None:
        """Remove a folder, for instance `jobs/job_01`. Nothing happens where there is none."""

    @abstractmethod
    def drop_empty(self, prefix: str) -> None:
        """Remove a folder in which nothing lies."""

    @abstractmethod
    def set_aside(self, sha256: str) -> None:
        """Put a blob out of sight of all but a reader that misses it."""

    @abstractmethod
    def bring_back(self, sha256: str) -> bool:
        """Put a blob that was set aside where it was, if it is missing and the copy has its hash. Whether it is there
        now."""

    @abstractmethod
    def tidy(self, *, seconds: float) -> None:
        """Remove what programs that were killed had begun to write so long ago or longer."""

    @abstractmethod
    def tidy_here(self, *, seconds: float) -> None:
        """The same of what they had begun to receive on this machine alone.

        Raises:
            NoSpace.
        """

    # ── whether it works ──

    @abstractmethod
    def check(self) -> None:
        """Whether blobs can be stored now.

        Raises:
            NoSpace.
            OSError: a folder of this machine cannot be written.
        """

    @abstractmethod
    def complaint(self) -> str | None:
        """Why nothing can be stored with these settings, however long one waits. None: it can, or that is not known
        yet, since the store does not answer."""


def key_of(sha256: str) -> str:
    """Where the blob of this hash lies."""
    return f"sha256/{sha256[:2]}/{sha256}"


def is_hash(name: str) -> bool:
    """Whether it may be the name of a blob. Others leave files of their own everywhere: .DS_Store, .nfs…"""
    return len(name) == 64 and not name.strip("0123456789abcdef")


def digest(path: Path) -> str:
    """The hash of a file."""
    with path.open("rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()


def manifest(stored: Mapping[str, tuple[str, int]]) -> tuple[bytes, str, int]:
    """Of files as `(sha256, bytes)` by name: the bytes of their manifest, its hash, and the bytes of all together."""
    listed = {name: {"sha256": sha256, "bytes": size} for name, (sha256, size) in stored.items()}
    data = orjson.dumps(listed, option=orjson.OPT_SORT_KEYS)
    return data, hashlib.sha256(data).hexdigest(), len(data) + sum(size for _, size in stored.values())


def is_sound(folder: Path, sha256: str) -> bool:
    """Whether a folder has the manifest of this hash, and every file that it names with its own."""
    try:
        data = (folder / MANIFEST).read_bytes()
        return hashlib.sha256(data).hexdigest() == sha256 and all(
            digest(folder / name) == file["sha256"] for name, file in orjson.loads(data).items()
        )
    except FileNotFoundError:
        return False


def incomplete(uri: str, sha256: str) -> str:
    """What is said of a tree that is not sound."""
    return f"What is stored as {uri} is incomplete or does not match its checksum {sha256}."


def missing(sha256: str) -> str:
    """What is said of a blob that is not there."""
    return f"The blob {sha256} must be stored and is missing. Restore it from a backup."


def altered(sha256: str, received: str) -> str:
    """What is said of a blob whose bytes have another hash."""
    return (
        f"The blob {sha256} must have this hash. What is stored has {received}, so it is not used. "
        "Restore it from a backup."
    )
