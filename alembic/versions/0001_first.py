"""The first schema, with the project `default` and the clock `now_ms()`.

Revision: 0001
After: none
"""

from typing import Any

import sqlalchemy as sa

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Column = sa.Column[Any]


def words(name: str, *, null: bool = False) -> Column:
    return sa.Column(name, sa.Text(), nullable=null)


def number(name: str, *, null: bool = False) -> Column:
    return sa.Column(name, sa.BigInteger(), nullable=null)


def real(name: str) -> Column:
    return sa.Column(name, sa.Double(), nullable=False)


def blob(name: str, *, null: bool = False) -> Column:
    return sa.Column(name, sa.LargeBinary(), nullable=null)


def document(name: str, *, null: bool = False) -> Column:
    return sa.Column(name, sa.JSON(), nullable=null)


def serial(name: str) -> Column:
    return sa.Column(name, sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False)


def key(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=op.f(f"pk_{table}"))


def unique(table: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name=op.f(f"uq_{table}_{'_'.join(columns)}"))


def check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))


def foreign(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [target], name=op.f(f"fk_{table}_{column}"))


def upgrade() -> None:
    _clock()
    _projects()
    _datasets()
    _jobs()
    _job_indexes()
    _job_history()
    _batchnorm()
    _models()
    _aliases()
    _workers()
    _idempotency()


def downgrade() -> None:
    raise RuntimeError("There is no schema before 0001 to go back to. To begin anew, use another database.")


def _clock() -> None:
    """On SQLite every connection brings the function with it."""
    if op.get_bind().dialect.name != "postgresql":
        return
    # STABLE, so that an index serves `lease_until_ms < now_ms()`; with clock_timestamp() it could not be.
    op.execute(
        "CREATE FUNCTION now_ms() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE AS "
        "$$ SELECT (extract(epoch FROM statement_timestamp()) * 1000)::bigint $$"
    )


def _projects() -> None:
    projects = op.create_table(
        "projects",
        words("id"),
        words("name"),
        number("revision"),
        number("created_ms"),
        key("projects", "id"),
        unique("projects", "name"),
    )
    op.execute(projects.insert().values(id="default", name="default", revision=0, created_ms=sa.func.now_ms()))


def _datasets() -> None:
    op.create_table(
        "datasets",
        words("id"),
        words("project_id"),
        words("name"),
        words("state"),
        words("format"),
        number("bytes"),
        words("sha256"),
        document("options"),
        document("manifest", null=True),
        words("error_code", null=True),
        words("error_message", null=True),
        number("created_ms"),
        key("datasets", "id"),
        unique("datasets", "project_id", "name"),
        check("datasets", "state", "state IN ('validating', 'ready', 'failed')"),
        check("datasets", "manifest", "state <> 'ready' OR manifest IS NOT NULL"),
        check("datasets", "error", "(state = 'failed') = (error_code IS NOT NULL)"),
        foreign("datasets", "project_id", "projects.id"),
    )


def _jobs() -> None:
    states = "'queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled'"
    counters = "fence >= 0 AND failures >= 0 AND losses >= 0 AND failures + losses <= fence"
    op.create_table(
        "jobs",
        words("id"),
        words("project_id"),
        words("owner_id"),
        words("kind"),
        words("state"),
        words("lane"),
        number("devices"),
        number("priority"),
        number("created_ms"),
        number("run_after_ms"),
        number("started_ms", null=True),
        number("finished_ms", null=True),
        number("deadline_ms", null=True),
        number("fence"),
        number("failures"),
        number("losses"),
        number("max_failures"),
        number("max_losses"),
        words("worker_id", null=True),
        number("lease_until_ms", null=True),
        number("cancel_requested_ms", null=True),
        number("pause_requested_ms", null=True),
        words("reason", null=True),
        words("message", null=True),
        words("device", null=True),
        words("model", null=True),
        words("dataset_id", null=True),
        number("version", null=True),
        document("progress", null=True),
        document("result", null=True),
        document("warnings"),
        document("metadata"),
        document("request"),
        key("jobs", "id"),
        check("jobs", "state", f"state IN ({states})"),
        check("jobs", "lane", "lane IN ('train', 'light')"),
        check("jobs", "worker", "(worker_id IS NOT NULL) = (state = 'running')"),
        check("jobs", "lease", "(lease_until_ms IS NOT NULL) = (state = 'running')"),
        check("jobs", "finished", "(finished_ms IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled'))"),
        check("jobs", "cancel", "state <> 'succeeded' OR cancel_requested_ms IS NULL"),
        check("jobs", "counters", counters),
        check("jobs", "limits", "max_failures >= 1 AND max_losses >= 1 AND devices >= 0"),
        foreign("jobs", "project_id", "projects.id"),
    )


def _job_indexes() -> None:
    queued, running = sa.text("state = 'queued'"), sa.text("state = 'running'")
    order = ["lane", sa.text("priority DESC"), "created_ms", "id"]
    op.create_index("job_ready", "jobs", order, postgresql_where=queued, sqlite_where=queued)
    op.create_index("job_lease", "jobs", ["lease_until_ms"], postgresql_where=running, sqlite_where=running)
    op.create_index("job_listed", "jobs", ["project_id", "id"])
    op.create_index("job_dataset", "jobs", ["dataset_id"])


def _job_history() -> None:
    op.create_table(
        "job_events",
        serial("id"),
        words("job_id"),
        number("fence"),
        words("type"),
        document("data"),
        number("created_ms"),
        key("job_events", "id"),
        foreign("job_events", "job_id", "jobs.id"),
        sqlite_autoincrement=True,
    )
    op.create_index("job_event_order", "job_events", ["job_id", "id"])
    op.create_table(
        "job_metrics",
        serial("id"),
        words("job_id"),
        number("fence"),
        number("step"),
        number("epoch"),
        document("values"),
        key("job_metrics", "id"),
        foreign("job_metrics", "job_id", "jobs.id"),
        sqlite_autoincrement=True,
    )
    op.create_index("job_metric_order", "job_metrics", ["job_id", "id"])
    op.create_table(
        "checkpoints",
        words("job_id"),
        number("fence"),
        number("step"),
        words("uri"),
        words("sha256"),
        number("bytes"),
        number("created_ms"),
        key("checkpoints", "job_id", "fence", "step"),
        foreign("checkpoints", "job_id", "jobs.id"),
    )


def _batchnorm() -> None:
    op.create_table(
        "batchnorm_states",
        words("digest"),
        number("layers"),
        number("updates"),
        number("created_ms"),
        key("batchnorm_states", "digest"),
    )
    op.create_table(
        "batchnorm_layers",
        words("digest"),
        number("position"),
        words("name"),
        number("channels"),
        number("axis"),
        real("epsilon"),
        real("momentum"),
        blob("gamma", null=True),
        blob("beta", null=True),
        blob("moving_mean"),
        blob("moving_variance"),
        number("updates"),
        key("batchnorm_layers", "digest", "position"),
        foreign("batchnorm_layers", "digest", "batchnorm_states.digest"),
    )


def _models() -> None:
    op.create_table(
        "models",
        words("id"),
        words("project_id"),
        words("name"),
        number("last_version"),
        number("created_ms"),
        key("models", "id"),
        unique("models", "project_id", "name"),
        foreign("models", "project_id", "projects.id"),
    )
    op.create_table(
        "versions",
        words("model_id"),
        number("number"),
        words("job_id"),
        number("fence"),
        words("dataset_id"),
        document("network"),
        document("preprocessing"),
        document("classes", null=True),
        document("metrics"),
        words("weights_sha256"),
        number("weights_bytes"),
        words("batchnorm_digest"),
        number("parameters"),
        words("parent", null=True),
        number("created_ms"),
        key("versions", "model_id", "number"),
        unique("versions", "job_id"),
        check("versions", "number", "number >= 1"),
        foreign("versions", "batchnorm_digest", "batchnorm_states.digest"),
        foreign("versions", "job_id", "jobs.id"),
        foreign("versions", "model_id", "models.id"),
    )


def _aliases() -> None:
    op.create_table(
        "aliases",
        words("model_id"),
        words("alias"),
        number("number"),
        number("updated_ms"),
        key("aliases", "model_id", "alias"),
        sa.ForeignKeyConstraint(
            ["model_id", "number"],
            ["versions.model_id", "versions.number"],
            name=op.f("fk_aliases_model_id_number"),
        ),
    )


def _workers() -> None:
    op.create_table(
        "workers",
        words("id"),
        words("hostname"),
        number("pid"),
        document("devices"),
        document("slots"),
        number("started_ms"),
        number("beat_ms"),
        key("workers", "id"),
    )


def _idempotency() -> None:
    op.create_table(
        "idempotency",
        words("project_id"),
        words("owner_id"),
        words("key"),
        words("request_hash"),
        number("status", null=True),
        document("body", null=True),
        number("created_ms"),
        key("idempotency", "project_id", "owner_id", "key"),
        foreign("idempotency", "project_id", "projects.id"),
    )
