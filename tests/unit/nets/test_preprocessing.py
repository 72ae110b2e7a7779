"""Preprocessing: fitted on the rows given and no others, then the same arithmetic in a module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from gammabeta.errors import InvalidRequest
from gammabeta.nets import preprocessing
from gammabeta.nets.preprocessing import fit, preprocess_of
from gammabeta.schemas.datasets import Category, DatasetManifest, Feature
from gammabeta.schemas.preprocessing import FittedArray, FittedImage, FittedTable, PreprocessingSpec
from gammabeta.schemas.resolution import input_shape
from tests.unit.nets.plans import manifest_of

NAN = float("nan")
TABLE = np.array([[1, 10, 0, 5], [2, NAN, 1, 5], [3, 40, NAN, 5], [6, 20, 2, 5], [1000, 9999, 2, 7]], dtype=np.float32)
TRAINED = np.array([3, 0, 2, 1])


def table(**missing: int) -> DatasetManifest:
    words = tuple(Category(label=label, count=1) for label in ("blue", "green", "red"))
    return manifest_of(
        "table",
        Feature(name="age", kind="numeric"),
        Feature(name="income", kind="numeric", missing=missing.get("income", 1)),
        Feature(name="colour", kind="categorical", missing=missing.get("colour", 1), categories=words),
        Feature(name="constant", kind="numeric"),
        n=5,
    )


def fitted(**spec: Any) -> FittedTable:
    result = fit(PreprocessingSpec(**spec), table(), TABLE, TRAINED)
    assert isinstance(result, FittedTable)
    return result


def prepared(result: Any, raw: Any) -> np.ndarray[Any, Any]:
    tensor = preprocess_of(result)(torch.as_tensor(raw))
    assert tensor.dtype == torch.float32
    return tensor.numpy()  # type: ignore[no-any-return]


def test_standard_numbers_have_mean_zero_and_population_deviation_one_on_the_rows_given() -> None:
    y = prepared(fitted(), TABLE)
    assert_allclose(y[TRAINED, 0].mean(), 0, atol=1e-6)
    assert_allclose(y[TRAINED, 0].std(), 1, rtol=1e-6)
    known = np.array([10.0, 40, 20])
    assert_allclose(y[[0, 2, 3], 1], (known - known.mean()) / known.std(), rtol=1e-5)
    assert y[1, 1] == 0


def test_minmax_numbers_lie_between_zero_and_one_on_the_rows_given() -> None:
    y = prepared(fitted(numeric="minmax"), TABLE)
    assert_allclose(y[TRAINED, 0], [1.0, 0.0, 0.4, 0.2], rtol=1e-6)
    assert y[4, 0] > 100


def test_numbers_can_be_left_as_they_are() -> None:
    y = prepared(fitted(numeric="none"), TABLE)
    assert_allclose(y[:, 0], TABLE[:, 0])
    assert_allclose(y[1, 1], 70 / 3, rtol=1e-6)


@pytest.mark.parametrize(("missing", "fill"), [("mean", 70 / 3), ("median", 20.0)])
def test_missing_numbers_get_the_mean_or_median_of_the_rows_given(missing: str, fill: float) -> None:
    column = fitted(missing=missing).columns[1]
    assert column.kind == "numeric"
    assert column.fill == pytest.approx(fill)


def test_medians_are_those_of_numpy() -> None:
    x = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    x[np.random.default_rng(1).random(x.shape) < 0.3] = NAN
    rows = np.arange(0, 50, 3)
    manifest = manifest_of("table", *(Feature(name=str(at), kind="numeric", missing=1) for at in range(7)), n=50)
    result = fit(PreprocessingSpec(missing="median"), manifest, x, rows)
    assert isinstance(result, FittedTable)
    fills: Any = [column.fill for column in result.columns if column.kind == "numeric"]
    assert_allclose(fills, np.nanmedian(x[rows], axis=0))


def test_missing_numbers_are_refused_where_they_are_to_be_an_error() -> None:
    with pytest.raises(InvalidRequest, match="column 'income' has 1") as caught:
        fit(PreprocessingSpec(missing="error"), table(), TABLE, TRAINED)
    assert caught.value.errors[0].field == "preprocessing.missing"
    complete = fit(PreprocessingSpec(missing="error"), table(income=0), np.nan_to_num(TABLE), TRAINED)
    assert np.isnan(prepared(complete, TABLE[1:2])[0, 1])


@pytest.mark.parametrize("numeric", ["standard", "minmax"])
def test_constant_column_has_scale_one(numeric: str) -> None:
    column = fitted(numeric=numeric).columns[3]
    assert column.kind == "numeric"
    assert (column.offset, column.scale) == (5.0, 1.0)


def test_constant_that_float32_cannot_hold_has_scale_one() -> None:
    x = np.full((999, 1), 0.1, dtype=np.float32)
    result = fit(PreprocessingSpec(), manifest_of("table", Feature(name="a", kind="numeric"), n=999), x)
    assert_allclose(prepared(result, x), np.zeros((999, 1)), atol=1e-6)


def test_column_without_a_single_value_becomes_zeros() -> None:
    x = np.full((4, 1), NAN, dtype=np.float32)
    manifest = manifest_of("table", Feature(name="a", kind="numeric", missing=4), n=4)
    for missing in ("mean", "median"):
        assert_allclose(prepared(fit(PreprocessingSpec(missing=missing), manifest, x), x), np.zeros((4, 1)))


def test_categories_become_one_hot_with_a_place_for_missing_and_none_for_unseen() -> None:
    raw = TABLE[[0, 1, 2, 3, 0]].copy()
    raw[4, 2] = -1
    y = prepared(fitted(), raw)[:, 2:6]
    assert y.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_missing_category_gives_zeros_where_training_had_none() -> None:
    result = fit(PreprocessingSpec(), table(colour=0), TABLE, TRAINED)
    assert prepared(result, TABLE)[2, 2:5].tolist() == [0, 0, 0]


@pytest.mark.parametrize("missing", [0, 1])
def test_width_is_what_the_plan_expects(missing: int) -> None:
    manifest = table(colour=missing)
    result = fit(PreprocessingSpec(), manifest, TABLE, TRAINED)
    assert result.input_shape == input_shape(manifest) == prepared(result, TABLE).shape[1:]


def test_table_of_categories_alone() -> None:
    words = (Category(label="no", count=1), Category(label="yes", count=2))
    manifest = manifest_of("table", Feature(name="a", kind="categorical", categories=words), n=3)
    x = np.array([[0], [1], [1]], dtype=np.float32)
    assert prepared(fit(PreprocessingSpec(), manifest, x), x).tolist() == [[1, 0], [0, 1], [0, 1]]


def fitted_array(x: np.ndarray[Any, Any], **spec: Any) -> FittedArray:
    manifest = manifest_of("array", Feature(name="x", kind="numeric", shape=x.shape[1:]), n=len(x))
    result = fit(PreprocessingSpec(**spec), manifest, x, np.arange(30))
    assert isinstance(result, FittedArray)
    return result


@pytest.mark.parametrize("shape", [(3,), (50, 3), (4, 5, 3), (2, 4, 5, 3)])
def test_array_is_scaled_channel_by_channel(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(3, 2, size=(40, *shape)).astype(np.float32)
    x[:, ..., 0] += np.arange(np.prod(shape[:-1], dtype=int)).reshape(shape[:-1])
    x[..., 1] = 4
    axes, trained = tuple(range(x.ndim - 1)), x[:30].astype(np.float64)
    standard = fitted_array(x)
    assert_allclose(standard.offset, trained.mean(axis=axes), rtol=1e-12)
    assert_allclose(standard.scale, np.where([1, 0, 1], trained.std(axis=axes), 1), rtol=1e-9)
    y = prepared(standard, x)
    assert y.shape == x.shape
    assert_allclose(y[:30].std(axis=axes), [1, 0, 1], atol=1e-5)
    assert (standard.mean, standard.std) == ((), ())
    plain = fitted_array(x, numeric="none")
    assert_allclose(plain.mean, trained.mean(axis=axes), rtol=1e-12)
    assert_allclose(plain.std, trained.std(axis=axes), rtol=1e-9)
    np.testing.assert_array_equal(prepared(plain, x), x)
    y = prepared(fitted_array(x, numeric="minmax"), x)[:30]
    assert_allclose(y.min(axis=axes), [0, 0, 0], atol=1e-6)
    assert_allclose(y.max(axis=axes), [1, 0, 1], atol=1e-6)


def test_shifted_sequence_gives_the_shifted_numbers() -> None:
    x = np.random.default_rng(0).normal(size=(40, 50, 2)).astype(np.float32) * np.arange(1, 51)[:, None]
    result = fitted_array(x)
    np.testing.assert_array_equal(prepared(result, np.roll(x, 7, axis=1)), np.roll(prepared(result, x), 7, axis=1))


def test_array_of_an_older_version_is_scaled_element_by_element() -> None:
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    stored = FittedArray.model_validate({"shape": [2, 3], "offset": [1, 2, 3, 4, 5, 6], "scale": [1, 2, 4, 8, 16, 32]})
    assert_allclose(prepared(stored, x), (x - [[1, 2, 3], [4, 5, 6]]) / [[1, 2, 4], [8, 16, 32]], rtol=1e-6)
    assert_allclose(prepared(FittedArray(shape=(2, 3)), x.astype(np.float64)), x)


def test_statistics_of_chunks_pool_to_those_of_the_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    x = (np.random.default_rng(0).normal(size=(1000, 3)) * [1, 1e-3, 10] + [1e4, 5, 0]).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    monkeypatch.setattr(preprocessing, "CHUNK_ELEMENTS", 100)
    rows = np.random.default_rng(1).permutation(1000)[:777]
    result = fit(
        PreprocessingSpec(), manifest_of("array", Feature(name="x", kind="numeric", shape=(3,)), n=1000), mapped, rows
    )
    assert isinstance(result, FittedArray)
    assert_allclose(result.offset, x[rows].astype(np.float64).mean(axis=0), rtol=1e-12)
    assert_allclose(result.scale, x[rows].astype(np.float64).std(axis=0), rtol=1e-9)


PIXELS = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5) * 2


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("unit", PIXELS / 255),
        ("binary", (PIXELS > 127).astype(float)),
        ("none", PIXELS.astype(float)),
        ("standard", (PIXELS - PIXELS.mean()) / PIXELS.std()),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pixels(image: str, expected: Any, dtype: Any) -> None:
    manifest = manifest_of("image", Feature(name="x", kind="image", shape=(3, 4, 5)), n=2)
    result = fit(PreprocessingSpec(image=image), manifest, PIXELS)
    assert_allclose(prepared(result, PIXELS.astype(dtype)), expected, rtol=1e-5, atol=1e-6)


def test_binary_pixels_split_above_127() -> None:
    result = FittedImage(shape=(1, 2), threshold=127.0)
    assert prepared(result, np.array([[[127, 128]]], dtype=np.uint8)).tolist() == [[[[0.0], [1.0]]]]


def test_grey_images_get_their_channel_axis() -> None:
    manifest = manifest_of("image", Feature(name="x", kind="image", shape=(4, 5)), n=2)
    result = fit(PreprocessingSpec(), manifest, PIXELS[:, 0])
    assert prepared(result, PIXELS[:, 0]).shape == (2, 4, 5, 1)
    assert result.input_shape == (4, 5, 1)


def test_black_images_have_scale_one() -> None:
    manifest = manifest_of("image", Feature(name="x", kind="image", shape=(4, 5)), n=2)
    result = fit(PreprocessingSpec(image="standard"), manifest, np.zeros((2, 4, 5), np.uint8), np.array([0]))
    assert result == FittedImage(shape=(4, 5), offset=0.0, scale=1.0)


def test_raw_rows_are_left_as_they_were() -> None:
    raw = torch.from_numpy(TABLE.copy())
    preprocess_of(fitted())(raw)
    assert torch.equal(raw.nan_to_num(), torch.from_numpy(TABLE).nan_to_num())


def test_fitted_numbers_stand_in_no_state_dict() -> None:
    assert preprocess_of(fitted()).state_dict() == {}
