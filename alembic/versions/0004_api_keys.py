"""API keys. Programs up to 0003 ask for none: they go on beside this schema, on loopback and open, as before.

Revision: 0004
After: 0003
"""

import sqlalchemy as sa

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SERVED = sa.table("served_programs", sa.column("head", sa.Text))
KEYS = sa.table("api_keys", sa.column("id", sa.Text))


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("owner_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_ms", sa.BigInteger(), nullable=True),
        sa.Column("last_used_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_api_keys_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
    )
    _serve("0003", revision)


def downgrade() -> None:
    if op.get_bind().scalar(sa.select(sa.func.count()).select_from(KEYS)):
        raise RuntimeError(
            "0003 has no room for API keys, and its service would be open without one. "
            "To go back, restore the backup from before."
        )
    op.drop_table("api_keys")
    _serve("0003")


def _serve(*heads: str) -> None:
    op.execute(SERVED.delete())
    op.execute(SERVED.insert().values([{"head": each} for each in heads]))
