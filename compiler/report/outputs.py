"""Every output of the model, int8 beside float, whatever the task judges."""

from __future__ import annotations

from compiler.metrics.fidelity import compare_outputs
from compiler.metrics.measured import figure
from compiler.report.section import Section
from edge_contract.model import ModelManifest
from edge_runtime.preprocess import FloatArray
from edge_runtime.tensors import Tensors


def outputs_section(manifest: ModelManifest, floating: FloatArray, int8: FloatArray) -> Section:
    """Cosine and signal to noise of each output over the test data, rows ``[n, values]``."""
    tensors = Tensors(manifest.outputs)
    found, _ = compare_outputs(floating, int8, tensors.names, tensors.sizes)
    return Section(
        key="outputs",
        title="Outputs",
        note="Int8 beside float over the test data: the mean cosine of a sample, signal to noise.",
        data=[
            {"name": one.name, "cosine": figure(one.cosine), "snr_db": figure(one.snr_db)}
            for one in found
        ],
        columns=("output", "cosine", "signal to noise"),
        rows=tuple((one.name, f"{one.cosine:.5f}", f"{one.snr_db:.1f} dB") for one in found),
        place="answers",
        proven=True,
    )
