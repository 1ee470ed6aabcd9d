"""How near the int8 answers are to the float ones, before any softmax squeezes the difference.

A model may have several outputs, in different units. Each counts by its error relative to its own
power, and the mean of these relative errors is the model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from compiler.graph.tail import score_nodes

Array = npt.NDArray[np.float32]

SNR_MAX_DB = 200.0
_TINY = 1e-12


@dataclass(frozen=True)
class Tails:
    """Where the outputs of a model come from, in their order.

    tensors: what stands before each output's final Softmax, LogSoftmax or Sigmoid.
    heads: that operator's name, or "".
    """

    tensors: tuple[str, ...]
    heads: tuple[str, ...]

    def snr_db(self, reference: Sequence[Array], found: Sequence[Array]) -> float:
        """Of all outputs together; see ``pooled_db``.

        Args:
            reference, found: the values of ``tensors``, float32 ``[n, ...]`` each.
        """
        return pooled_db(
            [
                logit_snr_db(right, values, head)
                for right, values, head in zip(reference, found, self.heads, strict=True)
            ]
        )


def tails_of(model: ModelProto) -> Tails:
    """The tails of a model's outputs."""
    tensors, heads = [], []
    for value in model.graph.output:
        nodes = score_nodes(model.graph, value.name)
        tensors.append(nodes[-1].input[0] if nodes else value.name)
        heads.append(nodes[-1].op_type if nodes else "")
    return Tails(tuple(tensors), tuple(heads))


def logits_from_scores(scores: Array, head: str) -> Array:
    """What stood before ``head``, up to what it cannot show: scores ``[n, classes]`` inverted."""
    if head == "Softmax":
        return np.log(np.maximum(scores, _TINY))
    if head == "Sigmoid":
        inside = np.clip(scores.astype(np.float64), _TINY, 1 - 1e-7)
        return np.asarray(np.log(inside / (1 - inside)), np.float32)
    return scores


def rows_snr_db(
    reference: Array, scores: Array, heads: Sequence[str], sizes: Sequence[int]
) -> float:
    """The same from rows of scores ``[n, values]``, all outputs one after another.

    Args:
        heads: what made each output; see ``Tails``.
        sizes: values of each output.
    """
    figures = []
    for head, size, end in zip(heads, sizes, np.cumsum(sizes), strict=True):
        part = slice(end - size, end)
        right, found = (logits_from_scores(rows[:, part], head) for rows in (reference, scores))
        figures.append(logit_snr_db(right, found, head))
    return pooled_db(figures)


def pooled_db(figures: Sequence[float]) -> float:
    """The mean of relative errors that are given in dB, in dB."""
    if len(set(figures)) == 1:
        return figures[0]
    return float(-10 * np.log10(np.mean([10 ** (-figure / 10) for figure in figures])))


def logit_snr_db(reference: Array, logits: Array, head: str) -> float:
    """Power of the float logits over that of their error, in dB, at most 200.

    A softmax does not see what all logits of a row have in common, so that is taken out first.
    Values that are all 0 have no power: then only equal ones are without error.

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
    if not np.isfinite(noise):
        return -SNR_MAX_DB
    if signal <= 0:
        return SNR_MAX_DB if noise == 0 else 0.0
    return float(10 * np.log10(signal / max(noise, signal * 10 ** (-SNR_MAX_DB / 10))))


def cosine(reference: Array, values: Array) -> float:
    """Of the angle between two arrays of one shape, -1..1; 1 where both are zero."""
    first, second = reference.astype(np.float64).ravel(), values.astype(np.float64).ravel()
    power = float(np.linalg.norm(first) * np.linalg.norm(second))
    if power <= 0:
        return float(not first.any() and not second.any())
    return float(np.clip(first @ second / power, -1.0, 1.0))
