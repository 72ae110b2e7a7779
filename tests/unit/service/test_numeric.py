"""Both ways of reading the JSON of a tensor are one: the same bits, or the same refusal."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gammabeta.errors import GammabetaError
from gammabeta.schemas.preprocessing import FittedArray, FittedImage, FittedPreprocessing, FittedTable, NumericColumn
from service.openinference import numeric, reading
from tests.unit.service.test_openinference import version

SHAPE = (2, 3)
TABLE = FittedTable(columns=tuple(NumericColumn(name=name, fill=0.0) for name in ("x", "y")))


@pytest.fixture(autouse=True, scope="module")
def _whatever_the_length() -> Any:
    """Bodies of tests are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numeric, "WORTH", 0)
        yield


def body(data: Any, shape: Any = (2, *SHAPE), datatype: str = "FP32", **more: Any) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "datatype": datatype, "shape": shape, "data": data}], **more}).encode()


def answer(raw: bytes, fitted: FittedPreprocessing) -> tuple[Any, ...]:
    """What came of it, to the bit."""
    try:
        asked = reading.read(raw, None, version(fitted))
    except GammabetaError as error:
        return type(error), error.message
    return asked.id, asked.outputs, asked.x.dtype, asked.x.shape, asked.x.tobytes()


def both(raw: bytes, fitted: FittedPreprocessing) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    short = answer(raw, fitted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numeric, "read", lambda _: None)
        return short, answer(raw, fitted)


@pytest.mark.parametrize("datatype", sorted(numeric.FLOATS))
@pytest.mark.parametrize("form", [(-1,), (2, *SHAPE)])
def test_flat_and_nested_tensors_take_the_short_way(datatype: str, form: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=(2, *SHAPE))
    found = numeric.read(body(x.reshape(form).tolist(), datatype=datatype, id="7", parameters={"a": 1}))
    assert found is not None
    assert (found["id"], found["parameters"], found["inputs"][0]["shape"]) == ("7", {"a": 1}, [2, *SHAPE])
    np.testing.assert_array_equal(found["inputs"][0]["data"], x.ravel())


def test_every_column_of_a_table_takes_the_short_way() -> None:
    columns = [{"name": name, "datatype": "FP64", "shape": [3], "data": [1, 2.5, 1e300]} for name in "xy"]
    found = numeric.read(json.dumps({"inputs": columns}).encode())
    assert found is not None
    assert [each["data"].tolist() for each in found["inputs"]] == [[1, 2.5, 1e300]] * 2


def test_texts_and_whole_numbers_are_left_to_who_knows_their_bounds() -> None:
    for datatype, data in (("BYTES", ["a"]), ("INT64", [1]), ("BOOL", [True])):
        assert numeric.read(body(data, shape=[1], datatype=datatype)) is None


def test_millions_of_lists_are_left_to_who_refuses_them() -> None:
    assert numeric.read(body([[]] * numeric.MOST, shape=[numeric.MOST, 0])) is None


ENDLESS = 2**63 - 1


@pytest.mark.parametrize(
    "shape",
    [["a", 500_000_000], ["a", ENDLESS], [[1], ENDLESS], [ENDLESS] * 50_000, [0] * 50_000, [2**64, 0], [1] * 33],
)
def test_a_shape_is_looked_at_before_it_is_multiplied(shape: list[Any]) -> None:
    raw = body([1.5] * 6, shape=shape)
    tracemalloc.start()
    try:
        assert numeric.read(raw) is None
        assert tracemalloc.get_traced_memory()[1] < 10 * len(raw) + 1_000_000
    finally:
        tracemalloc.stop()
    short, long = both(raw, FittedArray(shape=(6,)))
    assert short == long


def test_thousands_of_names_are_left_to_who_finds_them_faster() -> None:
    assert numeric.read(body([1.0] * 6, shape=[1, 6], **{f"name{index}": 0 for index in range(20)})) is None


leaves = st.sampled_from([0.5, -3, 7.25, 2**53 + 1, 1e308, 2**64, None, True, "1", [], [1.0], {}])
texts = st.sampled_from(
    ['"id":"["', '"id":7', '"outputs":[{"name":"scores"}]', '"outputs":[[]]', '"inputs":[]', '"a":[1]']
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Of tensors that mostly fit, then perhaps with one byte gone, doubled or put in place of another."""
    count = draw(st.sampled_from([12, 12, 12, 11, 13, 0]))
    values = [draw(leaves) if draw(st.integers(0, 30)) == 0 else 1.5 for _ in range(count)]
    form = draw(st.sampled_from(["flat", "nested", "rows", "columns"]))
    data: Any = values
    if form != "flat" and count == 12:
        data = [[values[6 * row + 3 * line :][:3] for line in range(2)] for row in range(2)]
        if form == "rows":
            data = [values[:6], values[6:]]
        elif form == "columns":
            data = [[*values[:4]], [*values[4:], []]]
    shape = draw(st.sampled_from([[2, 2, 3]] * 4 + [[2, 6], [12], [], [2, -6], [2.0, 6], "2", None, [0, 2, 3]]))
    raw = body(data, shape=shape, datatype=draw(st.sampled_from(["FP32"] * 4 + ["FP64", "FP16", "BF16", "INT8", "FP"])))
    if draw(st.booleans()):
        raw = raw[:-1] + b"," + draw(texts).encode() + b"}"
    at = draw(st.integers(0, len(raw)))
    instead = draw(st.sampled_from([None, None, None, b"", *(bytes([each]) for each in b'[],.{}" 1e-')]))
    return raw if instead is None else raw[:at] + instead + raw[at + draw(st.integers(0, 1)) :]


@given(raw=bodies())
@example(body([1, [2, 3], [], 4, 5, 6], shape=[1, 6]))
@example(b'{"inputs":[{"name":"x","datatype":"FP32","datatype":"INT8","shape":[1,6],"data":[1,2,3,4,5,6]}]}')
@example(b'{"id":"a","id":"b","inputs":[{"name":"x","datatype":"FP32","shape":[1,6],"data":[1,2,3,4,5,6]}]}')
@example(b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,6],"data":[1],"data":[1,2,3,4,5,6]}]}')
@example(b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,6],"data":[1,2,3,4,5,6],"d\\u0061ta":[1]}]}')
@example(b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,6],"data":[1,2,3,4,5,6]},7]}')
@example(b'[{"inputs":[]}]')
@example(b'\xef\xbb\xbf{"inputs":[{"name":"x","datatype":"FP32","shape":[1,6],"data":[1,2,3,4,5,6]}]}')
def test_both_ways_give_the_same_bits_or_the_same_refusal(raw: bytes) -> None:
    for fitted in (FittedImage(shape=SHAPE), FittedArray(shape=(6,)), TABLE):
        short, long = both(raw, fitted)
        assert short == long
