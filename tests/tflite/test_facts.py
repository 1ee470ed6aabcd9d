"""What inspect says of int8 .tflite files, whole and damaged."""

from __future__ import annotations

from contextlib import suppress
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.errors import SourceError
from compiler.graph.describe import facts_in, weights_in
from compiler.tflite.emit import emit_tflite
from compiler.tflite.to_onnx import tflite_to_onnx
from tests.tflite.networks import NETWORKS
from tests.tflite.test_emit import frames, plan_for


@cache
def int8_file() -> bytes:
    model = tflite_to_onnx("m", NETWORKS["ds_cnn"]())
    return emit_tflite(plan_for(model, frames(model, 5, 1)))


def test_an_int8_file_has_the_macs_of_its_float_source() -> None:
    source = NETWORKS["ds_cnn"]()
    floating = facts_in("m.tflite", source, "", len(source))
    int8 = facts_in("m.tflite", int8_file(), "", len(int8_file()))
    assert int8.macs == floating.macs
    assert len(int8.layers) == len(floating.layers)
    assert {layer.weight_dtype for layer in int8.layers} == {"int8"}
    weights = weights_in("m.tflite", int8_file())
    assert weights.keys() == {layer.name for layer in int8.layers}
    assert all(weight.scales is not None for weight in weights.values())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_int8_file_is_described_or_refused(data: st.DataObject) -> None:
    damaged = bytearray(int8_file())
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(8, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(8, len(damaged)))
    for content in (bytes(damaged), bytes(damaged[:cut])):
        with suppress(SourceError):
            facts_in("m.tflite", content, "", len(content))
            weights_in("m.tflite", content)
