"""Classifiers of two classes that give one score a frame: what the score is, and their labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import msgspec
import numpy as np
from onnx import GraphProto

from compiler.contractcheck import ALPHA, SCREEN_ROWS, Answer, sign_test
from compiler.datasets.dataset import Dataset, Labels, stream
from compiler.graph.tail import score_nodes
from edge_contract.model import ModelManifest, SingleScore, TensorSpec
from edge_runtime.preprocess import FloatArray, Preprocessor

ANSWERS_MAX = 64
"""Answers that tell a probability from a logit, where the graph does not."""

THRESHOLDS: dict[SingleScore, float] = {"probability": 0.5, "logit": 0.0}
"""Above it a score names class 1."""


def is_single(outputs: Sequence[TensorSpec]) -> bool:
    """Whether the first output is one float32 value a frame."""
    values = math.prod(size for size in outputs[0].shape if size is not None)
    return outputs[0].dtype == "float32" and values == 1


def ends_in_sigmoid(graph: GraphProto) -> bool:
    """Whether the first output is made by a Sigmoid."""
    return any(node.op_type == "Sigmoid" for node in score_nodes(graph, graph.output[0].name))


def single_score_of(graph: GraphProto, answers: Iterable[FloatArray]) -> SingleScore:
    """What the first output's one value is.

    Args:
        graph: the float model.
        answers: that value for some samples; asked for only where no Sigmoid makes it. Values that
            all lie in 0..1 are probabilities, for logits of real data do not.
    """
    if ends_in_sigmoid(graph):
        return "probability"
    values = np.array([float(answer.reshape(-1)[0]) for answer in answers])
    return "probability" if values.min() >= 0 and values.max() <= 1 else "logit"


def reading_doubts(
    manifest: ModelManifest, parts: Sequence[Dataset], preprocessor: Preprocessor, answer: Answer
) -> list[str]:
    """What labels say against a logit: a network that was fitted to 0 and 1 without a Sigmoid
    gives values around them, which no range tells from logits.

    Args:
        manifest: says how the score is read.
        parts: the data, with class ids; the first with labels is taken.
        answer: runs the float model.
    """
    data = next((part for part in parts if part.y is not None), None)
    if manifest.single_score != "logit" or data is None or data.y is None:
        return []
    rows = np.unique(np.linspace(0, len(data) - 1, SCREEN_ROWS).astype(np.int64))
    samples = stream(data.x[rows], preprocessor, data.role)
    scores = np.array([float(answer(sample).reshape(-1)[0]) for sample in samples()])
    truth = data.y[rows] == 1
    ours, theirs = ((scores > THRESHOLDS[one]) == truth for one in ("logit", "probability"))
    gained, lost = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
    if sign_test(gained, lost) > ALPHA:
        return []
    said = (
        f"the one score is read as a logit, so class 1 is above 0: right for {ours.mean():.1%} of"
        f" {len(rows)} labelled {data.role} samples; above 0.5 it would be {theirs.mean():.1%}. If"
        " the model was trained towards 0 and 1, let it end in a Clip to 0..1"
    )
    return [said]


def as_class_ids(data: Dataset) -> Dataset:
    """The data with labels ``[n]`` of 0 and 1, where they hold nothing else in any numeric form.

    Keras and PyTorch train such classifiers with float labels ``[n, 1]``. The digest stays that of
    the data as they were handed in.
    """
    if data.y is None or not holds_two_classes(data.y):
        return data
    return replace(data, y=data.y.reshape(-1).astype(np.int64))


def holds_two_classes(y: Labels) -> bool:
    """Whether labels are one 0 or 1 a sample."""
    return bool(y.size == len(y) and np.isin(y, (0, 1)).all())


def score_sentence(manifest: ModelManifest) -> str:
    """What the one score says, for people, or ""."""
    if manifest.single_score is msgspec.UNSET:
        return ""
    threshold = THRESHOLDS[manifest.single_score]
    return f"a {manifest.single_score}: above {threshold:g} the class is {manifest.labels[1]!r}"
