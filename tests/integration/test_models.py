"""Versions, aliases and the batch-norm state as rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select, update

from gammabeta.errors import ArtifactCorrupt, InvalidRequest, ModelNotFound, VersionNotFound
from gammabeta.schemas.batchnorm import ARRAYS, BatchNormState
from gammabeta.schemas.models import BatchNormAnswer
from gammabeta.schemas.normalization import BATCH_NORM_ARGUMENTS
from gammabeta.store import models, publishing
from gammabeta.store.engine import Database
from gammabeta.store.tables import DEFAULT_PROJECT, LayerRow, StateRow
from tests.integration.samples import attempt, claimed, layer, publication


def publish(db: Database, model: str = "digits", **changes: Any) -> str:
    held = claimed(db, model=model)
    with db.write() as session:
        version = publishing.publish_version(session, **attempt(held), publication=publication(model=model, **changes))
    assert version is not None
    return version


def version_of(db: Database, **which: str) -> str:
    with db.read() as session:
        return models.version_schema(models.get_version(session, DEFAULT_PROJECT, "digits", **which)).version


def state_of(db: Database, version: str) -> BatchNormState:
    with db.read() as session:
        return models.batchnorm_state(session, models.get_version(session, DEFAULT_PROJECT, "digits", version))


def set_alias(db: Database, alias: str, version: str) -> None:
    with db.write() as session:
        models.set_alias(session, DEFAULT_PROJECT, "digits", alias, version)


def revision(db: Database) -> int:
    with db.read() as session:
        return models.revision(session)


def test_a_version_has_what_was_published(db: Database) -> None:
    publish(db, parameters=77, metrics={"test": {"loss": float("inf"), "accuracy": 0.5}})
    with db.read() as session:
        shown = models.version_schema(models.get_version(session, DEFAULT_PROJECT, "digits"))
    assert (shown.model, shown.version, shown.parameters, shown.classes) == ("digits", "1", 77, ("no", "yes"))
    assert shown.metrics == {"test": {"loss": None, "accuracy": 0.5}}
    assert shown.batchnorm_digest == publication().state.digest


def test_versions_are_numbered_within_their_model(db: Database) -> None:
    assert [publish(db), publish(db), publish(db, "other"), publish(db)] == ["1", "2", "1", "3"]
    with db.read() as session:
        found = models.find_models(session, DEFAULT_PROJECT)
        shown = [models.model_schema(session, row) for row in found]
    assert [(one.name, [each.version for each in one.versions]) for one in shown] == [
        ("digits", ["3", "2", "1"]),
        ("other", ["1"]),
    ]


def test_the_default_is_the_alias_production_and_else_the_newest(db: Database) -> None:
    publish(db)
    publish(db)
    assert version_of(db) == "2"
    set_alias(db, "production", "1")
    assert version_of(db) == "1"
    assert version_of(db, version="2") == "2"
    with db.write() as session:
        models.delete_alias(session, DEFAULT_PROJECT, "digits", "production")
    assert version_of(db) == "2"


def test_an_alias_moves(db: Database) -> None:
    publish(db)
    publish(db)
    for version in ("1", "2", "1"):
        set_alias(db, "canary", version)
        assert version_of(db, alias="canary") == version
    with db.read() as session:
        row = models.get_model(session, DEFAULT_PROJECT, "digits")
        assert models.model_schema(session, row).aliases == {"canary": "1"}


def test_the_revision_moves_when_a_name_may_mean_something_else(db: Database) -> None:
    seen = [revision(db)]
    publish(db)
    seen.append(revision(db))
    set_alias(db, "canary", "1")
    seen.append(revision(db))
    with db.write() as session:
        models.delete_alias(session, DEFAULT_PROJECT, "digits", "canary")
    seen.append(revision(db))
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("alias", ["12", "", "a b", "-a", "a" * 65])
def test_an_alias_must_be_a_name_and_not_a_number(db: Database, alias: str) -> None:
    publish(db)
    with pytest.raises(InvalidRequest, match="not all digits"):
        set_alias(db, alias, "1")


@pytest.mark.parametrize("version", ["2", "0", "01", "x", "-1", "²", "9" * 40, "\0"])
def test_a_version_that_is_not_there_is_not_found(db: Database, version: str) -> None:
    publish(db)
    with pytest.raises(VersionNotFound):
        version_of(db, version=version)


def test_what_is_not_there_is_not_found(db: Database) -> None:
    with pytest.raises(ModelNotFound, match="digits"):
        version_of(db)
    publish(db)
    with pytest.raises(VersionNotFound, match="canary"):
        version_of(db, alias="canary")
    with pytest.raises(VersionNotFound, match="canary"), db.write() as session:
        models.delete_alias(session, DEFAULT_PROJECT, "digits", "canary")
    with pytest.raises(InvalidRequest, match="version"):
        version_of(db, alias="canary", version="1")


def test_the_state_comes_back_bit_for_bit(db: Database) -> None:
    plain = layer("last", seed=3, gamma=None, beta=None, axis=1, epsilon=1e-5, momentum=0.1 + 0.2)
    several = layer("second", seed=2, channels=9, axis=(1, 3), updates=7, skipped=2)
    state = BatchNormState((layer("first", seed=1), several, plain))
    publish(db, state=state)
    found = state_of(db, "1")
    assert found.digest == state.digest
    for stored, given in zip(found.layers, state.layers, strict=True):
        for key in ("name", "axis", "epsilon", "momentum", "updates", "skipped"):
            assert getattr(stored, key) == getattr(given, key)
        for key in ARRAYS:
            np.testing.assert_array_equal(getattr(stored, key), getattr(given, key))


def test_layers_are_shown_with_their_arguments(db: Database) -> None:
    several = layer("several", channels=2, axis=(2, 3), gamma=None, updates=10, skipped=3, momentum=0.5)
    alone = [layer("renormed", axis=1), layer("ghosts", axis=3, channels=2), layer("plain", axis=3, channels=2)]
    norms: list[dict[str, Any]] = [
        {"name": "several", "axis": [-1, -2], "momentum": 0.5, "scale": False, "beta_regularizer": "l2"},
        {"name": "renormed", "axis": 1, "momentum": 0.99, "renorm": True, "renorm_clipping": "paper"},
        {"name": "ghosts", "momentum": 0.99, "virtual_batch_size": 8},
        {"name": "plain", "momentum": 0.99},
    ]
    rest = [{"type": "flatten"}, {"type": "dense", "units": 2}]
    network = {"layers": [*({"type": "batch_norm"} | each for each in norms), *rest]}
    image = {"kind": "image", "shape": [4, 1, 2]}
    publish(db, state=BatchNormState((several, *alone)), network=network, preprocessing=image)
    with db.read() as session:
        row = models.get_version(session, DEFAULT_PROJECT, "digits")
        answer = models.state_schema(models.version_schema(row), models.batchnorm_state(session, row))
    first, second, *_ = answer.layers
    assert (first.axis, first.gamma, first.channels, first.updates, first.skipped) == ((2, 3), None, 2, 10, 3)
    assert first.initial_weight == 0.5**10
    assert [each.variance_estimator for each in answer.layers] == ["biased", "renorm", "biased", "unbiased"]
    assert [each.fused_effective for each in answer.layers] == [False, False, False, True]
    assert all(each.arguments.keys() == BATCH_NORM_ARGUMENTS for each in answer.layers)
    assert [each.arguments["fused"] for each in answer.layers] == [False, False, False, True]
    assert (first.arguments["axis"], first.arguments["scale"]) == ([2, 3], False)
    assert first.arguments["beta_regularizer"] == {"class_name": "L1L2", "config": {"l1": 0.0, "l2": 0.01}}
    assert second.arguments["renorm_clipping"]["rmin"] == "1/rmax"
    assert BatchNormAnswer.model_validate_json(answer.model_dump_json()) == answer


def test_versions_with_the_same_state_share_its_rows(db: Database) -> None:
    publish(db)
    publish(db)
    publish(db, state=BatchNormState((layer(seed=5),)))
    with db.read() as session:
        assert session.scalar(select(func.count()).select_from(StateRow)) == 2
        assert session.scalar(select(func.count()).select_from(LayerRow)) == 2


def test_versions_that_share_a_state_keep_their_own_momentum_and_counts(db: Database) -> None:
    one, other = layer(updates=100), layer(updates=3, skipped=2, momentum=0.5)
    for each in (one, other):
        publish(db, state=BatchNormState((each,)))
    for version, each in (("1", one), ("2", other)):
        (found,) = state_of(db, version).layers
        assert (found.momentum, found.updates, found.skipped) == (each.momentum, each.updates, each.skipped)
    with db.read() as session:
        assert session.scalar(select(func.count()).select_from(StateRow)) == 1


def test_a_state_that_is_not_that_of_the_network_is_not_used(db: Database) -> None:
    publish(db)
    with db.write() as session:
        row = models.get_version(session, DEFAULT_PROJECT, "digits")
        kept, row.batchnorm_counts = row.batchnorm_counts, []
    with pytest.raises(ArtifactCorrupt, match="version 1 of 'digits'"):
        state_of(db, "1")
    with db.write() as session:
        models.get_version(session, DEFAULT_PROJECT, "digits").batchnorm_counts = kept


def test_a_network_without_batch_norm_has_a_state_too(db: Database) -> None:
    publish(db, state=BatchNormState(()))
    with db.read() as session:
        row = models.get_version(session, DEFAULT_PROJECT, "digits")
        assert models.batchnorm_state(session, row).layers == ()


def test_a_state_whose_rows_were_changed_is_not_used(db: Database) -> None:
    digest = publication().state.digest
    publish(db)
    with db.write() as session:
        kept = session.scalars(select(LayerRow.gamma)).one()
        session.execute(update(LayerRow).values(gamma=bytes(16)))
    with pytest.raises(ArtifactCorrupt, match=digest):
        state_of(db, "1")
    with db.write() as session:
        session.execute(update(LayerRow).values(gamma=kept))


def test_concurrent_first_versions_of_one_model_and_state_do_not_collide(db: Database) -> None:
    held = [claimed(db, model="new") for _ in range(8)]

    def one(index: int) -> str | None:
        with db.write() as session:
            return publishing.publish_version(session, **attempt(held[index]), publication=publication(model="new"))

    with ThreadPoolExecutor(8) as threads:
        versions = list(threads.map(one, range(8)))
    assert sorted(versions, key=lambda each: int(each or 0)) == [str(number) for number in range(1, 9)]
