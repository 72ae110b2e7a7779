"""What a power cut leaves of files, after "All File Systems Are Not Created Equal" (Pillai and others, OSDI 2014).

    Recorded ──► log of operations, and of commits of the database ──► Disk: replayed up to any of them
                                                                         └──► crashed: what may be there afterwards

Nothing is taken for granted that was not asked for by fsync. Bytes that were not synced are there, or not, or half, or
read as zeros. Each change of a name in a folder that was not synced since is there or not, on its own and in any order,
the two of a rename too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, BinaryIO, TypeAlias

from gammabeta.files import Files


@dataclass(frozen=True)
class Operation:
    """One of a program: what it did, to which path below the root or to which file, and with what."""

    kind: str
    what: Any
    data: Any = None

    def __str__(self) -> str:
        paths = [each for each in (self.what, self.data) if isinstance(each, tuple)]
        return f"{self.kind} {' → '.join('/'.join(each) for each in paths)}"


class Log:
    """Operations in their order, from all threads."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.lock = threading.RLock()

    def add(self, kind: str, what: Any, data: Any = None) -> None:
        with self.lock:
            self.operations.append(Operation(kind, what, data))


class Recorded(Files):
    """Does everything, and writes it down. All that changes must lie below `root`."""

    def __init__(self, root: Path, log: Log) -> None:
        self._root, self._log = root, log
        self._numbers: dict[BinaryIO, int] = {}

    def _at(self, path: Path) -> tuple[str, ...]:
        return path.relative_to(self._root).parts

    def create(self, path: Path) -> BinaryIO:
        file = super().create(path)
        self._numbers[file] = len(self._numbers)
        self._log.add("create", self._at(path), self._numbers[file])
        return file

    def append(self, file: BinaryIO, data: bytes | bytearray) -> None:
        super().append(file, data)
        self._log.add("append", self._numbers[file], bytes(data))

    def sync(self, file: BinaryIO) -> None:
        super().sync(file)
        self._log.add("sync", self._numbers[file])

    def make_folder(self, folder: Path) -> None:
        super().make_folder(folder)
        self._log.add("make folder", self._at(folder))

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self._log.add("rename", self._at(source), self._at(target))

    def sync_folder(self, folder: Path) -> None:
        super().sync_folder(folder)
        if folder == self._root or self._root in folder.parents:
            self._log.add("sync folder", self._at(folder))

    def remove(self, path: Path) -> None:
        there = path.exists()
        super().remove(path)
        if there:
            self._log.add("remove", self._at(path))

    def remove_tree(self, folder: Path) -> None:
        inside = sorted(folder.rglob("*"), reverse=True) if folder.exists() else []
        super().remove_tree(folder)
        for each in [*inside, folder] if inside or not folder.exists() else []:
            self._log.add("remove", self._at(each))


@dataclass(eq=False)
class File:
    """Bytes: those on the disk, and those that the programs see."""

    synced: bytes = b""
    cached: bytearray = field(default_factory=bytearray)


@dataclass(eq=False)
class Folder:
    """Names: those on the disk, those that the programs see, and the changes between them, each with its number."""

    synced: dict[str, Node] = field(default_factory=dict)
    cached: dict[str, Node] = field(default_factory=dict)
    pending: list[tuple[int, str, Node | None]] = field(default_factory=list)


Node: TypeAlias = File | Folder
Bytes: TypeAlias = Callable[[File], bytes]


def lost(file: File) -> bytes:
    return file.synced


def torn(file: File) -> bytes:
    return bytes(file.cached[: (len(file.synced) + len(file.cached)) // 2])


def zeros(file: File) -> bytes:
    return file.synced + bytes(len(file.cached) - len(file.synced))


def whole(file: File) -> bytes:
    return bytes(file.cached)


FATES: tuple[Bytes, ...] = (lost, torn, zeros, whole)


def _any(random: Random, file: File) -> bytes:
    return random.choice(FATES)(file)


class Disk:
    """The disk of a machine that runs."""

    def __init__(self) -> None:
        self._root = Folder()
        self._files: dict[int, File] = {}
        self._folders: list[Folder] = [self._root]
        self._changes = 0

    def play(self, operation: Operation) -> None:
        """One more operation."""
        what, data = operation.what, operation.data
        match operation.kind:
            case "create":
                self._files[data] = File()
                self._change(what, self._files[data])
            case "append":
                self._files[what].cached += data
            case "sync":
                self._files[what].synced = bytes(self._files[what].cached)
            case "make folder":
                self._folders.append(Folder())
                self._change(what, self._folders[-1])
            case "rename":
                moved = self._folder(what[:-1]).cached[what[-1]]
                self._change(what, None)
                self._change(data, moved)
            case "sync folder":
                folder = self._folder(what)
                folder.synced, folder.pending = dict(folder.cached), []
            case "remove":
                self._change(what, None)
            case _:
                raise ValueError(f"an operation must be one of files. Received: {operation}.")

    def _folder(self, path: tuple[str, ...]) -> Folder:
        folder: Node = self._root
        for name in path:
            assert isinstance(folder, Folder)
            folder = folder.cached[name]
        assert isinstance(folder, Folder)
        return folder

    def _change(self, path: tuple[str, ...], node: Node | None) -> None:
        folder = self._folder(path[:-1])
        if node is None:
            folder.cached.pop(path[-1], None)
        else:
            folder.cached[path[-1]] = node
        folder.pending.append((self._changes, path[-1], node))
        self._changes += 1

    def crashes(self, random: Random, n: int) -> Iterator[dict[str, bytes]]:
        """Files that may be there after a power cut now, by their paths: with none of the changes of names that were
        not synced, with all, with all but one of the last, with one of the last alone, and `n` times with any."""
        pending = sorted(number for folder in self._folders for number, _, _ in folder.pending)
        every, last = frozenset(pending), pending[-8:]
        for names in (frozenset[int](), every):
            for fate in FATES:
                yield self._crashed(names, fate)
        chosen = [every - {each} for each in last] + [frozenset({each}) for each in last]
        chosen += [frozenset(each for each in pending if random.random() < 0.5) for _ in range(n)]
        for names in chosen:
            yield self._crashed(names, partial(_any, random))

    def cached(self) -> dict[str, bytes]:
        """What the programs see."""
        return self._crashed(frozenset(range(self._changes)), whole)

    def _crashed(self, names: frozenset[int], fate: Bytes) -> dict[str, bytes]:
        return dict(_laid(self._root, names, fate, ""))


def _laid(folder: Folder, names: frozenset[int], fate: Bytes, above: str) -> Iterator[tuple[str, bytes]]:
    there = dict(folder.synced)
    for number, name, node in folder.pending:
        if number in names and node is None:
            there.pop(name, None)
        elif number in names and node is not None:
            there[name] = node
    for name, node in there.items():
        if isinstance(node, File):
            yield above + name, node.synced if node.synced == node.cached else fate(node)
        else:
            yield from _laid(node, names, fate, f"{above}{name}/")


class Copy:
    """A real folder that is made to look like one disk after the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._there: dict[str, bytes] = {}

    def lay(self, files: dict[str, bytes]) -> None:
        for path in self._there.keys() - files.keys():
            (self.root / path).unlink()
        for path, data in files.items():
            if self._there.get(path) != data:
                (self.root / path).parent.mkdir(parents=True, exist_ok=True)
                (self.root / path).write_bytes(data)
        self._there = files
