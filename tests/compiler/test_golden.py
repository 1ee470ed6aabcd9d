"""Golden vectors: chosen so that a device with other weights cannot pass them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from compiler.bundle.golden import (
    ROWS,
    ROWS_MIN,
    choose_rows,
    golden_count,
    golden_vectors,
    spread_rows,
)
from compiler.errors import CompileError
from edge_contract.golden import decode_golden, encode_golden
from edge_contract.layout import BundleDir
from edge_contract.model import MODEL_FILE, decode_model_manifest
from edge_runtime.golden import check_golden
from edge_runtime.session import ModelSession
from tests.compiler.conftest import Command, Small


@given(
    rows=st.integers(1, 80),
    classes=st.integers(2, 6),
    step=st.sampled_from([1e-6, 0.02, 0.5]),
    seed=st.integers(0, 9),
)
def test_rows_are_distinct_spread_over_classes_and_clear_of_ties(
    rows: int, classes: int, step: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    scores = random.dirichlet(np.ones(classes), rows).astype(np.float32)
    top = np.sort(scores, axis=1)
    margins = top[:, -1] - top[:, -2]
    wanted = golden_count(rows, 4, 4 * classes)
    chosen = choose_rows(margins, scores.argmax(axis=1), step, wanted)
    assert len(set(chosen.tolist())) == len(chosen) <= ROWS
    assert len(chosen) >= min(ROWS_MIN, rows)
    clear = margins > 2 * step
    if clear.sum() >= ROWS_MIN:
        assert clear[chosen].all()
    named = set(scores[clear].argmax(1).tolist())
    if len(named) <= ROWS and clear.sum() >= ROWS_MIN:
        assert set(scores[chosen].argmax(1).tolist()) == named


def test_large_frames_give_fewer_rows() -> None:
    assert golden_count(40, 400 * 400 * 3, 20) == ROWS_MIN
    assert golden_count(40, 100, 400 * 400 * 3) == ROWS_MIN
    assert golden_count(3, 100, 20) == 3
    with pytest.raises(CompileError, match="hold at most"):
        golden_count(40, 100, 20 << 20)


def test_models_that_do_not_classify_get_evenly_spaced_frames() -> None:
    assert spread_rows(100, 4).tolist() == [0, 33, 66, 99]
    assert spread_rows(2, 4).tolist() == [0, 1]


def test_each_output_has_a_tolerance_of_its_own() -> None:
    rows = np.zeros((2, 3), np.float32)
    several = golden_vectors(rows, rows, [0.5, 0.1])
    assert (several.tolerance_abs, several.tolerances_abs) == (0.5, [0.5, 0.1])
    one = golden_vectors(rows, rows, [0.5])
    assert b"tolerances_abs" not in encode_golden(one)
    assert decode_golden(encode_golden(several), where="test") == several


@pytest.fixture(scope="module")
def bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("golden")


@pytest.mark.parametrize("weight", range(4))
def test_weights_swapped_after_compiling_fail_the_golden_check(
    small: Small,
    edge_compile: Command,
    bundle_dir: Path,
    weight: int,
) -> None:
    if not (bundle_dir / "bundle").exists():
        assert edge_compile(small.arguments(bundle_dir)).code == 0
    bundle = BundleDir(bundle_dir / "bundle")
    manifest = decode_model_manifest(bundle.read_file(MODEL_FILE), where="test")
    variant = manifest.variants[0]
    golden = decode_golden(bundle.read_file(variant.golden), where="test")
    data = bundle.read_file(variant.file)
    assert check_golden(ModelSession(data, manifest, variant), golden).passed
    model = onnx.load_model_from_string(data)
    int8 = [
        t
        for t in model.graph.initializer
        if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1
    ]
    assert len(int8) == 4
    values = numpy_helper.to_array(int8[weight])
    int8[weight].CopyFrom(numpy_helper.from_array(np.roll(values, 1, axis=0), int8[weight].name))
    swapped = ModelSession(model.SerializeToString(), manifest, variant)
    result = check_golden(swapped, golden)
    assert not result.passed, result.sentence()
