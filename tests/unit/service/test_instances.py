from __future__ import annotations

import base64
import json
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gammabeta.errors import GammabetaError, InvalidRequest, MalformedRequest, TooLarge
from gammabeta.schemas.preprocessing import CategoricalColumn, FittedArray, FittedImage, FittedTable, NumericColumn
from service.runtime import instances

TABLE = FittedTable(
    columns=(
        NumericColumn(name="age", fill=38.0),
        CategoricalColumn(name="work", categories=("1", "Private", "State")),
        NumericColumn(name="hours", fill=None),
    )
)
ARRAY = FittedArray(shape=(2, 3))
IMAGE = FittedImage(shape=(2, 2), scale=255.0)
NAN = float("nan")


def read(rows: Any, fitted: Any = TABLE) -> np.ndarray[Any, Any]:
    return instances.read(json.dumps({"instances": rows}).encode(), fitted)


def refused(rows: Any, fitted: Any = TABLE) -> tuple[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        read(rows, fitted)
    (error,) = caught.value.errors
    return error.field, error.message


def test_records_are_read_by_column_name() -> None:
    x = read([{"hours": 40, "age": 39.5, "work": "State"}, {"age": 20, "work": "Private", "hours": 1}])
    assert x.dtype == np.float64
    np.testing.assert_array_equal(x, [[39.5, 2, 40], [20, 1, 1]])


def test_lists_are_read_in_the_order_of_the_columns() -> None:
    np.testing.assert_array_equal(read([[39, "Private", 40]]), [[39, 1, 40]])


def test_absent_null_and_empty_are_missing() -> None:
    x = read([{"hours": 1}, {"age": None, "work": None, "hours": 1}, {"age": 3, "work": "", "hours": 1}])
    np.testing.assert_array_equal(x, [[NAN, NAN, 1], [NAN, NAN, 1], [3, NAN, 1]])


def test_an_unseen_category_has_a_code_of_its_own() -> None:
    assert read([[1, "Nobody ever", 2]])[0, 1] == -1


def test_a_whole_number_is_the_category_that_is_written_so() -> None:
    assert read([[1, 1, 2]])[0, 1] == 0


@pytest.mark.parametrize(
    ("row", "field", "words"),
    [
        ({"age": 1, "hours": 1, "wage": 3}, "instances[1].wage", "not a column"),
        ({"age": "39", "hours": 1}, "instances[1].age", "must be a number"),
        ({"age": True, "hours": 1}, "instances[1].age", "must be a number"),
        ({"age": [1], "hours": 1}, "instances[1].age", "must be a number"),
        ({"age": 1, "work": 2.5, "hours": 1}, "instances[1].work", "must be a string"),
        ({"age": 1, "work": ["Private"], "hours": 1}, "instances[1].work", "must be a string"),
        ({"age": 1, "work": "State"}, "instances[1].hours", "without missing values"),
        ({"age": 1e39, "hours": 1}, "instances[1].age", "finite"),
        ({"age": NAN, "hours": 1}, "instances[1].age", "finite"),
        ({"age": float("inf"), "hours": 1}, "instances[1].age", "finite"),
        ([1, "State", 2], "instances[1]", "object by column name"),
        ("age", "instances[1]", "object by column name"),
    ],
)
def test_an_error_names_instance_and_column(row: Any, field: str, words: str) -> None:
    place, message = refused([{"age": 1, "work": "State", "hours": 1}, row])
    assert place == field
    assert words in message


@pytest.mark.parametrize("row", [[1, "State"], [1, "State", 2, 3], [], {"age": 1}, 5, None])
def test_a_list_must_have_a_value_for_each_column(row: Any) -> None:
    assert refused([[1, "State", 2], row])[0] == "instances[1]"


def test_arrays_may_be_nested_or_flat() -> None:
    nested = read([[[1, 2, 3], [4, 5, 6.5]]], ARRAY)
    assert nested.shape == (1, 2, 3)
    np.testing.assert_array_equal(nested, read([[1, 2, 3, 4, 5, 6.5]], ARRAY))


def test_images_of_whole_numbers_become_float32() -> None:
    x = read([[[0, 255], [1, 2]], [[3, 4], [5, 6]]], IMAGE)
    assert x.dtype == np.float32
    assert x.shape == (2, 2, 2)


def test_true_and_false_are_pixels_as_in_training() -> None:
    np.testing.assert_array_equal(read([[[True, False], [False, True]]], IMAGE), [[[1, 0], [0, 1]]])


@pytest.mark.parametrize(
    ("row", "field", "words"),
    [
        ([[1, 2, 3], [4, 5]], "instances[1]", "different lengths"),
        ([[1, 2], [3, 4], [5, 6]], "instances[1]", "a list of 3"),
        ([1, 2, 3], "instances[1]", "a list of 3"),
        ([[1, 2, "3"], [4, 5, 6]], "instances[1][0][2]", "must be a number"),
        ([[1, 2, None], [4, 5, 6]], "instances[1][0][2]", "null is what JSON has for NaN"),
        ([[1, 2, NAN], [4, 5, 6]], "instances[1]", "finite"),
        ([[1, 2, 1e39], [4, 5, 6]], "instances[1]", "finite"),
        (7, "instances[1]", "in a list of its own: [[…]] 7"),
        ([7, 8], "instances[1]", "in a list of its own: [[…]] shape [2]"),
        ("abc", "instances[1]", "must be nested lists of shape [2, 3]"),
        ({"x": 1}, "instances[1]", "must be nested lists of shape [2, 3]"),
    ],
)
def test_an_array_that_does_not_fit_is_named(row: Any, field: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read([[[1, 2, 3], [4, 5, 6]], row], ARRAY)
    (error,) = caught.value.errors
    assert error.field == field
    assert words in f"{error.message} {error.received}"


def encoded(pixels: list[list[int]]) -> str:
    file = BytesIO()
    Image.fromarray(np.array(pixels, dtype=np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_image_files_give_the_rows_that_their_pixels_give() -> None:
    pixels = [[[0, 255], [1, 2]], [[3, 4], [5, 6]]]
    x = read([{"b64": encoded(each)} for each in pixels], IMAGE)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, read(pixels, IMAGE))


@pytest.mark.parametrize(
    ("row", "field", "words"),
    [
        ({"b64": "iVBORw0KGgo="}, "instances[1].b64", "PNG or JPEG"),
        ({"b64": "%"}, "instances[1].b64", "base64"),
        ({"b64": 7}, "instances[1].b64", "base64"),
        ({"b64": encoded([[1, 2, 3]])}, "instances[1].b64", "2 x 2 pixels"),
        ({"b64": "", "x": 1}, "instances[1]", "must be an object such as"),
        ([[1, 2], [3, 4]], "instances[1]", "as all of its neighbours"),
    ],
)
def test_an_image_file_that_does_not_fit_is_named(row: Any, field: str, words: str) -> None:
    place, message = refused([{"b64": encoded([[1, 2], [3, 4]])}, row], IMAGE)
    assert place == field
    assert words in message


def test_an_image_file_is_no_instance_of_an_array() -> None:
    assert refused([{"b64": encoded([[1, 2, 3], [4, 5, 6]])}], ARRAY) == (
        "instances[0]",
        "must be nested lists of shape [2, 3], or a flat list of 6 numbers",
    )


@pytest.mark.parametrize(
    ("body", "fitted"),
    [
        (b'{"instances":[' + b"{}," * 300_000 + b"{}]}", FittedTable(columns=TABLE.columns * 50)),
        (b'{"instances":[' + b'{"b64":""},' * 50_000 + b'{"b64":""}]}', FittedImage(shape=(224, 224, 3))),
    ],
)
def test_a_small_body_does_not_stand_for_any_amount_of_memory(body: bytes, fitted: Any) -> None:
    with pytest.raises(TooLarge, match="rows at a time"):
        instances.read(body, fitted)


@pytest.mark.parametrize("body", [b"", b"  ", b"{", b"instances", b"\xff\xfe", b'{"instances": [NaN}', b"[" * 5_000])
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        instances.read(body, TABLE)


@pytest.mark.parametrize("value", [[], {}, {"instances": []}, {"instances": {}}, {"instances": None}, 3, "x"])
def test_instances_must_be_a_list_of_some(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        instances.read(json.dumps(value).encode(), TABLE)


def test_other_keys_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="instance:"):
        instances.read(b'{"instances": [[1,"a",2]], "instance": 1}', TABLE)


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["age", "work", "hours", "b64"]), inner)
    ),
    max_leaves=12,
)


@given(rows=st.lists(values, max_size=4), fitted=st.sampled_from([TABLE, ARRAY, IMAGE]))
def test_whatever_comes_gives_rows_or_an_error_of_ours(rows: list[Any], fitted: Any) -> None:
    try:
        x = read(rows, fitted)
    except GammabetaError:
        return
    assert len(x) == len(rows)
    assert not np.isinf(x).any()
