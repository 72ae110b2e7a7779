"""The database says which programs it serves, so that one may go on beside a newer schema, or stop in time.

`jobs.deadline_ms`, which nothing has used, is mentioned by programs up to 0002 and no longer by this one: a later
migration, one that serves no program before 0003, drops it.

Revision: 0003
After: 0002
"""

import sqlalchemy as sa

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    served = op.create_table(
        "served_programs",
        sa.Column("head", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("head", name=op.f("pk_served_programs")),
    )
    op.execute(served.insert().values(head=revision))


def downgrade() -> None:
    op.drop_table("served_programs")
