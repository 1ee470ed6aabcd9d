"""``--previous``: a version after the one that devices hold changes few of their bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from compiler.emit.onnx_qdq import emit_onnx
from compiler.plan.draft import draft_plan
from compiler.plan.equalise import equalise, equalise_as, find_pairs
from compiler.plan.plan import Plan, grid_of, span_of
from compiler.plan.previous import BIAS_SLACK, Previous, keep_bias, keep_scales, read_previous
from compiler.plan.structure import initializer, survey
from edge_contract.layout import BundleDir
from edge_contract.model import MODEL_FILE, Int8Scheme, decode_model_manifest
from fleet.transfer.delta_coders import make_deltas
from tests.compiler.conftest import Command, Small
from tests.compiler.models import small_cnn
from tests.compiler.test_quantize import float_graph

MODEL = "onnx-s8s8/model.onnx"


def drafted(scheme: Int8Scheme, folder: Path) -> Plan:
    graph = float_graph(small_cnn(), folder)
    structure = survey(graph.prepared)
    ranges = dict.fromkeys(structure.shared.values(), (-1.5, 2.5))
    symmetric = scheme == "s8s8-symmetric"
    return draft_plan(graph.prepared, structure, ranges, "symmetric" if symmetric else "asymmetric")


@pytest.mark.parametrize("scheme", ["s8s8", "u8s8", "s8s8-symmetric"])
def test_what_a_file_holds_is_what_its_plan_said(scheme: Int8Scheme, tmp_path: Path) -> None:
    plan = drafted(scheme, tmp_path)
    found = read_previous(emit_onnx(plan, scheme))
    assert set(found.weights) == set(plan.weights())
    for node, weight in plan.weights().items():
        np.testing.assert_array_equal(found.weights[node].values, weight.values)
        np.testing.assert_array_equal(found.weights[node].scales, weight.scales)
        assert found.weights[node].axis == weight.axis
    assert found.grids
    assert all(found.grids[name] == plan.grids[name] for name in found.grids)
    for node, bias in found.biases.items():
        unit = plan.grids[plan.layers[node].inputs[0]].scale * found.weights[node].scales
        expected = plan.layers[node].bias
        assert expected is not None
        np.testing.assert_array_equal(np.round(bias / unit), expected)
    assert found.biases


@pytest.mark.parametrize("activations", ["asymmetric", "symmetric"])
def test_a_grid_comes_back_from_its_own_span(activations: str) -> None:
    for low, high in ((0.0, 6.0), (-0.037, 1e-3), (-311.7, 12.9)):
        grid = grid_of(low, high, activations)  # type: ignore[arg-type]
        assert grid_of(*span_of(grid, activations), activations) == grid  # type: ignore[arg-type]


def test_scales_stay_where_they_fit_and_integers_with_them(tmp_path: Path) -> None:
    plan = drafted("s8s8", tmp_path)
    before = next(w for w in plan.weights().values() if w.axis == 0 and w.values.ndim == 4)
    values = before.dequantised()
    values[0] *= 3.0  # too large for its old scale
    values[1] *= 0.5  # far too fine for it
    fresh = np.abs(values).reshape(len(values), -1).max(axis=1).astype(np.float32) / np.float32(127)
    scales, stays = keep_scales(values, fresh, before)
    assert stays is not None
    np.testing.assert_array_equal(scales[2:], before.scales[2:])
    for channel in (0, 1):
        assert abs(scales[channel] / fresh[channel] - 1) < 0.1
    steps = values / scales.reshape(-1, 1, 1, 1)
    # A channel that was stretched has the integers that it had, under another scale.
    assert np.abs(steps - stays).max() < 1
    assert keep_scales(values, fresh, None)[1] is None


def test_a_bias_stays_within_a_part_of_a_step_of_what_the_layer_writes() -> None:
    old = np.array([1.0, 2.0])
    new = np.array([1.0 + 0.9 * BIAS_SLACK, 2.0 + 1.1 * BIAS_SLACK], np.float32)
    kept = keep_bias(new, old, 1.0)
    assert (kept[0], kept[1]) == (np.float32(1.0), new[1])
    assert keep_bias(new, old, None) is new
    assert keep_bias(new, None, 1.0) is new


def test_an_equalisation_is_found_again_from_the_weights_that_it_made(tmp_path: Path) -> None:
    model = float_graph(small_cnn(), tmp_path).prepared
    pairs = find_pairs(model, survey(model))
    random = np.random.default_rng(3)
    ranges = {
        place: random.uniform(0.1, 4.0, initializer(model, pair.first.weight or "").shape[0])
        for place, pair in enumerate(pairs)
    }
    equalised = equalise(model, ranges, pairs, 0.0)
    structure = survey(equalised)
    spans = dict.fromkeys(structure.shared.values(), (-1.0, 1.0))
    weights = draft_plan(equalised, structure, spans, "asymmetric").weights()
    again = equalise_as(model, pairs, weights)
    for pair in pairs:
        name = pair.first.weight or ""
        wanted, found = initializer(equalised, name), initializer(again, name)
        np.testing.assert_allclose(found, wanted, rtol=0.02)
    # Without an equalisation there is nothing to find.
    plain = draft_plan(model, survey(model), spans, "asymmetric").weights()
    assert equalise_as(model, pairs, plain) is model


def tuned(path: Path, layer: str, amount: float) -> Path:
    """The small network with one weight moved a little, as fine-tuning does."""
    model = small_cnn()
    for tensor in model.graph.initializer:
        if tensor.name == layer:
            values = numpy_helper.to_array(tensor)
            noise = np.random.default_rng(5).normal(0, amount * np.abs(values).max(), values.shape)
            tensor.CopyFrom(numpy_helper.from_array((values + noise).astype(np.float32), layer))
    onnx.save(model, path)
    return path


def bytes_of(out: Path) -> bytes:
    return BundleDir(out / "bundle").read_file(MODEL)


@pytest.mark.parametrize("effort", ["fast", "normal"])
def test_a_fine_tuned_version_keeps_most_bytes_and_its_fidelity(
    small: Small, edge_compile: Command, tmp_path: Path, effort: str
) -> None:
    def build(name: str, *more: str, **changed: str | Path) -> dict[str, object]:
        ended = edge_compile(
            small.arguments(
                tmp_path / name, "--json", *more, effort=effort, max_drop_pp="8", **changed
            )
        )
        assert ended.code == 0, ended.stderr
        chosen: dict[str, object] = ended.json["targets"]["raspberry-pi-4"]["selection"][0]
        return chosen

    first = build("first")
    model = tuned(tmp_path / "tuned.onnx", "w3", 0.003)
    alone = build("alone", model=model)
    after = build("after", "--previous", str(tmp_path / "first"), model=model)
    assert "as-before" in str(after["recipe"])
    assert "as-before" not in str(first["recipe"]) + str(alone["recipe"])
    assert float(str(after["snr_db"])) >= float(str(alone["snr_db"])) - 2.0

    def delta_bytes(name: str) -> int:
        deltas = make_deltas(bytes_of(tmp_path / "first"), bytes_of(tmp_path / name))
        return len(deltas[0].data)

    assert delta_bytes("after") < delta_bytes("alone")
    bundle = BundleDir(tmp_path / "after" / "bundle")
    manifest = decode_model_manifest(bundle.read_file(MODEL_FILE), where="test")
    assert manifest.lineage.options["previous"] == BundleDir(tmp_path / "first" / "bundle").digest


def test_the_same_model_after_itself_is_the_same_file(
    small: Small, edge_compile: Command, tmp_path: Path
) -> None:
    for out, more in (("a", []), ("b", ["--previous", str(tmp_path / "a" / "bundle")])):
        assert edge_compile(small.arguments(tmp_path / out, *more, effort="fast")).code == 0
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_a_previous_bundle_that_cannot_help_is_named(
    small: Small, edge_compile: Command, tmp_path: Path, built: Path
) -> None:
    def build(previous: Path, **changed: str) -> tuple[int, str]:
        arguments = small.arguments(
            tmp_path / "out", "--previous", str(previous), effort="fast", **changed
        )
        ended = edge_compile(arguments)
        return ended.code, ended.stderr + ended.stdout

    code, said = build(tmp_path / "nothing")
    assert code == 3
    assert "--previous: no bundle at" in said
    code, said = build(built, name="other")
    assert code != 0
    assert "is of the line 'stripes', this build of 'other'" in said
    code, said = build(built, target="generic-x86-64")
    assert code == 0
    assert "generic-x86-64: --previous has no variant of its kind" in said


def test_layers_that_are_not_the_same_begin_afresh(tmp_path: Path) -> None:
    plan = drafted("s8s8", tmp_path)
    graph = float_graph(small_cnn(), tmp_path).prepared
    structure = survey(graph)
    ranges = dict.fromkeys(structure.shared.values(), (-1.5, 2.5))
    wrong = {
        node: type(weight)(weight.values[:1], weight.scales[:1], weight.axis)
        for node, weight in plan.weights().items()
    }
    found = draft_plan(
        graph, structure, ranges, "asymmetric", before=Previous({}, wrong, {"x": np.zeros(3)})
    )
    assert found.digest() == plan.digest()
