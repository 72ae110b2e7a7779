"""Models, their versions and aliases, and the batch-norm state as rows. `publishing` makes them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sqlalchemy import delete, exists, func, insert, select, tuple_
from sqlalchemy.orm import Session

from gammabeta.errors import ArtifactCorrupt, InvalidRequest, ModelNotFound, VersionNotFound
from gammabeta.schemas.base import NAME_PATTERN
from gammabeta.schemas.batchnorm import BatchNormState, LayerState, from_bytes
from gammabeta.schemas.models import Alias, BatchNormAnswer, BatchNormLayer, Model, Version, VersionSummary
from gammabeta.schemas.normalization import BATCH_NORM_ARGUMENTS, BatchNorm
from gammabeta.schemas.plans import plan_network
from gammabeta.store.publishing import move_revision
from gammabeta.store.tables import AliasRow, LayerRow, ModelRow, ProjectRow, VersionRow, moment, now_ms

DEFAULT_ALIAS = "production"


def get_model(session: Session, project_id: str, name: str) -> ModelRow:
    """The model.

    Raises:
        ModelNotFound.
    """
    return _get_model(session, project_id, name, lock=False)


def locked(session: Session, project_id: str, name: str) -> ModelRow:
    """The model, of which nobody publishes or deletes a version or moves an alias until the transaction ends.

    Raises:
        ModelNotFound.
    """
    return _get_model(session, project_id, name, lock=True)


def _get_model(session: Session, project_id: str, name: str, *, lock: bool) -> ModelRow:
    query = select(ModelRow).where(ModelRow.project_id == project_id, ModelRow.name == name)
    row = session.scalar(query.with_for_update() if lock else query)
    # Asked after the lock was had: they may have been deleted meanwhile.
    if row is None or not session.scalar(select(exists().where(VersionRow.model_id == row.id))):
        raise ModelNotFound(f"There is no model '{name}'. GET /v1/models lists those that exist.")
    return row


def find_models(
    session: Session, project_id: str, *, after: str | None = None, limit: int = 20, ascending: bool = True
) -> list[ModelRow]:
    """A page of models in the order of their names."""
    query = select(ModelRow).where(ModelRow.project_id == project_id, ModelRow.id.in_(select(VersionRow.model_id)))
    if after is not None:
        query = query.where(ModelRow.name > after if ascending else ModelRow.name < after)
    return list(session.scalars(query.order_by(ModelRow.name if ascending else ModelRow.name.desc()).limit(limit)))


def version_numbers(session: Session, model: ModelRow) -> tuple[str, ...]:
    """All versions of a model, the newest first."""
    query = select(VersionRow.number).where(VersionRow.model_id == model.id).order_by(VersionRow.number.desc())
    return tuple(map(str, session.scalars(query)))


def all_versions(session: Session, project_id: str) -> list[tuple[str, str]]:
    """Model and version of all that there are, by name, the newest first."""
    query = select(ModelRow.name, VersionRow.number).join(VersionRow, VersionRow.model_id == ModelRow.id)
    ordered = query.where(ModelRow.project_id == project_id).order_by(ModelRow.name, VersionRow.number.desc())
    return [(name, str(number)) for name, number in session.execute(ordered)]


def existing(session: Session, wanted: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Those of the versions, each given by project, model and number, that there are."""
    place = tuple_(ModelRow.project_id, ModelRow.name, VersionRow.number)
    numbered = [(project, name, int(version)) for project, name, version in wanted]
    query = select(ModelRow.project_id, ModelRow.name, VersionRow.number)
    found = session.execute(query.join(VersionRow, VersionRow.model_id == ModelRow.id).where(place.in_(numbered)))
    return [(project, name, str(number)) for project, name, number in found]


def get_version(
    session: Session, project_id: str, name: str, version: str | None = None, alias: str | None = None
) -> VersionRow:
    """The version with this number, or of this alias; with neither, what the alias `production` names, else the newest.

    Raises:
        ModelNotFound, VersionNotFound.
        InvalidRequest: both were asked for.
    """
    if version is not None and alias is not None:
        raise InvalidRequest.of("alias", "cannot be combined with version. Write one of the two.", alias)
    model = get_model(session, project_id, name)
    if version is not None:
        return numbered(session, model, version)
    named = session.scalar(
        select(AliasRow.number).where(AliasRow.model_id == model.id, AliasRow.alias == (alias or DEFAULT_ALIAS))
    )
    if named is None and alias is not None:
        raise VersionNotFound(f"The model '{name}' has no alias '{alias}'. GET /v1/models/{name} lists them.")
    query = select(VersionRow).where(VersionRow.model_id == model.id)
    if named is not None:
        query = query.where(VersionRow.number == named)
    row = session.scalar(query.order_by(VersionRow.number.desc()).limit(1))
    if row is None:
        raise VersionNotFound(f"The model '{name}' has no version yet.")
    return row


def numbered(session: Session, model: ModelRow, version: str, *, lock: bool = False) -> VersionRow:
    """The version with this number.

    Raises:
        VersionNotFound.
    """
    row = None
    if re.fullmatch(r"[1-9][0-9]{0,17}", version, re.ASCII):
        query = select(VersionRow).where(VersionRow.model_id == model.id, VersionRow.number == int(version))
        row = session.scalar(query.with_for_update(of=VersionRow) if lock else query)
    if row is None:
        raise VersionNotFound(
            f"The model '{model.name}' has no version '{version}'. GET /v1/models/{model.name} lists them."
        )
    return row


def batchnorm_state(session: Session, version: VersionRow) -> BatchNormState:
    """The state from its rows, its digest verified; the momentum of each layer and its counts are the version's own.

    Raises:
        ArtifactCorrupt: the rows are not what the digest was taken of, or not the layers of the version.
    """
    digest, counts = version.batchnorm_digest, version.batchnorm_counts
    rows = session.scalars(select(LayerRow).where(LayerRow.digest == digest).order_by(LayerRow.position)).all()
    layers = [layer for layer in version.network["layers"] if layer["type"] == "batch_norm"]
    if [row.name for row in rows] != [layer["name"] for layer in layers] or len(counts) != len(rows):
        raise ArtifactCorrupt(
            f"The state {digest} must have the batch-norm layers of version {version.number} of "
            f"'{version.model.name}', so it is not used. Restore the database from a backup."
        )
    known = zip(rows, layers, counts, strict=True)
    state = BatchNormState(tuple(_layer_state(row, layer["momentum"], each) for row, layer, each in known))
    if state.digest != digest:
        raise ArtifactCorrupt(
            f"The stored batch-norm state must have the digest {digest}. Its rows have {state.digest}, so they are not "
            "used. Restore them from a backup."
        )
    return state


def _layer_state(row: LayerRow, momentum: float, counts: dict[str, int]) -> LayerState:
    return LayerState(
        name=row.name,
        axis=tuple(row.axis) if isinstance(row.axis, list) else row.axis,
        epsilon=row.epsilon,
        momentum=momentum,
        gamma=None if row.gamma is None else from_bytes(row.gamma),
        beta=None if row.beta is None else from_bytes(row.beta),
        moving_mean=from_bytes(row.moving_mean),
        moving_variance=from_bytes(row.moving_variance),
        **counts,
    )


def set_alias(session: Session, project_id: str, name: str, alias: str, version: str) -> Alias:
    """Let the alias name the version; moving it is atomic.

    Raises:
        ModelNotFound, VersionNotFound.
        InvalidRequest: the alias is no name, or all digits.
    """
    if not re.fullmatch(NAME_PATTERN, alias) or alias.isdigit():
        raise InvalidRequest.of("alias", "must be a name, and not all digits, such as 'production'", alias)
    model = locked(session, project_id, name)
    number = numbered(session, model, version).number
    _remove(session, model, alias)
    values = {"model_id": model.id, "alias": alias, "number": number, "updated_ms": now_ms()}
    session.execute(insert(AliasRow).values(**values))
    move_revision(session, project_id)
    return Alias(model=name, alias=alias, version=str(number))


def delete_alias(session: Session, project_id: str, name: str, alias: str) -> None:
    """Forget the alias.

    Raises:
        ModelNotFound.
        VersionNotFound: the model has no such alias.
    """
    model = locked(session, project_id, name)
    if not _remove(session, model, alias):
        raise VersionNotFound(f"The model '{name}' has no alias '{alias}'. GET /v1/models/{name} lists them.")
    move_revision(session, project_id)


def _remove(session: Session, model: ModelRow, alias: str) -> bool:
    statement = delete(AliasRow).where(AliasRow.model_id == model.id, AliasRow.alias == alias)
    removed = statement.returning(AliasRow.number).execution_options(synchronize_session=False)
    return session.scalar(removed) is not None


def revision(session: Session) -> int:
    """Moves whenever what a name or an alias means may have changed, in any project."""
    return int(session.scalars(select(func.sum(ProjectRow.revision))).one() or 0)


def model_schema(session: Session, row: ModelRow) -> Model:
    """The model as the service shows it."""
    versions = select(VersionRow).where(VersionRow.model_id == row.id).order_by(VersionRow.number.desc())
    aliases = select(AliasRow).where(AliasRow.model_id == row.id).order_by(AliasRow.alias)
    return Model(
        name=row.name,
        versions=tuple(_summary(version) for version in session.scalars(versions)),
        aliases={alias.alias: str(alias.number) for alias in session.scalars(aliases)},
        created_at=moment(row.created_ms),
    )


def _summary(row: VersionRow) -> VersionSummary:
    return VersionSummary(
        version=str(row.number),
        job=row.job_id,
        dataset=row.dataset_id,
        created_at=moment(row.created_ms),
        metrics=row.metrics,
        weights_sha256=row.weights_sha256,
        batchnorm_digest=row.batchnorm_digest,
    )


def version_schema(row: VersionRow) -> Version:
    """The version as the service shows it."""
    return Version.model_validate(
        {
            "model": row.model.name,
            "version": str(row.number),
            "job": row.job_id,
            "dataset": row.dataset_id,
            "created_at": moment(row.created_ms),
            "network": row.network,
            "preprocessing": row.preprocessing,
            "classes": row.classes,
            "metrics": row.metrics,
            "weights_sha256": row.weights_sha256,
            "batchnorm_digest": row.batchnorm_digest,
            "parameters": row.parameters,
            "parent": row.parent,
        }
    )


def state_schema(version: Version, state: BatchNormState) -> BatchNormAnswer:
    """The batch-norm state of the version as the service shows it."""
    plan = plan_network(version.network, input_shape=version.preprocessing.input_shape, outputs=None)
    specs = [layer.spec for layer in plan.layers if isinstance(layer.spec, BatchNorm)]
    layers = tuple(_layer_schema(layer, spec) for layer, spec in zip(state.layers, specs, strict=True))
    return BatchNormAnswer(digest=state.digest, layers=layers)


def _layer_schema(layer: LayerState, spec: BatchNorm) -> BatchNormLayer:
    return BatchNormLayer(
        name=layer.name,
        channels=layer.channels,
        axis=layer.axis,
        epsilon=layer.epsilon,
        momentum=layer.momentum,
        torch_momentum=1 - layer.momentum,
        fused_effective=bool(spec.fused),
        variance_estimator=spec.variance_estimator,
        updates=layer.updates,
        skipped=layer.skipped,
        single=layer.single,
        initial_weight=layer.initial_weight,
        gamma=None if layer.gamma is None else layer.gamma.tolist(),
        beta=None if layer.beta is None else layer.beta.tolist(),
        moving_mean=layer.moving_mean.tolist(),
        moving_variance=layer.moving_variance.tolist(),
        arguments=spec.model_dump(mode="json", include=set(BATCH_NORM_ARGUMENTS)),
    )
