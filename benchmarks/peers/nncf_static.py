"""NNCF's post-training quantisation. Run by ``benchmarks/quantize.py`` in NNCF's environment."""

from __future__ import annotations

import logging

import nncf
import onnx
from job import measure, read_job, samples
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters


def main() -> None:
    nncf.set_log_level(logging.ERROR)
    job = read_job()
    x = samples(job)
    preset = {
        "mixed": nncf.QuantizationPreset.MIXED,
        "symmetric": nncf.QuantizationPreset.PERFORMANCE,
    }
    name, _, correction = job["recipe"].partition("/")

    def work() -> None:
        dataset = nncf.Dataset(list(x), lambda row: {job["input"]: row[None]})
        quantised = nncf.quantize(
            onnx.load(job["model"]),
            dataset,
            subset_size=len(x),
            preset=preset[name],
            fast_bias_correction=correction != "accurate",
            advanced_parameters=AdvancedQuantizationParameters(
                disable_bias_correction=correction == "none"
            ),
        )
        onnx.save(quantised, job["out"])

    measure(work)


if __name__ == "__main__":
    main()
