"""Frames on the disk read like arrays in memory, whatever their packing, and damage is seen."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from compiler.datasets.dataset import contents_digest, extremes
from compiler.datasets.frames import Column, FrameStore, blocks, open_npy, open_npz


def stored(path: Path, x: np.ndarray, *, packed: bool) -> FrameStore:
    (np.savez_compressed if packed else np.savez)(path, x=x)
    column = open_npz(path)["x"]
    assert isinstance(column, Column)
    return FrameStore({"x": column})


@settings(max_examples=40, deadline=None)
@given(
    x=arrays.arrays(
        st.sampled_from([np.dtype("<f4"), np.dtype(">f4"), np.dtype("u1")]),
        arrays.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=6),
        elements=st.integers(0, 200),
    ),
    packed=st.booleans(),
    data=st.data(),
)
def test_a_store_is_read_like_the_array(
    tmp_path_factory: pytest.TempPathFactory, x: np.ndarray, packed: bool, data: st.DataObject
) -> None:
    store = stored(tmp_path_factory.mktemp("f") / "x.npz", x, packed=packed)
    assert (len(store), store.shape, store.dtype) == (len(x), x.shape, x.dtype.newbyteorder("="))
    index = np.array(data.draw(st.lists(st.integers(0, len(x) - 1), min_size=1, max_size=9)))
    assert (store[index] == x[index]).all()
    assert (store[1:3] == x[1:3]).all()
    assert (store[:] == x).all()
    view = store.rows(index)
    assert (np.stack(list(view)) == x[index]).all()
    assert (view.rows(np.arange(len(index))[::-1])[0] == x[index[-1]]).all()
    assert contents_digest(store, None) == contents_digest(x, None)
    assert contents_digest(view, None) == contents_digest(x[index], None)
    low, high = extremes(store)
    assert (low == x.min(axis=0)).all()
    assert (high == x.max(axis=0)).all()


def test_several_arrays_are_one_vector_a_frame(tmp_path: Path) -> None:
    a, b = np.arange(12, dtype=np.uint8).reshape(3, 2, 2), np.ones((3, 1), np.float32)
    np.savez(tmp_path / "x.npz", a=a, b=b)
    store = FrameStore(dict(open_npz(tmp_path / "x.npz")))  # type: ignore[arg-type]
    assert store.shape == (3, 5)
    assert store[1].tolist() == [4, 5, 6, 7, 1]
    assert store[1].dtype == np.float32
    assert list(store.columns) == ["a", "b"]
    assert (store.only("a")[:] == a).all()


def test_blocks_hold_about_a_megabyte(tmp_path: Path) -> None:
    x = np.zeros((50, 300, 300), np.uint8)
    sizes = [len(block) for block in blocks(stored(tmp_path / "x.npz", x, packed=True))]
    assert sum(sizes) == 50
    assert max(sizes) == (1 << 20) // 90_000


def test_npy_files_are_read_where_they_lie(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(0, 1, (7, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    column = open_npy(tmp_path / "x.npy")
    assert isinstance(column, Column)
    assert (column.slice(2, 5) == x[2:5]).all()
    np.save(tmp_path / "x.npy", np.asfortranarray(x))
    assert (np.asarray(open_npy(tmp_path / "x.npy")) == x).all()


@pytest.mark.parametrize("packed", [True, False])
def test_flipped_bytes_are_found_before_they_are_used(tmp_path: Path, packed: bool) -> None:
    x = np.random.default_rng(0).integers(0, 255, (500, 10), np.uint8)
    path = tmp_path / "x.npz"
    stored(path, x, packed=packed)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises((zipfile.BadZipFile, zlib.error, ValueError)):
        open_npz(path)


def test_a_file_that_is_cut_short_meanwhile_is_an_error(tmp_path: Path) -> None:
    x = np.zeros((500, 10), np.uint8)
    store = stored(tmp_path / "x.npz", x, packed=False)
    with (tmp_path / "x.npz").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(ValueError, match="cut short"):
        store[400]
