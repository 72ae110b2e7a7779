from __future__ import annotations

import gzip
import math
import tracemalloc
import zlib
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from starlette.responses import Response

from gammabeta.errors import (
    GammabetaError,
    InvalidRequest,
    MalformedRequest,
    NotReady,
    Overloaded,
    TooLarge,
    UnsupportedMediaType,
)
from gammabeta.schemas.layers import Dense
from gammabeta.schemas.models import Version
from gammabeta.schemas.networks import LayersNetwork
from gammabeta.schemas.preprocessing import (
    CategoricalColumn,
    FittedArray,
    FittedImage,
    FittedPreprocessing,
    FittedTable,
    NumericColumn,
)
from service import problems
from service.guard import Guard
from service.openinference import answering, codings, datatypes, signature
from service.openinference.reading import Asked, Wanted, read
from tests.unit.service.asgi import request

CLASSES = ("no", "yes", "perhaps")
PEOPLE = FittedTable(
    columns=(
        NumericColumn(name="age", fill=38.0),
        CategoricalColumn(name="work", categories=("Private", "7", "größer")),
        NumericColumn(name="hours", fill=None),
    )
)
TWO = FittedArray(shape=(2,))
DATATYPES = sorted(set(datatypes.NUMBERS) - {"BF16"})


def version(preprocessing: FittedPreprocessing = TWO, classes: tuple[str, ...] | None = CLASSES) -> Version:
    return Version(
        model="m",
        version="3",
        job="job_1",
        dataset="ds_1",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        network=LayersNetwork(layers=(Dense(units=3),)),
        preprocessing=preprocessing,
        classes=classes,
        metrics={},
        weights_sha256="0" * 64,
        batchnorm_digest="sha256:1",
        parameters=1,
    )


def tensor(
    name: str, values: NDArray[Any] | list[Any], datatype: str, shape: Any = None, **more: Any
) -> dict[str, Any]:
    data = values.tolist() if isinstance(values, np.ndarray) else values
    shape = list(np.shape(values)) if shape is None else shape
    return {"name": name, "datatype": datatype, "shape": shape, "data": data, **more}


def asked(*inputs: dict[str, Any], of: FittedPreprocessing = TWO, **more: Any) -> Asked:
    return read(orjson.dumps({"inputs": inputs, **more}), None, version(of))


def binary(*inputs: tuple[str, str, list[int], bytes], of: FittedPreprocessing = TWO, **more: Any) -> Asked:
    tensors = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
        for name, kind, shape, raw in inputs
    ]
    header = orjson.dumps({"inputs": tensors, **more})
    return read(header + b"".join(raw for *_, raw in inputs), str(len(header)), version(of))


def people(**columns: dict[str, Any]) -> Asked:
    """All columns of the table, those that are not given as they usually come."""
    usual = {
        "age": tensor("age", [39, 40], "FP32"),
        "work": tensor("work", ["Private", "größer"], "BYTES"),
        "hours": tensor("hours", [40, 50.5], "FP32"),
    }
    return asked(*(usual | columns).values(), of=PEOPLE)


# ── tensors ──


def test_nested_flat_and_binary_tensors_are_the_same_rows() -> None:
    values = np.arange(24, dtype="<f4").reshape(2, 3, 4) / 7
    of = FittedImage(shape=(3, 4))
    nested = asked(tensor("x", values, "FP32"), of=of)
    flat = asked(tensor("x", values.ravel(), "FP32", [2, 3, 4]), of=of)
    row_by_row = asked(tensor("x", values.reshape(2, 12), "FP32"), of=of)
    after = binary(("x", "FP32", [2, 3, 4], values.tobytes()), of=of)
    for each in (nested, flat, row_by_row, after):
        assert each.x.dtype == np.float32
        np.testing.assert_array_equal(each.x, values)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_of_numbers_is_taken_in_json_and_in_binary(datatype: str) -> None:
    values = np.array([[0, 1], [1, 0]], dtype=datatypes.NUMBERS[datatype])
    for given_ in (asked(tensor("x", values, datatype)), binary(("x", datatype, [2, 2], values.tobytes()))):
        assert given_.x.dtype == np.float32
        np.testing.assert_array_equal(given_.x, [[0, 1], [1, 0]])


def test_bfloat16_is_the_upper_half_of_a_float32() -> None:
    raw = np.array([1.5, -2.0], dtype="<f4").view("<u2")[1::2].tobytes()
    np.testing.assert_array_equal(binary(("x", "BF16", [1, 2], raw)).x, [[1.5, -2.0]])


@pytest.mark.parametrize("request_id", ["", "1", "12", "123"])
def test_tensors_that_begin_anywhere_become_rows_in_their_own_memory(request_id: str) -> None:
    x = binary(("x", "FP32", [1, 2], np.array([1, 2], dtype="<f4").tobytes()), id=request_id).x
    assert (x.flags.aligned, x.flags.writeable, x.flags.c_contiguous) == (True, True, True)


@pytest.mark.parametrize("byte", [1, 2, 255])
def test_any_byte_but_0_is_true(byte: int) -> None:
    np.testing.assert_array_equal(binary(("x", "BOOL", [1, 2], bytes([byte, 0]))).x, [[1, 0]])


@pytest.mark.parametrize(("datatype", "value"), [("INT32", 2**24 + 1), ("INT64", -(2**24) - 1), ("UINT64", 2**64 - 1)])
def test_whole_numbers_that_float32_lacks_are_refused_and_as_floats_rounded(datatype: str, value: int) -> None:
    with pytest.raises(InvalidRequest, match=f"float32 has too.*Received: {value}"):
        asked(tensor("x", [[0, value]], datatype))
    assert asked(tensor("x", [[0, value]], "FP64")).x[0, 1] == np.float32(value)


def test_a_table_keeps_what_float32_would_lose() -> None:
    moment, many = 1_700_000_123.25, 2**53 - 1
    assert people(age=tensor("age", [moment, moment + 1], "FP64")).x[:, 0].tolist() == [moment, moment + 1]
    assert people(age=tensor("age", [many, many], "INT64")).x[0, 0] == many
    with pytest.raises(InvalidRequest, match="float64 has too"):
        people(age=tensor("age", [0, 2**53 + 1], "INT64"))


def test_columns_may_have_an_axis_of_their_own() -> None:
    x = people(age=tensor("age", [[39], [40]], "FP32"), work=tensor("work", [["Private"], ["x"]], "BYTES")).x
    np.testing.assert_array_equal(x, [[39, 0, 40], [40, -1, 50.5]])


def test_inputs_come_in_any_order_and_keep_their_bytes() -> None:
    x = binary(
        ("hours", "FP64", [2], np.array([1.0, 2.0]).tobytes()),
        ("work", "BYTES", [2], datatypes.packed([b"7", b""])),
        ("age", "INT8", [2], bytes([3, 4])),
        of=PEOPLE,
    ).x
    np.testing.assert_array_equal(x, [[3, 1, 1], [4, math.nan, 2]])


def test_missing_values_are_nan_null_and_the_empty_text() -> None:
    after = binary(
        ("age", "FP32", [2], np.array([np.nan, 1], dtype="<f4").tobytes()),
        ("work", "BYTES", [2], datatypes.packed([b"", b"7"])),
        ("hours", "FP32", [2], np.array([1, 2], dtype="<f4").tobytes()),
        of=PEOPLE,
    )
    within = people(
        age=tensor("age", [None, 1], "FP32", [2]),
        work=tensor("work", [None, "7"], "BYTES", [2]),
        hours=tensor("hours", [1, 2], "FP32"),
    )
    np.testing.assert_array_equal(after.x, [[math.nan, math.nan, 1], [1, 1, 2]])
    np.testing.assert_array_equal(within.x, after.x)


def test_whole_numbers_are_the_text_of_a_category() -> None:
    x = people(work=tensor("work", [7, 8], "INT16")).x
    assert x[:, 1].tolist() == [1, -1]


@given(st.lists(st.binary(max_size=9), max_size=30))
def test_texts_come_back_as_they_were_packed(elements: list[bytes]) -> None:
    raw = datatypes.packed(elements)
    assert list(datatypes.texts(memoryview(raw), len(elements))) == elements
    for wrong in (raw + b"\0", raw[:-1]):
        if elements:
            with pytest.raises(InvalidRequest):
                list(datatypes.texts(memoryview(wrong), len(elements)))


# ── what is refused ──

LIST = [[1, 2], [3, 4]]
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("no inputs", {}, "'inputs' must be a list of 1: 'x'. Received: None"),
    ("inputs as an object", {"inputs": {"x": 1}}, "'inputs' must be a list"),
    ("too many inputs", {"inputs": [{"name": "x"}] * 10_000}, "Received: 10,000 of them"),
    ("an input of another name", {"inputs": [tensor("y", LIST, "FP32")]}, "'y' is not an input of this model"),
    ("an input without a name", {"inputs": [{"name": ["x"]}]}, "must be an object with 'name'"),
    ("an unknown datatype", {"inputs": [tensor("x", LIST, "FLOAT")]}, "must have a datatype of BOOL"),
    ("a datatype that is none", {"inputs": [tensor("x", LIST, {})]}, "must have a datatype of BOOL"),  # type: ignore[arg-type]
    ("texts for numbers", {"inputs": [tensor("x", [["1", "2"]], "BYTES")]}, "must hold numbers, such as FP32"),
    ("a shape of another rank", {"inputs": [tensor("x", [1, 2], "FP32")]}, r"\[rows, 2\].*Received: \[2\]"),
    ("another row", {"inputs": [tensor("x", [[1, 2, 3]], "FP32")]}, r"Received: \[1, 3\]"),
    ("no rows", {"inputs": [tensor("x", [], "FP32", [0, 2])]}, "with one row at least"),
    ("a negative shape", {"inputs": [tensor("x", LIST, "FP32", [-1, 2])]}, "a list of whole numbers"),
    ("a shape of booleans", {"inputs": [tensor("x", LIST, "FP32", [True, 2])]}, "a list of whole numbers"),
    ("too few values", {"inputs": [tensor("x", [1, 2, 3], "FP32", [2, 2])]}, "must have 4 values.*Received: 3 values"),
    ("ragged rows", {"inputs": [tensor("x", [[1, 2], [3]], "FP32", [2, 2])]}, "nested as its shape.*a list of 1"),
    ("rows that are too deep", {"inputs": [tensor("x", [[[1], [2]]], "FP32", [1, 2])]}, "must hold FP32"),
    ("a text among numbers", {"inputs": [tensor("x", [[1, "2"]], "FP32")]}, "must hold FP32.*Received: 2"),
    ("true among numbers", {"inputs": [tensor("x", [[1, True]], "FP32", [1, 2])]}, "must hold FP32"),
    ("a fraction as INT8", {"inputs": [tensor("x", [[1, 2.5]], "INT8")]}, "must hold INT8"),
    ("300 as UINT8", {"inputs": [tensor("x", [[1, 300]], "UINT8")]}, "from 0 to 255. Received: 300"),
    ("1 as BOOL", {"inputs": [tensor("x", [[1, 0]], "BOOL")]}, "must hold BOOL"),
    ("null in an array", {"inputs": [tensor("x", [[1, None]], "FP32", [1, 2])]}, "finite numbers only.*row 0"),
    ("beyond float32", {"inputs": [tensor("x", [[0, 0], [1, 1e39]], "FP64")]}, "also as float32.*row 1"),
    ("BF16 in JSON", {"inputs": [tensor("x", LIST, "BF16")]}, "must come as a binary tensor"),
    ("no data", {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2]}]}, "must have 'data'"),
    ("no body after the JSON", {"inputs": [tensor("x", [], "FP32", [1, 2]) | {"data": None}]}, "must have 'data'"),
    ("an id that is no string", {"id": 3, "inputs": []}, "'inputs' must be"),
    ("shared memory", {"inputs": [tensor("x", LIST, "FP32", parameters={"shared_memory_region": "r"})]}, "no shared"),
    ("parameters as a list", {"inputs": [tensor("x", LIST, "FP32", parameters=[1])]}, "'parameters' must be an object"),
]


@pytest.mark.parametrize(("what", "body", "said"), WRONG, ids=[each[0] for each in WRONG])
def test_what_does_not_fit_is_said(what: str, body: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as raised:
        read(orjson.dumps(body), None, version())
    assert len(raised.value.message) < 1_000


@pytest.mark.parametrize("rows", [2**24 + 1, 2**31, 2**62, 2**63, 2**64 - 1])
@pytest.mark.parametrize("data", [[[1, 2]], [1, 2]])
def test_a_shape_whose_product_overflows_is_refused(rows: int, data: Any) -> None:
    with pytest.raises(GammabetaError, match=f"{2 * rows:,} values|{rows:,} rows of 8 bytes|nested as its shape"):
        asked(tensor("x", data, "FP32", [rows, 2]))
    with pytest.raises(GammabetaError, match=r"BYTES|rows"):
        people(work=tensor("work", ["7"], "BYTES", [rows]))


X = [tensor("x", LIST, "FP32")]
WRONG_OUTPUTS: list[tuple[str, dict[str, Any], str]] = [
    ("10,000 outputs", {"outputs": [{"name": "scores"}] * 10_000}, "at most 2: 'scores', 'label'.*10,000 of them"),
    ("an output twice", {"outputs": [{"name": "label"}, {"name": "label"}]}, r"outputs\[1\] must name one of.*once"),
    ("an unknown output", {"outputs": [{"name": "y"}]}, r"outputs\[0\] must name one of 2: 'scores', 'label'"),
    ("an output without a name", {"outputs": [{"name": ["label"]}]}, r"outputs\[0\] must name"),
    ("outputs as text", {"outputs": "label"}, "'outputs' must be a list"),
    ("binary as text", {"parameters": {"binary_data_output": "yes"}}, "must be true or false. Received: yes"),
    ("labels ranked", {"outputs": [{"name": "label", "parameters": {"classification": 2}}]}, "of the output 'scores'"),
    ("-1 classes", {"outputs": [{"name": "scores", "parameters": {"classification": -1}}]}, "classification must be"),
    ("an id that is no string", {"id": 3}, "'id' must be a string"),
]


@pytest.mark.parametrize(("what", "more", "said"), WRONG_OUTPUTS, ids=[each[0] for each in WRONG_OUTPUTS])
def test_outputs_that_there_are_not_are_refused(what: str, more: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        asked(*X, **more)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"age": tensor("age", [1, 2, 3], "FP32")}, "Input 'work' must have 3 rows, as the input 'age'.*2 rows"),
        ({"hours": tensor("hours", [1, None], "FP32", [2])}, "Input 'hours' must have no missing.*row 1"),
        ({"age": tensor("age", [1, 1e300], "FP64")}, "Input 'age' must be finite, also as float32, in row 1"),
        ({"age": tensor("age", ["1", "2"], "BYTES")}, "Input 'age' must hold numbers"),
        ({"work": tensor("work", [1.0, 2.0], "FP32")}, "Input 'work' must hold categories, as BYTES. Received: FP32"),
        ({"work": tensor("work", [1, 2], "BYTES")}, "Input 'work' must hold BYTES"),
        ({"work": tensor("age", [1, 2], "FP32")}, r"inputs\[1\]: 'age' stands there twice"),
    ],
)
def test_a_column_that_does_not_fit_is_named(columns: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        people(**columns)


def test_a_category_that_is_not_utf8_is_refused_rather_than_unseen() -> None:
    with pytest.raises(InvalidRequest, match="texts in UTF-8; the one in row 1"):
        binary(
            ("age", "INT8", [2], b"\1\2"),
            ("work", "BYTES", [2], datatypes.packed([b"Private", "größer".encode("latin-1")])),
            ("hours", "INT8", [2], b"\1\2"),
            of=PEOPLE,
        )


@pytest.mark.parametrize("literal", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_numbers_that_json_does_not_have_are_refused_with_the_way_to_send_them(literal: bytes) -> None:
    body = orjson.dumps({"inputs": [tensor("x", [[1, 0]], "FP32")]}).replace(b"[[1,0]]", b"[[1," + literal + b"]]")
    with pytest.raises(InvalidRequest, match=r"JSON has no others.*NaN in a binary tensor"):
        read(body, None, version())


RAW = np.array(LIST, dtype="<f4").tobytes()


def _binary_body(raw: bytes, size: Any = 16, **more: Any) -> tuple[bytes, int]:
    given_ = {"name": "x", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": size}, **more}
    header = orjson.dumps({"inputs": [given_]})
    return header + raw, len(header)


@pytest.mark.parametrize(
    ("raw", "size", "said"),
    [
        (RAW[:-1], 16, "must have a binary_data_size of 16 bytes|in sum"),
        (RAW + b"\0", 16, "bytes after the JSON: 17. Received: 16"),
        (RAW[:12], 12, "of 16 bytes, for FP32 of shape .2, 2.. Received: 12"),
        (RAW, 15, "bytes after the JSON: 16. Received: 15"),
        (RAW, 2**70, "binary_data_size|in sum"),
        (RAW, -16, "binary_data_size must be a whole number"),
        (RAW, "16", "binary_data_size must be a whole number"),
        (RAW, True, "binary_data_size must be a whole number"),
        (RAW, 16.0, "binary_data_size must be a whole number"),
    ],
)
def test_binary_tensors_of_another_size_are_refused(raw: bytes, size: Any, said: str) -> None:
    if size == 2**70:
        size = 2**63
    body, length = _binary_body(raw, size)
    with pytest.raises(InvalidRequest, match=said):
        read(body, str(length), version())


def test_a_tensor_has_its_values_in_one_place() -> None:
    body, length = _binary_body(RAW, data=LIST)
    with pytest.raises(InvalidRequest, match="without 'data' beside it"):
        read(body, str(length), version())


@pytest.mark.parametrize("length", ["-1", "x", "", "1e2", "99999", "²", "9" * 30, "1.0"])
def test_a_header_length_that_the_body_does_not_have_is_refused(length: str) -> None:
    with pytest.raises(MalformedRequest, match=r"Inference-Header-Content-Length must be .* at most \d+"):
        read(_binary_body(RAW)[0], length, version())


@pytest.mark.parametrize("off_by", [-1, 1])
def test_a_header_length_that_cuts_elsewhere_is_no_json(off_by: int) -> None:
    body, length = _binary_body(RAW)
    with pytest.raises(MalformedRequest, match="The body must be JSON"):
        read(body, str(length + off_by), version())


def test_a_binary_tensor_without_the_header_length_is_not_json() -> None:
    body, _ = _binary_body(RAW)
    with pytest.raises(MalformedRequest):
        read(body, None, version())


def test_a_size_without_its_bytes_says_where_they_were_looked_for() -> None:
    body, _ = _binary_body(b"")
    with pytest.raises(InvalidRequest, match=r"the bytes after the JSON: 0\. Received: 16"):
        read(body, None, version())


def test_a_body_may_be_nothing_but_the_one_tensor() -> None:
    found = read(RAW, "0", version())
    np.testing.assert_array_equal(found.x, LIST)
    assert [(each.name, each.binary) for each in found.outputs] == [("scores", True), ("label", True)]
    for body in (b"", RAW[:-1]):
        with pytest.raises(InvalidRequest, match="FP32 rows of 8 bytes"):
            read(body, "0", version())
    with pytest.raises(InvalidRequest, match="must not be 0 for this model"):
        read(RAW, "0", version(PEOPLE))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_mutilated_body_raises_anything_but_our_errors(data: st.DataObject) -> None:
    body, length = _binary_body(RAW)
    mutilated = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        mutilated[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    header = data.draw(st.sampled_from([None, "0", str(length), str(length + 1), str(cut)]))
    try:
        found = read(bytes(mutilated[:cut] if data.draw(st.booleans()) else mutilated), header, version())
    except GammabetaError as error:
        assert error.message  # noqa: PT017
    else:
        assert np.isfinite(found.x).all()


@pytest.mark.parametrize("raw", [b"", b"\0" * 4_000])
@pytest.mark.parametrize("of", [TWO, PEOPLE])
def test_a_short_body_cannot_ask_for_much_memory(of: FittedPreprocessing, raw: bytes) -> None:
    rows = 10_000_000
    names = ["x"] if of is TWO else ["work", "age", "hours"]
    shape = [rows, 2] if of is TWO else [rows]
    inputs = [(name, "BYTES" if name == "work" else "FP32", shape, raw) for name in names]
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest):
            binary(*inputs, of=of)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# ── compressed bodies ──


@pytest.mark.parametrize(
    ("name", "compress"), [("gzip", gzip.compress), ("GZIP", gzip.compress), ("deflate", zlib.compress)]
)
def test_bodies_come_compressed(name: str, compress: Any) -> None:
    assert codings.decoded(compress(b"abc"), name, limit=3) == b"abc"
    assert codings.decoded(b"abc", None, limit=3) == codings.decoded(b"abc", "identity", limit=3) == b"abc"


@pytest.mark.parametrize(("name", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_bomb_is_refused_before_it_is_large(name: str, compress: Any) -> None:
    bomb = compress(bytes(50_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="at most 1,000,000 bytes, decompressed"):
            codings.decoded(bomb, name, limit=1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("name", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_bomb_within_the_limit_is_refused_by_its_ratio(name: str, compress: Any) -> None:
    small, large = b"[]," * (1 << 20), b"[]," * (2 << 20)
    assert codings.decoded(compress(small), name, limit=1 << 30) == small
    with pytest.raises(TooLarge, match="at most 100 times as many bytes"):
        codings.decoded(compress(large), name, limit=1 << 30)
    digits = np.random.default_rng(0).integers(48, 58, 6 << 20, dtype=np.uint8).tobytes()
    assert codings.decoded(compress(digits), name, limit=1 << 30) == digits


ABC = gzip.compress(b"abc", mtime=0)


@pytest.mark.parametrize(
    "body", [b"", b"abc", ABC[:-1], ABC + b"x", zlib.compress(b"")], ids=["empty", "letters", "cut", "longer", "zlib"]
)
def test_what_is_not_one_whole_stream_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedRequest, match="gzip"):
        codings.decoded(body, "gzip", limit=100)


@pytest.mark.parametrize("name", ["br", "zstd", "gzip, gzip", "", "x" * 10_000])
def test_encodings_that_are_not_known_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="gzip or deflate") as raised:
        codings.decoded(b"", name or "?", limit=100)
    assert len(raised.value.message) < 500


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        (None, None),
        ("", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("deflate, gzip;q=0.5, br", "gzip"),
        ("gzip;q=0, deflate ; q=0.1", "deflate"),
        ("gzip;q=0.000", None),
        ("identity, *", None),
    ],
)
def test_the_answer_comes_in_an_encoding_that_is_accepted(accepted: str | None, encoding: str | None) -> None:
    assert codings.chosen(accepted) == encoding
    if encoding is not None:
        undo = {"gzip": gzip.decompress, "deflate": zlib.decompress}[encoding]
        assert undo(codings.encoded(b"abc" * 100, encoding)) == b"abc" * 100


# ── answers ──

SCORES = np.array([[0.25, 0.5, 0.25], [0.7, 0.1, 0.2]], dtype=np.float32)


def written(*outputs: Wanted, scores: NDArray[np.float32] = SCORES, of: Version | None = None) -> tuple[Any, bytes]:
    content = answering.write(of or version(), scores, outputs, "42")
    length = content.header_length
    return orjson.loads(content.body[:length]), b"" if length is None else content.body[length:]


def test_outputs_stand_flat_in_the_json() -> None:
    answer, raw = written(Wanted(name="label", binary=False), Wanted(name="scores", binary=False))
    assert raw == b""
    assert answer == {
        "model_name": "m",
        "model_version": "3",
        "id": "42",
        "parameters": {"batchnorm_mode": "eval", "batchnorm_digest": "sha256:1"},
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["yes", "no"]},
            {"name": "scores", "datatype": "FP32", "shape": [2, 3], "data": [0.25, 0.5, 0.25, 0.7, 0.1, 0.2]},
        ],
    }


def test_binary_outputs_follow_the_json_in_their_order() -> None:
    answer, raw = written(Wanted(name="label", binary=True), Wanted(name="scores", binary=True))
    labels = b"\3\0\0\0yes\2\0\0\0no"
    assert raw == labels + SCORES.tobytes()
    sizes = [each["parameters"]["binary_data_size"] for each in answer["outputs"]]
    assert sizes == [len(labels), SCORES.nbytes]
    assert not [each for each in answer["outputs"] if "data" in each]


def test_one_output_may_be_binary_and_one_not() -> None:
    answer, raw = written(Wanted(name="scores", binary=True), Wanted(name="label", binary=False))
    assert raw == SCORES.tobytes()
    assert answer["outputs"][1]["data"] == ["yes", "no"]


def test_the_best_classes_are_ranked_equal_ones_in_their_order() -> None:
    answer, _ = written(Wanted(name="scores", binary=False, classification=2))
    (output,) = answer["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    assert output["data"] == ["0.500000:1:yes", "0.250000:0:no", "0.700000:0:no", "0.200000:2:perhaps"]


def test_more_classes_than_there_are_are_all() -> None:
    answer, _ = written(Wanted(name="scores", binary=False, classification=10**9))
    assert answer["outputs"][0]["shape"] == [2, 3]


def test_a_number_is_the_output_value() -> None:
    of = version(classes=None)
    answer, raw = written(Wanted(name="value", binary=True), scores=np.array([1.5, 2], dtype=np.float32), of=of)
    assert (answer["outputs"][0]["shape"], raw) == ([2], np.array([1.5, 2], dtype="<f4").tobytes())


def test_the_value_of_each_output_goes_before_that_of_the_request() -> None:
    outputs = [{"name": "scores", "parameters": {"binary_data": False}}, {"name": "label"}]
    found = asked(*X, outputs=outputs, parameters={"binary_data_output": True}).outputs
    assert [(each.name, each.binary) for each in found] == [("scores", False), ("label", True)]
    assert [each.binary for each in asked(*X, outputs=[]).outputs] == [False, False]


def test_metadata_and_configuration_say_the_same() -> None:
    told, config = signature.metadata(version(PEOPLE), ("3", "1")), signature.config(version(PEOPLE))
    assert [(each.name, each.datatype, each.shape) for each in told.inputs] == [
        ("age", "FP32", (-1,)),
        ("work", "BYTES", (-1,)),
        ("hours", "FP32", (-1,)),
    ]
    assert [(each.name, each.datatype, each.shape) for each in told.outputs] == [
        ("scores", "FP32", (-1, 3)),
        ("label", "BYTES", (-1,)),
    ]
    assert [(each.data_type, each.dims) for each in config.input] == [
        ("TYPE_FP32", (-1,)),
        ("TYPE_STRING", (-1,)),
        ("TYPE_FP32", (-1,)),
    ]
    assert signature.metadata(version(FittedImage(shape=(8, 8))), ()).inputs[0].shape == (-1, 8, 8)


# ── errors ──


def test_errors_under_v2_are_in_the_form_of_the_protocol() -> None:
    error = InvalidRequest.of("instances[0]", "must be finite", "infinity")
    sent = request(problems.of(error), path="/v2/models/m/infer")
    assert (sent.status, sent.headers["content-type"]) == (400, "application/json")
    assert sent.json == {"error": "instances[0]: must be finite. Received: infinity"}
    assert request(problems.of(error), path="/v1/models/m/predict").status == 422
    assert request(problems.of(error), path="/v22").status == 422


def test_errors_under_v2_keep_their_headers() -> None:
    for error, status in ((NotReady("Wait."), 503), (Overloaded("Wait."), 429)):
        sent = request(problems.of(error), path="/v2")
        assert (sent.status, sent.headers["retry-after"], sent.json) == (status, "1", {"error": "Wait."})


def test_what_stands_before_the_routes_speaks_the_protocol_too() -> None:
    guard = Guard(Response("ok"), frozenset({"localhost"}))
    sent = request(guard, path="/v2/health/live", headers={"Host": "evil.example"})
    assert (sent.status, list(sent.json)) == (400, ["error"])
