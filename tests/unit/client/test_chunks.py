from __future__ import annotations

from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gammabeta.client.chunks import Rows, bodies
from gammabeta.errors import InvalidRequest


def instances(rows: Rows, max_bytes: int = 2**20) -> list[list[Any]]:
    return [orjson.loads(body)["instances"] for body in bodies(rows, max_bytes=max_bytes)]


@given(
    rows=st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=200), max_size=3), max_size=40),
    max_bytes=st.integers(min_value=50, max_value=2_000),
)
def test_chunks_hold_all_rows_in_order_and_keep_the_limit(rows: list[dict[str, str]], max_bytes: int) -> None:
    sent = [*bodies(rows, max_bytes=max_bytes)]
    parts = [orjson.loads(body)["instances"] for body in sent]
    assert [row for part in parts for row in part] == rows
    assert all(len(body) <= max_bytes or len(part) == 1 for body, part in zip(sent, parts, strict=True))


def test_no_rows_are_one_empty_body() -> None:
    assert instances([]) == [[]]
    assert instances(np.zeros((0, 3))) == [[]]


def test_float32_comes_back_bit_by_bit() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    back = np.asarray(instances(rows)[0], dtype=np.float32)
    np.testing.assert_array_equal(back, rows)


@pytest.mark.parametrize(
    "rows",
    [
        np.arange(12).reshape(3, 4).T,
        np.arange(12, dtype=">f8").reshape(3, 4),
        np.arange(12, dtype=np.uint8).reshape(3, 2, 2),
        np.arange(12, dtype=np.float16)[::2].reshape(3, 2),
    ],
    ids=["transposed", "big endian", "images", "strided"],
)
def test_arrays_of_any_layout_are_sent_as_they_read(rows: np.ndarray[Any, Any]) -> None:
    assert instances(rows) == [rows.tolist()]


def test_image_files_are_sent_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    rows = [tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), b"\xff\xd8\xff"]
    for max_bytes in (2**20, 100):
        sent = [row for part in instances(rows, max_bytes) for row in part]
        assert [b64decode(row["b64"]) for row in sent] == [rows[1], *rows[1:]]
        assert all(row.keys() == {"b64"} for row in sent)


def test_an_image_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"instances\[1\]: must be a file that exists"):
        instances([b"", tmp_path / "none.png"])


def test_not_a_number_is_a_missing_value() -> None:
    assert instances(np.array([[1.0, np.nan]])) == [[[1.0, None]]]
    assert instances([{"age": float("nan"), "job": None}]) == [[{"age": None, "job": None}]]


@pytest.mark.parametrize(
    "rows",
    [np.array([[0.0], [np.inf]]), [[0.0], [float("-inf")]], [{"a": 0.0}, {"a": np.float32("inf")}]],
    ids=["array", "lists", "records"],
)
def test_infinity_is_refused_instead_of_becoming_a_missing_value(rows: Rows) -> None:
    with pytest.raises(InvalidRequest, match=r"instances\[1\]"):
        instances(rows)


def test_text_arrays_and_numpy_scalars_are_rows_too() -> None:
    assert instances(np.array([["a", "b"]])) == [[["a", "b"]]]
    assert instances([{"a": np.int64(3), "b": np.str_("x")}]) == [[{"a": 3, "b": "x"}]]


@pytest.mark.parametrize("rows", [{"a": 1}, "text", b"bytes", 3, np.float64(3)], ids=repr)
def test_a_single_row_is_refused_with_the_remedy(rows: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"Write \[row\]"):
        instances(rows)
    with pytest.raises(InvalidRequest, match=r"array\[None\]"):
        instances(np.asarray(3.0))


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="JSON"):
        instances([{"a": object()}])
