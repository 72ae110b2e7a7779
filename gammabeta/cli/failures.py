"""What goes wrong on this side of the wire: not part of the tree in `gammabeta.errors`, since no service says it.

CommandFailed
├── ProgramEnded       a program that `up` started ended before all was ready
├── WrongDatabase      `up` and `db` cannot use it: its address, its disk, or its schema
├── Damaged            `db check` found something that does not hold
├── SomethingMissing   `demo` without scikit-learn
└── AccuraciesDiffer   `demo` found a bug
"""

from __future__ import annotations


class CommandFailed(Exception):
    """The command could not do its work."""

    def __init__(self, message: str | None = None) -> None:
        self.message = message or (self.__doc__ or "").strip()
        super().__init__(self.message)


class ProgramEnded(CommandFailed):
    """A program of gammabeta ended while it was starting. Its log says why."""


class WrongDatabase(CommandFailed):
    """The database must be one that this version can use, and is not."""


class Damaged(CommandFailed):
    """Something that is stored is not as it must be."""


class SomethingMissing(CommandFailed):
    """The demo must have scikit-learn for its digits, and it is not installed. Run: pip install 'gammabeta[demo]'"""


class AccuraciesDiffer(CommandFailed):
    """The accuracy that the job reported is not the one of the predictions over HTTP. This is a bug."""
