"""Layers that int8 ruins stay in float, within a small share of the MACs, and are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.emit.onnx_qdq import emit_onnx
from compiler.graph.layers import list_layers
from compiler.plan.diagnose import LayerFidelity, diagnose
from compiler.plan.fallback import in_float, layers_to_free
from compiler.proof.audit import audit
from edge_contract.model import Int8Scheme
from tests.compiler.models import frames, small_cnn
from tests.compiler.test_equalise import MACS, search
from tests.compiler.test_quantize import float_graph


def test_sets_grow_by_what_hurts_most_and_stay_within_a_hundredth_of_the_macs() -> None:
    ranking = [LayerFidelity(name, 0.0, float(place), 1.0) for place, name in enumerate("abcd")]
    macs = {"a": 6, "b": 500, "c": 4, "d": 1}
    assert layers_to_free(ranking, macs, 1000) == [frozenset("a"), frozenset("ac")]
    assert layers_to_free(ranking, {}, 1000) == []


@pytest.mark.parametrize("scheme", ["s8s8", "s8s8-symmetric"])
def test_a_layer_left_in_float_is_seen_there_by_the_audit(
    tmp_path: Path, scheme: Int8Scheme
) -> None:
    graph = float_graph(small_cnn(), tmp_path)
    x, _ = frames(40, 3)
    best = search(graph, x, scheme, "fast")[0]
    layers = list_layers(graph, x[:1])
    for layer in best.plan.layers:
        trial = in_float(best, frozenset({layer}))
        found = audit(emit_onnx(trial.plan, scheme), scheme, layers)
        assert [one.name for one in found.left_float] == [layer]
        assert found.broken(trial.plan) == []
        assert trial.plan.left_float == {layer}


def test_the_ranking_covers_every_layer_worst_first(tmp_path: Path) -> None:
    graph = float_graph(small_cnn(), tmp_path)
    x, _ = frames(40, 3)
    best = search(graph, x, "s8s8", "fast")[0]
    ranking = diagnose(best.plan, best.floating, x, 16, MACS)
    assert {layer.node for layer in ranking} == set(best.plan.layers)
    alone = [layer.alone_snr_db for layer in ranking]
    assert alone == sorted(alone)
    # No layer alone does more harm than all of them together.
    assert alone[0] > best.snr_db - 3
