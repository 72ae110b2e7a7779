"""Both ways of reading numbers are one: same bits where the short one answers, and it answers for nothing else."""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gammabeta.errors import GammabetaError
from gammabeta.schemas.preprocessing import (
    CategoricalColumn,
    FittedArray,
    FittedImage,
    FittedPreprocessing,
    FittedTable,
    NumericColumn,
)
from service.bodies import parsed
from service.runtime import instances, straight

SHAPES = ((1,), (3,), (1, 1), (2, 3), (3, 1), (2, 2, 3), (straight.LONG,), (straight.LONG // 2, 2))
TABLE = FittedTable(columns=tuple(NumericColumn(name=name, fill=0.0) for name in "abc"))


def body(rows: Any) -> bytes:
    return json.dumps({"instances": rows}).encode()


def long_way(raw: bytes, fitted: FittedPreprocessing) -> NDArray[Any]:
    return instances._one_by_one(instances._instances(parsed(raw)), fitted)


def answer(read: Any, *args: Any) -> tuple[Any, ...]:
    """What came of it, to the bit."""
    try:
        x = read(*args)
    except GammabetaError as error:
        return type(error), error.message
    return x.dtype, x.shape, x.tobytes()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("flat", [False, True])
def test_rows_of_numbers_take_the_short_way(shape: tuple[int, ...], flat: bool) -> None:
    x = np.random.default_rng(0).normal(size=(4, *shape))
    rows = straight.numbers(body((x.reshape(4, -1) if flat else x).tolist()), shape)
    assert rows is not None
    np.testing.assert_array_equal(rows, x.reshape(4, -1))


def test_white_space_may_stand_anywhere() -> None:
    rows = straight.numbers(json.dumps({"instances": [[[1, 2], [3, 4]]]}, indent="\t").encode() + b" \r\n", (2, 2))
    np.testing.assert_array_equal(np.asarray(rows), [[1, 2, 3, 4]])


@pytest.mark.parametrize("large", [False, True])
def test_what_was_read_outlives_the_next_body(large: bool) -> None:
    n = straight.KEPT_BYTES if large else 3
    first = straight.numbers(body([[1] * n]), (n,))
    straight.numbers(body([[2] * n]), (n,))
    assert first is not None
    assert set(first.ravel()) == {1}
    first += 1


def test_each_thread_has_a_parser_of_its_own() -> None:
    found: list[Any] = []
    threads = [
        threading.Thread(
            target=lambda k=k: found.extend((k, straight.numbers(body([[k] * 50]), (50,))) for _ in range(20))
        )
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert all((rows == k).all() for k, rows in found)


numbers = st.one_of(
    st.floats(width=32),
    st.floats(),
    st.integers(-300, 300),
    st.integers(-(2**66), 2**66),
    st.sampled_from(
        ["-0", "-0.0", "-0e5", "1E5", "1e999", "1e-999", "5e-324", "1e39", "-1e39", "1.", ".5", "+1", "01"]
    ),
    st.sampled_from(["9007199254740993", "18446744073709551615", "18446744073709551616", "3.4028235677973366e38"]),
    st.sampled_from(["NaN", "-Infinity", "null", "true", '"1"', '"["', "[]", "[1]", "{}", "", " ", "1 2"]),
).map(lambda value: value if isinstance(value, str) else json.dumps(value))
"""As they are written."""


def nested(shape: tuple[int, ...], leaves: list[str]) -> str:
    if not shape:
        return leaves[0]
    step = len(leaves) // shape[0]
    return "[" + ",".join(nested(shape[1:], leaves[at * step : (at + 1) * step]) for at in range(shape[0])) + "]"


@st.composite
def bodies(draw: st.DrawFn, shape: tuple[int, ...]) -> bytes:
    """Of rows that fit but for their numbers, then perhaps with one byte gone, doubled or put in place of another."""
    size = int(np.prod(shape))
    forms = [shape, (size,), (size + 1,), (*shape, 1), shape[::-1]]
    usual = draw(st.sampled_from(forms[:2]))
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        form = draw(st.sampled_from([usual, usual, usual, *forms]))
        leaves = [draw(numbers if draw(st.integers(0, 9)) == 0 else st.just("7.25")) for _ in range(int(np.prod(form)))]
        rows.append(nested(form, leaves))
    text = draw(st.sampled_from(['{"instances":[%s]}', ' {"instances" : [%s]}\n', '{"instances":[%s],"a[":1}']))
    raw = (text % ",".join(rows)).encode()
    at = draw(st.integers(0, len(raw)))
    instead = draw(st.sampled_from([None, None, b"", *(bytes([each]) for each in b'[],.{}" 1e-')]))
    return raw if instead is None else raw[:at] + instead + raw[at + draw(st.integers(0, 1)) :]


@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
def test_both_ways_give_the_same_bits_or_the_same_refusal(shape: tuple[int, ...], data: st.DataObject) -> None:
    raw = data.draw(bodies(shape))
    for fitted in (FittedArray(shape=shape), FittedImage(shape=shape)):
        assert answer(instances.read, raw, fitted) == answer(long_way, raw, fitted)


@given(raw=bodies((3,)))
@example(b'{"instances":[[1,2,3]],"instances":[[4,5,6]]}')
@example(b'{"instances":[[1,2,3]],"inst\\u0061nces":[[4,5,6]]}')
@example(b'{"instances":[[1,2,3]],"more":[[4,5,6]]}')
@example(b'{"instances":[[1,2,3],[[4,5],6]]}')
@example(b'{"instances":[[1,[2],3]]}')
@example(b'{"instances":[[1,[2,3],[]]]}')
@example(b'{"instances":[[],[1,2,3,4,5,6]]}')
@example(b'{"instances":[[1,2,3],4]}')
@example(b'{"instances":[[1,2,3],"["]}')
@example(b'{"instances":[[1,2,3]]}]')
@example(b'\xef\xbb\xbf{"instances":[[1,2,3]]}')
def test_tables_of_numbers_give_the_same_bits_or_the_same_refusal(raw: bytes) -> None:
    assert answer(instances.read, raw, TABLE) == answer(long_way, raw, TABLE)


def test_numbers_in_a_column_of_categories_are_the_text_that_they_are_written_as() -> None:
    fitted = FittedTable(
        columns=(CategoricalColumn(name="a", categories=("1", "2")), NumericColumn(name="b", fill=None))
    )
    np.testing.assert_array_equal(instances.read(b'{"instances":[[2,2],[7,7]]}', fitted), [[1, 2], [-1, 7]])
