"""Top-1 and top-k: paired right and wrong answers, judged by Tango's bound (``proof.gate``)."""

from __future__ import annotations

from compiler.datasets.dataset import Labels
from compiler.metrics.measured import Figure, Measured, evidence_of, figure
from compiler.proof.evaluate import compare
from compiler.proof.gate import judge
from edge_runtime.preprocess import FloatArray


def measure_classes(
    floating: FloatArray,
    int8: FloatArray,
    y: Labels,
    labels: list[str],
    *,
    max_drop_pp: float,
    top_k: int = 1,
) -> Measured:
    """Compare scores ``[n, classes]`` against class ids ``[n]``.

    Args:
        floating, int8: the two models' scores.
        y: class ids.
        labels: names of the classes.
        max_drop_pp: the accepted drop of accuracy, in percentage points.
        top_k: an answer is right when the label is among so many best scores.
    """
    comparison = compare(floating, int8, y, labels, top_k)
    lost, gained = len(comparison.lost), len(comparison.gained)
    gate = judge(comparison.n, lost, gained, max_drop_pp)
    metric = f"top-{top_k}"
    name = "Accuracy" if top_k == 1 else f"Accuracy, top {top_k}"
    evidence = evidence_of(
        metric,
        gate,
        flips_lost=gate.flips_lost,
        flips_gained=gate.flips_gained,
        max_drop_pp=gate.max_drop_pp,
        drop_pp=figure(gate.drop_pp),
        drop_upper_pp=figure(gate.drop_upper_pp),
        drop_lower_pp=figure(gate.drop_lower_pp),
        agreement=figure(comparison.agreement),
        float={"accuracy": figure(comparison.float_accuracy)},
        int8={"accuracy": figure(comparison.int8_accuracy)},
        classes=[
            {
                "label": row.label,
                "n": row.n,
                "float_right": row.float_right,
                "int8_right": row.int8_right,
            }
            for row in comparison.classes
        ],
        flips={"lost": list(comparison.lost), "gained": list(comparison.gained)},
    )
    return Measured(
        metric=metric,
        gate=gate,
        figures=(
            Figure(
                name,
                f"{comparison.int8_accuracy:.2%}",
                f"float {comparison.float_accuracy:.2%}",
            ),
            Figure("Same class as float", f"{comparison.agreement:.2%}", f"{gate.n:,} samples"),
            Figure("Flips", f"{lost} lost", f"{gained} gained"),
        ),
        evidence=evidence,
        comparison=comparison,
    )
