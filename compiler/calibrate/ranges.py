"""Calibration: which values each tensor of the float graph takes, streamed.

Two passes over the samples: the first finds every tensor's extremes, the second counts values in
2,048 even bins between them. Memory holds one sample's tensors and the histograms, however many
samples there are. One sample is run at a time on one thread, so the result depends on nothing
but the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from compiler.errors import DatasetError, SourceError
from compiler.graph.floatgraph import FloatGraph, constant_tensors, first_line
from compiler.graph.layers import inner_tensors, with_outputs
from edge_runtime.onnx_session import session_options

BINS = 2048

Samples = Callable[[], Iterator[npt.NDArray[np.float32]]]
"""Starts anew at each call; yields model inputs float32 ``[1, ...]``."""


@dataclass(frozen=True)
class TensorStats:
    """Values of one tensor: extremes, and counts in ``BINS`` even bins between them."""

    low: float
    high: float
    counts: npt.NDArray[np.int64]

    def central(self, share: float) -> tuple[float, float]:
        """The range that leaves out at most ``1 - share`` of the values at either end.

        ``share = 1`` gives the extremes. Bin edges are taken outward, so a whole bin is never
        cut.
        """
        if share >= 1 or self.high <= self.low:
            return self.low, self.high
        cumulated = np.cumsum(self.counts) / self.counts.sum()
        first = int(np.searchsorted(cumulated, 1 - share, side="right"))
        last = int(np.searchsorted(cumulated, share, side="left"))
        step = (self.high - self.low) / BINS
        low = self.low if first == 0 else self.low + first * step
        high = self.high if last >= BINS - 1 else self.low + (last + 1) * step
        return low, high


def collect_stats(
    graph: FloatGraph, samples: Samples, wanted: Collection[str] | None = None
) -> dict[str, TensorStats]:
    """Statistics of float32 tensors of ``graph.prepared``.

    Args:
        graph: the float graph.
        samples: what to run it over, twice.
        wanted: the tensors; the input and every inner one where it is not given.

    Raises:
        DatasetError: a sample drives a tensor to NaN or infinity.
        SourceError: the runtime fails.
    """
    constants = constant_tensors(graph.prepared.graph)
    names = [
        name
        for name in inner_tensors(graph.prepared.graph)
        if name not in constants and (wanted is None or name in wanted)
    ]
    inputs = [name for name in graph.given.names if wanted is None or name in wanted]
    run = _runner(graph, names, inputs)
    extremes: dict[str, tuple[float, float]] = {}
    for row, sample in enumerate(samples()):
        for name, values in run(sample):
            low, high = float(values.min()), float(values.max())
            if not (np.isfinite(low) and np.isfinite(high)):
                raise DatasetError(
                    f"calibration sample {row} drives the float model to NaN or infinity"
                    f" (tensor {name})",
                    hint="check the scale of the samples, or give --preprocess",
                )
            seen = extremes.get(name, (low, high))
            extremes[name] = (min(seen[0], low), max(seen[1], high))
    counts = {name: np.zeros(BINS, np.int64) for name in extremes}
    for sample in samples():
        for name, values in run(sample):
            low, high = extremes[name]
            if high > low:
                where = (values.ravel() - np.float32(low)) * np.float32(BINS / (high - low))
                bins = np.minimum(where.astype(np.int32), BINS - 1)
                counts[name] += np.bincount(bins, minlength=BINS)
    return {name: TensorStats(*extremes[name], counts[name]) for name in extremes}


def _runner(
    graph: FloatGraph, names: list[str], inputs: list[str]
) -> Callable[[npt.NDArray[np.float32]], Iterator[tuple[str, npt.NDArray[np.float32]]]]:
    try:
        session = ort.InferenceSession(
            with_outputs(graph.prepared, names).SerializeToString(),
            session_options("float32"),
            providers=["CPUExecutionProvider"],
        )
    # onnxruntime raises a family of types without a common base, RuntimeError among them.
    except Exception as error:
        raise SourceError(f"onnxruntime cannot calibrate the model: {first_line(error)}") from error

    def run(sample: npt.NDArray[np.float32]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        feeds = graph.given.split(sample)
        for name in inputs:
            yield name, feeds[name]
        try:
            arrays = session.run(names, feeds)
        # As above.
        except Exception as error:
            raise SourceError(f"the float model fails on a sample: {first_line(error)}") from error
        for name, array in zip(names, arrays, strict=True):
            if isinstance(array, np.ndarray) and array.dtype == np.float32 and array.size:
                yield name, array

    return run
