"""A batch-norm state keeps what its digest covers, for versions share it; what a training did to each layer is its
version's, and the momentum is in the version's network. `axis` may be a list. Initializers in stored networks are
written as Keras writes them, with the numbers that they use and no others.

Revision: 0002
After: 0001
"""

from collections import defaultdict
from typing import Any

import sqlalchemy as sa

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

VERSIONS = sa.table("versions", sa.column("batchnorm_digest", sa.Text), sa.column("batchnorm_counts", sa.JSON))
LAYERS = sa.table(
    "batchnorm_layers", sa.column("digest", sa.Text), sa.column("position", sa.BigInteger), sa.column("updates")
)


NETWORKS = sa.table(
    "versions", sa.column("model_id", sa.Text), sa.column("number", sa.BigInteger), sa.column("network", sa.JSON)
)
JOBS = sa.table("jobs", sa.column("id", sa.Text), sa.column("request", sa.JSON))

INITIALIZER = {"name", "value", "mean", "stddev", "minval", "maxval", "seed"}
"""The keys with which 0001 stored each initializer, whatever it used of them."""
USED = {
    "zeros": (),
    "ones": (),
    "constant": ("value",),
    "random_normal": ("mean", "stddev", "seed"),
    "truncated_normal": ("mean", "stddev", "seed"),
    "random_uniform": ("minval", "maxval", "seed"),
}


def upgrade() -> None:
    _versions()
    _layers()
    op.drop_column("batchnorm_states", "updates")
    _rewrite(NETWORKS, NETWORKS.c.network, NETWORKS.c.model_id, NETWORKS.c.number)
    _rewrite(JOBS, JOBS.c.request, JOBS.c.id)


def downgrade() -> None:
    raise RuntimeError(
        "0001 has no room for several axes, nor for versions that share a state and differ in their counts. "
        "To go back, restore the backup from before."
    )


def _versions() -> None:
    """Each version gets the counts that were shown for it until now. The default spares SQLite a table made anew, which
    it refuses while aliases refer to it."""
    op.add_column("versions", sa.Column("batchnorm_counts", sa.JSON(), server_default="[]", nullable=False))
    for digest, counts in _counts().items():
        op.execute(VERSIONS.update().where(VERSIONS.c.batchnorm_digest == digest).values(batchnorm_counts=counts))


def _counts() -> dict[str, list[dict[str, int]]]:
    """Of each state, by position. Until now no batch was skipped."""
    counts: defaultdict[str, list[dict[str, int]]] = defaultdict(list)
    rows = op.get_bind().execute(sa.select(LAYERS).order_by(LAYERS.c.digest, LAYERS.c.position))
    for digest, _, updates in rows:
        counts[digest].append({"updates": updates, "skipped": 0, "single": 0})
    return counts


def _layers() -> None:
    with op.batch_alter_table("batchnorm_layers") as layers:
        layers.alter_column("axis", type_=sa.JSON(), existing_nullable=False, postgresql_using="to_json(axis)")
        layers.drop_column("momentum")
        layers.drop_column("updates")


def _rewrite(table: sa.TableClause, document: sa.ColumnClause[Any], *key: sa.ColumnClause[Any]) -> None:
    for stored, *values in op.get_bind().execute(sa.select(document, *key)).all():
        written = _as_keras(stored)
        if written != stored:
            row = [column == value for column, value in zip(key, values, strict=True)]
            op.execute(table.update().where(*row).values({document.name: written}))


def _as_keras(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_keras(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() != INITIALIZER:
        return {key: _as_keras(each) for key, each in value.items()}
    config = {key: value[key] for key in USED.get(value["name"], ("seed",)) if value[key] is not None}
    return {"class_name": value["name"], "config": config} if config else value["name"]
