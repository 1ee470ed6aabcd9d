"""The same samples as arrays, as a table and as a folder of images: one dataset."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from compiler.datasets import images
from compiler.datasets.checks import check_labels, check_same_classes, check_shape
from compiler.datasets.frames import FrameStore
from compiler.datasets.load import load_dataset, load_frames
from compiler.errors import DatasetError
from edge_agent.infer.source import in_colour, read_file
from edge_contract.preprocess import PreprocessSpec
from edge_runtime.preprocess import Preprocessor
from tests.compiler.conftest import Command, Small
from tests.compiler.models import frames, write_npz

RGB = PreprocessSpec(kind="image", colour="RGB", height_px=6, width_px=8, resize="linear")


def picture(path: Path, height: int, width: int, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    assert cv2.imwrite(str(path), pixels)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for seed, (kind, height, width) in enumerate([("dog", 6, 8), ("cat", 20, 31), ("cat", 7, 9)]):
        picture(root / kind / f"{seed}.png", height, width, seed)
    return root


# --- arrays


def test_npy_takes_its_labels_from_the_file_beside_it(tmp_path: Path) -> None:
    x, y = frames(30, 1)
    np.save(tmp_path / "train.npy", x)
    np.save(tmp_path / "train.labels.npy", y)
    npz = load_dataset(write_npz(tmp_path / "t.npz", x=x, y=y), "test", labels_required=True)
    npy = load_dataset(tmp_path / "train.npy", "test", labels_required=True)
    assert npy.digest == npz.digest
    assert np.array_equal(load_frames(tmp_path / "train.npy"), x)


def test_npy_without_labels_says_where_they_belong(tmp_path: Path) -> None:
    np.save(tmp_path / "test.npy", frames(30, 1)[0])
    with pytest.raises(DatasetError, match=r"no test\.labels\.npy beside it") as caught:
        load_dataset(tmp_path / "test.npy", "test", labels_required=True)
    assert "test.labels.npy" in caught.value.hint


@pytest.mark.parametrize("damage", ["cut", "header", "shape"])
def test_damaged_npy_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.npy"
    np.save(path, frames(30, 1)[0])
    data = path.read_bytes()
    changed = {
        "cut": data[: len(data) // 2],
        "header": data[:20] + b"((((((((" + data[28:],
        "shape": data.replace(b"(30, 12, 12, 1)", b"(30000000, 9,) "),
    }
    path.write_bytes(changed[damage])
    with pytest.raises(DatasetError, match=r"not a readable \.npy file"):
        load_dataset(path, "test", labels_required=False)


# --- tables


def test_csv_columns_become_rows_and_the_label_column_class_ids(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\ufeffa,label,b\n1.5,2,3\n\n-1,0,4e1\n", encoding="utf-8")
    data = load_dataset(path, "test", labels_required=True)
    assert data.x.dtype == np.float32
    assert data.x[:].tolist() == [[1.5, 3.0], [-1.0, 40.0]]
    assert data.y is not None
    assert data.y.tolist() == [2, 0]
    packed = write_npz(tmp_path / "t.npz", x=data.x[:], y=data.y)
    assert load_dataset(packed, "test", labels_required=True).digest == data.digest


def test_csv_labels_may_be_names_and_semicolons_separate(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a;y\n1;dog\n2;cat\n")
    data = load_dataset(path, "test", labels_required=True, names=["cat", "dog"])
    assert data.y is not None
    assert data.y.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n3,4\n", "the first line must name"),
        ("", "the first line must name"),
        ("a,y\n1,0\nx,1\n", "line 3: column 'a' holds 'x'"),
        ("a,y\n1,0\n,1\n", "line 3: column 'a' holds ''"),
        ("a,y\n1,0\n1,2,3\n", "line 3: 3 cells"),
        ("a,y,label\n1,0,0\n", "two label columns"),
        ("a,y\n1,bird\n", "the label 'bird'"),
        ("a,b\n1,2\n", "expected samples x and labels y"),
        ("a,y\n", "no line of numbers"),
        ("a,y\n1e99,0\n", "NaN or infinite"),
        ("a,y\nnan,0\n", "NaN or infinite"),
        ("y\n1\n", "shape"),
        ('a,y\n"1,0\n', "cells|expected a number|not a CSV"),
    ],
)
def test_bad_tables_are_refused_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DatasetError, match=message):
        load_dataset(path, "test", labels_required=True)


def test_a_binary_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n\xff\xfe,1\n")
    with pytest.raises(DatasetError, match="not UTF-8"):
        load_dataset(path, "test", labels_required=False)


# --- folders of images


def test_class_folders_are_labels_sorted_or_in_the_order_of_labels(folder: Path) -> None:
    data = load_dataset(folder, "test", labels_required=True, contract=RGB)
    assert data.y is not None
    assert (data.y.tolist(), data.classes) == ([0, 0, 1], ("cat", "dog"))
    named = load_dataset(
        folder, "test", labels_required=True, contract=RGB, names=["dog", "cow", "cat"]
    )
    assert named.y is not None
    assert (named.y.tolist(), named.classes) == ([0, 2, 2], ())
    again = load_dataset(folder, "test", labels_required=True, contract=RGB)
    assert again.digest == data.digest


def test_numbered_class_folders_are_class_ids(tmp_path: Path) -> None:
    for name in ("0", "2", "10"):
        picture(tmp_path / name / "a.png", 6, 8, int(name))
    data = load_dataset(tmp_path, "test", labels_required=True, contract=RGB)
    assert data.y is not None
    assert data.y.tolist() == [0, 2, 10]


@pytest.mark.parametrize("colour", ["RGB", "BGR", "GRAY"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_images_become_what_the_agent_makes_of_them(folder: Path, colour: str, layout: str) -> None:
    """Images of different sizes are resized at loading; the model's input stays the same."""
    spec = PreprocessSpec(
        kind="image", colour=colour, layout=layout, height_px=6, width_px=8, resize="area"
    )
    data = load_dataset(folder, "test", labels_required=True, contract=spec)
    executor = Preprocessor(spec, (6, 8, spec.channels))
    for row, name in enumerate(["cat/1.png", "cat/2.png", "dog/0.png"]):
        pixels = in_colour(read_file(folder / name), colour)
        assert pixels is not None
        pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
        device = pixels.transpose(2, 0, 1) if layout == "NCHW" else pixels
        assert np.array_equal(executor(data.x[row]), executor(device)), name


def test_images_of_one_size_stay_raw_unless_they_are_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        picture(tmp_path / f"{seed}.png", 30, 40, seed)
    raw = load_dataset(tmp_path, "calibration", labels_required=False, contract=RGB)
    assert raw.x.shape == (3, 30, 40, 3)
    assert raw.y is None
    monkeypatch.setattr(images, "RAW_LIMIT_BYTES", 2 * 30 * 40 * 3)
    small = load_dataset(tmp_path, "calibration", labels_required=False, contract=RGB)
    assert small.x.shape == (3, 6, 8, 3)
    executor = Preprocessor(RGB, (6, 8, 3))
    assert np.array_equal(executor.batch(small.x[:]), executor.batch(raw.x[:]))


def test_many_images_tell_their_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_PROGRESS_EVERY", 2)
    for seed in range(5):
        picture(tmp_path / f"{seed}.png", 6, 8, seed)
    told: list[str] = []
    load_dataset(tmp_path, "test", labels_required=False, contract=RGB, progress=told.append)
    assert len(told) == 3
    assert told[1].endswith("2 of 5")


def fault(root: Path, kind: str) -> PreprocessSpec:
    picture(root / "cat" / "a.png", 6, 8, 0)
    if kind == "damaged":
        (root / "cat" / "b.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    elif kind == "empty file":
        (root / "cat" / "b.png").touch()
    elif kind == "empty class":
        (root / "dog").mkdir()
    elif kind == "mixed":
        picture(root / "b.png", 6, 8, 0)
    elif kind == "no contract":
        return PreprocessSpec(kind="tensor")
    elif kind == "other size":
        picture(root / "cat" / "b.png", 5, 8, 0)
        return PreprocessSpec(kind="image", height_px=6, width_px=8)
    elif kind == "nothing":
        (root / "cat" / "a.png").unlink()
        (root / "cat").rmdir()
    elif kind == "flat":
        (root / "cat" / "a.png").rename(root / "a.png")
        (root / "cat").rmdir()
    return RGB


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("damaged", r"cat/b\.jpg: not a readable image"),
        ("empty file", r"cat/b\.png: not a readable image"),
        ("empty class", "the class folder 'dog' holds no images"),
        ("mixed", "holds images .* beside sub-folders"),
        ("no contract", "need a preprocessing contract"),
        ("other size", r"cat/b\.png: expected 6 x 8 pixels, got 5 x 8"),
        ("nothing", "holds no images"),
        ("flat", "expected samples x and labels y, got no class sub-folders"),
    ],
)
def test_bad_folders_are_refused_with_the_file(tmp_path: Path, kind: str, message: str) -> None:
    contract = fault(tmp_path, kind)
    with pytest.raises(DatasetError, match=message):
        load_dataset(tmp_path, "test", labels_required=True, contract=contract)


def test_a_folder_that_is_no_class_is_named(folder: Path) -> None:
    with pytest.raises(DatasetError, match="'dog' is no class of --labels"):
        load_dataset(folder, "test", labels_required=True, contract=RGB, names=["cat", "cow"])


def test_folders_whose_order_nobody_knows_are_refused(folder: Path) -> None:
    data = load_dataset(folder, "test", labels_required=True, contract=RGB)
    with pytest.raises(DatasetError, match=r"2 class folders .* 3 classes"):
        check_labels(data, 3)
    picture(folder / "cow" / "a.png", 6, 8, 0)
    more = load_dataset(folder, "calibration", labels_required=True, contract=RGB)
    with pytest.raises(DatasetError, match=r"class folders .* differ: 'cow'"):
        check_same_classes([more, data])


# --- layouts


@pytest.mark.parametrize(
    ("shape", "spec", "model", "hint"),
    [
        ((3, 6, 8), {}, (6, 8, 3), 'layout = "NCHW"'),
        ((6, 8, 3), {"layout": "NCHW"}, (6, 8, 3), 'layout = "NHWC"'),
        ((6, 8, 3), {}, (3, 6, 8), 'model_layout = "NCHW"'),
        ((6, 8, 3), {"model_layout": "NCHW"}, (6, 8, 3), 'model_layout = "NHWC"'),
        ((6, 8, 3), {"colour": "GRAY"}, (6, 8, 1), 'colour = "RGB"'),
    ],
)
def test_layout_mix_ups_are_named_with_the_line_to_write(
    shape: tuple[int, ...], spec: dict[str, str], model: tuple[int, ...], hint: str, tmp_path: Path
) -> None:
    path = write_npz(tmp_path / "x.npz", x=np.zeros((5, *shape), np.uint8))
    data = load_dataset(path, "calibration", labels_required=False)
    contract = PreprocessSpec(kind="image", height_px=6, width_px=8, **spec)  # type: ignore[arg-type]
    with pytest.raises(DatasetError) as caught:
        check_shape(data, Preprocessor(contract, model))
    assert hint in caught.value.hint


def test_a_build_takes_images_for_calibration_and_csv_is_refused_by_shape(
    small: Small, edge_compile: Command, tmp_path: Path
) -> None:
    """A folder of images and the same pixels in an .npz prove the same and weigh the same."""
    contract = tmp_path / "p.toml"
    contract.write_text(
        'kind = "image"\ncolour = "GRAY"\nheight_px = 12\nwidth_px = 12\nresize = "linear"\n'
    )
    parts: dict[str, Path] = {}
    arrays: dict[str, Path] = {}
    for role, rows, seed in (("calibration", 80, 11), ("test", 500, 13)):
        x, y = frames(rows, seed)
        order = np.argsort(y, kind="stable")
        x, y = np.round(x[order]).astype(np.uint8), y[order]
        for row, (pixels, label) in enumerate(zip(x, y, strict=True)):
            path = tmp_path / role / str(label) / f"{row:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), pixels)
        parts[role] = tmp_path / role
        arrays[role] = write_npz(tmp_path / f"{role}.npz", x=x, y=y)
    ended = [
        edge_compile(small.arguments(tmp_path / out, "--json", preprocess=contract, **data))
        for out, data in (("one", parts), ("two", arrays))
    ]
    assert [one.code for one in ended] == [0, 0]
    assert ended[0].json["bundle_digest"] == ended[1].json["bundle_digest"]
    table = tmp_path / "t.csv"
    table.write_text("a,y\n" + "1,0\n2,1\n" * 30)
    refused = edge_compile(small.arguments(tmp_path / "three", "--json", calibration=table))
    assert refused.code == 1
    assert "calibration data do not fit the model" in refused.json["error"]


def test_a_full_disk_is_told_from_data_that_are_damaged_or_missing(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3)).astype(np.uint8)
    np.savez_compressed(tmp_path / "c.npz", x=x)
    (tmp_path / "c.csv").write_text("a,b\n" + "1.5,2.25\n" * 5_000)
    for seed in range(20):
        picture(tmp_path / "images" / f"{seed}.png", 32, 32, seed)
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from compiler.datasets.load import load_frames\n"
        "from compiler.errors import CompileError\n"
        "from edge_contract.preprocess import PreprocessSpec\n"
        "contract = PreprocessSpec(kind='image', height_px=32, width_px=32)\n"
        "none = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "for limit in (0, 8192):\n"  # no file at all can be made, and one that fills up
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, none))\n"
        "    for path in sys.argv[1:]:\n"
        "        try:\n"
        "            load_frames(Path(path), contract)\n"
        "        except CompileError as error:\n"
        "            print(type(error).__name__, error.message, error.hint)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *(str(tmp_path / n) for n in ("c.csv", "images", "c.npz"))],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = ended.stdout.splitlines()
    assert len(said) == 6, ended.stderr
    for line in said:
        assert line.startswith("OutputError cannot put samples into a temporary file: ")
        assert "TMPDIR" in line


def test_memory_does_not_grow_with_the_number_of_images_or_lines(tmp_path: Path) -> None:
    def peak_bytes(count: int) -> int:
        pictures = tmp_path / f"of{count}"
        first = picture(pictures / "0.bmp", 120, 160, 0)
        for index in range(1, count):
            (pictures / f"{index}.bmp").hardlink_to(first)
        tracemalloc.start()
        data = load_dataset(pictures, "calibration", labels_required=False, contract=RGB)
        assert sum(1 for _ in data.x) == count
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    # Two hundred more images are 11.5 MB.
    assert peak_bytes(240) < peak_bytes(40) + (1 << 20)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4\n")
    table = load_dataset(tmp_path / "t.csv", "calibration", labels_required=False)
    assert isinstance(table.x, FrameStore)
