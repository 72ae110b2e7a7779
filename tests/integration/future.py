"""Migrations that a later version might bring, run by Alembic as that version would run them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from alembic.config import Config

from alembic import command
from gammabeta.store import migrations
from gammabeta.store.engine import Database

ALEMBIC = Path(__file__).resolve().parents[2] / "alembic"

KIND = """
from alembic import op
import sqlalchemy as sa

revision, down_revision, branch_labels, depends_on = "{revision}", "{before}", None, None

def upgrade():
    {change}
    served = sa.table("served_programs", sa.column("head", sa.Text))
    op.execute(served.delete())
    op.execute(served.insert().values([{{"head": each}} for each in {serves}]))
"""
EXPAND = """
    op.add_column("jobs", sa.Column("note", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("weight", sa.BigInteger(), server_default="1", nullable=False))
    op.create_table("notes", sa.Column("id", sa.Text(), primary_key=True))
    op.create_index("job_weight", "jobs", ["weight", "id"])
    op.execute("UPDATE jobs SET note = kind")
"""
"""What a program goes on beside: things that it does not know, which nobody has to fill in."""
CONTRACT = """
    op.drop_column("jobs", "deadline_ms")
    op.drop_column("jobs", "note")
"""
"""What a program that still mentions a column does not survive."""


@dataclass
class Future:
    """A copy of the migrations, and others after them. `folder`: where the copy is made."""

    folder: Path
    last: str = field(default_factory=lambda: migrations.head() or "")

    def __post_init__(self) -> None:
        shutil.copytree(ALEMBIC, self.folder)

    def add(self, change: str, *, serves: Iterable[str]) -> str:
        """One more migration: its revision, which serves itself too."""
        revision = f"{int(self.last) + 1:04d}"
        written = KIND.format(revision=revision, before=self.last, change=change, serves=[*serves, revision])
        (self.folder / "versions" / f"{revision}_later.py").write_text(written)
        self.last = revision
        return revision

    def upgrade(self, url: str, *, to: str = "head") -> None:
        config = Config()
        config.set_main_option("script_location", str(self.folder))
        config.set_main_option("path_separator", "os")
        database = Database(url)
        with database.connection() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, to)
        database.dispose()
