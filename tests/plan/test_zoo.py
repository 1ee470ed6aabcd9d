"""Networks that nothing was tuned to: each is searched, written in every dialect and audited."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from compiler.calibrate.ranges import collect_stats
from compiler.emit.onnx_qdq import emit_onnx
from compiler.graph.floatgraph import FloatGraph, normalise
from compiler.graph.layers import list_layers
from compiler.graph.source import load_source
from compiler.plan.effort import Effort
from compiler.plan.fidelity import logit_snr_db, logits_from_scores, tails_of
from compiler.plan.plan import Activations
from compiler.plan.search import Search, Trial
from compiler.plan.simulate import batch_for
from compiler.progress import silent
from compiler.proof.audit import audit
from compiler.proof.select import rank_trials
from edge_runtime.onnx_session import session_options
from tests.plan.networks import ZOO, Array, samples

FIT, HELD = 48, 24

SLACK_DB = 0.25
"""``fast`` compares ranges only, on two thirds of the samples that the peer takes."""


def answers(model: bytes, scheme: str, x: Array) -> Array:
    session = ort.InferenceSession(model, session_options(scheme))
    return np.concatenate([session.run(None, {"x": row[None]})[0] for row in x])


def search(graph: FloatGraph, x: Array, activations: Activations, effort: Effort) -> Trial:
    """The plan that a build would choose on ``x``, the last ``HELD`` of which select."""
    macs = sum(layer.macs for layer in list_layers(graph, x[:1]))
    fit, held = x[:-HELD], x[-HELD:]
    trials = Search(
        model=graph.prepared,
        collect=lambda model, wanted: collect_stats(
            replace(graph, prepared=model), lambda: (row[None] for row in fit), wanted
        ),
        x=fit,
        batch=batch_for(macs),
        macs=macs,
        activations=activations,
        effort=effort,
    ).trials(silent)
    dialect = "s8s8-symmetric" if activations == "symmetric" else "s8s8"
    floating = answers(graph.model.SerializeToString(), "float32", held)
    ranked = rank_trials(
        trials,
        floating,
        lambda trial: answers(emit_onnx(trial.plan, dialect), "s8s8", held),
        tails_of(graph.prepared).heads,
        [floating[0].size],
    )
    return ranked[0].trial


class Rows(CalibrationDataReader):  # type: ignore[misc]
    """One sample a call, for onnxruntime's quantiser."""

    def __init__(self, x: Array) -> None:
        self._rows: Iterator[Array] = iter(x)

    def get_next(self) -> dict[str, Array] | None:
        row = next(self._rows, None)
        return None if row is None else {"x": row[None]}


def peer(
    graph: FloatGraph, x: Array, method: CalibrationMethod, activations: Activations, folder: Path
) -> bytes:
    """onnxruntime's static int8 of the same model on the same samples."""
    target = folder / "peer.onnx"
    quantize_static(
        copy.deepcopy(graph.prepared),
        target,
        Rows(x),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=method,
        extra_options={"ActivationSymmetric": activations == "symmetric"},
    )
    return target.read_bytes()


@pytest.mark.parametrize("activations", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("name", ZOO)
def test_an_unknown_network_runs_in_int8_no_further_from_float_than_onnxruntimes(
    name: str, activations: Activations, tmp_path: Path
) -> None:
    model, shape = ZOO[name]()
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    graph = normalise(load_source(path))
    x, test = samples(shape, FIT + HELD, 0), samples(shape, 100, 1)
    (head,) = tails_of(graph.prepared).heads
    reference = logits_from_scores(answers(path.read_bytes(), "float32", test), head)

    def snr_db(data: bytes, scheme: str) -> float:
        found = logits_from_scores(answers(data, scheme, test), head)
        return logit_snr_db(reference, found, head)

    plan = search(graph, x, activations, "fast").plan
    layers = list_layers(graph, x[:1])
    mine = []
    for dialect in ("s8s8-symmetric",) if activations == "symmetric" else ("s8s8", "u8s8"):
        scheme = "u8s8" if dialect == "u8s8" else "s8s8"
        data = emit_onnx(plan, dialect)
        seen = audit(data, scheme, layers)
        assert seen.macs_share >= 0.99
        assert not seen.broken(plan)
        mine.append(snr_db(data, scheme))
    methods = (CalibrationMethod.MinMax, CalibrationMethod.Percentile)
    theirs = [snr_db(peer(graph, x, m, activations, tmp_path), "s8s8") for m in methods]
    assert min(mine) >= max(theirs) - SLACK_DB, (mine, theirs)


@pytest.mark.parametrize("name", ["mobile", "attention", "signal"])
def test_a_longer_search_is_no_worse_and_the_same_every_time(name: str, tmp_path: Path) -> None:
    model, shape = ZOO[name]()
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    graph = normalise(load_source(path))
    x, test = samples(shape, FIT + HELD, 0), samples(shape, 100, 1)
    reference = answers(path.read_bytes(), "float32", test)

    def snr_db(trial: Trial) -> float:
        found = answers(emit_onnx(trial.plan, "s8s8"), "s8s8", test)
        return logit_snr_db(reference, found, "")

    short = search(graph, x, "asymmetric", "fast")
    long = search(graph, x, "asymmetric", "normal")
    assert snr_db(long) >= snr_db(short)
    assert long.plan.digest() == search(graph, x, "asymmetric", "normal").plan.digest()
