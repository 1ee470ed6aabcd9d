"""Rescaled channels are the same function, so they must quantise as well as before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from compiler.calibrate.ranges import collect_stats
from compiler.emit.onnx_qdq import emit_onnx
from compiler.emit.variant import activations_of, audit_variant, emit_variant
from compiler.graph.floatgraph import FloatGraph
from compiler.graph.layers import list_layers
from compiler.plan.effort import Effort
from compiler.plan.equalise import channel_extremes, equalise, find_pairs, ranges_of, with_values
from compiler.plan.search import Search, Trial
from compiler.plan.simulate import open_session
from compiler.plan.structure import initializer, survey
from compiler.progress import silent
from compiler.proof.evaluate import Runner
from edge_contract.model import (
    Int8Scheme,
    Lineage,
    ModelManifest,
    Runtime,
    TensorSpec,
    Variant,
)
from edge_contract.preprocess import PreprocessSpec
from tests.compiler.models import CLASSES, SIDE, Array, frames, residual_cnn, small_cnn
from tests.compiler.test_quantize import float_graph, one_by_one, run

MACS = 115_328

MANIFEST = ModelManifest(
    name="stripes",
    version="1.0.0",
    task="classification",
    inputs=[TensorSpec(name="frames", dtype="float32", shape=[None, SIDE, SIDE, 1])],
    outputs=[TensorSpec(name="scores", dtype="float32", shape=[None, CLASSES])],
    labels=[str(one) for one in range(CLASSES)],
    preprocess=PreprocessSpec(kind="tensor"),
    variants=[],
    lineage=Lineage(source_digest="", calibration_digest="", test_digest="", tools={}, options={}),
)


def rescaled(model: ModelProto) -> ModelProto:
    """The depthwise layer's channels times 2^U(-6, 6), and the inverse in the layer after it."""
    factors = (2.0 ** np.random.default_rng(7).uniform(-6, 6, 16)).astype(np.float32)
    values = {name: initializer(model, name) for name in ("w2", "b2", "w3")}
    return with_values(
        model,
        {
            "w2": values["w2"] * factors[:, None, None, None],
            "b2": values["b2"] * factors,
            "w3": values["w3"] / factors[None, :, None, None],
        },
    )


def variant_of(runtime: Runtime, scheme: Int8Scheme) -> Variant:
    return Variant(target="t", runtime=runtime, scheme=scheme, file="m", golden="g")


def search(
    graph: FloatGraph,
    x: Array,
    scheme: Int8Scheme,
    effort: Effort,
    runtime: Runtime = "onnxruntime",
) -> list[Trial]:
    return Search(
        model=graph.prepared,
        collect=lambda model, wanted: collect_stats(
            replace(graph, prepared=model), one_by_one(x), wanted
        ),
        x=x,
        batch=16,
        macs=MACS,
        activations=activations_of(variant_of(runtime, scheme)),
        effort=effort,
        whole_ends=runtime == "litert",
    ).trials(silent)


@pytest.mark.parametrize("effort", ["fast", "normal"])
@pytest.mark.parametrize(
    ("runtime", "scheme"),
    [
        *(("onnxruntime", scheme) for scheme in get_args(Int8Scheme)),
        ("litert", "s8s8"),
    ],
)
def test_rescaled_depthwise_channels_change_agreement_by_at_most_1_pp_on_every_target(
    tmp_path: Path, runtime: Runtime, scheme: Int8Scheme, effort: Effort
) -> None:
    variant = variant_of(runtime, scheme)
    x, _ = frames(60, 3)
    fresh, _ = frames(500, 4)
    shares = []
    for model in (small_cnn(), rescaled(small_cnn())):
        graph = float_graph(model, tmp_path)
        floating = run(graph.model.SerializeToString(), "float32", "frames", fresh)
        plan = search(graph, x, scheme, effort, runtime)[0].plan
        data = emit_variant(plan, variant)
        int8 = Runner(data, MANIFEST, variant).scores(fresh, "test")
        shares.append((int8.argmax(1) == floating.argmax(1)).mean())
        assert audit_variant(data, variant, list_layers(graph, x[:1])).macs_share == 1
    assert abs(shares[1] - shares[0]) <= 0.01


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("make", [small_cnn, residual_cnn])
def test_equalising_keeps_the_float_function_and_undoes_any_rescaling(
    tmp_path: Path, make: Callable[[], ModelProto], balance: float
) -> None:
    x, _ = frames(40, 3)
    sources = [make()]
    if make is small_cnn:
        sources.append(rescaled(sources[0]))
    weights = []
    for source in sources:
        graph = float_graph(source, tmp_path)
        pairs = find_pairs(graph.prepared, survey(graph.prepared))
        assert pairs
        opened = ModelProto.FromString(graph.prepared.SerializeToString())
        for pair in pairs:
            opened.graph.output.add(name=pair.made)
        made = open_session(opened).run([pair.made for pair in pairs], {"frames": x})
        ranges = {
            place: ranges_of(pair, *channel_extremes(iter([values])))
            for place, (pair, values) in enumerate(zip(pairs, made, strict=True))
        }
        other = equalise(graph.prepared, ranges, pairs, balance)
        before = run(graph.prepared.SerializeToString(), "float32", "frames", x)
        after = run(other.SerializeToString(), "float32", "frames", x)
        np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-5)
        second = pairs[-1].second.weight
        assert second is not None
        weights.append(initializer(other, second))
    for one in weights[1:]:
        np.testing.assert_allclose(
            one / np.abs(one).max(), weights[0] / np.abs(weights[0]).max(), rtol=1e-3, atol=1e-6
        )


def test_a_bias_correction_is_kept_only_where_it_helps(tmp_path: Path) -> None:
    x, _ = frames(60, 3)
    for make in (small_cnn, residual_cnn):
        trials = search(float_graph(make(), tmp_path), x, "s8s8", "normal")
        by_name = {trial.recipe: trial.snr_db for trial in trials}
        for recipe, snr in by_name.items():
            plain = recipe.removesuffix("+bias")
            if plain != recipe and plain in by_name:
                assert snr > by_name[plain]
        assert trials[0].snr_db == max(by_name.values())


def test_the_search_gives_the_same_plan_twice(tmp_path: Path) -> None:
    x, _ = frames(40, 3)
    found = [search(float_graph(small_cnn(), tmp_path), x, "s8s8", "normal") for _ in range(2)]
    assert [t.plan.digest() for t in found[0]] == [t.plan.digest() for t in found[1]]


def test_more_effort_is_never_worse_in_simulation(tmp_path: Path) -> None:
    x, _ = frames(40, 3)
    graph = float_graph(rescaled(small_cnn()), tmp_path)
    fast, normal = (search(graph, x, "s8s8-symmetric", effort)[0] for effort in ("fast", "normal"))
    assert normal.snr_db >= fast.snr_db


def test_int8_weights_of_a_plan_are_the_ones_in_the_file(tmp_path: Path) -> None:
    x, _ = frames(40, 3)
    plan = search(float_graph(small_cnn(), tmp_path), x, "s8s8", "fast")[0].plan
    file = ModelProto.FromString(emit_onnx(plan, "s8s8"))
    stored = {numpy_helper.to_array(t).tobytes() for t in file.graph.initializer}
    for layer in plan.layers.values():
        assert layer.weight is not None
        assert layer.weight.values.tobytes() in stored
