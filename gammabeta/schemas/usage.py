"""How many bytes a project has stored."""

from __future__ import annotations

from gammabeta.schemas.base import Answer


class UsedBytes(Answer):
    """By what they belong to. What several things of a kind share counts once."""

    datasets: int
    """The arrays of data sets, and uploads that are not read yet."""
    models: int
    """The weights of versions."""
    jobs: int
    """The files that jobs have made, and their checkpoints."""
    total: int


class Usage(Answer):
    """What a project has stored, and may."""

    bytes: UsedBytes
    limit: int | None
    """Of the total; null: any number."""
