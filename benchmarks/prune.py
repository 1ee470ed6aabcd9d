"""Pruning without retraining, beside simpler ways, and what aligned channel counts are worth.

    python benchmarks/prune.py --data DIR [--json] [--runs N]

DIR holds ``kws/`` and ``ic/`` with ``*_float.onnx``, ``calibration.npz`` and ``test.npz``. Two
tables come out.

Accuracy: KWS and the first 2,000 test images of IC at exact keep 0.8 and 0.7, calibrated with the
first 200 calibration samples. The ``pairs`` rows keep that share of the channels of each prunable
pair (two layers of a kind in a row); the ``all groups`` rows prune residual groups and the inputs
of the classifier, too. The peers: ``l1`` drops the channels with the smallest weights and does no
more; ``l1+ls`` then fits the next layer by plain least squares.

Time: one thread, aligned counts beside the nearest ones that are not, and beside the unpruned
model; float with float and int8 (onnxruntime's quantize_static) with int8. Runs are interleaved,
so that a busy machine hurts all alike, and ratios are of medians.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import ModelProto, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from compiler.calibrate.ranges import Samples
from compiler.graph.floatgraph import FloatGraph, normalise
from compiler.graph.source import load_source
from compiler.prune.allocate import exact_count
from compiler.prune.dense import Dense, list_dense
from compiler.prune.moments import run_to
from compiler.prune.prune import group_channels, prune_model
from compiler.prune.remove import cut_channels, own_weights
from device_configs.loader import load_profile
from edge_runtime.onnx_session import session_options

Array = npt.NDArray[np.float32]
CALIBRATION = 200
TEST = {"kws": 800, "ic": 2000}
KEEPS = (0.8, 0.7)
BARS = {("kws", 0.8): 89.1, ("ic", 0.8): 67.9}
ALIGNED_BAR = 1.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with kws/ and ic/")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--runs", type=int, default=600, help="timed runs of each model")
    arguments = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    accuracy: list[dict[str, object]] = []
    timing: list[dict[str, object]] = []
    for name in TEST:
        graph, calibration, x, y = load(arguments.data / name, TEST[name])
        samples = rows(calibration)
        accuracy.append({"model": name, "method": "float", "top1": top1(graph.prepared, x, y)})
        for keep in KEEPS:
            accuracy += accuracy_rows(name, graph, samples, x, y, keep)
        timing += timing_rows(name, graph, calibration, arguments.runs)
    verdicts = judge(accuracy, timing)
    if arguments.json:
        print(json.dumps({"accuracy": accuracy, "timing": timing, "bars": verdicts}, indent=1))
    else:
        for table in (accuracy, timing, verdicts):
            show(table)
    return 0 if all(row["held"] for row in verdicts) else 1


def load(folder: Path, limit: int) -> tuple[FloatGraph, Array, Array, npt.NDArray[np.int64]]:
    """Graph, calibration ``[200, ...]``, test inputs and labels."""
    graph = normalise(load_source(folder / f"{folder.name}_float.onnx"))
    calibration = np.load(folder / "calibration.npz")["x"][:CALIBRATION].astype(np.float32)
    with np.load(folder / "test.npz") as test:
        return graph, calibration, test["x"][:limit].astype(np.float32), test["y"][:limit]


def rows(x: Array) -> Samples:
    """One sample after the other."""
    return lambda: (sample[None] for sample in x)


def accuracy_rows(
    name: str,
    graph: FloatGraph,
    samples: Samples,
    x: Array,
    y: npt.NDArray[np.int64],
    keep: float,
) -> Iterator[dict[str, object]]:
    """Every method at one keep."""
    for scope in ("pairs", "all groups"):
        begin = time.process_time()
        result = prune_model(graph, samples, keep=keep, pairs_only=scope == "pairs")
        took = time.process_time() - begin
        kept = [
            f"{g.channels_after}/{g.channels_before}"
            for g in result.groups
            if g.channels_after < g.channels_before
        ]
        row = {
            "model": name,
            "keep": keep,
            "scope": scope,
            "macs_kept": round(result.macs_after / result.macs_before, 3),
        }
        yield {
            **row,
            "method": "wherry",
            "top1": top1(result.graph.prepared, x, y),
            "cpu_seconds": round(took, 1),
            "channels": " ".join(kept),
        }
        for method in ("l1", "l1+ls"):
            model = simple_prune(graph, samples, keep, scope == "pairs", fit=method == "l1+ls")
            yield {**row, "method": method, "top1": top1(model, x, y)}


def simple_prune(
    graph: FloatGraph, samples: Samples, keep: float, pairs_only: bool, *, fit: bool
) -> ModelProto:
    """The peers: channels whose weights have the smallest L1 norm go; optionally, a plain fit."""
    grouping = group_channels(graph, samples)
    base = own_weights(graph.prepared)
    model = ModelProto()
    model.CopyFrom(base)
    layers = list_dense(base.graph)
    place = {name: index for index, name in enumerate(layers)}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    ids = {
        (base.graph.node[cut.node].name, cut.role): cut.ids
        for cut in grouping.channels.cuts
        if cut.slot == 1
    }
    removed = np.zeros(len(grouping.channels.parent), bool)
    for group in sorted(grouping.prunable, key=lambda g: min(place[c] for c in g.consumers)):
        if pairs_only and not group.is_pair:
            continue
        norms = dict.fromkeys(group.channels, 0.0)
        for name in group.producers:
            weight = layers[name].matrix(numpy_helper.to_array(tensors[layers[name].weight]))
            for channel, column in zip(ids[name, "makes"], weight.T, strict=True):
                norms[int(channel)] += float(np.abs(column).sum())
        gone = len(group.channels) - int(len(group.channels) * keep + 0.5)
        removed[sorted(group.channels, key=norms.__getitem__)[:gone]] = True
        for name in group.consumers:
            layer = layers[name]
            columns = np.repeat(~removed[ids[name, "takes"]], layer.taps)
            matrix = layer.matrix(numpy_helper.to_array(tensors[layer.weight]))
            matrix[~columns] = 0
            if fit:
                matrix[columns] = plain_fit(model, base, layer, columns, samples)
            changed = numpy_helper.from_array(layer.weights(matrix), layer.weight)
            tensors[layer.weight].CopyFrom(changed)
    return cut_channels(model, grouping, removed)


def plain_fit(
    model: ModelProto,
    base: ModelProto,
    layer: Dense,
    columns: npt.NDArray[np.bool_],
    samples: Samples,
) -> npt.NDArray[np.float64]:
    """Least squares of one layer: kept inputs now against outputs then, the bias held."""
    bias = np.zeros(layer.outputs)
    if layer.bias is not None:
        weights = {tensor.name: tensor for tensor in base.graph.initializer}
        bias = numpy_helper.to_array(weights[layer.bias]).astype(np.float64)
    now, then = run_to(model, [layer.x]), run_to(base, [layer.y])
    rng = np.random.default_rng(0)
    left, right = [], []
    for sample in samples():
        (given,), (wanted,) = now(sample), then(sample)
        picked = layer.pick(wanted.shape, 100, rng)
        left.append(layer.inputs_at(given, wanted.shape, picked)[:, columns])
        right.append(layer.outputs_at(wanted, picked) - bias)
    return np.linalg.lstsq(np.concatenate(left), np.concatenate(right), rcond=None)[0]


def timing_rows(
    name: str, graph: FloatGraph, calibration: Array, runs: int
) -> Iterator[dict[str, object]]:
    """Aligned counts, unaligned ones near them and the unpruned model, interleaved.

    Aligned: keep 0.8 in the profile's steps (48 of 64). Unaligned: the same keep without a step
    (51 of 64), and one channel less or one more in each group (one less where it is whole).
    """
    samples = rows(calibration[:1])
    step = load_profile("generic-x86-64").channel_step
    whole = [len(group.channels) for group in group_channels(graph, samples).prunable]
    aligned = [exact_count(count, KEEPS[0], step) for count in whole]
    plans = {
        "unpruned": whole,
        "aligned": aligned,
        "exact 0.8": [exact_count(count, KEEPS[0], 1) for count in whole],
        "one less": [count - 1 for count in aligned],
        "one more": [min(a + 1, w - 1) for a, w in zip(aligned, whole, strict=True)],
    }
    floats = {key: at_counts(graph, samples, counts) for key, counts in plans.items()}
    with tempfile.TemporaryDirectory() as scratch:
        int8 = {key: quantise(model, calibration, Path(scratch)) for key, model in floats.items()}
    for kind, models in (("float", floats), ("int8", int8)):
        medians = interleave(models, calibration[:1], runs)
        for other in ("unpruned", "exact 0.8", "one more", "one less"):
            yield {
                "model": name,
                "kind": kind,
                "aligned": " ".join(map(str, aligned)),
                "other": other,
                "aligned_ms": round(medians["aligned"], 4),
                "other_ms": round(medians[other], 4),
                "times_faster": round(medians[other] / medians["aligned"], 2),
            }


def at_counts(graph: FloatGraph, samples: Samples, counts: list[int]) -> ModelProto:
    """The model with each prunable group cut to its first so many channels.

    Which channels go and what the weights are is nothing to a clock.
    """
    grouping = group_channels(graph, samples)
    removed = np.zeros(len(grouping.channels.parent), bool)
    for group, count in zip(grouping.prunable, counts, strict=True):
        removed[list(group.channels[count:])] = True
    return cut_channels(own_weights(graph.prepared), grouping, removed)


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """What quantize_static wants to read."""

    def __init__(self, name: str, x: Array) -> None:
        self.rest = iter([{name: row[None]} for row in x])

    def get_next(self) -> Mapping[str, Array] | None:
        return next(self.rest, None)


def quantise(model: ModelProto, calibration: Array, folder: Path) -> ModelProto:
    """U8S8 QDQ per channel by onnxruntime, x86-64's scheme, the same for all that is timed."""
    out = folder / "int8.onnx"
    # quantize_static moves the weights of the model that it is given into a file.
    copy = ModelProto()
    copy.CopyFrom(model)
    with contextlib.redirect_stdout(sys.stderr):
        quantize_static(
            copy,
            out,
            Reader(model.graph.input[0].name, calibration[:50]),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    return ModelProto.FromString(out.read_bytes())


def interleave(models: Mapping[str, ModelProto], x: Array, runs: int) -> dict[str, float]:
    """Median milliseconds of one run of each, one thread, in turns."""
    sessions = {
        key: ort.InferenceSession(
            model.SerializeToString(),
            session_options("float32"),
            providers=["CPUExecutionProvider"],
        )
        for key, model in models.items()
    }
    spent: dict[str, list[float]] = {key: [] for key in models}
    for turn in range(runs + 20):
        for key, session in sessions.items():
            name = session.get_inputs()[0].name
            begin = time.perf_counter()
            session.run(None, {name: x})
            if turn >= 20:
                spent[key].append(1000 * (time.perf_counter() - begin))
    return {key: float(np.median(values)) for key, values in spent.items()}


def top1(model: ModelProto, x: Array, y: npt.NDArray[np.int64]) -> float:
    """Accuracy in percent."""
    session = ort.InferenceSession(
        model.SerializeToString(), session_options("float32"), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    scores = [session.run(None, {name: row[None]})[0].reshape(-1) for row in x]
    return round(100 * float(np.mean(np.argmax(scores, 1) == y)), 3)


def judge(
    accuracy: list[dict[str, object]], timing: list[dict[str, object]]
) -> list[dict[str, object]]:
    """The figures to reach, and whether they were."""
    found: list[dict[str, object]] = []
    for row in accuracy:
        bar = BARS.get((str(row["model"]), float(str(row.get("keep", 0)))))
        if bar is not None and row["method"] == "wherry" and row["scope"] == "pairs":
            got = float(str(row["top1"]))
            what = f"{row['model']} top-1 % at exact keep {row['keep']}"
            found.append({"what": what, "bar": bar, "got": got, "held": got >= bar})
    for row in timing:
        ratio = float(str(row["times_faster"]))
        bar = 1.0 if row["other"] == "unpruned" else ALIGNED_BAR
        what = f"{row['model']} {row['kind']}: aligned beside {row['other']}, times faster"
        found.append({"what": what, "bar": bar, "got": ratio, "held": ratio >= bar})
    return found


def show(table: list[dict[str, object]]) -> None:
    """One table in plain text."""
    keys = list(dict.fromkeys(key for row in table for key in row))
    cells = [keys] + [[str(row.get(key, "")) for key in keys] for row in table]
    widths = [max(len(line[i]) for line in cells) for i in range(len(keys))]
    for line in cells:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)))
    print()


if __name__ == "__main__":
    sys.exit(main())
