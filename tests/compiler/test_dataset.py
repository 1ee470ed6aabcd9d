"""Data files: what does not fit is refused by name, and nothing in them is ever executed."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.datasets.checks import check_apart, check_calibration, check_labels, check_shape
from compiler.datasets.dataset import Dataset, contents_digest
from compiler.datasets.load import load_dataset, load_frames
from compiler.errors import CompileError, DatasetError
from compiler.options import read_labels, read_preprocess
from compiler.split import selection_split
from edge_contract.preprocess import PreprocessSpec
from edge_runtime.errors import InputRefusedError
from edge_runtime.preprocess import Preprocessor
from tests.compiler.models import write_npz

X = np.zeros((5, 4, 4, 1), np.float32)
Y = np.zeros(5, np.int64)


def dataset(x: np.ndarray, y: np.ndarray | None = None, role: str = "test") -> Dataset:
    return Dataset(role, x, y, contents_digest(x, y))


def test_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no test file") as caught:
        load_dataset(tmp_path / "none.npz", "test", labels_required=True)
    assert caught.value.exit_code == 3


class Trap:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    path = write_npz(tmp_path / "x.npz", x=np.array([Trap(trap)], dtype=object), y=Y)
    with pytest.raises(DatasetError, match="plain arrays"):
        load_dataset(path, "calibration", labels_required=False)
    assert not trap.exists()


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "npy", "flipped"])
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    path = write_npz(tmp_path / "x.npz", x=np.arange(5000, dtype=np.float32).reshape(5, -1), y=Y)
    data = path.read_bytes()
    if damage == "npy":
        with path.open("wb") as file:
            np.save(file, X)
    elif damage == "flipped":
        path.write_bytes(data[:3000] + bytes([data[3000] ^ 255]) + data[3001:])
    else:
        path.write_bytes({"cut": data[:200], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(DatasetError):
        load_dataset(path, "test", labels_required=True)


def test_a_huge_shape_in_a_small_file_is_refused(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 9), }"
    header += b" " * (117 - len(header)) + b"\n"
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00v\x00" + header)
    with pytest.raises(DatasetError):
        load_frames(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X.astype(np.float64), Y, "x is float64; expected uint8 or float32"),
        (X.astype(np.int16), Y, "x is int16"),
        (np.array(["a"] * 5), Y, "x is <U1"),
        (X[:, 0, 0, 0], Y, "expected samples"),
        (X[:0], Y[:0], "expected samples"),
        (X, Y[:4], "5 samples in x but 4 labels in y"),
        (X, np.array(["a"] * 5), "y is <U1"),
        (X, np.array([0, 1, np.nan, 0, 1]), "y holds NaN"),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, x: np.ndarray, y: np.ndarray, message: str) -> None:
    path = write_npz(tmp_path / "x.npz", x=x, y=y)
    with pytest.raises(DatasetError, match=message):
        load_dataset(path, "test", labels_required=True)


def test_arrays_of_other_names_are_listed(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz", images=X, labels=Y)
    with pytest.raises(DatasetError, match=r"expected samples x and labels y"):
        load_dataset(path, "test", labels_required=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_counted(tmp_path: Path, bad: float) -> None:
    x = X.copy()
    x[3, 0, 0, 0] = x[4, 1, 1, 0] = bad
    path = write_npz(tmp_path / "x.npz", x=x, y=Y)
    with pytest.raises(DatasetError, match=r"2 of 5 samples hold NaN .* row 3"):
        load_dataset(path, "test", labels_required=True)


def test_too_few_and_constant_calibration_samples_are_refused() -> None:
    with pytest.raises(DatasetError, match="1 sample; at least 20"):
        check_calibration(dataset(X[:1], role="calibration"))
    with pytest.raises(DatasetError, match="constant"):
        check_calibration(dataset(np.full((40, 3), 7, np.uint8), role="calibration"))


def test_wrong_layout_is_recognised() -> None:
    preprocessor = Preprocessor(PreprocessSpec(kind="tensor"), (32, 24, 3))
    with pytest.raises(DatasetError, match="do not fit the model") as caught:
        check_shape(dataset(np.zeros((2, 3, 32, 24), np.uint8)), preprocessor)
    assert caught.value.hint == "the axes are in another order; try x.transpose(0, 2, 3, 1)"


def test_float_pixels_are_refused_by_an_image_contract() -> None:
    spec = PreprocessSpec(kind="image", height_px=4, width_px=4, colour="GRAY")
    with pytest.raises(DatasetError, match="expected uint8 pixels, got float32"):
        check_shape(dataset(X), Preprocessor(spec, (4, 4, 1)))


@pytest.mark.parametrize("model_layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("normalised", [False, True])
def test_pixels_are_scaled_and_normalised_to_the_bit(
    layout: Literal["NCHW", "NHWC"],
    model_layout: Literal["NCHW", "NHWC"],
    normalised: bool,
    seeded: np.random.Generator,
) -> None:
    mean, std = ([0.4, 0.5, 0.6], [0.2, 0.3, 0.25]) if normalised else ([], [])
    spec = PreprocessSpec(
        kind="image",
        layout=layout,
        height_px=6,
        width_px=5,
        model_layout=model_layout,
        scale=1 / 255,
        mean=mean,
        std=std,
    )
    pixels = seeded.integers(0, 256, (6, 5, 3)).astype(np.uint8)
    expected = pixels.astype(np.float32) * np.float32(spec.scale)
    if normalised:
        expected = (expected - np.float32(mean)) / np.float32(std)
    shape: tuple[int | None, ...] = (6, 5, 3)
    if model_layout == "NCHW":
        expected, shape = expected.transpose(2, 0, 1), (3, None, 5)
    raw = pixels.transpose(2, 0, 1) if layout == "NCHW" else pixels
    batch = Preprocessor(spec, shape)(raw)
    assert batch.flags.c_contiguous
    assert batch.dtype == np.float32
    assert np.array_equal(batch, expected[None])


def test_a_scale_beyond_float32_is_noticed_in_pixels_and_in_tensors() -> None:
    image = PreprocessSpec(kind="image", height_px=1, width_px=1, colour="GRAY", scale=3e38)
    with pytest.raises(InputRefusedError, match="infinite"), np.errstate(over="ignore"):
        Preprocessor(image, (1, 1, 1))(np.full((1, 1), 2, np.uint8))
    tensor = Preprocessor(PreprocessSpec(), (2,))
    with pytest.raises(InputRefusedError, match="infinite"):
        tensor(np.array([1, np.inf], np.float32))


@pytest.mark.parametrize("label", [-1, 4])
def test_labels_out_of_range_are_named(label: int) -> None:
    y = Y.copy()
    y[2] = label
    with pytest.raises(DatasetError, match=f"row 2 says class {label}.*0 to 3"):
        check_labels(dataset(X, y), 4)


def test_testing_on_the_calibration_data_is_refused(seeded: np.random.Generator) -> None:
    x = seeded.normal(0, 1, (40, 6)).astype(np.float32)
    calibration = dataset(x, role="calibration")
    with pytest.raises(DatasetError, match="proves nothing"):
        check_apart(dataset(x[::-1].copy()), [calibration])
    mixed = np.concatenate([x[:5], seeded.normal(0, 1, (35, 6)).astype(np.float32)])
    with pytest.raises(DatasetError, match="5 of 40 test samples"):
        check_apart(dataset(mixed), [calibration])


def test_few_shared_and_repeated_samples_are_warned_of(seeded: np.random.Generator) -> None:
    x = seeded.normal(0, 1, (100, 6)).astype(np.float32)
    test = seeded.normal(0, 1, (100, 6)).astype(np.float32)
    test[0], test[1] = x[0], test[2]
    warnings = check_apart(dataset(test), [dataset(x, role="calibration")])
    assert len(warnings) == 2
    assert "1 of 100 test samples are calibration samples" in warnings[0]
    assert "1 of 100 test samples are copies" in warnings[1]


def test_digest_is_of_the_values_and_not_of_the_packing(tmp_path: Path) -> None:
    plain = write_npz(tmp_path / "a.npz", x=X, y=Y)
    np.savez_compressed(tmp_path / "b.npz", y=Y.astype(np.int32), x=X)
    one = load_dataset(plain, "test", labels_required=True)
    two = load_dataset(tmp_path / "b.npz", "test", labels_required=True)
    assert one.digest == two.digest
    assert one.digest != contents_digest(X + 1, Y)
    assert one.digest != contents_digest(X, Y + 1)


@given(st.integers(2, 500), st.integers(0, 5))
def test_the_selection_split_is_a_partition_and_repeats(rows: int, seed: int) -> None:
    fit, held = selection_split(rows, seed=seed)
    assert sorted([*fit.tolist(), *held.tolist()]) == list(range(rows))
    assert len(held) == max(1, round(rows / 4))
    again = selection_split(rows, seed=seed)
    assert (again[0] == fit).all()
    assert (again[1] == held).all()


def test_the_selection_split_is_pinned() -> None:
    # The split belongs to the bytes of a bundle: changing it changes every digest.
    assert selection_split(12)[1].tolist() == [4, 7, 9]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\n", "2 names, but the model has 3 classes"),
        ("a\n\nc\n", "line 2: expected a printable name"),
        ("a\nb\na\n", "line 3: 'a' is there twice"),
        ("a\nb\n" + "c" * 101, "line 3"),
    ],
)
def test_bad_labels_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(text)
    with pytest.raises(CompileError, match=message):
        read_labels(path, 3)


def test_labels_are_read_and_made_up(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("down\r\nup \nüber\n\n")
    assert read_labels(path, 3) == ["down", "up", "über"]
    assert read_labels(None, 3) == ["0", "1", "2"]


@pytest.mark.parametrize(
    "text",
    [
        "kind = 'image'",
        "kind = 'picture'",
        "scale = 0",
        "means = [1, 2]",
        "mean = [1]\nstd = [0]",
        "kind = ",
        "scale = nan",
    ],
)
def test_bad_preprocessing_contracts_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "preprocess.toml"
    path.write_text(text)
    with pytest.raises(CompileError, match=r"preprocess\.toml"):
        read_preprocess(path)


def test_a_binary_text_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CompileError, match="not UTF-8"):
        read_labels(path, 1)
