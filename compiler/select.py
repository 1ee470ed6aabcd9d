"""Choose between candidates on the selection split: the nearest to the float model wins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from compiler.evaluate import snr_db
from compiler.quantize import RECIPES, Recipe
from edge_runtime.preprocess import FloatArray


@dataclass(frozen=True)
class Candidate:
    """What the selection split said of one recipe.

    snr_db: power of the float scores over that of the int8 scores' error.
    agreement: share of samples with the same class as the float model, 0..1.
    """

    recipe: Recipe
    snr_db: float
    agreement: float


def rank_recipes(
    float_scores: FloatArray, int8_scores: Callable[[Recipe], FloatArray]
) -> list[Candidate]:
    """Every recipe, the nearest to the float model first; the test data have no part in it.

    Args:
        float_scores: the float model's scores for the selection samples.
        int8_scores: gives a recipe's scores for the same samples. Labels are not used.
    """
    found = []
    for recipe in RECIPES:
        scores = int8_scores(recipe)
        same = scores.argmax(axis=1) == float_scores.argmax(axis=1)
        found.append(Candidate(recipe, snr_db(float_scores, scores), float(same.mean())))
    # Stable: of equal candidates the one named first in RECIPES wins.
    return sorted(found, key=lambda candidate: -candidate.snr_db)
