"""The calibration data as the plan search sees them: statistics, and some samples."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

from compiler.calibrate.ranges import BINS, TensorStats, collect_stats
from compiler.calibrate.statcache import StatCache
from compiler.datasets.dataset import stream
from compiler.inputs import Inputs
from compiler.plan.search import SAMPLES_MAX
from edge_contract.codec import encode_json

_SAMPLES_LIMIT_BYTES = 64 << 20
"""What the samples of the search may take in memory."""


class Calibration:
    """What the search asks of the calibration data; asked again, it answers from memory or cache.

    x: some of the samples as model inputs, float32 ``[n, ...]``, evenly spaced.
    """

    def __init__(self, inputs: Inputs, cache: StatCache) -> None:
        self._graph = inputs.graph
        self._data = inputs.data.fit
        self._preprocessor = inputs.preprocessor
        self._cache = cache
        self._known: dict[str, dict[str, TensorStats]] = {}
        frames = self._data.x
        fit = max(1, _SAMPLES_LIMIT_BYTES // (4 * math.prod(inputs.graph.row_shape)))
        wanted = min(len(frames), SAMPLES_MAX, fit)
        rows = np.unique(np.linspace(0, len(frames) - 1, wanted).round().astype(int))
        self.x = np.concatenate(list(stream(frames[rows], inputs.preprocessor, self._data.role)()))

    def collect(self, model: ModelProto, wanted: Collection[str]) -> dict[str, TensorStats]:
        """Statistics of the tensors ``wanted`` of ``model`` over all samples.

        Raises:
            CompileError: a sample is refused, or drives the model to NaN.
        """
        key = self._key(model, wanted)
        found = self._known.get(key) or self._cache.load(key)
        if found is None:
            samples = stream(self._data.x, self._preprocessor, self._data.role)
            found = collect_stats(replace(self._graph, prepared=model), samples, wanted)
            self._cache.store(key, found)
        self._known[key] = found
        return found

    def _key(self, model: ModelProto, wanted: Collection[str]) -> str:
        state = hashlib.sha256(f"1 {BINS} {ort.__version__} {self._data.digest}\n".encode())
        state.update(encode_json(self._preprocessor.spec) + b"\n")
        state.update("\n".join(sorted(wanted)).encode() + b"\n")
        state.update(model.SerializeToString(deterministic=True))
        return state.hexdigest()
