"""Indexes for lists of jobs by state and by model, and the one of the queue with what its census asks. Programs since
0003 ask nothing that an index could break: they go on beside this schema.

Revision: 0005
After: 0004
"""

import sqlalchemy as sa

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SERVED = sa.table("served_programs", sa.column("head", sa.Text))
QUEUED = {name: sa.text("state = 'queued'") for name in ("postgresql_where", "sqlite_where")}
READY = ["lane", sa.text("priority DESC"), "created_ms", "id"]


def upgrade() -> None:
    op.drop_index("job_ready", table_name="jobs")
    op.create_index("job_ready", "jobs", [*READY, "run_after_ms"], **QUEUED)
    op.create_index("job_in_state", "jobs", ["project_id", "state", "id"])
    op.create_index("job_of_model", "jobs", ["project_id", "model", "id"])
    _serve("0003", "0004", revision)


def downgrade() -> None:
    op.drop_index("job_of_model", table_name="jobs")
    op.drop_index("job_in_state", table_name="jobs")
    op.drop_index("job_ready", table_name="jobs")
    op.create_index("job_ready", "jobs", READY, **QUEUED)
    _serve("0003", "0004")


def _serve(*heads: str) -> None:
    op.execute(SERVED.delete())
    op.execute(SERVED.insert().values([{"head": each} for each in heads]))
