"""Choose between finalists on the selection split: the nearest to the float model wins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compiler.plan.fidelity import rows_snr_db
from compiler.plan.search import Trial
from edge_runtime.classes import ClassScores
from edge_runtime.preprocess import FloatArray

KEEPING_DB = 2.0
"""What a small delta may cost in fidelity, with ``--previous``; the gate judges the outcome."""


@dataclass(frozen=True)
class Candidate:
    """What the selection split said of one finalist, run on the real int8 kernels.

    recipe: how it was made.
    simulated_snr_db: what the search expected, on calibration samples.
    snr_db: power of the float logits over that of the int8 logits' error, all outputs together.
    agreement: share of samples with the same class as the float model, 0..1; ``None`` where the
        model names no classes.
    """

    trial: Trial
    recipe: str
    simulated_snr_db: float
    snr_db: float
    agreement: float | None


def rank_trials(
    trials: Sequence[Trial],
    float_scores: FloatArray,
    int8_scores: Callable[[Trial], FloatArray],
    heads: Sequence[str],
    sizes: Sequence[int],
    *,
    classes: ClassScores | None = None,
) -> list[Candidate]:
    """Every finalist, ``in_order``; the test data have no part in it.

    Args:
        trials: from the search.
        float_scores: the float model's scores for the selection samples.
        int8_scores: gives a finalist's scores for the same samples. Labels are not used.
        heads: the operator that makes scores of logits, or "", output by output.
        sizes: values of each output.
        classes: reads scores of classes, where the model gives such.
    """
    found = []
    for trial in trials:
        scores = int8_scores(trial)
        snr = rows_snr_db(float_scores, scores, heads, sizes)
        agreement = None
        if classes is not None:
            same = classes.of(scores).argmax(axis=1) == classes.of(float_scores).argmax(axis=1)
            agreement = float(same.mean())
        found.append(Candidate(trial, trial.recipe, trial.snr_db, snr, agreement))
    return in_order(found)


def in_order(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, the one to be taken first.

    The nearest to the float model, but one that keeps what devices hold wins while it is at most
    ``KEEPING_DB`` further off. Stable: of equal ones the one that the search liked better wins.
    """
    return sorted(
        candidates, key=lambda one: -(one.snr_db + (KEEPING_DB if one.trial.keeps else 0.0))
    )
