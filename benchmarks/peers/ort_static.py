"""onnxruntime's static quantiser, per-channel QDQ. Run by ``benchmarks/quantize.py``."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
from job import measure, out_path, read_job, samples
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """One sample a call."""

    def __init__(self, x: np.ndarray, name: str) -> None:
        self._rows: Iterator[np.ndarray] = iter(x)
        self._name = name

    def get_next(self) -> dict[str, np.ndarray] | None:
        row = next(self._rows, None)
        return None if row is None else {self._name: row[None]}


def main() -> None:
    logging.disable(logging.WARNING)
    job = read_job()
    x = samples(job)
    method, _, kind = job["recipe"].partition("/")
    extra: dict[str, object] = {"ActivationSymmetric": kind == "symmetric"}
    if method == "percentile":
        extra["CalibPercentile"] = 99.99

    def work() -> None:
        prepared = out_path(job).with_suffix(".prepared.onnx")
        quant_pre_process(job["model"], prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            job["out"],
            Reader(x, job["input"]),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method={
                "minmax": CalibrationMethod.MinMax,
                "percentile": CalibrationMethod.Percentile,
            }[method],
            extra_options=extra,
        )

    measure(work)


if __name__ == "__main__":
    main()
