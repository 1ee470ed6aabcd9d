"""How near the int8 answers are to the float ones, before any softmax squeezes the difference."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from compiler.tail import score_nodes

Array = npt.NDArray[np.float32]

SNR_MAX_DB = 200.0
_TINY = 1e-12


def logits_of(model: ModelProto) -> tuple[str, str]:
    """(tensor before the final Softmax, LogSoftmax or Sigmoid, that operator's name or "")."""
    nodes = score_nodes(model.graph)
    if not nodes:
        return model.graph.output[0].name, ""
    return nodes[-1].input[0], nodes[-1].op_type


def logits_from_scores(scores: Array, head: str) -> Array:
    """What stood before ``head``, up to what it cannot show: scores ``[n, classes]`` inverted."""
    if head == "Softmax":
        return np.log(np.maximum(scores, _TINY))
    if head == "Sigmoid":
        inside = np.clip(scores.astype(np.float64), _TINY, 1 - 1e-7)
        return np.asarray(np.log(inside / (1 - inside)), np.float32)
    return scores


def logit_snr_db(reference: Array, logits: Array, head: str) -> float:
    """Power of the float logits over that of their error, in dB, at most 200.

    A softmax does not see what all logits of a row have in common, so that is taken out first.

    Args:
        reference, logits: float32 ``[n, ...]``.
        head: what follows the logits.
    """
    first = reference.reshape(len(reference), -1).astype(np.float64)
    second = logits.reshape(len(logits), -1).astype(np.float64)
    if head in ("Softmax", "LogSoftmax"):
        first = first - first.mean(axis=1, keepdims=True)
        second = second - second.mean(axis=1, keepdims=True)
    signal = float(np.square(first).sum())
    noise = float(np.square(first - second).sum())
    if signal <= 0:
        return 0.0
    if not np.isfinite(noise):
        return -SNR_MAX_DB
    return float(10 * np.log10(signal / max(noise, signal * 10 ** (-SNR_MAX_DB / 10))))


def cosine(reference: Array, values: Array) -> float:
    """Of the angle between two arrays of one shape, -1..1; 1 where both are zero."""
    first, second = reference.astype(np.float64).ravel(), values.astype(np.float64).ravel()
    power = float(np.linalg.norm(first) * np.linalg.norm(second))
    if power <= 0:
        return float(not first.any() and not second.any())
    return float(np.clip(first @ second / power, -1.0, 1.0))
