"""Choose between finalists on the selection split: the nearest to the float model wins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compiler.plan.fidelity import logit_snr_db, logits_from_scores
from compiler.plan.search import Trial
from edge_runtime.preprocess import FloatArray


@dataclass(frozen=True)
class Candidate:
    """What the selection split said of one finalist, run on the real int8 kernels.

    recipe: how it was made.
    simulated_snr_db: what the search expected, on calibration samples.
    snr_db: power of the float logits over that of the int8 logits' error.
    agreement: share of samples with the same class as the float model, 0..1.
    """

    trial: Trial
    recipe: str
    simulated_snr_db: float
    snr_db: float
    agreement: float


def rank_trials(
    trials: Sequence[Trial],
    float_scores: FloatArray,
    int8_scores: Callable[[Trial], FloatArray],
    head: str,
) -> list[Candidate]:
    """Every finalist, the nearest to the float model first; the test data have no part in it.

    Args:
        trials: from the search.
        float_scores: the float model's scores for the selection samples.
        int8_scores: gives a finalist's scores for the same samples. Labels are not used.
        head: the operator that makes scores of logits, or "".
    """
    found = []
    reference = logits_from_scores(float_scores, head)
    for trial in trials:
        scores = int8_scores(trial)
        same = scores.argmax(axis=1) == float_scores.argmax(axis=1)
        snr = logit_snr_db(reference, logits_from_scores(scores, head), head)
        found.append(Candidate(trial, trial.recipe, trial.snr_db, snr, float(same.mean())))
    # Stable: of equal candidates the one that the search liked better wins.
    return sorted(found, key=lambda candidate: -candidate.snr_db)
