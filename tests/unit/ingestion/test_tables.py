"""csv files: what becomes of cells, columns and targets."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tests.unit.ingestion.conftest import LIMITS, Ingest

MIXED = "age,colour,y\n10,red,no\n20,blue,yes\n,red,no\n40,,yes\n"


def test_a_column_of_numbers_is_numeric_with_moments_of_the_training_rows(ingest_file: Ingest) -> None:
    age = ingest_file.csv(MIXED).manifest.features[0]
    assert (age.name, age.kind, age.missing) == ("age", "numeric", 1)
    assert (age.min, age.max, age.median) == (10, 40, 20)
    assert age.mean == pytest.approx(70 / 3)
    assert age.std == pytest.approx(np.std([10, 20, 40]))


def test_a_column_with_a_text_is_categorical_in_sorted_order_with_counts(ingest_file: Ingest) -> None:
    colour = ingest_file.csv(MIXED).manifest.features[1]
    assert colour.kind == "categorical"
    assert colour.missing == 1
    assert [(each.label, each.count) for each in colour.categories or ()] == [("blue", 1), ("red", 2)]


def test_rows_hold_numbers_codes_and_nan_for_what_is_missing(ingest_file: Ingest) -> None:
    read = ingest_file.csv(MIXED)
    np.testing.assert_array_equal(read.x(), np.array([[10, 1], [20, 0], [np.nan, 1], [40, np.nan]], dtype=np.float32))
    assert read.x().dtype == np.float64
    assert read.y().tolist() == [0, 1, 0, 1]
    assert read.y().dtype == np.int64


def test_the_manifest_names_each_array_by_the_hash_of_its_file(ingest_file: Ingest) -> None:
    read = ingest_file.csv(MIXED)
    described = read.manifest.splits["train"].x
    data = (read.folder / "train-x.npy").read_bytes()
    assert (described.sha256, described.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert (described.dtype, described.shape) == ("float64", (4, 2))


def test_categorical_and_ignore_override_what_is_inferred(ingest_file: Ingest) -> None:
    read = ingest_file.csv("zip,id,v,y\n100,1,2,a\n200,2,3,b\n100,3,4,a\n", categorical=("zip",), ignore=("id",))
    assert [(each.name, each.kind) for each in read.manifest.features] == [("zip", "categorical"), ("v", "numeric")]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["yes", "no", "yes"], ("no", "yes")),
        (["10", "9", "10"], ("9", "10")),
        (["0", "1", "0"], ("0", "1")),
        (["True", "False", "True"], ("False", "True")),
    ],
)
def test_texts_and_few_integers_are_classes_labelled_as_they_stand(
    ingest_file: Ingest, values: list[str], labels: tuple[str, ...]
) -> None:
    target = ingest_file.csv("a,y\n" + "".join(f"{i},{v}\n" for i, v in enumerate(values))).manifest.target
    assert (target.kind, target.labels) == ("class", labels)


def test_decimals_and_many_integers_are_numbers(ingest_file: Ingest) -> None:
    assert ingest_file.csv("a,y\n1,0.5\n2,1.5\n").manifest.target.kind == "number"
    many = ingest_file.csv("a,y\n" + "".join(f"1,{i}\n" for i in range(101)))
    assert many.manifest.target.kind == "number"
    assert many.y().dtype == np.float32
    assert many.manifest.target.mean == 50


def test_a_target_named_categorical_is_a_class(ingest_file: Ingest) -> None:
    assert ingest_file.csv("a,y\n1,0.5\n2,1.5\n", categorical=("y",)).manifest.target.labels == ("0.5", "1.5")


def test_the_test_split_is_stratified_and_drawn_by_the_seed(ingest_file: Ingest) -> None:
    text = "a,y\n" + "".join(f"{i},{'rare' if i % 10 == 0 else 'common'}\n" for i in range(200))
    one, same, other = (ingest_file.csv(text, test_fraction=0.2, seed=seed) for seed in (0, 0, 1))
    assert [split.n for split in one.manifest.splits.values()] == [160, 40]
    assert np.bincount(one.y("test")).tolist() == [36, 4]
    assert one.manifest == same.manifest
    assert one.manifest != other.manifest
    assert sorted([*one.x()[:, 0], *one.x("test")[:, 0]]) == list(range(200))


def test_statistics_and_categories_come_from_the_training_rows_only(ingest_file: Ingest) -> None:
    text = "a,c,y\n" + "".join(f"{i},k{i},{i % 2}\n" for i in range(100))
    read = ingest_file.csv(text, test_fraction=0.5)
    train = read.x()[:, 0]
    assert read.manifest.features[0].mean == pytest.approx(train.mean())
    assert len(read.manifest.features[1].categories or ()) == 50
    assert (read.x("test")[:, 1] == -1).all()


def test_quotes_line_breaks_windows_line_ends_bom_and_empty_lines_are_read(ingest_file: Ingest) -> None:
    read = ingest_file.csv('\ufeffa,"b,c",y\r\n1,"x\ny",u\r\n\r\n2,"say ""hi""",v\r\n\r\n')
    assert [each.name for each in read.manifest.features] == ["a", "b,c"]
    assert [each.label for each in read.manifest.features[1].categories or ()] == ['say "hi"', "x\ny"]
    assert read.manifest.splits["train"].n == 2


@pytest.mark.parametrize("name", ["*", "^a.*$", "c1", "é", "a b"])
def test_a_column_may_have_any_name(ingest_file: Ingest, name: str) -> None:
    read = ingest_file.csv(f"{name},ab,y\n1,2,u\n3,4,v\n")
    assert [each.name for each in read.manifest.features] == [name, "ab"]
    assert read.x().tolist() == [[1, 2], [3, 4]]


def test_blank_cells_are_missing_and_numbers_may_have_spaces(ingest_file: Ingest) -> None:
    read = ingest_file.csv("a,y\n 1,u\n  ,v\n+2.5e1 ,u\n")
    np.testing.assert_array_equal(read.x()[:, 0], np.array([1, np.nan, 25], dtype=np.float32))


def test_batches_do_not_show(ingest_file: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{i},{'t' if i == 900 else i % 7},{'ab'[i % 2]}" for i in range(1000)]
    text = "n,c,y\n" + "\n".join(rows)
    whole = ingest_file.csv(text, test_fraction=0.25)
    monkeypatch.setattr("worker.sheets.MAX_CELLS", 1)
    assert ingest_file.csv(text, test_fraction=0.25).manifest == whole.manifest


BAD = [
    ("", "y", "empty_file", "0 bytes"),
    ("a,y\n", "y", "empty_file", "no row"),
    ("hello, this is a letter\nwithout any table", "y", "ragged_rows", "line 2"),
    ("just some words\nand more", "y", "not_csv", "just some words"),
    ("a;y\n1;2\n", "y", "not_csv", "commas"),
    ('a,y\n1,"2\n', "y", "not_csv", "line 2"),
    ("a,y\n1,2\n3\n", "y", "ragged_rows", "line 3"),
    ("a,y\n1,2\n3,4,5\n", "y", "ragged_rows", "Received: 3 in line 3"),
    ("a,y\n1,2\n3,4\n", None, "no_target", "'a', 'y'"),
    ("a,y\n1,2\n3,4\n", "z", "no_target", "'z'"),
    ("a,y\n1,u\n2,u\n", "y", "one_class_only", "'u'"),
    ("a,y\n1,3\n2,3\n", "y", "one_class_only", "'3'"),
    ("a,y\n1,0.5\n2,0.5\n", "y", "constant_target", "0.5"),
    ("a,y\n1,u\nnan,v\n", "y", "non_finite", "'nan' in line 3, column 'a'"),
    ("a,y\n1,u\n-inf,v\n", "y", "non_finite", "'-inf' in line 3"),
    ("a,y\n1,u\n1e300,v\n", "y", "non_finite", "'1e300'"),
    ("a,y\n1,0.5\n2,inf\n", "y", "non_finite", "column 'y'"),
    ("a,y\n1,u\n2,\n", "y", "target_missing_values", "line 3"),
    ("a,a,y\n1,2,u\n3,4,v\n", "y", "duplicate_columns", "'a'"),
    (",a,y\n0,1,u\n1,3,v\n", "y", "unnamed_column", "column 1"),
    ("a,b,y\n1,,u\n3,,v\n", "y", "empty_column", "'b'"),
    ("y,z\nu,\nv,\n", "y", "empty_column", "'z'"),
    ("a,y\n1,2\n\x003,4\n", "y", "not_csv", "binary"),
    ("a,y\n" + "".join(f"1,class{i}\n" for i in range(10_000)), "y", "too_many_classes", "1,000"),
    ("a,y\n" + "".join(f"t{i},{i % 2}\n" for i in range(10_001)), "y", "too_many_categories", "'t0' in line 2"),
    (f"a,y\n{'x' * 300},u\n{'z' * 3},v\n", "y", "text_too_long", "300"),
]


@pytest.mark.parametrize(("text", "target", "code", "part"), BAD, ids=[f"{i}-{each[2]}" for i, each in enumerate(BAD)])
def test_a_bad_file_is_refused_with_a_reason(
    ingest_file: Ingest, text: str, target: str | None, code: str, part: str
) -> None:
    refused = ingest_file.refused(lambda: ingest_file.csv(text, target))
    assert refused.reason == code
    assert "must" in refused.message
    assert "Received" in refused.message
    assert part in refused.message


def test_bytes_that_are_not_utf8_are_refused(ingest_file: Ingest) -> None:
    refused = ingest_file.refused(lambda: ingest_file(b"a,y\n1,\xff\n2,b\n", format="csv", target="y"))
    assert refused.reason == "not_csv"
    assert "0xff" in refused.message


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"ignore": ("q",)}, "unknown_column"),
        ({"categorical": ("q",)}, "unknown_column"),
        ({"ignore": ("y",)}, "no_target"),
        ({"ignore": ("a",)}, "no_features"),
        ({"test_fraction": 0.01}, "too_few_rows"),
        ({"limits": LIMITS.model_copy(update={"rows": 1})}, "too_large"),
        ({"limits": LIMITS.model_copy(update={"decoded_bytes": 4})}, "too_large"),
    ],
)
def test_options_that_do_not_fit_the_file_are_refused(ingest_file: Ingest, options: dict, code: str) -> None:  # type: ignore[type-arg]
    assert ingest_file.refused(lambda: ingest_file.csv("a,y\n1,u\n2,v\n", **options)).reason == code


def test_a_second_file_takes_order_categories_and_classes_of_the_first(ingest_file: Ingest) -> None:
    first = ingest_file.csv(MIXED)
    second = ingest_file.csv("y,extra,colour,age\nyes,1,green,5\nno,2,red,\n", target=None, existing=first.manifest)
    np.testing.assert_array_equal(second.x("test"), np.array([[5, -1], [np.nan, 1]], dtype=np.float32))
    assert second.y("test").tolist() == [1, 0]
    assert second.manifest.splits["train"] == first.manifest.splits["train"]
    assert second.manifest.splits["test"].n == 2
    assert second.manifest.features == first.manifest.features


@pytest.mark.parametrize(
    ("text", "code", "part"),
    [
        ("age,y\n1,yes\n", "missing_columns", "'colour'"),
        ("age,colour,y\n1,red,maybe\n", "unknown_class", "'maybe' in line 2"),
        ("age,colour,y\nold,red,yes\n", "not_a_number", "'old' in line 2"),
        ("age,colour,y\n1,red,\n", "target_missing_values", "line 2"),
    ],
)
def test_a_second_file_that_does_not_fit_is_refused(ingest_file: Ingest, text: str, code: str, part: str) -> None:
    first = ingest_file.csv(MIXED).manifest
    with pytest.raises(Exception, match=part) as caught:
        ingest_file.csv(text, existing=first)
    assert caught.value.reason == code  # type: ignore[attr-defined]


def test_timestamps_keep_their_seconds(ingest_file: Ingest) -> None:
    rows = [f"{1_700_000_000 + second},{second % 2}" for second in range(200)]
    read = ingest_file.csv("at,y\n" + "\n".join(rows) + "\n")
    assert len(np.unique(read.x())) == 200
    assert read.manifest.features[0].max == 1_700_000_199


@pytest.mark.parametrize(("text", "line"), [("a,y\n1,u\n{}", "line 3"), ("{}", "line 1"), ('a,y\n1,"{}"\n', "line 2")])
def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(
    ingest_file: Ingest, monkeypatch: pytest.MonkeyPatch, text: str, line: str
) -> None:
    monkeypatch.setattr("worker.sheets.MAX_LINE", 1_000)
    refused = ingest_file.refused(lambda: ingest_file.csv(text.format("2," * 1_000)))
    assert (refused.reason, line in refused.message) == ("too_large", True)


def test_a_line_may_be_as_long_as_the_limit(ingest_file: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.sheets.MAX_LINE", len("12345,u"))
    for end in ("\n", "\r\n"):
        assert ingest_file.csv(f"a,y{end}12345,u{end}2,v{end}").manifest.splits["train"].n == 2
