from __future__ import annotations

import csv
import json
from io import StringIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gammabeta.errors import GammabetaError, InvalidRequest, MalformedRequest, TooLarge, UnsupportedMediaType
from gammabeta.schemas.preprocessing import CategoricalColumn, FittedArray, FittedImage, FittedTable, NumericColumn
from service.runtime import instances, tables_csv

TABLE = FittedTable(
    columns=(
        NumericColumn(name="age", fill=38.0),
        CategoricalColumn(name="work", categories=("1", "Private", " State")),
        NumericColumn(name="hours", fill=None),
    )
)
NUMBERS = FittedTable(columns=tuple(NumericColumn(name=name, fill=0.0) for name in "abc"))
NAN = float("nan")


def read(text: str, fitted: Any = TABLE) -> NDArray[Any]:
    return tables_csv.read(text.encode(), fitted)


def refused(text: str, fitted: Any = TABLE) -> tuple[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        read(text, fitted)
    (error,) = caught.value.errors
    return error.field, error.message


def test_columns_are_found_by_name_in_any_order() -> None:
    x = read("hours,age,work\n40,39.5, State\n1,20,Private\n")
    assert x.dtype == np.float64
    np.testing.assert_array_equal(x, [[39.5, 2, 40], [20, 1, 1]])


def test_rows_are_those_that_json_gives() -> None:
    rows = [{"hours": 40, "age": 39.5, "work": "Private"}, {"hours": 1, "work": "Nobody ever"}]
    from_json = instances.read(json.dumps({"instances": rows}).encode(), TABLE)
    np.testing.assert_array_equal(read("hours,age,work\n40,39.5,Private\n1,,Nobody ever"), from_json)


def test_empty_and_blank_cells_and_columns_that_are_left_out_are_missing() -> None:
    np.testing.assert_array_equal(read("hours,work\n1,\n2,  \n"), [[NAN, NAN, 1], [NAN, NAN, 2]])


def test_empty_lines_are_no_rows() -> None:
    np.testing.assert_array_equal(read("hours\n\n1\n\n2\n\n"), [[NAN, NAN, 1], [NAN, NAN, 2]])


def test_cells_may_be_quoted_and_lines_may_end_as_on_windows() -> None:
    fitted = FittedTable(columns=(CategoricalColumn(name="a,b", categories=('x\n"y"',)), *NUMBERS.columns))
    x = read('\ufeff"a,b",a,b,c\r\n"x\n""y""","1",2,3\r\n', fitted)
    np.testing.assert_array_equal(x, [[0, 1, 2, 3]])


def test_numbers_may_have_blanks_around_them_and_any_spelling_of_a_training_file() -> None:
    np.testing.assert_array_equal(read("a,b,c\n 1 ,+2,.5\n-1e3,1.,007\n", NUMBERS), [[1, 2, 0.5], [-1000, 1, 7]])


@pytest.mark.parametrize("cell", ["1_000", "\u0663", "0x10", "one", "1 2", "1;2", "[1", "1]", "{}", "true", "null"])
def test_what_is_no_number_is_named(cell: str) -> None:
    field, message = refused(f"a,b,c\n1,2,3\n1,{cell},3\n", NUMBERS)
    assert field == "instances[1].b"
    assert "must be a number" in message


@pytest.mark.parametrize("cell", ["nan", "inf", "-Infinity", "1e39", "1e999"])
def test_numbers_must_be_finite(cell: str) -> None:
    field, message = refused(f"a,b,c\n1,2,{cell}\n", NUMBERS)
    assert field == "instances[0].c"
    assert "finite" in message


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("age,hours,wage\n1,2,3", "header", "must name columns of this model"),
        ("age;hours\n1;2", "header", "separated by commas"),
        ("hours,hours\n1,2", "header", "once"),
        ("39,Private,40\n", "header", "age, work, hours"),
        ("\n1", "header", "age, work, hours"),
        ("", "header", "age, work, hours"),
        ("age,hours\n", "instances", "at least one row"),
        ("age,hours\n\n\n", "instances", "at least one row"),
        ("age,hours\n1,2\n1,2,3", "instances[1]", "2 cells"),
        ("age,hours\n1,2\n1", "instances[1]", "2 cells"),
        ("age\n1", "instances[0].hours", "without missing values"),
        ("age,hours\n1,2\n1,", "instances[1].hours", "without missing values"),
        ("a,b,c\n1,2],[3,4", "header", "age, work, hours"),
    ],
)
def test_a_table_that_does_not_fit_is_named(text: str, field: str, words: str) -> None:
    place, message = refused(text)
    assert place == field
    assert words in message


def test_a_row_is_named_however_far_down_it_is() -> None:
    lines = "1,2,3\n" * (tables_csv.CELLS_AT_ONCE // 3 + 5)
    assert refused(f"a,b,c\n{lines}1,x,3\n", NUMBERS)[0] == f"instances[{tables_csv.CELLS_AT_ONCE // 3 + 5}].b"
    assert refused(f"a,b,c\n{lines}1,2\n", NUMBERS)[0] == f"instances[{tables_csv.CELLS_AT_ONCE // 3 + 5}]"


@pytest.mark.parametrize("body", [b"age,hours\n\xff,1", b"age\0,hours\n1,1", b'age,hours\n"1,2\n', b'hours\n"1"2\n'])
def test_what_is_not_csv_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedRequest, match="must be csv"):
        tables_csv.read(body, TABLE)


@pytest.mark.parametrize("fitted", [FittedArray(shape=(2,)), FittedImage(shape=(2, 2))])
def test_csv_is_for_models_of_columns(fitted: Any) -> None:
    with pytest.raises(UnsupportedMediaType, match="application/json"):
        read("a,b\n1,2", fitted)


def test_a_small_body_does_not_stand_for_any_amount_of_memory() -> None:
    columns = tuple(NumericColumn(name=f"c{at}", fill=0.0) for at in range(2_000))
    with pytest.raises(TooLarge, match="rows at a time"):
        read("c0\n" + "1\n" * 30_000, FittedTable(columns=columns))


def test_both_ways_give_the_same_rows() -> None:
    x = np.random.default_rng(0).normal(size=(50, 3))
    lines = [",".join(map(repr, row)) for row in x.tolist()]
    short, long = (read("\n".join(["b,c,a", *lines, *more]), NUMBERS) for more in ([], ["7.,7.,7."]))
    np.testing.assert_array_equal(short, x[:, [2, 0, 1]])
    np.testing.assert_array_equal(long[:-1], short)
    assert short.flags.c_contiguous


cells = st.text('01.-+e,_ \n"[]{}:a', max_size=5) | st.sampled_from(["1", "2.5", "-0", "1e400", "99999999999999999999"])


@given(rows=st.lists(st.lists(cells, min_size=3, max_size=3), min_size=1, max_size=4), quoted=st.booleans())
def test_whatever_comes_gives_the_numbers_of_the_cells_or_an_error_of_ours(rows: list[list[str]], quoted: bool) -> None:
    """Without quotes, a cell with a comma or a bracket may make anything of the lines."""
    text = StringIO()
    csv.writer(text).writerows(rows)
    lines = text.getvalue() if quoted else "\n".join(",".join(row) for row in rows)
    try:
        x = read("a,b,c\n" + lines, NUMBERS)
    except GammabetaError:
        return
    found = [row for row in csv.reader(StringIO(lines, newline="")) if row]
    np.testing.assert_array_equal(x, [[float(cell) if cell.strip() else NAN for cell in row] for row in found])
