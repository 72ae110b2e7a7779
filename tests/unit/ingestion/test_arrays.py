"""npz files: pairs of arrays, images, targets, and archives that lie."""

from __future__ import annotations

import io
import os
import pickle
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.ingestion.conftest import LIMITS, Ingest, npz

IMAGES = np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def test_bytes_of_three_or_four_axes_are_images_and_stay_bytes(ingest_file: Ingest) -> None:
    for x in (IMAGES, IMAGES[..., None]):
        read = ingest_file.npz(x=x, y=LABELS)
        assert (read.manifest.kind, read.manifest.features[0].kind) == ("image", "image")
        assert read.manifest.row_shape == x.shape[1:]
        np.testing.assert_array_equal(read.x(), x)
        assert read.x().dtype == np.uint8
        assert read.manifest.features[0].max == 95


@pytest.mark.parametrize("dtype", ["f8", "f2", ">f4", "i8", "?", "u1"])
def test_every_number_type_becomes_float32_in_an_array_feature(ingest_file: Ingest, dtype: str) -> None:
    x = (np.arange(12).reshape(6, 2) % 2).astype(dtype)
    read = ingest_file.npz(x=x, y=LABELS)
    assert read.manifest.kind == "array"
    assert (read.manifest.features[0].name, read.manifest.features[0].shape) == ("x", (2,))
    np.testing.assert_array_equal(read.x(), x.astype(np.float32))
    assert read.x().dtype == np.float32


def test_arrays_in_fortran_order_are_read(ingest_file: Ingest) -> None:
    x = np.asfortranarray(np.random.default_rng(0).normal(size=(6, 3, 2)))
    read = ingest_file.npz(x=x, y=LABELS)
    np.testing.assert_array_equal(read.x(), x.astype(np.float32))
    assert {path.suffix for path in read.folder.iterdir()} == {".npy", ".json"}


def test_chunks_do_not_show(ingest_file: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(50, 3))
    whole = ingest_file.npz(x=x, y=np.arange(50) % 2, test_fraction=0.2)
    monkeypatch.setattr("worker.arrayfiles.CHUNK_BYTES", 100)
    chunked = ingest_file.npz(x=x, y=np.arange(50) % 2, test_fraction=0.2)
    assert chunked.manifest.splits == whole.manifest.splits
    assert chunked.manifest.features[0].std == pytest.approx(whole.manifest.features[0].std)
    assert whole.manifest.features[0].mean == pytest.approx(whole.x().mean(), abs=1e-6)


def test_keras_names_give_both_splits(ingest_file: Ingest) -> None:
    read = ingest_file.npz(x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:2], y_test=LABELS[:2])
    assert {split: files.n for split, files in read.manifest.splits.items()} == {"train": 6, "test": 2}
    assert read.y("test").tolist() == [0, 1]


@pytest.mark.parametrize(
    ("y", "kind", "labels"),
    [
        (LABELS, "class", ("0", "1", "2")),
        (LABELS.astype(np.uint8)[:, None], "class", ("0", "1", "2")),
        (np.array([1, -5, 1, 1, 1, 1]), "class", ("-5", "1")),
        (np.array(["b", "a", "b", "a", "b", "c"]), "class", ("a", "b", "c")),
        (np.array([True, False] * 3), "class", ("False", "True")),
        (LABELS.astype(np.float64), "number", ()),
    ],
)
def test_integers_bools_and_strings_are_classes_and_floats_are_numbers(
    ingest_file: Ingest, y: Any, kind: str, labels: tuple[str, ...]
) -> None:
    read = ingest_file.npz(x=np.ones((6, 2)) * LABELS[:, None], y=y)
    assert (read.manifest.target.name, read.manifest.target.kind, read.manifest.target.labels) == ("y", kind, labels)
    assert read.y().dtype == (np.int64 if kind == "class" else np.float32)
    if kind == "class":
        assert [labels[code] for code in read.y()] == [str(label) for label in y.ravel().tolist()]


def test_a_test_fraction_splits_by_class(ingest_file: Ingest) -> None:
    read = ingest_file.npz(x=np.arange(20.0)[:, None], y=np.arange(20) % 2, test_fraction=0.5)
    assert np.bincount(read.y("test")).tolist() == [5, 5]
    assert sorted([*read.x().ravel(), *read.x("test").ravel()]) == list(range(20))


def test_sorted_labels_that_pack_well_are_no_bomb(ingest_file: Ingest) -> None:
    y = np.repeat(np.arange(2), 300_000)
    assert ingest_file.npz(x=np.zeros((600_000, 1), np.uint8), y=y).manifest.splits["train"].n == 600_000


NAN = np.array([[1.0, 2.0], [np.nan, 3.0]])
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"x": np.array([[1], "a"], dtype=object), "y": LABELS[:2]}, "object_array", "pickle"),
    ({"x": IMAGES, "y": LABELS.astype(object)}, "object_array", "'y'"),
    ({"x": IMAGES}, "missing_array", "'x'"),
    ({"data": IMAGES, "labels": LABELS}, "missing_array", "'data', 'labels'"),
    ({"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES}, "missing_array", "x_test needs y_test"),
    ({"x": IMAGES, "y": LABELS[:5]}, "length_mismatch", "6 and 5"),
    ({"x": NAN, "y": LABELS[:2]}, "non_finite", "nan in x[1, 0]"),
    ({"x": np.full((2, 2), -np.inf), "y": LABELS[:2]}, "non_finite", "-inf in x[0, 0]"),
    ({"x": IMAGES, "y": np.full(6, np.inf)}, "non_finite", "y[0]"),
    ({"x": LABELS, "y": LABELS}, "bad_shape", "[6]"),
    ({"x": IMAGES, "y": np.eye(6)}, "bad_shape", "argmax"),
    ({"x": IMAGES[:, :0], "y": LABELS}, "bad_shape", "[6, 0, 4]"),
    ({"x": IMAGES[:0], "y": LABELS[:0]}, "empty_file", "none"),
    ({"x": IMAGES.astype(complex), "y": LABELS}, "unsupported_dtype", "complex128"),
    ({"x": IMAGES.astype("M8[s]"), "y": LABELS}, "unsupported_dtype", "datetime"),
    ({"x": np.zeros(6, dtype=[("a", "f4")])[:, None], "y": LABELS}, "unsupported_dtype", "'x'"),
    ({"x": IMAGES, "y": np.zeros(6, int)}, "one_class_only", "'0'"),
    ({"x": IMAGES, "y": np.zeros(6)}, "constant_target", "0"),
    ({"x": np.zeros((1001, 1)), "y": np.arange(1001)}, "too_many_classes", "1,001"),
    ({"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:, :3], "y_test": LABELS}, "bad_shape", "x_test"),
    ({"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES / 2, "y_test": LABELS}, "bad_shape", "uint8"),
    (
        {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS + 1},
        "unknown_class",
        "'3' in y_test[2]",
    ),
    ({"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS / 2}, "wrong_target", "class"),
    ({"x": IMAGES, "y": np.array(["a", "\ud800"] * 3)}, "bad_text", "Unicode"),
]


@pytest.mark.parametrize(("arrays", "code", "part"), BAD, ids=[f"{i}-{each[1]}" for i, each in enumerate(BAD)])
def test_bad_arrays_are_refused_with_a_reason(
    ingest_file: Ingest, arrays: dict[str, Any], code: str, part: str
) -> None:
    refused = ingest_file.refused(lambda: ingest_file.npz(**arrays))
    assert refused.reason == code
    assert part in refused.message
    assert "must" in refused.message
    assert "Received" in refused.message


class _Canary:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_cve_2019_6446_npz_object_array_is_never_unpickled(ingest_file: Ingest, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    hostile = npz(x=np.array([[_Canary(canary)]], dtype=object), y=LABELS[:1])
    assert ingest_file.refused(lambda: ingest_file(hostile, format="npz")).reason == "object_array"
    assert not canary.exists()


def test_a_pickle_instead_of_an_archive_is_never_unpickled(ingest_file: Ingest, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for data in (pickle.dumps(_Canary(canary)), b"\x93NUMPY\x01\x00", b"not a zip at all"):
        assert ingest_file.refused(lambda data=data: ingest_file(data, format="npz")).reason == "not_npz"
    assert not canary.exists()


def _archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_headers_that_lie_about_their_bytes_are_refused(ingest_file: Ingest) -> None:
    x, y = _npy(np.ones((6, 2))), _npy(LABELS)
    for wrong in (x[:-8], x + b"more", x[:5], b"PK", b""):
        refused = ingest_file.refused(lambda wrong=wrong: ingest_file(_archive(x=wrong, y=y), format="npz"))
        assert refused.reason == "not_npz"


def test_damaged_bytes_are_refused(ingest_file: Ingest) -> None:
    data = bytearray(npz(x=np.random.default_rng(0).normal(size=(100, 10)), y=np.arange(100) % 2))
    data[500] ^= 0xFF
    assert ingest_file.refused(lambda: ingest_file(bytes(data), format="npz")).reason == "not_npz"


def test_a_zip_bomb_is_refused_in_constant_memory(ingest_file: Ingest) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, shape in (("x", (200_000_000, 1)), ("y", (200_000_000,))):
            with archive.open(f"{name}.npy", "w") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for _ in range(10):
                    file.write(bytes(20_000_000))
    tracemalloc.start()
    refused = ingest_file.refused(lambda: ingest_file(buffer.getvalue(), format="npz"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.reason == "too_large"
    assert peak < 64 << 20


def test_too_many_members_rows_and_bytes_are_refused(ingest_file: Ingest) -> None:
    many = _archive(**{f"a{i}": b"" for i in range(1_001)})
    assert ingest_file.refused(lambda: ingest_file(many, format="npz")).reason == "too_large"
    for limit in ({"rows": 5}, {"decoded_bytes": 100}):
        limits = LIMITS.model_copy(update=limit)
        data = npz(x=IMAGES, y=LABELS)
        assert ingest_file.refused(lambda: ingest_file(data, format="npz", limits=limits)).reason == "too_large"  # noqa: B023


def test_an_array_of_many_declared_bytes_is_refused_before_it_is_read(ingest_file: Ingest) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**9)})
    data = _archive(x=header.getvalue(), y=_npy(np.zeros(1, int)))
    assert ingest_file.refused(lambda: ingest_file(data, format="npz")).reason == "length_mismatch"


def test_test_rows_come_from_one_place(ingest_file: Ingest) -> None:
    arrays = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS}
    assert ingest_file.refused(lambda: ingest_file.npz(test_fraction=0.5, **arrays)).reason == "two_test_splits"


@pytest.mark.parametrize("names", [("x", "y"), ("x_test", "y_test")])
def test_a_second_file_takes_shape_and_classes_of_the_first(ingest_file: Ingest, names: tuple[str, str]) -> None:
    first = ingest_file.npz(x=IMAGES, y=LABELS).manifest
    second = ingest_file.npz(existing=first, **dict(zip(names, (IMAGES[:2], np.array([2, 0])), strict=True)))
    assert second.y("test").tolist() == [2, 0]
    assert second.manifest.splits["train"] == first.splits["train"]
    assert second.manifest.splits["test"].n == 2


def test_a_second_file_of_another_kind_is_refused(ingest_file: Ingest) -> None:
    images = ingest_file.npz(x=IMAGES, y=LABELS).manifest
    table = ingest_file.csv("a,y\n1,u\n2,v\n").manifest
    for how, code in [
        (lambda: ingest_file.npz(existing=images, x=IMAGES[:, :2], y=LABELS), "bad_shape"),
        (lambda: ingest_file.npz(existing=table, x=IMAGES, y=LABELS), "wrong_format"),
        (lambda: ingest_file.csv("a,y\n1,u\n2,v\n", existing=images), "wrong_format"),
        (lambda: ingest_file.npz(existing=images, x_train=IMAGES, y_train=LABELS), "missing_array"),
    ]:
        with pytest.raises(Exception, match=r"Received") as caught:
            how()
        assert caught.value.reason == code  # type: ignore[attr-defined]
